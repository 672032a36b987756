"""The log in memory keeps what every log has to keep."""

from __future__ import annotations

import pytest

from multiraft.errors import LogCompacted, LogUnavailable
from multiraft.messages import ConfState, HardState, Run, Snapshot
from multiraft.raft.memory import MemoryLog, SnapshotOutdated
from multiraft.raft.runs import UNLIMITED, total_weight
from tests.raft.helpers import entries, log_terms


def make_log() -> MemoryLog:
    """Compaction point (3, term 3), then entries of terms 4 and 5."""
    log = MemoryLog(Snapshot(3, 3))
    log.append(entries([4, 5], 4))
    return log


def test_a_fresh_log_is_empty() -> None:
    log = MemoryLog()
    assert (log.first_index(), log.last_index(), log.term(0)) == (1, 0, 0)
    assert log.initial_state() == (HardState(), ConfState())


def test_terms() -> None:
    log = make_log()
    assert [log.term(index) for index in (3, 4, 5)] == [3, 4, 5]
    with pytest.raises(LogCompacted):
        log.term(2)
    with pytest.raises(LogUnavailable):
        log.term(6)


def test_runs() -> None:
    log = make_log()
    one = entries([4])[0].weight
    assert [run.first for run in log.runs(4, 5, UNLIMITED)] == [4, 5]
    assert [run.first for run in log.runs(4, 5, 2 * one)] == [4, 5]
    assert [run.first for run in log.runs(4, 5, 2 * one - 1)] == [4]
    assert [run.first for run in log.runs(4, 5, 0)] == [4]
    with pytest.raises(LogCompacted):
        log.runs(3, 4, UNLIMITED)
    with pytest.raises(LogUnavailable):
        log.runs(4, 6, UNLIMITED)


def test_compaction_makes_its_index_the_compaction_point() -> None:
    log = make_log()
    log.compact(4)
    assert (log.first_index(), log.last_index(), log.term(4)) == (5, 5, 4)
    log.compact(5)
    assert (log.first_index(), log.last_index(), log.term(5)) == (6, 5, 5)
    with pytest.raises(LogCompacted):
        log.compact(5)
    with pytest.raises(AssertionError):
        log.compact(6)


def test_creating_a_snapshot() -> None:
    log = make_log()
    state = ConfState((1, 2))
    made = log.create_snapshot(4, state, b"data")
    assert made == Snapshot(4, 4, state, b"data") == log.snapshot()
    with pytest.raises(SnapshotOutdated):
        log.create_snapshot(4, state)


@pytest.mark.parametrize(
    ("first", "new", "result"),
    [
        (4, [6, 6], [6, 6]),
        (5, [6], [4, 6]),
        (6, [6], [4, 5, 6]),
        (3, [3, 4, 5, 6], [4, 5, 6]),
        (2, [3, 3, 5], [5]),
        (1, [1, 2], [4, 5]),
    ],
)
def test_appending_overwrites_and_drops_what_is_compacted(
    first: int, new: list[int], result: list[int]
) -> None:
    log = make_log()
    log.append(entries(new, first))
    assert log_terms(log) == result


def test_a_run_across_the_compaction_point_is_cut() -> None:
    log = make_log()
    log.append([Run.of([b"a", b"b", b"c"], first=2, term=4)])
    assert [(run.first, run.payloads) for run in log.runs(4, 4, UNLIMITED)] == [(4, [b"c"])]


def test_a_gap_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        make_log().append(entries([6], 7))


def test_applying_a_snapshot() -> None:
    log = make_log()
    log.apply_snapshot(Snapshot(9, 8, ConfState((1,))))
    assert (log.first_index(), log.last_index(), log.term(9)) == (10, 9, 8)
    assert log.initial_state()[1] == ConfState((1,))
    for old in (9, 8):
        with pytest.raises(SnapshotOutdated):
            log.apply_snapshot(Snapshot(old, 8))


def test_a_first_snapshot_may_be_a_configuration_alone() -> None:
    log = MemoryLog()
    log.apply_snapshot(Snapshot(conf_state=ConfState((1, 2))))
    assert log.initial_state()[1] == ConfState((1, 2))
    assert log.first_index() == 1


def test_what_was_handed_out_is_not_affected_by_later_writes() -> None:
    log = make_log()
    handed = log.runs(4, 5, UNLIMITED)
    snapshot = log.create_snapshot(4, ConfState((1,)))
    log.append(entries([9], 5))
    log.append(entries([9], 6))
    log.compact(5)
    log.create_snapshot(6, ConfState((1, 2)))
    assert [run.term for run in handed] == [4, 5]
    assert snapshot == Snapshot(4, 4, ConfState((1,)))
    assert total_weight(handed) == 2 * entries([4])[0].weight
