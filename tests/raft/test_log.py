"""The log as roles see it: stable and unstable part, commit and apply positions."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from multiraft.errors import LogCompacted, LogUnavailable
from multiraft.messages import EntryKind, Run, Snapshot
from multiraft.raft.failures import RaftFailure
from multiraft.raft.log import _SETTLED_BYTES_MAX, RaftLog
from multiraft.raft.memory import MemoryLog
from multiraft.raft.runs import UNLIMITED, total_weight
from multiraft.types import Index
from tests.raft.helpers import TestLog, entries


def make_log(
    stable: list[int],
    unstable: list[int] | None = None,
    snapshot: Snapshot | None = None,
    limit: int = UNLIMITED,
) -> RaftLog:
    storage = MemoryLog(snapshot)
    if stable:
        storage.append(entries(stable, storage.first_index()))
    log = RaftLog(storage, limit, None)
    if unstable:
        log.append(entries(unstable, log.last_index + 1))
    return log


def terms(log: RaftLog) -> list[int]:
    return [log.term(index) for index in range(log.first_index, log.last_index + 1)]


@pytest.mark.parametrize(
    ("index", "term", "fresh"),
    [
        (2, 4, True),
        (3, 4, True),
        (4, 4, True),
        (2, 2, False),
        (4, 2, False),
        (2, 3, False),
        (3, 3, True),
        (4, 3, True),
    ],
)
def test_up_to_date_by_term_then_by_index(index: int, term: int, fresh: bool) -> None:
    assert make_log([1, 2, 3]).up_to_date(index, term) is fresh


def test_terms_across_the_border_of_the_stable_part() -> None:
    log = make_log([2, 3], [4, 5], Snapshot(10, 1))
    assert [log.term(index) for index in (10, 11, 12, 13, 14)] == [1, 2, 3, 4, 5]
    with pytest.raises(LogCompacted):
        log.term(9)
    with pytest.raises(LogUnavailable):
        log.term(15)


def test_a_compacted_term_is_unknown_rather_than_zero() -> None:
    """An append anchored at term 0 would match nothing, or worse, a missing entry."""
    log = make_log([1, 1], snapshot=Snapshot(10, 1))
    assert not log.matches(9, 0)
    assert not log.matches(13, 0)
    assert log.matches(10, 1)


def test_below_an_unstable_snapshot_nothing_is_known() -> None:
    log = make_log([1] * 5)
    log.restore(Snapshot(20, 3))
    assert log.term(20) == 3
    for index in (5, 19):
        with pytest.raises(LogCompacted):
            log.term(index)
    with pytest.raises(LogCompacted):
        log.runs(3, 20, UNLIMITED)


@pytest.mark.parametrize(
    ("first", "new", "result", "offset"),
    [
        (3, [2], [1, 2, 2], 3),
        (1, [2], [2], 1),
        (2, [3, 3], [1, 3, 3], 2),
    ],
)
def test_appending_replaces_from_its_first_index(
    first: int, new: list[int], result: list[int], offset: int
) -> None:
    log = make_log([1, 2])
    log.append(entries(new, first))
    assert terms(log) == result
    assert log.unstable.offset == offset
    assert (log.last_index, log.last_term) == (len(result), result[-1])


def test_appending_over_what_is_committed_is_fatal() -> None:
    log = make_log([1, 2, 3])
    log.commit_to(2)
    with pytest.raises(RaftFailure):
        log.append(entries([4], 2))


@pytest.mark.parametrize(
    ("first", "new", "result"),
    [
        (1, [], [1, 2, 3]),
        (1, [1, 2, 3], [1, 2, 3]),
        (2, [2, 3], [1, 2, 3]),
        (3, [3], [1, 2, 3]),
        (1, [1, 2, 3, 4, 4], [1, 2, 3, 4, 4]),
        (2, [2, 3, 4, 4], [1, 2, 3, 4, 4]),
        (4, [4, 4], [1, 2, 3, 4, 4]),
        (1, [4, 4], [4, 4]),
        (2, [1, 4, 4], [1, 1, 4, 4]),
        (3, [1, 2, 4, 4], [1, 2, 1, 2, 4, 4]),
    ],
)
@pytest.mark.parametrize("stable", [0, 1, 3])
@pytest.mark.parametrize("grouped", [False, True])
def test_merging_finds_the_first_difference(
    first: int, new: list[int], result: list[int], stable: int, grouped: bool
) -> None:
    log = make_log([1, 2, 3][:stable], [1, 2, 3][stable:])
    runs = _grouped(entries(new, first)) if grouped else entries(new, first)
    log.merge(runs)
    assert terms(log) == result


def _grouped(runs: list[Run]) -> list[Run]:
    """The same entries in as few runs as possible."""
    found: list[Run] = []
    for run in runs:
        if found and found[-1].term == run.term:
            last = found.pop()
            run = Run.of([*last.payloads, *run.payloads], first=last.first, term=run.term)
        found.append(run)
    return found


@pytest.mark.parametrize("conflict", range(1, 9))
def test_a_difference_inside_a_run_is_found_without_looking_at_every_entry(conflict: int) -> None:
    log = make_log([], [1] * (conflict - 1) + [2] * (9 - conflict))
    log.merge([Run.of([b"x"] * 8, first=1, term=1)])
    assert terms(log) == [1] * 8
    assert log.unstable.runs[-1].payloads[-1] == b"x"


def test_merging_over_what_is_committed_is_fatal() -> None:
    log = make_log([1, 1, 1])
    log.commit_to(3)
    with pytest.raises(RaftFailure):
        log.merge(entries([2], 3))


def test_committing_beyond_the_last_index_is_fatal_and_lower_is_ignored() -> None:
    log = make_log([1, 2, 3])
    log.commit_to(2)
    log.commit_to(1)
    assert log.committed == 2
    with pytest.raises(RaftFailure, match="lost"):
        log.commit_to(4)


@pytest.mark.parametrize("index", [2, 6])
def test_applied_outside_of_applied_and_committed_is_fatal(index: int) -> None:
    log = make_log([1] * 9)
    log.commit_to(5)
    log.applied_to(3, 0)
    with pytest.raises(RaftFailure, match="out of range"):
        log.applied_to(index, 0)


# --- slices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 5, 6, 12, 13, 30, UNLIMITED])
@pytest.mark.parametrize("border", [0, 3, 6])
def test_slices_keep_to_their_limit_except_for_a_single_entry(limit: int, border: int) -> None:
    log = make_log([1] * border, [1] * (6 - border))
    for first in range(1, 7):
        for last in range(first, 7):
            found = log.runs(first, last, limit)
            assert found[0].first == first
            assert found[-1].last <= last
            assert total_weight(found) <= limit or found[-1].last == first
            if found[-1].last < last:
                following = log.runs(found[-1].last + 1, found[-1].last + 1, UNLIMITED)
                assert total_weight(found + following) > limit, "as many as fit"
    assert log.runs(4, 3, limit) == []


def test_a_slice_out_of_bounds_is_a_bug_and_a_compacted_one_is_reported() -> None:
    log = make_log([1, 1], [1], Snapshot(10, 1))
    with pytest.raises(AssertionError):
        log.runs(11, 14, UNLIMITED)
    with pytest.raises(LogCompacted):
        log.runs(10, 11, UNLIMITED)


def test_compaction_moves_the_first_index_and_nothing_else() -> None:
    storage = MemoryLog()
    storage.append(entries([1] * 10))
    log = RaftLog(storage, UNLIMITED, None)
    log.commit_to(10)
    log.applied_to(10, 0)
    storage.compact(7)
    assert (log.first_index, log.last_index) == (8, 10)
    assert [log.term(index) for index in (7, 8, 10)] == [1, 1, 1]
    log.append(entries([1], 11))
    assert [run.first for run in log.runs(8, 11, UNLIMITED)] == [8, 9, 10, 11]


class CountedLog(TestLog):
    """One that knows where its configuration changes end."""

    changed: Index = 0

    def changed_at(self) -> Index:
        return self.changed


def change_at(index: Index) -> Run:
    return Run.of([b"c"], EntryKind.CONF_CHANGE_V2, first=index, term=1)


@pytest.mark.parametrize(("stable_change", "unstable_change"), [(0, 0), (2, 0), (0, 5), (2, 5)])
def test_configuration_changes_are_found_and_looked_for_only_where_they_may_be(
    stable_change: Index, unstable_change: Index
) -> None:
    storage = CountedLog()
    storage.changed = stable_change
    for index in range(1, 5):
        storage.append([change_at(index)] if index == stable_change else entries([1], index))
    log = RaftLog(storage, UNLIMITED, None)
    log.append([change_at(5)] if unstable_change else entries([1], 5))
    for first in range(1, 6):
        for last in range(first, 6):
            found = any(first <= index <= last for index in (stable_change, unstable_change))
            assert log.has_conf_change(first, last) is found
    storage.reads = 0
    log.has_conf_change(stable_change + 1, 5)
    assert storage.reads == 0


def test_nothing_of_a_held_log_is_handed_out() -> None:
    log = make_log([1, 1])
    log.commit_to(2)
    log.held = True
    assert not log.has_committed(allow_unstable=False)
    assert log.take_committed(allow_unstable=False) == []
    log.held = False
    assert log.has_committed(allow_unstable=False)
    assert log.take_committed(allow_unstable=False)[-1].last == 2


def test_restoring_from_a_snapshot() -> None:
    log = make_log([1] * 3)
    log.restore(Snapshot(20, 3))
    assert (log.first_index, log.last_index, log.last_term, log.committed) == (21, 20, 3, 20)
    assert log.unstable.offset == 21


def test_a_new_log_counts_what_was_compacted_as_applied() -> None:
    log = make_log([1] * 3, snapshot=Snapshot(10, 1))
    assert (log.committed, log.applying, log.applied) == (10, 10, 10)


# --- backing up --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "term", "found"),
    [
        (14, 9, (14, 5)),
        (14, 5, (14, 5)),
        (14, 4, (12, 3)),
        (13, 4, (12, 3)),
        (12, 3, (12, 3)),
        (14, 2, (11, 2)),
        (14, 1, (10, 1)),
        (14, 0, (9, 0)),  # all that is known is too new: what is compacted may match
        (9, 5, (9, 0)),  # compacted
        (15, 5, (15, 0)),  # not there
    ],
)
def test_the_largest_index_whose_term_is_small_enough(index: int, term: int, found: tuple[int, int]) -> None:
    log = make_log([2, 3], [5, 5], Snapshot(10, 1))
    assert log.find_conflict_by_term(index, term) == found


# --- applying ----------------------------------------------------------------------------------


def test_unstable_entries_are_applied_only_where_that_is_allowed() -> None:
    log = make_log([1, 1], [1, 1])
    log.commit_to(3)
    assert log.has_committed(allow_unstable=False)
    assert [run.first for run in log.take_committed(allow_unstable=False)] == [1, 2]
    assert not log.has_committed(allow_unstable=False)
    assert log.take_committed(allow_unstable=False) == []
    assert [run.first for run in log.take_committed(allow_unstable=True)] == [3]


def test_nothing_is_applied_while_a_snapshot_is_pending() -> None:
    log = make_log([1] * 3)
    log.restore(Snapshot(20, 3))
    log.append(entries([3], 21))
    log.commit_to(21)
    assert not log.has_committed(allow_unstable=True)
    assert log.take_committed(allow_unstable=True) == []


def test_the_limit_counts_what_is_handed_out_and_not_reported_over_all_calls() -> None:
    weight = entries([1])[0].weight
    log = make_log([1] * 9, limit=3 * weight)
    log.commit_to(2)
    assert [run.first for run in log.take_committed(True)] == [1, 2]
    log.commit_to(9)
    assert [run.first for run in log.take_committed(True)] == [3], "two of three are out already"
    assert log.take_committed(True) == []
    assert not log.has_committed(True)
    log.applied_to(1, weight)
    assert [run.first for run in log.take_committed(True)] == [4]
    log.applied_to(4, 9 * weight)
    assert [run.first for run in log.take_committed(True)] == [5, 6, 7], "it does not fall below zero"


def test_one_entry_is_handed_out_however_small_the_limit() -> None:
    log = make_log([1] * 3, limit=1)
    log.commit_to(3)
    handed = []
    while log.has_committed(True):
        (run,) = log.take_committed(True)
        handed.append(run.first)
        log.applied_to(run.last, run.weight)
    assert handed == [1, 2, 3]


def test_what_was_just_written_is_applied_without_reading_it_back() -> None:
    log = make_log([], [1, 1, 1])
    log.unstable.accept()
    log.stable_to(3, 1)
    log.commit_to(2)
    storage = MemoryLog()  # empty: any read would fail
    log._storage = storage
    assert [run.first for run in log.take_committed(False)] == [1, 2]


def test_what_was_written_and_then_replaced_is_not_applied() -> None:
    log = make_log([], [1, 1, 1])
    log.unstable.accept()
    log.stable_to(3, 1)
    log.append(entries([2], 2))
    log.commit_to(2)
    storage = MemoryLog()
    storage.append(entries([1, 1, 1]))
    log._storage = storage
    assert [(run.first, run.term) for run in log.take_committed(True)] == [(1, 1), (2, 2)]


def test_more_than_is_kept_at_hand_is_read_back_without_a_gap() -> None:
    storage = MemoryLog()
    log = RaftLog(storage, UNLIMITED, None)
    for first in range(1, 41, 2):
        runs = entries([1, 1], first)
        log.append(runs)
        log.unstable.accept()
        storage.append(runs)
        log.stable_to(first + 1, 1)
    log.commit_to(40)
    assert [run.first for run in log.take_committed(False)] == list(range(1, 41))


@pytest.mark.parametrize("together", [1, 2])
def test_no_more_bytes_are_kept_at_hand_than_may_be(together: int) -> None:
    """Not even where each run alone is small enough; what is not kept is read back."""
    storage = MemoryLog()
    log = RaftLog(storage, UNLIMITED, None)
    for first in range(1, 9, together):
        runs = [Run.of([bytes(30_000)], first=index, term=1) for index in range(first, first + together)]
        log.append(runs)
        log.unstable.accept()
        storage.append(runs)
        log.stable_to(first + together - 1, 1)
        assert total_weight(log._settled) <= _SETTLED_BYTES_MAX
    log.commit_to(8)
    assert [run.first for run in log.take_committed(False)] == list(range(1, 9))


class LogMachine(RuleBasedStateMachine):
    """A log whose disk lags, against a list of (term, payload)."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = MemoryLog()
        self.log = RaftLog(self.storage, 60, None)
        self.model: list[tuple[int, bytes]] = []
        self.term = 1
        self.number = 0
        self.writes: list[tuple[list[Run], int, int]] = []
        self.handed = 0
        self.weights: list[tuple[int, int]] = []

    def _runs(self, first: int, counts: list[int]) -> list[Run]:
        runs = []
        for count in counts:
            payloads = []
            for _ in range(count):
                self.number += 1
                payloads.append(b"%d" % self.number)
            runs.append(Run.of(payloads, first=first, term=self.term))
            first += count
        return runs

    def _place(self, runs: list[Run]) -> None:
        first = runs[0].first
        self.model = self.model[: first - 1]
        self.model += [(run.term, payload) for run in runs for payload in run.payloads]

    @rule(counts=st.lists(st.integers(1, 4), min_size=1, max_size=3))
    def append(self, counts: list[int]) -> None:
        runs = self._runs(len(self.model) + 1, counts)
        self.log.append(runs)
        self._place(runs)

    @rule(counts=st.lists(st.integers(1, 4), min_size=1, max_size=3), data=st.data())
    def overwrite(self, counts: list[int], data: st.DataObject) -> None:
        if self.log.committed == len(self.model):
            return
        first = data.draw(st.integers(self.log.committed + 1, len(self.model)))
        self.term += 1
        runs = self._runs(first, counts)
        self.log.merge(runs)
        self._place(runs)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def merge_known(self, data: st.DataObject) -> None:
        """What we have already comes again, with or without more."""
        first = data.draw(st.integers(1, len(self.model)))
        last = data.draw(st.integers(first, len(self.model)))
        known = self.log.runs(first, last, UNLIMITED)
        self.log.merge(known)

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.log.commit_to(data.draw(st.integers(0, len(self.model))))

    @rule()
    def hand_to_disk(self) -> None:
        runs = self.log.unstable.accept()
        self.writes.append((runs, self.log.last_index, self.log.last_term))

    @precondition(lambda self: self.writes)
    @rule()
    def disk_done(self) -> None:
        runs, index, term = self.writes.pop(0)
        if runs:
            self.storage.append(runs)
        # A report names the whole tail and is valid only while nothing was replaced since.
        if all(not later for later, _index, _term in self.writes) or term == self.term:
            self.log.stable_to(index, term)

    @rule(allow=st.booleans())
    def apply(self, allow: bool) -> None:
        limit = min(self.log.committed, len(self.model))
        for run in self.log.take_committed(allow):
            assert run.first == self.handed + 1, "nothing is skipped, nothing comes twice"
            expected = self.model[run.first - 1 : run.last]
            assert [(run.term, payload) for payload in run.payloads] == expected
            self.handed = run.last
            assert run.last <= limit
            assert allow or run.last < self.log.unstable.offset
            self.weights.append((run.last, run.weight))

    @precondition(lambda self: self.weights)
    @rule()
    def applied(self) -> None:
        last, weight = self.weights.pop(0)
        self.log.applied_to(last, weight)

    @invariant()
    def agrees_with_the_model(self) -> None:
        log = self.log
        assert log.last_index == len(self.model)
        assert log.last_term == (self.model[-1][0] if self.model else 0)
        assert log.applied <= log.applying <= log.committed <= log.last_index
        assert [log.term(index) for index in range(1, log.last_index + 1)] == [term for term, _ in self.model]
        found = log.runs(1, log.last_index, UNLIMITED)
        assert [(run.term, payload) for run in found for payload in run.payloads] == self.model


LogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestLogMachine = pytest.mark.slow(LogMachine.TestCase)
