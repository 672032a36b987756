"""The part of the log that is not on disk yet."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from multiraft.messages import Run, Snapshot
from multiraft.raft.unstable import Unstable
from tests.raft.helpers import entries

SNAPSHOT = Snapshot(4, 1)


def unstable(
    terms: list[int], offset: int = 5, snapshot: Snapshot | None = None, accepted: int = 0
) -> Unstable:
    """Holds entries of `terms` from `offset` on, the first `accepted` of them in progress."""
    made = Unstable(offset, None)
    made.snapshot = snapshot
    runs = entries(terms, offset)
    if accepted:
        made.append(runs[:accepted])
        made.accept()
    if runs[accepted:]:
        made.append(runs[accepted:])
    return made


def terms_of(made: Unstable) -> list[int]:
    return [run.term for run in made.runs for _ in run.payloads]


@pytest.mark.parametrize(
    ("terms", "snapshot", "first", "last"),
    [([], None, None, None), ([1], None, None, 5), ([1], SNAPSHOT, 5, 5), ([], SNAPSHOT, 5, 4)],
)
def test_first_and_last_index(
    terms: list[int], snapshot: Snapshot | None, first: int | None, last: int | None
) -> None:
    made = unstable(terms, snapshot=snapshot)
    assert (made.first_index, made.last_index) == (first, last)


@pytest.mark.parametrize(
    ("terms", "snapshot", "index", "term"),
    [
        ([1], None, 5, 1),
        ([1], None, 6, None),
        ([1], None, 4, None),
        ([1], SNAPSHOT, 5, 1),
        ([1], SNAPSHOT, 6, None),
        ([1], SNAPSHOT, 4, 1),
        ([1], SNAPSHOT, 3, None),
        ([], SNAPSHOT, 5, None),
        ([], SNAPSHOT, 4, 1),
        ([], None, 5, None),
        ([1, 2, 2, 3], None, 7, 2),
    ],
)
def test_terms(terms: list[int], snapshot: Snapshot | None, index: int, term: int | None) -> None:
    assert unstable(terms, snapshot=snapshot).term(index) == term


def test_what_is_in_progress_is_not_handed_out_again() -> None:
    made = unstable([1, 1])
    assert [run.first for run in made.accept()] == [5, 6]
    assert made.accept() == []
    made.append(entries([1], 7))
    assert [run.first for run in made.accept()] == [7]
    assert made.offset_in_progress == 8


def test_a_snapshot_and_entries_are_accepted_together() -> None:
    made = unstable([1], snapshot=SNAPSHOT)
    fresh = [made.fresh_snapshot]
    made.accept()
    fresh.append(made.fresh_snapshot)
    assert fresh == [SNAPSHOT, None]
    assert made.snapshot is SNAPSHOT
    assert not made.has_fresh


@pytest.mark.parametrize(
    ("terms", "accepted", "index", "term", "offset", "left", "in_progress"),
    [
        ([], 0, 5, 1, 5, [], 0),
        ([1], 1, 5, 1, 6, [], 0),
        ([1, 1], 2, 5, 1, 6, [1], 1),
        ([1, 1], 2, 6, 1, 7, [], 0),
        ([2], 1, 6, 1, 5, [2], 1),  # beyond
        ([2], 1, 5, 1, 5, [2], 1),  # of another term: about an entry that was replaced
        ([1, 3], 2, 6, 2, 5, [1, 3], 2),
        ([1, 1], 2, 4, 1, 5, [1, 1], 2),  # below
        ([1, 1, 1], 1, 5, 1, 6, [1, 1], 0),
        ([1, 1, 1], 3, 6, 1, 7, [1], 1),
    ],
)
def test_stable_only_for_the_very_entry_that_is_here(
    terms: list[int], accepted: int, index: int, term: int, offset: int, left: list[int], in_progress: int
) -> None:
    made = unstable(terms, accepted=accepted)
    made.stable_to(index, term)
    assert (made.offset, terms_of(made), made.in_progress) == (offset, left, in_progress)


def test_a_report_that_matches_only_the_snapshot_is_ignored() -> None:
    made = unstable([1], snapshot=SNAPSHOT)
    made.stable_to(4, 1)
    assert (made.offset, terms_of(made)) == (5, [1])


def test_part_of_a_run_can_become_stable() -> None:
    made = Unstable(5, None)
    made.append([Run.of([b"a", b"b", b"c"], first=5, term=1)])
    made.accept()
    written = made.stable_to(6, 1)
    assert [run.payloads for run in written] == [[b"a", b"b"]]
    assert [run.payloads for run in made.runs] == [[b"c"]]
    assert (made.offset, made.in_progress, made.offset_in_progress) == (7, 1, 8)


@pytest.mark.parametrize(("index", "gone"), [(4, True), (3, False), (5, False)])
def test_a_snapshot_is_stable_only_at_its_own_index(index: int, gone: bool) -> None:
    made = unstable([], snapshot=SNAPSHOT)
    made.accept()
    made.stable_snapshot_to(index)
    assert (made.snapshot is None) is gone


@pytest.mark.parametrize(
    ("terms", "accepted", "first", "new", "offset", "result", "in_progress"),
    [
        ([1], 0, 6, [1, 1], 5, [1, 1, 1], 0),  # at the end
        ([1], 1, 6, [1, 1], 5, [1, 1, 1], 1),
        ([1], 0, 5, [2, 2], 5, [2, 2], 0),  # replace
        ([1], 0, 4, [2, 2, 2], 4, [2, 2, 2], 0),
        ([1], 1, 5, [2, 2], 5, [2, 2], 0),
        ([1, 1, 1], 0, 6, [2], 5, [1, 2], 0),  # truncate
        ([1, 1, 1], 0, 7, [2, 2], 5, [1, 1, 2, 2], 0),
        ([1, 1, 1], 1, 6, [2], 5, [1, 2], 1),
        ([1, 1, 1], 2, 6, [2], 5, [1, 2], 1),
        ([1, 1, 1], 3, 7, [2], 5, [1, 1, 2], 2),
    ],
)
def test_appending_at_the_end_before_and_inside(
    terms: list[int],
    accepted: int,
    first: int,
    new: list[int],
    offset: int,
    result: list[int],
    in_progress: int,
) -> None:
    made = unstable(terms, accepted=accepted)
    made.append(entries(new, first))
    assert (made.offset, terms_of(made), made.in_progress) == (offset, result, in_progress)


def test_a_run_is_cut_where_it_is_overwritten() -> None:
    made = Unstable(5, None)
    made.append([Run.of([b"a", b"b", b"c"], first=5, term=1)])
    made.accept()
    made.append([Run.of([b"x"], first=7, term=2)])
    assert [run.payloads for run in made.runs] == [[b"a", b"b"], [b"x"]]
    assert [run.payloads for run in made.accept()] == [[b"x"]]


def test_restoring_clears_everything() -> None:
    made = unstable([1, 1], accepted=1)
    made.restore(Snapshot(9, 3))
    assert (made.offset, made.runs, made.in_progress, made.offset_in_progress) == (10, [], 0, 10)
    assert made.fresh_snapshot == Snapshot(9, 3)


def test_what_was_handed_out_is_not_changed_by_later_appends() -> None:
    made = unstable([1, 1])
    handed = made.accept()
    sent = made.stretch(5, 6)
    made.append(entries([2], 5))
    made.append(entries([2], 6))
    assert [run.term for run in handed] == [1, 1]
    assert [run.term for run in sent] == [1, 1]


class UnstableMachine(RuleBasedStateMachine):
    """Against a model: a list of terms, how many of them are in progress, what is on disk."""

    def __init__(self) -> None:
        super().__init__()
        self.made = Unstable(1, None)
        self.log: list[int] = []  # terms of all entries ever, by index - 1
        self.offset = 1
        self.progress = 1  # the first index that was not handed out
        self.term = 1

    @rule(counts=st.lists(st.integers(1, 3), min_size=1, max_size=3))
    def append(self, counts: list[int]) -> None:
        self._append(len(self.log) + 1, counts)

    @precondition(lambda self: self.log)
    @rule(counts=st.lists(st.integers(1, 3), min_size=1, max_size=3), data=st.data())
    def overwrite(self, counts: list[int], data: st.DataObject) -> None:
        first = data.draw(st.integers(1, len(self.log)))
        self.term += 1
        self._append(first, counts)

    def _append(self, first: int, counts: list[int]) -> None:
        runs, index = [], first
        for count in counts:
            runs.append(Run.of([b"x"] * count, first=index, term=self.term))
            index += count
        self.made.append(runs)
        self.log = self.log[: first - 1] + [self.term] * sum(counts)
        self.offset = min(self.offset, first)
        self.progress = max(min(self.progress, first), self.offset)

    @rule()
    def accept(self) -> None:
        handed = self.made.accept()
        indexes = [index for run in handed for index in range(run.first, run.last + 1)]
        assert indexes == list(range(self.progress, len(self.log) + 1))
        self.progress = len(self.log) + 1

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def stable(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(1, len(self.log)))
        term = data.draw(st.integers(1, self.term))
        written = self.made.stable_to(index, term)
        if index >= self.offset and self.log[index - 1] == term:
            assert (written[0].first, written[-1].last) == (self.offset, index)
            self.offset = index + 1
            self.progress = max(self.progress, self.offset)
        else:
            assert written == []

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.made.offset == self.offset
        assert self.made.offset_in_progress == self.progress
        assert terms_of(self.made) == self.log[self.offset - 1 :]
        for index in range(1, len(self.log) + 2):
            known = self.offset <= index <= len(self.log)
            assert self.made.term(index) == (self.log[index - 1] if known else None)


UnstableMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestUnstable = pytest.mark.slow(UnstableMachine.TestCase)
