"""What clients of `multiraft serve` are told while hosts die or stand still is linearizable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.cluster.serving import ELECTION_S, KEYS, Clients, Cluster, described, serving
from tests.sim.linearizability import Answer, Outcome, check

CLIENTS = 6
SECONDS = 8.0

Trouble = Callable[[Cluster], Awaitable[None]]


async def kill_the_leader(cluster: Cluster) -> None:
    """Its successor is at work for a while before it comes back."""
    await trio.sleep(SECONDS / 4)
    victim = await cluster.leader()
    victim.kill()
    await cluster.leader(besides=victim)
    await trio.sleep(ELECTION_S)
    cluster.start(victim)


async def pause_the_leader(cluster: Cluster) -> None:
    """For longer than the others wait, so that it wakes up as a leader that was replaced."""
    await trio.sleep(SECONDS / 4)
    victim = await cluster.leader()
    victim.pause()
    with trio.CancelScope(shield=True):
        await cluster.leader(besides=victim)
        await trio.sleep(ELECTION_S)
    victim.go_on()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "read_mode"),
    [(kill_the_leader, "quorum"), (pause_the_leader, "quorum"), (pause_the_leader, "lease")],
)
async def test_what_clients_are_told_is_linearizable(
    tmp_path: Path, trouble: Trouble, read_mode: str
) -> None:
    """Few keys and many clients, so that most operations meet others."""
    async with serving(tmp_path, f"read_mode={read_mode}") as cluster:
        clients = Clients(cluster)
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(clients.one)
            end = trio.current_time() + SECONDS
            with trio.fail_after(30):
                await trouble(cluster)
            trouble_over = clients.done
            await trio.sleep_until(end)
            nursery.cancel_scope.cancel()
        during = clients.done
        with trio.fail_after(30):
            await cluster.wait_ready()
            await clients.read_everything()
    verdict = check(clients.history)
    outcomes = Counter(op.outcome.name for op in clients.history)
    if verdict.operation is not None:
        pytest.fail(f"{verdict}\n{described(clients.history, verdict.operation)}")
    assert verdict.answer is Answer.LINEARIZABLE, verdict
    assert outcomes["DONE"] > 100, outcomes
    assert during > trouble_over, "nothing was done after the trouble"
    last = clients.history[-len(KEYS) * len(cluster.hosts) :]
    assert all(op.outcome is Outcome.DONE for op in last), "not every host could be read in the end"


@pytest.mark.slow
async def test_stale_reads_are_found_out(tmp_path: Path) -> None:
    """The same clients, who ask followers for what these have: the check must see through it."""
    async with serving(tmp_path) as cluster:
        clients = Clients(cluster, consistency="stale")
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(CLIENTS):
                    nursery.start_soon(clients.one)
                while check(clients.history).answer is not Answer.VIOLATED:  # noqa: ASYNC110 - in other processes
                    await trio.sleep(0.5)
                nursery.cancel_scope.cancel()
