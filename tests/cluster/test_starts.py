"""Processes that are killed, stopped and started again: all is back, and nothing is doubled."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from multiraft.cli.ports import free_ports
from tests.admin.listener import listen_at
from tests.cluster.durable_host import BROKEN, HELD, REACHED, machines_folder, read_lines
from tests.cluster.fleet import FleetHost, Refused, fleet, predefined, until, wait_ready
from tests.cluster.processes import HostError, HostGone, HostProcess, create_groups, host_processes
from tests.cluster.reopened_host import OWN, PENDING

pytestmark = pytest.mark.slow

PROGRAM = "tests.cluster.durable_host"
SETTINGS: dict[str, Any] = {
    "tick_interval_s": 0.05,
    "segment_bytes": 1 << 20,
    "leader_wait_s": 30.0,
    "http": "127.0.0.1:0",
    # Some of what restarts comes from the log, and some from snapshots.
    "snapshot_interval_entries": 6,
    "snapshot_keep_entries": 1,
}
GROUP = 7


async def start_all(hosts: Sequence[HostProcess]) -> None:
    async with trio.open_nursery() as nursery:
        for host in hosts:
            nursery.start_soon(_start, host)


async def _start(host: HostProcess) -> None:
    await host.start(**SETTINGS)


def applied(host: HostProcess, group: int) -> list[tuple[int, str]]:
    """What its machine's file says of all of its lives."""
    return read_lines(machines_folder(host.data_dir) / str(group))


# --- all that a folder has ---------------------------------------------------------------------------

GROUPS = range(1, 201)
UNLUCKY = {"NoLeader", "ProposalDropped", "OutcomeUnknown"}
"""What a leader that is lost may mean for a write."""


class Writers:
    """Unique payloads for each group, and which of them were acknowledged."""

    def __init__(self, hosts: Sequence[HostProcess]) -> None:
        self._hosts = hosts
        self._number = count()
        self.acknowledged: dict[int, set[str]] = {group: set() for group in GROUPS}

    async def write(self, group: int, times: int) -> None:
        """`times` entries, or until the process is gone."""
        host = self._hosts[group % len(self._hosts)]
        for _ in range(times):
            data = f"{group}-{next(self._number)}"
            try:
                await host.call("propose", group=group, data=data)
            except HostGone:
                return  # it may be there, once
            except HostError as error:
                if error.name not in UNLUCKY:
                    raise
            else:
                self.acknowledged[group].add(data)

    async def write_all(self, times: int) -> None:
        async with trio.open_nursery() as nursery:
            for group in GROUPS:
                nursery.start_soon(self.write, group, times)


async def test_hundreds_of_groups_are_back_after_everybody_was_killed(tmp_path: Path) -> None:
    """In the middle of writes, and again after a clean stop: nothing lost, nothing applied twice."""
    async with host_processes(tmp_path, program=PROGRAM, **SETTINGS) as hosts:
        await create_groups(hosts, GROUPS)
        writers = Writers(hosts)
        await writers.write_all(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writers.write_all, 100)
            before = written(writers)
            with trio.fail_after(60):
                while written(writers) < before + 2 * len(GROUPS):  # noqa: ASYNC110 - in other processes
                    await trio.sleep(0.01)
            for host in hosts:
                await host.kill()
        await start_all(hosts)
        await check_all(hosts, writers)
        assert [await host.stop() for host in hosts] == [0, 0, 0]
        await start_all(hosts)
        await check_all(hosts, writers)


def written(writers: Writers) -> int:
    return sum(map(len, writers.acknowledged.values()))


