"""Arithmetic on lists of runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft.messages import Run
from multiraft.raft.runs import fitting, position, stretch, total_weight


def runs_of(counts: list[int], first: int = 1) -> list[Run]:
    found = []
    for count in counts:
        payloads = [f"{index}".encode() * 5 for index in range(first, first + count)]
        found.append(Run.of(payloads, first=first, term=1))
        first += count
    return found


def payloads_of(runs: list[Run]) -> list[bytes]:
    return [payload for run in runs for payload in run.payloads]


counts = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@given(counts, st.data())
def test_a_stretch_is_exactly_what_was_asked_for(sizes: list[int], data: st.DataObject) -> None:
    runs = runs_of(sizes)
    last = runs[-1].last
    begin = data.draw(st.integers(1, last))
    end = data.draw(st.integers(begin, last))
    found = stretch(runs, begin, end)
    assert (found[0].first, found[-1].last) == (begin, end)
    assert payloads_of(found) == payloads_of(runs)[begin - 1 : end]
    assert payloads_of(runs) == payloads_of(runs_of(sizes)), "what was given is not changed"


@given(counts, st.integers(1, 200))
def test_a_prefix_within_a_limit_holds_at_least_one_entry_and_cuts_only_the_first_run(
    sizes: list[int], limit: int
) -> None:
    runs = runs_of(sizes)
    found = fitting(runs, limit)
    assert payloads_of(found) == payloads_of(runs)[: len(payloads_of(found))]
    assert found
    assert total_weight(found) <= limit or payloads_of(found) == payloads_of(runs)[:1]
    if found[0].last == runs[0].last:
        assert [run.last for run in found] == [run.last for run in runs[: len(found)]]
        rest = runs[len(found) :]
        assert not rest or total_weight(found) + rest[0].weight > limit
    else:
        assert len(found) == 1


def test_a_position_outside_is_a_bug() -> None:
    runs = runs_of([2, 2], first=5)
    assert [position(runs, index) for index in (5, 6, 7, 8)] == [0, 0, 1, 1]
    for outside in (4, 9):
        with pytest.raises(AssertionError):
            position(runs, outside)
