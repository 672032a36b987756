"""Results of large runs are handed out in pieces beside others, and whole where nobody else has business."""

from __future__ import annotations

import pytest

from multiraft.errors import HostClosed
from multiraft.group import Group
from multiraft.outcomes import COMPANY_TICKS, PAUSE_PASSES, PIECE_RESULTS
from tests.engine.work_cluster import PAYLOAD, Answers, WorkCluster

BUSY, QUIET = 1, 2
MANY = 2 * PIECE_RESULTS + 100


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
    """A busy group, and a quiet one beside it that writes once in a while, both led by the first host."""

    def __init__(self) -> None:
        self.cluster = WorkCluster()
        self.cluster.create(2)
        self.cluster.tick(COMPANY_TICKS + 1)
        self.host = self.cluster.hosts[0]
        self.busy = self.cluster.led(BUSY)
        self.order: list[object] = []

    def propose(self, group: Group, count: int, name: object = None) -> None:
        for _ in range(count):
            group.proposals.queue(PAYLOAD, Told(self.order, name))
        self.host.scheduler.mark_dirty(group)

    def company(self) -> None:
        self.cluster.write([QUIET])

    def until_told(self) -> None:
        """Pass by pass, until the first of them are told."""
        while not self.order:
            self.cluster.step()

    def told_by_pass(self) -> list[int]:
        """From here on, how many are told in each pass of the first host, until all is quiet."""
        counts = []
        while self.host.awake:
            before = len(self.order)
            self.host.run_pass()
            counts.append(len(self.order) - before)
        return counts


def test_beside_others_a_piece_at_a_time() -> None:
    load = Load()
    load.company()
    load.propose(load.busy, MANY)
    load.until_told()
    assert len(load.order) == PIECE_RESULTS
    pause = [0] * PAUSE_PASSES
    assert load.told_by_pass() == [*pause, PIECE_RESULTS, *pause, MANY - 2 * PIECE_RESULTS]


@pytest.mark.parametrize("ticks", [0, COMPANY_TICKS])
def test_alone_all_at_once(ticks: int) -> None:
    load = Load()
    if ticks:
        load.company()
        load.cluster.tick(ticks)
    load.propose(load.busy, MANY)
    load.until_told()
    assert len(load.order) == MANY


def test_a_group_alone_keeps_no_company_with_itself() -> None:
    load = Load()
    for _ in range(3):
        load.order.clear()
        load.propose(load.busy, MANY)
        load.until_told()
        assert len(load.order) == MANY
        load.cluster.settle()


def test_what_fits_a_piece_is_not_kept() -> None:
    load = Load()
    load.company()
    load.propose(load.busy, PIECE_RESULTS)
    load.until_told()
    assert len(load.order) == PIECE_RESULTS
    assert load.busy.proposals.outcomes is None


def test_what_is_proposed_meanwhile_makes_one_run() -> None:
    load = Load()
    load.company()
    load.propose(load.busy, MANY)
    load.until_told()
    runs = load.host.scheduler.statistics().proposed_runs
    load.propose(load.busy, 1, "again")
    while len(load.order) < MANY:
        load.host.run_pass()
        assert load.host.scheduler.statistics().proposed_runs == runs
    load.busy.proposals.queue(PAYLOAD, Told(load.order, "again"))  # by one that was woken last
    load.cluster.settle()
    assert load.host.scheduler.statistics().proposed_runs == runs + 1
    assert load.order[MANY:] == ["again"] * 2


def test_another_group_writes_while_the_pieces_leave() -> None:
    load = Load()
    load.company()
    load.propose(load.busy, 8 * PIECE_RESULTS)
    load.until_told()
    load.propose(load.cluster.led(QUIET), 1, "quiet")
    load.cluster.settle()
    # The piece after the next is not out before the quiet one's result is.
    assert load.order.index("quiet") <= 3 * PIECE_RESULTS
    assert len(load.order) == 8 * PIECE_RESULTS + 1


def test_who_waits_for_many_is_woken_once_and_counts_once() -> None:
    load = Load()
    load.company()
    many = Answers()
    for _ in range(MANY):
        load.busy.proposals.queue(PAYLOAD, many)
    load.propose(load.busy, PIECE_RESULTS - 1)
    while not many.told:
        load.cluster.step()
    assert many.told == MANY
    assert len(load.order) == PIECE_RESULTS - 1


def test_a_group_that_stops_tells_what_it_knows() -> None:
    load = Load()
    load.company()
    load.propose(load.busy, MANY)
    load.until_told()
    load.propose(load.busy, 1, "late")
    load.host.run_pass()
    load.busy.stop(HostClosed("the host was closed"))
    assert load.order[:MANY] == [None] * MANY
    assert isinstance(load.order[MANY], HostClosed)
    load.cluster.settle()
    assert not load.host.scheduler._outcomes.groups


def test_a_host_that_closes_waits_for_the_last_piece() -> None:
    load = Load()
    load.company()
    load.propose(load.busy, MANY)
    load.until_told()
    assert load.host.scheduler.pending
    load.cluster.settle()
    assert not load.host.scheduler.pending