async def check_all(hosts: Sequence[HostProcess], writers: Writers) -> None:
    """Every group is back, takes a write, and has on each host what it should, once and in order."""
    for host in hosts:
        assert len(await host.call("leaders")) == len(GROUPS)
    with trio.fail_after(60):
        await writers.write_all(1)
        for group in GROUPS:
            last = await hosts[group % 3].call("query", group=group)
            for host in hosts:
                while len(lines := applied(host, group)) < len(last):  # noqa: ASYNC110 - another process
                    await trio.sleep(0.02)
                assert [list(line) for line in lines[: len(last)]] == last
                assert all(lower < upper for (lower, _), (upper, _) in pairwise(lines))
            times = Counter(data for _, data in last)
            assert set(times.values()) == {1}, "applied twice"
            assert writers.acknowledged[group] <= set(times), "an acknowledged write is gone"
    assert all(writers.acknowledged.values())


# --- one call for every start --------------------------------------------------------------------------


@asynccontextmanager
async def two_programs(folder: Path) -> AsyncIterator[tuple[HostProcess, HostProcess]]:
    """One with a group of its own, and one that was never started."""
    async with trio.open_nursery() as nursery:
        first, second = (
            HostProcess(number, folder, port, nursery, program=PROGRAM)
            for number, port in enumerate(free_ports(2), 1)
        )
        try:
            await _start(first)
            made = await first.call("start", group=GROUP, members=[first.address])
            assert made == {"member": 1, "members": [1]}
            for number in range(10):
                await first.call("propose", group=GROUP, data=f"{number}")
            yield first, second
        finally:
            with trio.CancelScope(shield=True):
                for host in (first, second):
                    await host.kill()
            nursery.cancel_scope.cancel()


async def test_a_program_killed_while_it_joins_is_started_again_the_same_way(tmp_path: Path) -> None:
    """One call, the same at every start: it joins, goes on with a join, or finds what is there."""
    async with two_programs(tmp_path) as (first, second):
        join = {"group": GROUP, "via": first.address, "role": "learner"}
        machines = machines_folder(second.data_dir)
        machines.mkdir(parents=True)
        (machines / HELD).touch()
        with trio.fail_after(90):
            await _start(second)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call_until_gone, second, join)
                while not (machines / REACHED).exists():  # noqa: ASYNC110 - another process
                    await trio.sleep(0.02)
                # It is a member, and was sent the state, which it does not have yet.
                assert len((await first.call("status", group=GROUP))["members"]) == 2
                await second.kill()
            assert applied(second, GROUP) == []
            (machines / HELD).unlink()
            await _start(second)
            joined = await second.call("start", **join)
            assert joined["members"] == sorted([1, joined["member"]]), "one member, however often it asked"
            assert joined["member"] != 1
            assert [data for _, data in await second.call("query", group=GROUP)] == [*"0123456789"]

            # From now on it needs nobody: what it joined is in its folder.
            await second.kill()
            await first.kill()
            await _start(second)
            assert await second.call("start", **join) == joined
            await _start(first)
            again = await first.call("start", group=GROUP, members=[first.address])
            assert again == {"member": 1, "members": joined["members"]}
            await second.call("propose", group=GROUP, data="after")
            for host in (first, second):
                lines = await host.call("query", group=GROUP)
                assert [data for _, data in lines] == [*"0123456789", "after"]


async def call_until_gone(host: HostProcess, request: dict[str, Any]) -> None:
    with pytest.raises(HostGone):
        await host.call("start", **request)


async def test_a_group_that_stopped_is_told_and_runs_again_after_a_restart(tmp_path: Path) -> None:
    """Its machine breaks on one of three processes; the other groups there, and the others, go on."""
    async with host_processes(tmp_path, program=PROGRAM, **SETTINGS) as hosts:
        await create_groups(hosts, [GROUP, GROUP + 1])
        await hosts[0].call("propose", group=GROUP, data="before")
        broken = machines_folder(hosts[2].data_dir) / BROKEN
        with trio.fail_after(60):
            async with await listen_at(await hosts[2].call("http")) as listener:
                broken.touch()
                await hosts[0].call("propose", group=GROUP, data="which it does not take")
                stopped = await listener.until("GroupStopped")
            assert stopped["group"] == GROUP
            assert stopped["error"]["error"] == "StateMachineFailed"
            assert "this machine is broken" in stopped["error"]["reason"]
            with pytest.raises(HostError, match="StateMachineFailed"):
                await hosts[2].call("query", group=GROUP)
            broken.unlink()
            await hosts[2].call("propose", group=GROUP + 1, data="of another group")
            await hosts[0].call("propose", group=GROUP, data="without it")
            assert await hosts[2].stop() == 0
            await _start(hosts[2])
            lines = await hosts[2].call("query", group=GROUP)
        assert [data for _, data in lines] == ["before", "which it does not take", "without it"]
        assert lines == [list(line) for line in applied(hosts[2], GROUP)]


