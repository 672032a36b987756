"""Members go: alive, dead, out of reach, or leading. Each host is a process of its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cluster.fleet import (
    TICK_S,
    FleetHost,
    Refused,
    fleet,
    join,
    lead,
    leader_first,
    predefined,
    until,
    wait_leader,
    wait_ready,
    wait_same,
)

pytestmark = pytest.mark.slow

MEMBERS = "groups/1/members"


async def removed(host: FleetHost) -> str | None:
    """Why the group stopped on a host, if that is because its member was removed."""
    failed: str | None = (await host.group())["failed"]
    return failed if failed is not None and "was removed" in failed else None


async def kill_all(hosts: list[FleetHost]) -> None:
    """Every process dies at the same moment, and is started again."""
    for host in hosts:
        host.kill()
    for host in hosts:
        host.start()
    for host in hosts:
        await host.wait_up()


async def test_a_removed_member_is_told_and_keeps_its_data_until_it_is_asked_to_go(tmp_path: Path) -> None:
    """One that lives learns it at once, one that was dead when it is back. Both know it after a restart."""
    async with fleet(tmp_path, 5) as hosts:
        await predefined(hosts)
        await hosts[0].put("key", "value")
        await wait_same(hosts)
        leader, caller, alive, dead, _ = await leader_first(hosts)
        ids = {host: await host.member_id() for host in (alive, dead)}
        dead.kill()
        async with await alive.listen() as events:
            for host in (alive, dead):
                await caller.post(f"{MEMBERS}/remove", member=ids[host])
            with trio.fail_after(60):
                told = await events.until("OwnMemberRemoved")
        assert told == {"group": 1, "member": ids[alive]}
        dead.start()
        await dead.wait_up()
        for _ in range(2):
            for host in (alive, dead):
                expected = f"member {ids[host]} was removed from group 1"
                assert await until(partial(removed, host)) == expected
                with pytest.raises(Refused, match=expected) as refused:
                    await host.post(f"{MEMBERS}/add", address="127.0.0.1:1", role="learner")
                assert (refused.value.status, refused.value.error) == (409, "MemberRemoved")
                with pytest.raises(Refused):
                    await host.put("key", "late")
                found = await host.group()
                assert ids[host] in found["removed"], "though it may never get the entry that removed it"
                assert found["last_index"] > 0, "its log is still there"
            await kill_all([alive, dead])
        for host in (alive, dead):
            await host.post("groups/1/remove")
            with pytest.raises(Refused) as refused:
                await host.group()
            assert refused.value.error == "GroupNotFound"
        assert await leader.value("key") == "value"


async def test_removed_ids_stay_refused_over_restarts_and_snapshots(tmp_path: Path) -> None:
    """The log that removed them is gone everywhere, and a host that joins has never seen it."""
    async with fleet(tmp_path, 4, "snapshot_keep_entries=0") as hosts:
        await predefined(hosts[:3])
        leader, other, gone = await leader_first(hosts[:3])
        given = 12345
        ids = [await gone.member_id(), given]
        await other.post(f"{MEMBERS}/add", id=given, address="127.0.0.1:1", role="learner")
        for id_ in ids:
            await other.post(f"{MEMBERS}/remove", member=id_)
        version = (await other.group())["version"]
        await other.put("key", "value")
        staying = [leader, other]
        for host in staying:
            await wait_same(staying)
            await host.post("groups/1/snapshot")
            await until(partial(_starts_after, host, version))
        await kill_all(staying)
        await join(hosts[3], via=other)
        for host in (*staying, hosts[3]):
            await wait_ready(host)
            found = await host.group()
            assert found["removed"] == sorted(ids)
            assert found["first_index"] > version, "nothing but the snapshot can tell"
            for id_ in ids:
                with pytest.raises(Refused, match=f"member {id_} was removed; ids are never used twice"):
                    await host.post(f"{MEMBERS}/add", id=id_, address="127.0.0.1:2", role="learner")
        await gone.post("groups/1/remove")
        assert await join(gone, via=hosts[3]) not in ids


async def _starts_after(host: FleetHost, index: int) -> bool:
    return bool((await host.group())["first_index"] > index)


async def test_dead_and_unreachable_members_are_removed_without_waiting_for_them(tmp_path: Path) -> None:
    """A killed one, and the leader itself while it stands still; both addresses are used again."""
    async with fleet(tmp_path, 5) as hosts:
        await predefined(hosts)
        await hosts[0].put("key", "value")
        still, dead, *rest = await leader_first(hosts)
        ids = {host: await host.member_id() for host in hosts}
        dead.kill()
        still.pause()
        await wait_leader(rest)
        for host, through in ((dead, rest[0]), (still, rest[1])):
            # The host's own limit: an answer in time, whatever else this machine has to do.
            await through.post(f"{MEMBERS}/remove", member=ids[host], timeout_s=10)
        await wait_same(rest)
        assert set(await rest[2].roles()) == {ids[host] for host in rest}
        await rest[2].put("key", "without them")

        # A new disk at the address of the dead one: a new id, as the process there is another.
        dead.data_dir = tmp_path / "new disk"
        dead.start()
        await dead.wait_up()
        again = await join(dead, via=rest[0])
        assert again not in ids.values()
        await wait_ready(dead)
        assert await dead.value("key") == "without them"

        # The old leader wakes up, hears that it is none, and nobody hears it.
        term = (await rest[0].group())["term"]
        still.go_on()
        await until(lambda: removed(still))
        assert (await rest[0].group())["term"] == term
        await still.post("groups/1/remove")
        assert await join(still, via=dead) not in (*ids.values(), again)
        await wait_ready(still)
        await still.put("key", "with them")
        await wait_same(hosts)


@pytest.mark.parametrize("what", ["remove", "demote"])
async def test_a_leader_that_goes_hands_leadership_over_first(tmp_path: Path, what: str) -> None:
    """Nobody waits for an election: its timeout is beyond this test's patience."""
    ticks = 1200
    async with fleet(tmp_path, 3, f"election_ticks={ticks}") as hosts:
        await predefined(hosts)
        with trio.fail_after(ticks * TICK_S):
            leader, other, third = await leader_first(hosts)
            term = (await leader.group())["term"]
            for caller in (other, leader):
                await lead(leader)
                member = await leader.member_id()
                changed: dict[str, Any] = await caller.post(f"{MEMBERS}/{what}", member=member)
                roles = {each["id"]: each["role"] for each in changed["members"]}
                assert roles.get(member) == (None if what == "remove" else "learner")
                rest = [host for host in (other, third) if host is not leader]
                new = await wait_leader(rest)
                assert new is not leader
                await rest[0].put("key", caller.name)
                if what == "demote":
                    assert await leader.value("key") == caller.name
                    await new.post(f"{MEMBERS}/promote", member=member)
                else:
                    await leader.post("groups/1/remove")
                    await join(leader, via=rest[0])
                    await wait_ready(leader)
                await wait_same(hosts)
            assert (await third.group())["term"] > term
