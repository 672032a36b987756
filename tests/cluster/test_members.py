"""Members come, change and are refused, on hosts in processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from multiraft.cli.ports import free_ports
from tests.cluster.fleet import (
    FleetHost,
    Refused,
    fleet,
    join,
    lead,
    leader_first,
    members_of,
    predefined,
    until,
    wait_leader,
    wait_ready,
    wait_same,
)

pytestmark = pytest.mark.slow

MEMBERS = "groups/1/members"
AT_ONCE_S = 20.0
"""Far below the time that a call waits for an outcome, even where the machine is busy."""


async def refusals(calls: list[tuple[FleetHost, str, dict[str, Any]]]) -> list[Refused]:
    """What came of calls that are made at the same time and were refused."""
    refused: list[Refused] = []

    async def call(host: FleetHost, path: str, body: dict[str, Any]) -> None:
        try:
            await host.post(path, **body)
        except Refused as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for each in calls:
            nursery.start_soon(call, *each)
    return refused


async def test_a_predefined_cluster_in_any_order_with_oneself_anywhere(tmp_path: Path) -> None:
    """Each host has the list in another order: itself first, last, in the middle, or not in it at all."""
    async with fleet(tmp_path, 4, start=False) as hosts:
        listed = [host.address for host in hosts]
        hosts[0].start(peers=listed)
        hosts[1].start(peers=[*listed[2:], *listed[:2]])
        hosts[2].start(peers=[f"http://{address}" for address in reversed(listed)])
        hosts[3].start(peers=listed[:3])
        for host in hosts:
            await host.wait_up()
        await wait_leader(hosts)
        for place, host in enumerate(hosts):
            await wait_ready(host)
            await host.put(f"key{place}", host.name)
        assert (await wait_same(hosts))["version"] == 0
        assert await hosts[3].value("key0") == "host0"
        assert len({await host.member_id() for host in hosts}) == 4

        named = members_of(hosts)  # the same with ids of one's own choice, over the API
        for place, host in enumerate(hosts):
            made = await host.post("groups", id=7, members=named[place:] + named[:place])
            assert made["member_id"] == place + 1
        await wait_leader(hosts, 7)
        assert (await wait_same(hosts, 7))["members"] == [{**each, "role": "voter"} for each in named]


async def test_a_first_member_alone_works_at_once_and_others_join_through_any(tmp_path: Path) -> None:
    """Through a follower and a learner; twice is harmless; one that left comes back under a new id."""
    async with fleet(tmp_path, 4, start=False) as hosts:
        first = hosts[0]
        first.start("election_ticks=2000")  # an election timeout is beyond the patience below
        for host in hosts[1:]:
            host.start()
        await first.wait_up()
        with trio.fail_after(AT_ONCE_S):
            await first.post("groups", id=1)
            assert await wait_leader([first]) is first
            await wait_ready(first)
            await first.put("key", "of the first")
        for host in hosts[1:]:
            await host.wait_up()

        ids = [await first.member_id(), await join(hosts[1], via=first)]
        ids.append(await join(hosts[2], via=hosts[1], role="learner"))
        ids.append(await join(hosts[3], via=hosts[2]))
        assert len(set(ids)) == 4
        assert await join(hosts[3], via=hosts[1]) == ids[3]
        for host in hosts[1:]:
            await wait_ready(host)
            assert await host.value("key") == "of the first"
        version = (await wait_same(hosts))["version"]
        assert await join(hosts[1], via=hosts[2]) == ids[1]
        assert (await wait_same(hosts))["version"] == version, "nothing came of joining twice"
        assert await first.roles() == dict(zip(ids, ("voter", "voter", "learner", "voter"), strict=True))

        left = await hosts[3].post("groups/1/leave")
        assert left["removed"] == [ids[3]]
        with pytest.raises(Refused, match=f"member {ids[3]} was removed from group 1") as refused:
            await join(hosts[3], via=first)
        assert refused.value.error == "MemberRemoved"
        await hosts[3].post("groups/1/remove")
        assert await join(hosts[3], via=hosts[2]) not in ids
        await wait_ready(hosts[3])
        assert await hosts[3].value("key") == "of the first"


async def test_every_change_of_members_through_any_member(tmp_path: Path) -> None:
    """Leader, follower and learner take them; when the call returns, its own host shows the change."""
    async with fleet(tmp_path, 4) as hosts:
        await predefined(hosts[:3])
        leader, follower, other = await leader_first(hosts[:3])
        learner = hosts[3]
        ids = {host: await host.member_id() for host in hosts[:3]}
        ids[learner] = await join(learner, via=follower, role="learner")

        nobody, elsewhere = (f"127.0.0.1:{port}" for port in free_ports(2))
        for number, host in enumerate((leader, follower, learner), start=20):
            added = await host.post(f"{MEMBERS}/add", id=number, address=nobody, role="learner")
            assert added["added"] == [{"id": number, "address": nobody, "role": "learner"}]
            updated = await host.post(f"{MEMBERS}/update", member=number, address=elsewhere)
            assert {"id": number, "address": elsewhere, "role": "learner"} in updated["members"]
            assert number in (await host.post(f"{MEMBERS}/remove", member=number))["removed"]
            await host.post(f"{MEMBERS}/promote", member=ids[learner])
            assert (await host.roles())[ids[learner]] == "voter"
            await host.post(f"{MEMBERS}/demote", member=ids[learner])
            assert (await host.roles())[ids[learner]] == "learner"

        # Several as one, each kind among them, through the learner that becomes a voter by it.
        changed = await learner.post(
            f"{MEMBERS}/change",
            add=[{"id": 30, "address": nobody, "role": "learner"}],
            remove=[ids[other]],
            promote=[ids[learner]],
            demote=[ids[follower]],
        )
        assert changed["added"] == [{"id": 30, "address": nobody, "role": "learner"}]
        expected = {ids[leader]: "voter", ids[follower]: "learner", ids[learner]: "voter", 30: "learner"}
        assert await learner.roles() == expected
        assert changed["removed"] == [ids[other], 20, 21, 22]
        await wait_same([leader, follower, learner])
        assert await leader.roles() == await follower.roles() == expected
        await wait_ready(learner)
        await follower.put("key", "value")
        assert await learner.value("key") == "value"


async def test_a_member_whose_host_moved_is_found_at_its_new_address(tmp_path: Path) -> None:
    """Also where the one that moved is needed for a majority."""
    async with fleet(tmp_path, 3) as hosts:
        await predefined(hosts)
        leader, moved, other = await leader_first(hosts)
        member = await moved.member_id()
        assert await moved.stop() == 0
        moved.address = moved.listens_at = f"127.0.0.1:{free_ports(1)[0]}"
        await other.post(f"{MEMBERS}/update", member=member, address=moved.address)
        moved.start()
        await moved.wait_up()
        other.kill()
        await wait_ready(moved)
        await wait_leader([leader, moved])
        await moved.put("key", "value")
        assert await leader.value("key") == "value"


async def test_what_does_not_fit_is_refused_at_once_with_the_reason(tmp_path: Path) -> None:
    """By leader, follower and learner alike, and nothing of it gets into the log."""
    async with fleet(tmp_path, 4) as hosts:
        await predefined(hosts[:3])
        leader, follower, _ = await leader_first(hosts[:3])
        learner = hosts[3]
        own = await join(learner, via=leader, role="learner")
        nobody, other = (f"127.0.0.1:{port}" for port in free_ports(2))
        await leader.post(f"{MEMBERS}/add", id=5, address=nobody, role="learner")
        await leader.post(f"{MEMBERS}/remove", member=5)
        before = await wait_same([*hosts[:3], learner])
        cases: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("there is no member 9", "remove", {"member": 9}),
            ("there is no member 9", "promote", {"member": 9}),
            ("there is no member 9", "update", {"member": 9, "address": other}),
            ("member 5 was removed", "remove", {"member": 5}),
            ("member 5 was removed", "add", {"id": 5, "address": other}),
            (f"member {own} is there already", "add", {"id": own, "address": other}),
            (f"member {own} is at", "add", {"id": 6, "address": learner.address}),
            (f"member {own} is at", "update", {"member": 1, "address": learner.address}),
            ("is a voter already", "promote", {"member": 1}),
            ("is no voter", "demote", {"member": own}),
            ("without a voter", "change", {"remove": [1, 2], "demote": [3]}),
            ("named twice", "change", {"promote": [own], "remove": [own]}),
            ("nothing to change", "change", {}),
            (f"is at version {before['version']}, not 1", "remove", {"member": own, "expected": 1}),
        )
        for host in (leader, follower, learner):
            with trio.fail_after(AT_ONCE_S):
                for reason, what, body in cases:
                    with pytest.raises(Refused, match=reason) as refused:
                        await host.post(f"{MEMBERS}/{what}", **body)
                    assert (refused.value.status, refused.value.error) == (409, "MembershipRejected")
                    assert refused.value.applied == "no"
        after = await leader.group()
        assert (after["version"], after["last_index"]) == (before["version"], before["last_index"])

        for id_ in (2, 3):
            await lead(hosts[0])
            await learner.post(f"{MEMBERS}/remove", member=id_)
        for body in ({"member": 1}, {"member": 1, "expected": (await learner.group())["version"]}):
            for what in ("remove", "demote"):
                with pytest.raises(Refused, match="without a voter"), trio.fail_after(AT_ONCE_S):
                    await learner.post(f"{MEMBERS}/{what}", **body)


async def test_of_two_changes_to_the_same_version_one_is_refused(tmp_path: Path) -> None:
    """Compare and set, by two hosts at the same time; and a version that was read on a third one."""
    async with fleet(tmp_path, 3) as hosts:
        await predefined(hosts)
        addresses = [f"127.0.0.1:{port}" for port in free_ports(4)]
        for round_ in range(2):
            version = (await wait_same(hosts))["version"]
            calls: list[tuple[FleetHost, str, dict[str, Any]]] = [
                (
                    host,
                    f"{MEMBERS}/add",
                    {
                        "id": 10 * (round_ + 1) + place,
                        "address": addresses[2 * round_ + place],
                        "role": "learner",
                        "expected": version,
                    },
                )
                for place, host in enumerate(hosts[:2])
            ]
            (refused,) = await refusals(calls)
            assert (refused.error, refused.applied) == ("MembershipRejected", "no")
            assert "another change is under way" in refused.reason or f"not {version}" in refused.reason
            with pytest.raises(Refused, match=f"not {version}"):
                await hosts[2].post(f"{MEMBERS}/demote", member=2, expected=version)

        async def current() -> bool:
            version = (await hosts[0].group())["version"]
            return bool(await hosts[2].post(f"{MEMBERS}/demote", member=2, expected=version))

        await until(current)
        assert (await hosts[2].roles())[2] == "learner"
