"""Who leads: handed over, killed, without a quorum, back from a long pause. Hosts are processes."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from multiraft.cli.bench_host import read_lines
from tests.cli.helpers import ROOT, command_line
from tests.cluster.fleet import (
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
from tests.cluster.processes import HostProcess, create_groups, host_processes
from tests.cluster.proxy import open_proxy

pytestmark = pytest.mark.slow


async def follows(host: FleetHost, leader: FleetHost) -> dict[str, Any] | None:
    """What `host` says of the group, if it names that leader."""
    found = await host.group()
    named = found["leader"]
    return found if named is not None and named["address"] == leader.address else None


async def test_leadership_goes_to_a_named_member_or_to_the_one_that_is_furthest_ahead(
    tmp_path: Path,
) -> None:
    """Asked of any member; one that stands still is not chosen, and named it does not get it."""
    async with fleet(tmp_path, 4) as hosts:
        await predefined(hosts[:3])
        await join(hosts[3], via=hosts[0], role="learner")
        for asked, to in ((hosts[3], hosts[2]), (hosts[0], hosts[1]), (hosts[1], hosts[0])):
            member = await to.member_id()
            told = await until(partial(asked.post, "groups/1/transfer", to=member))
            assert told["leader"] == {"id": member, "address": to.address}
            assert await wait_leader(hosts) is to
        leader, ahead, behind = hosts[:3]
        member = await behind.member_id()
        behind.pause()
        await leader.put("key", "value")
        with pytest.raises(Refused, match=f"member {member} did not take over") as refused:
            await leader.post("groups/1/transfer", to=member)
        assert (refused.value.status, refused.value.error) == (504, "TransferFailed")
        told = await until(lambda: leader.post("groups/1/step-down"))
        assert told["leader"] == {"id": await ahead.member_id(), "address": ahead.address}
        await leader.put("key", "value of another term")
        assert await wait_leader([leader, ahead, hosts[3]]) is ahead
        behind.go_on()
        await wait_same(hosts)


async def test_a_leader_without_a_quorum_steps_down_and_the_host_says_so(tmp_path: Path) -> None:
    """With two of three processes stopped; when they go on, so does the group."""
    async with fleet(tmp_path, 3, "leader_wait_s=1") as hosts:
        await predefined(hosts)
        leader, *others = await leader_first(hosts)
        own = await leader.member_id()
        async with await leader.listen() as events:
            for host in others:
                host.pause()
            with pytest.raises(Refused) as under_way, trio.fail_after(60):
                await leader.put("key", "under way")
            assert (under_way.value.status, under_way.value.error) == (503, "outcome_unknown")
            assert under_way.value.applied == "maybe"
            with trio.fail_after(60):
                told = await events.until("LeaderChanged")
        assert told["leader"] is None
        stood_down = await leader.group()
        assert (stood_down["leader"], stood_down["member_id"]) == (None, own)
        assert stood_down["role"] != "leader"
        with pytest.raises(Refused, match="has had no leader for 1 s") as refused:
            await leader.put("key", "too late")
        assert (refused.value.error, refused.value.applied) == ("no_leader", "no")
        with pytest.raises(Refused) as refused:
            await leader.post("groups/1/members/remove", member=own)
        assert (refused.value.status, refused.value.error) == (503, "NoLeader")
        for host in others:
            host.go_on()
        await wait_leader(hosts)
        await until(lambda: put(leader, "key", "again"))
        assert await others[0].value("key") == "again"


async def put(host: FleetHost, key: str, value: str) -> bool:
    await host.put(key, value)
    return True


async def test_any_member_finds_the_leader_unless_that_is_switched_off(tmp_path: Path) -> None:
    """Learners included. Switched off they name it, and reads still work everywhere."""
    async with fleet(tmp_path, 3) as hosts:
        await predefined(hosts[:2])
        learner = hosts[2]
        await join(learner, via=hosts[1], role="learner")
        await wait_ready(learner)
        for host in hosts:
            await host.put(host.name, "value")
            assert await hosts[0].value(host.name) == "value"
        for host in hosts:
            assert await host.stop() == 0
            host.start("forward_proposals=false")
        for host in hosts:
            await host.wait_up()
            await wait_ready(host)
        leader, *others = await leader_first(hosts)
        assert learner in others
        for host in others:
            with pytest.raises(Refused) as refused:
                await host.put("key", "refused")
            assert (refused.value.status, refused.value.error) == (503, "not_leader")
            assert (refused.value.applied, refused.value.leader) == ("no", leader.address)
        await leader.put("key", "taken")
        for host in others:
            assert await host.value("key") == "taken"


async def test_a_member_that_was_stopped_for_long_does_not_disturb_its_leader(tmp_path: Path) -> None:
    """And who does lead can be killed: then there is another one, whom it does not disturb either."""
    async with fleet(tmp_path, 3) as hosts:
        await predefined(hosts)
        leader, other, still = await leader_first(hosts)
        member = await still.member_id()
        term = (await leader.group())["term"]
        for round_ in range(2):
            still.pause()

            async def unheard() -> bool:
                return not (await leader.group())["progress"][str(member)]["active"]

            await until(unheard)
            await other.put("key", f"value {round_}")
            still.go_on()
            await wait_same(hosts)
            assert await still.value("key") == f"value {round_}"
            assert await wait_leader(hosts) is leader
            assert (await leader.group())["term"] == term

        leader.kill()
        new = await wait_leader([other, still])
        assert (await new.group())["term"] > term
        await still.put("key", "after")
        leader.start()
        await leader.wait_up()
        assert await wait_leader(hosts) is new, "nor does one that comes back"
        await wait_same(hosts)


async def test_a_member_that_hears_nobody_asks_first_and_raises_no_term(tmp_path: Path) -> None:
    """Pre-vote: what it says gets through, and nothing reaches it. It stands for election in vain."""
    async with fleet(tmp_path, 3, start=False) as hosts, open_proxy(hosts[2].listens_at) as proxy:
        cut_off = hosts[2]
        cut_off.address = proxy.address
        for host in hosts:
            host.start()
        for host in hosts:
            await host.wait_up()
        await predefined(hosts)
        await lead(hosts[0])
        await wait_same(hosts)
        term = (await hosts[0].group())["term"]

        async def stands() -> bool:
            return "candidate" in (await cut_off.group())["role"]

        proxy.pause()
        for _ in range(3):
            await until(stands)
            await hosts[1].put("key", "value")
            found = await cut_off.group()
            assert (found["leader"], found["term"]) == (None, term)
        proxy.go_on()
        assert (await wait_same(hosts))["term"] == term
        assert await wait_leader(hosts) is hosts[0]


@asynccontextmanager
async def told_by_command(host: FleetHost) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """What `multiraft events` prints, in a process of its own."""
    process = await trio.lowlevel.open_process(
        command_line("events", "--json", "--host", host.http), stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        lines = read_lines(process.stdout)
        assert isinstance(lines, AsyncGenerator)
        async with aclosing(lines):
            yield lines
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


async def test_events_tell_of_every_new_leader_after_what_was_read_first(tmp_path: Path) -> None:
    """Over HTTP and from the command line: who reads the state once it listens misses no change."""
    async with fleet(tmp_path, 3) as hosts:
        await predefined(hosts)
        leader, watched, other = await leader_first(hosts)
        async with told_by_command(watched) as lines, await other.listen() as listener:
            with trio.fail_after(60):
                assert (await anext(lines))["event"] == "Listening"
            for host in (watched, other):
                assert await follows(host, leader), "nothing is said of what was before"
            gone, term = leader, (await watched.group())["term"]
            leader.kill()
            new = await wait_leader([watched, other])
            named = {"id": await new.member_id(), "address": new.address, "role": "voter"}
            with trio.fail_after(60):
                while (line := await anext(lines))["event"] != "LeaderChanged" or not line["about"]["leader"]:
                    pass
                while (by_http := await listener.until("LeaderChanged"))["leader"] is None:
                    pass
            assert line["about"] == by_http
            assert (by_http["group"], by_http["leader"]) == (1, named)
            assert by_http["term"] > term
            gone.start()
            await gone.wait_up()
            async with await gone.listen() as late:
                told = (await gone.group())["leader"]
                if told is None:  # what it did not know when it was asked, it tells once it does
                    with trio.fail_after(60):
                        while (told := (await late.until("LeaderChanged"))["leader"]) is None:
                            pass
                assert told["address"] == new.address


async def test_leadership_yields_the_present_leader_first_and_then_those_of_other_processes(
    tmp_path: Path,
) -> None:
    async with host_processes(tmp_path) as hosts:
        await create_groups(hosts, [7])
        address = (await hosts[0].call("leaders"))["7"]
        old = next(host for host in hosts if host.address == address)
        rest = [host for host in hosts if host is not old]
        told: dict[str, list[str | None]] = {}

        async def watch(host: HostProcess) -> None:
            told[host.address] = await host.call("leadership", group=7, besides=address)

        with trio.fail_after(60):
            for host in rest:
                assert await host.call("leadership", group=7, besides=None) == [address]
            async with trio.open_nursery() as nursery:
                for host in rest:
                    nursery.start_soon(watch, host)
                await old.kill()
        new = {seen[-1] for seen in told.values()}
        assert len(new) == 1
        assert new <= {host.address for host in rest}