# --- stopped and started, again and again ----------------------------------------------------------------

REOPENED = 10
CLIENTS = 16


class Clients:
    """Each writes one key after another on one host, until that refuses or is gone."""

    def __init__(self) -> None:
        self._numbers = count()
        self.acknowledged: set[str] = set()
        self.refused: set[str] = set()
        self.broken = 0

    async def one(self, host: FleetHost) -> None:
        while True:
            key = f"key{next(self._numbers)}"
            try:
                await host.put(key, "value")
            except Refused as error:
                if error.applied == "no":
                    self.refused.add(key)
                return
            except httpx.TransportError:
                self.broken += 1
                return
            self.acknowledged.add(key)

    async def wait_acknowledged(self, number: int) -> None:
        until = len(self.acknowledged) + number
        with trio.fail_after(60):
            while len(self.acknowledged) < until:  # noqa: ASYNC110 - answers of another process
                await trio.sleep(0.005)


async def test_a_process_is_stopped_with_work_pending_and_reopened_ten_times(tmp_path: Path) -> None:
    """SIGTERM in the middle of writes: status 0, and what was acknowledged is there on every host."""
    async with fleet(tmp_path) as hosts:
        await predefined(hosts)
        clients = Clients()
        for number in range(REOPENED):
            host = hosts[number % 3]
            async with trio.open_nursery() as nursery:
                for _ in range(CLIENTS):
                    nursery.start_soon(clients.one, host)
                await clients.wait_acknowledged(2 * CLIENTS)
                assert await host.stop() == 0, host.log
            host.start()
            await host.wait_up()
            await wait_ready(host)
        assert "Traceback" not in "".join(host.log for host in hosts)
        assert len(clients.acknowledged) >= REOPENED * 2 * CLIENTS
        for host in hosts:
            assert clients.acknowledged <= (there := await keys(host)), "an acknowledged write is gone"
            assert not clients.refused & there, "certainly not applied, it was told"


LIVES = 100


async def test_a_process_opens_and_closes_its_folder_a_hundred_times(tmp_path: Path) -> None:
    """Alone with its group: what a hundred processes would show as well, in a quarter of the time."""
    settings: dict[str, Any] = {"snapshot_interval_entries": 50, "snapshot_keep_entries": 5, "lives": LIVES}
    async with host_processes(tmp_path, count=1, program="tests.cluster.reopened_host", **settings) as (
        host,
    ):
        lives = await host.call("lives")
        assert len(lives["acknowledged"]) >= LIVES
        assert len(lives["acknowledged"] + lives["told"]) == LIVES * (1 + PENDING), "each is told something"
        found = Counter(await host.call("query", group=OWN))
        assert set(found.values()) == {1}, "applied twice"
        assert set(lives["acknowledged"]) <= set(found), "an acknowledged write is gone"
        assert "Traceback" not in host.log


async def keys(host: FleetHost) -> set[str]:
    """All keys, as a linearizable read has them."""

    async def read() -> set[str]:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            answer = await client.get(f"http://{host.http}/kv", params={"limit": 10_000})
        answer.raise_for_status()
        page = answer.json()
        assert page["next"] is None
        return {row["key"] for row in page["items"]}

    return await until(read)
