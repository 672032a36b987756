"""Reads that waited in the socket of a process that stood still: none may miss what was acknowledged.

test_linearizable.py has clients ask whatever comes to their minds while a leader stands still; few of
them meet the moment when it goes on. Here everything is made ready for that moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from tests.cluster.fleet import (
    PATIENCE_S,
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
)
from tests.cluster.proxy import open_proxy

pytestmark = pytest.mark.slow

WAITING = 12
"""Reads in the socket of the process that stands still."""
LEASE_S = 2.0
"""About: an election timeout, in the test that needs to do something within it."""


class Reader:
    """A client that asks one host while that stands still."""

    def __init__(self, host: FleetHost) -> None:
        self._host = host
        self._kept = [
            httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S, base_url=f"http://{host.http}")
            for _ in range(WAITING // 2)
        ]
        self.told: Counter[str] = Counter()

    async def open(self) -> None:
        """Connections that are there before it is stopped: their requests are the first it finds."""
        for client in self._kept:
            (await client.get("/kv/x")).raise_for_status()

    async def ask_once_each(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Half of them on connections that are open, half on new ones; started when all are sent."""
        async with trio.open_nursery() as nursery:
            fresh = [
                httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S, base_url=f"http://{self._host.http}")
                for _ in range(WAITING // 2)
            ]
            for client in (*self._kept, *fresh):
                nursery.start_soon(self._ask, client)
            await trio.testing.wait_all_tasks_blocked(0.05)
            task_status.started()
        for client in fresh:
            await client.aclose()

    async def aclose(self) -> None:
        for client in self._kept:
            await client.aclose()

    async def _ask(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/kv/x")
        if answer.status_code != 200:
            assert answer.json()["applied"] == "no"
            self.told[f"refused: {answer.json()['error']}"] += 1
        else:
            self.told[answer.text] += 1


@asynccontextmanager
async def reading(host: FleetHost) -> AsyncIterator[Reader]:
    reader = Reader(host)
    try:
        await reader.open()
        yield reader
    finally:
        await reader.aclose()


async def put(host: FleetHost, value: str) -> None:
    """Until it is acknowledged."""

    async def done() -> bool:
        await host.put("x", value)
        return True

    await until(done)


async def read_after_a_pause(victim: FleetHost, others: Sequence[FleetHost], value: str) -> Counter[str]:
    """What reads are told that were sent to `victim` after `value` was written, while it stood still."""
    async with reading(victim) as reader:
        victim.pause()
        try:
            await wait_leader(others)
            await put(others[0], value)
            async with trio.open_nursery() as nursery:
                await nursery.start(reader.ask_once_each)
                assert not reader.told, "it does stand still"
                victim.go_on()
        finally:
            victim.go_on()
    return reader.told


@asynccontextmanager
async def with_a_learner(
    folder: Path, count: int, *settings: str
) -> AsyncIterator[tuple[list[FleetHost], FleetHost]]:
    """So many voters, and a learner that has joined."""
    async with fleet(folder, count + 1, *settings) as hosts:
        *voters, learner = hosts
        await predefined(voters)
        await put(voters[0], "first")
        await join(learner, voters[0], "learner")
        await wait_ready(learner)
        yield voters, learner


@pytest.mark.parametrize("read_mode", ["quorum", "lease"])
async def test_reads_that_waited_while_their_host_stood_still_are_not_stale(
    tmp_path: Path, read_mode: str
) -> None:
    """On a leader that was replaced meanwhile, on a follower, and on a learner."""
    async with with_a_learner(tmp_path, 3, f"read_mode={read_mode}") as (voters, learner):
        for number in range(4):
            leader, follower, third = await leader_first(voters)
            victim = (leader, follower, learner, leader)[number]
            others = [host for host in (third, follower, leader, learner) if host is not victim]
            value = f"{number} {victim.name}"
            told = await read_after_a_pause(victim, others, value)
            stale = [each for each in told if each != value and not each.startswith("refused")]
            assert not stale, f"{victim} was asked when {value!r} was written, and said {told}"
            assert told.total() == WAITING
            assert await reads(victim) == value


@pytest.mark.parametrize(
    "settings", [("read_mode=lease",), ("read_mode=quorum",), ("read_mode=quorum", "check_quorum=false")]
)
async def test_a_leader_that_stood_still_and_hears_nobody_tells_nothing_stale(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    """Nobody tells it of its successor: only the time that it missed can, or the round that a read takes.

    Without check-quorum it believes that it leads, and would answer if it did not ask for that round.
    """
    deposed = "check_quorum=false" not in settings
    async with (
        fleet(tmp_path, 3, *settings, "leader_wait_s=1", start=False) as hosts,
        open_proxy(hosts[0].listens_at) as proxy,
    ):
        victim, *others = hosts
        victim.address = proxy.address
        for host in hosts:
            host.start()
        for host in hosts:
            await host.wait_up()
        await predefined(hosts)
        await lead(victim)
        await put(victim, "first")

        async def had_their_chance() -> bool:
            """A read that came after them was answered, and so is what became of the leader."""
            assert await victim.value("x", "stale") == "first"
            leads = (await victim.group())["role"] == "leader"
            return not leads if deposed else leads

        async with reading(victim) as reader:
            proxy.pause()
            victim.pause()
            try:
                await wait_leader(others)
                await put(others[0], "second")
                async with trio.open_nursery() as nursery:
                    await nursery.start(reader.ask_once_each)
                    victim.go_on()
                    for _ in range(WAITING):
                        await until(had_their_chance)
                    assert "first" not in reader.told
                    proxy.go_on()
            finally:
                victim.go_on()
        assert set(reader.told) <= {"second", "refused: no_leader"}
        assert reader.told.total() == WAITING
        assert await reads(victim) == "second"


async def test_a_lease_answers_without_a_majority_and_not_for_long(tmp_path: Path) -> None:
    """On the leader, and on a follower and a learner whose reads it confirms, while two of four are away."""
    settings = ("read_mode=lease", f"election_ticks={round(LEASE_S / TICK_S)}", "leader_wait_s=1")
    async with with_a_learner(tmp_path, 4, *settings) as (voters, learner):
        answered = False
        for _ in range(10):  # a machine that is busy for as long as a lease lasts is given another try
            leader, follower, *away = await leader_first(voters)
            asked = (leader, follower, learner)
            for host in asked:
                assert await reads(host) == "first"
            for host in away:
                host.pause()
            try:
                if answered := await answered_in_time(asked):
                    for host in asked:
                        assert await refusal(host) == "no_leader"
                    break
            finally:
                for host in away:
                    host.go_on()
        assert answered
        await put(away[0], "second")
        for host in asked:
            assert await reads(host) == "second"


async def reads(host: FleetHost) -> str | None:
    return await until(lambda: host.value("x"))


async def answered_in_time(hosts: Sequence[FleetHost]) -> bool:
    """Whether all of them answer before a lease can be over."""
    try:
        with trio.move_on_after(LEASE_S / 2):
            for host in hosts:
                assert await host.value("x") == "first"
            return True
    except Refused:
        pass
    return False


async def refusal(host: FleetHost) -> str:
    """Why reads are not answered there any more, once it is so."""
    with trio.fail_after(PATIENCE_S):
        while True:
            try:
                await host.value("x")
            except Refused as error:
                return error.error
            await trio.sleep(TICK_S)
