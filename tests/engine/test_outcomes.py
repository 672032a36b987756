"""Results of large runs are handed out in pieces beside others, and whole where nobody else has business."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from multiraft import open_host
from multiraft.apply import Work
from multiraft.errors import HostClosed
from multiraft.group import Group
from multiraft.membership import Change, Step, Verb
from multiraft.messages import Run
from multiraft.outcomes import COMPANY_TICKS, PAUSE_PASSES, PIECE_WAITERS, Outcomes
from multiraft.proposals import ProposalTable, QueuedChange, Waiter
from multiraft.types import Role, Term
from tests.engine.helpers import config
from tests.engine.work_cluster import PAYLOAD, Answers, Tally, WorkCluster

BUSY, QUIET, THIRD = 1, 2, 3
MANY = 2 * PIECE_WAITERS + 100
PAUSE = [0] * PAUSE_PASSES


class Told:
    """Waits for one result, and notes that it came."""

    def __init__(self, order: list[object], name: object = None) -> None:
        self._order = order
        self._name = name

    def resolve(self, _: object) -> None:
        self._order.append(self._name)

    def fail(self, error: Exception) -> None:
        self._order.append(error)


class Load:
    """A busy group, and quiet ones beside it, all led by the first host."""

    def __init__(self) -> None:
        self.cluster = WorkCluster()
        self.cluster.create(3)
        self.cluster.tick(COMPANY_TICKS + 1)
        self.host = self.cluster.hosts[0]
        self.busy = self.cluster.led(BUSY)
        self.order: list[object] = []

    def propose(self, group: Group, count: int, name: object = None) -> None:
        for _ in range(count):
            group.proposals.queue(PAYLOAD, Told(self.order, name))
        group.host.mark_dirty(group)

    def company(self) -> None:
        self.cluster.write([QUIET])

    def until_told(self) -> None:
        """Round by round, until the first of them are told."""
        while not self.order:
            assert self.cluster.step(), "everybody rests, and nobody was told"

    def told_by_round(self) -> list[int]:
        """From here on, how many are told in each round until nobody has anything to do."""
        counts, before = [], len(self.order)
        while self.cluster.step():
            counts.append(len(self.order) - before)
            before = len(self.order)
        return counts


@pytest.fixture
def beside() -> Load:
    load = Load()
    load.company()
    return load


@pytest.fixture
def alone() -> Load:
    return Load()


def test_beside_others_a_piece_at_a_time(beside: Load) -> None:
    first_round = set()
    for _ in range(3):
        beside.propose(beside.busy, MANY)
        counts = beside.told_by_round()
        first = next(place for place, count in enumerate(counts) if count)
        first_round.add(first)
        told = counts[first : first + 2 * PAUSE_PASSES + 3]
        assert told == [PIECE_WAITERS, *PAUSE, PIECE_WAITERS, *PAUSE, MANY - 2 * PIECE_WAITERS]
    assert len(first_round) == 1, "no pause is left of the run before"


@pytest.mark.parametrize("ticks", [0, COMPANY_TICKS])
def test_alone_all_at_once(alone: Load, ticks: int) -> None:
    if ticks:
        alone.company()
        alone.cluster.tick(ticks)
    alone.propose(alone.busy, MANY)
    alone.until_told()
    assert len(alone.order) == MANY
    assert alone.busy.proposals.outcomes is None


def test_a_group_is_no_company_to_itself(alone: Load) -> None:
    for _ in range(3):
        alone.order.clear()
        alone.propose(alone.busy, MANY)
        alone.until_told()
        assert len(alone.order) == MANY
        alone.cluster.settle()


def test_whoever_becomes_alone_gets_the_rest(beside: Load) -> None:
    beside.propose(beside.busy, MANY)
    beside.until_told()
    beside.cluster.time += (COMPANY_TICKS + 1) * beside.host.scheduler.config.tick_interval_s
    for _ in range(COMPANY_TICKS + 1):
        beside.host.scheduler._rest.ticks += 1
    beside.host.run_pass()
    assert len(beside.order) == MANY


def test_reads_of_another_group_are_company(alone: Load) -> None:
    alone.cluster.read([QUIET])
    alone.propose(alone.busy, MANY)
    alone.until_told()
    assert len(alone.order) == PIECE_WAITERS


@pytest.mark.parametrize("blocking", [False, True])
def test_what_a_group_led_elsewhere_has_applied_here_is_company(alone: Load, blocking: bool) -> None:
    alone.cluster.led(THIRD).machine.blocking = blocking
    second = alone.cluster.hosts[1].scheduler
    alone.cluster.led(THIRD).raft.transfer_leadership(2)
    alone.host.scheduler.mark_dirty(alone.cluster.led(THIRD))
    alone.cluster.settle()
    alone.cluster.tick(COMPANY_TICKS + 1)
    alone.propose(alone.busy, 1)
    alone.cluster.settle()
    alone.propose(second.groups[THIRD], 1)
    alone.cluster.settle()
    alone.order.clear()
    alone.propose(alone.busy, MANY)
    alone.until_told()
    assert len(alone.order) == PIECE_WAITERS


def test_groups_in_one_pass_are_each_others_company() -> None:
    cluster = Load().cluster
    for groups, company in (([BUSY], False), ([BUSY, QUIET], True)):
        outcomes = Outcomes(mark_dirty=lambda _: None)
        outcomes.see([cluster.led(group) for group in groups], tick=1)
        assert (outcomes._company_until > 1) is company


def test_a_group_of_before_is_no_company(alone: Load) -> None:
    outcomes = Outcomes(mark_dirty=lambda _: None)
    outcomes.see([alone.cluster.led(QUIET)], 0)
    outcomes.see([alone.busy], COMPANY_TICKS)
    assert outcomes._company_until == 0
    outcomes.see([alone.cluster.led(QUIET)], COMPANY_TICKS + 1)
    assert outcomes._company_until == 2 * COMPANY_TICKS + 1


def test_what_fits_a_piece_is_told_at_once(beside: Load) -> None:
    beside.propose(beside.busy, PIECE_WAITERS)
    beside.until_told()
    assert len(beside.order) == PIECE_WAITERS
    assert beside.busy.proposals.outcomes is None


def test_each_group_has_a_piece_of_its_own(beside: Load) -> None:
    for number in (BUSY, THIRD):
        beside.propose(beside.cluster.led(number), MANY, number)
    beside.until_told()
    assert [beside.order.count(number) for number in (BUSY, THIRD)] == [PIECE_WAITERS] * 2
    beside.cluster.settle()
    assert [beside.order.count(number) for number in (BUSY, THIRD)] == [MANY] * 2


def test_small_runs_that_are_applied_together_count_together(beside: Load) -> None:
    own, foreign = (
        [Run.of([PAYLOAD] * 200, first=first, term=1, origin=origin) for first in (1, 201)]
        for origin in (1, 2)
    )
    applied = beside.host.scheduler._applied

    def fits(fed: list[Run]) -> bool:
        return applied._fits_a_piece(
            Work(beside.busy, [], fed, 401, 0, fed=fed, results=range(200 * len(fed)))
        )

    assert fits(own[:1])
    assert not fits(own)
    assert fits(foreign)
    assert fits(own[:1] + foreign)


def test_what_a_worker_applied_goes_in_pieces_as_well(beside: Load) -> None:
    beside.busy.machine.blocking = True
    beside.propose(beside.busy, MANY)
    beside.until_told()
    assert len(beside.order) == PIECE_WAITERS
    beside.cluster.settle()
    assert len(beside.order) == MANY


def test_what_is_proposed_meanwhile_makes_one_run(beside: Load) -> None:
    beside.propose(beside.busy, MANY)
    beside.until_told()
    runs = beside.host.scheduler.statistics().proposed_runs
    beside.propose(beside.busy, 1, "again")
    while len(beside.order) < MANY:
        beside.host.run_pass()
    beside.host.run_pass()  # trio may run it before those who were woken last
    beside.busy.proposals.queue(PAYLOAD, Told(beside.order, "again"))
    assert beside.host.scheduler.statistics().proposed_runs == runs
    beside.cluster.settle()
    assert beside.host.scheduler.statistics().proposed_runs == runs + 1
    assert beside.order[MANY:] == ["again"] * 2


def test_a_change_of_members_does_not_wait_for_the_results(beside: Load) -> None:
    beside.propose(beside.busy, MANY)
    beside.until_told()
    change = Change((Step(Verb.ADD, 9, "h9:1", Role.LEARNER),)).conf_change().encode()
    beside.busy.proposals.changes.append(QueuedChange(change, Told(beside.order, "changed")))
    beside.host.scheduler.mark_dirty(beside.busy)
    while len(beside.order) < MANY + 1:
        assert beside.cluster.step()
    assert beside.order.index("changed") < MANY


def test_another_group_writes_while_the_pieces_leave(beside: Load) -> None:
    beside.propose(beside.busy, 8 * PIECE_WAITERS)
    beside.until_told()
    beside.propose(beside.cluster.led(QUIET), 1, "quiet")
    beside.cluster.settle()
    # The piece after the next is not out before the quiet one's result is.
    assert beside.order.index("quiet") <= 3 * PIECE_WAITERS
    assert len(beside.order) == 8 * PIECE_WAITERS + 1


def test_who_waits_for_many_counts_once(beside: Load) -> None:
    many = Answers()
    for _ in range(MANY):
        beside.busy.proposals.queue(PAYLOAD, many)
    beside.propose(beside.busy, PIECE_WAITERS - 1)
    while not many.told:
        assert beside.cluster.step()
    assert many.told == MANY
    assert len(beside.order) == PIECE_WAITERS - 1


def test_a_group_that_stops_tells_what_it_knows(beside: Load) -> None:
    beside.propose(beside.busy, MANY)
    beside.until_told()
    beside.propose(beside.busy, 1, "late")
    beside.host.run_pass()
    beside.busy.stop(HostClosed("the host was closed"))
    assert beside.order[:MANY] == [None] * MANY
    assert isinstance(beside.order[MANY], HostClosed)
    beside.cluster.settle()
    assert not beside.host.scheduler._outcomes.groups


def test_a_host_that_closes_waits_for_the_last_piece(beside: Load) -> None:
    beside.propose(beside.busy, MANY)
    beside.until_told()
    assert beside.host.scheduler.pending
    beside.cluster.settle()
    assert not beside.host.scheduler.pending


@pytest.mark.slow
async def test_tasks_that_propose_again_fill_whole_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With trio's own order of turns: who was woken last must be in the run, too."""
    runs: list[int] = []
    proposed = ProposalTable.proposed

    def listening(table: ProposalTable, run: Run, term: Term, waiters: list[Waiter], tries: int = 0) -> None:
        runs.append(run.count)
        proposed(table, run, term, waiters, tries)

    monkeypatch.setattr(ProposalTable, "proposed", listening)

    async def keep_proposing(group: Group) -> None:
        while True:
            await group.propose(PAYLOAD)

    async with open_host(config(tmp_path), lambda _: Tally()) as host, trio.open_nursery() as nursery:
        busy, quiet = await host.create_group(1), await host.create_group(2)
        await busy.wait_leader()
        await quiet.wait_leader()
        nursery.start_soon(keep_proposing, quiet)
        for _ in range(MANY):
            nursery.start_soon(keep_proposing, busy)
        while len(runs) < 2000 and sum(count > 1 for count in runs) < 40:  # noqa: ASYNC110
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    large = [count for count in runs if count > 1]
    assert sum(count == MANY for count in large) > 0.7 * len(large), large
