"""The table of read barriers: confirmed, then applied, then released; lost rounds come again."""

from __future__ import annotations

from multiraft.errors import NoLeader
from multiraft.reads import ROUNDS_MAX, ReadTable
from tests.test_proposals import Recorder


def asked(table: ReadTable, context: bytes, now: float = 0.0) -> Recorder:
    waiter = Recorder()
    table.queued.append(waiter)
    table.ask(context, now)
    return waiter


def test_a_confirmed_read_waits_until_its_index_is_applied() -> None:
    table = ReadTable()
    waiter = asked(table, b"1")
    table.confirmed(b"1", index=5, applied=4)
    assert waiter.told == []
    table.applied(4)
    assert waiter.told == []
    table.applied(5)
    assert waiter.told == [None]
    assert not table


def test_a_read_confirmed_at_or_below_what_is_applied_is_released_at_once() -> None:
    table = ReadTable()
    waiter = asked(table, b"1")
    table.confirmed(b"1", index=5, applied=5)
    assert waiter.told == [None]


def test_reads_that_queue_up_together_share_a_round() -> None:
    table = ReadTable()
    waiters = [Recorder() for _ in range(3)]
    table.queued.extend(waiters)
    table.ask(b"1", 0.0)
    table.confirmed(b"1", 1, 1)
    assert [w.told for w in waiters] == [[None]] * 3


def test_only_so_many_rounds_are_out_at_once() -> None:
    table = ReadTable()
    may_ask = []
    for number in range(ROUNDS_MAX):
        table.queued.append(Recorder())
        may_ask.append(table.may_ask)
        table.ask(b"%d" % number, 0.0)
    table.queued.append(Recorder())
    may_ask.append(table.may_ask)
    table.confirmed(b"0", 1, 1)
    may_ask.append(table.may_ask)
    assert may_ask == [True] * ROUNDS_MAX + [False, True]


def test_a_lost_round_is_asked_again_and_its_late_answer_means_nothing() -> None:
    table = ReadTable()
    waiter = asked(table, b"1", now=1.0)
    assert not table.ask_again(0.5)
    assert table.ask_again(1.0)
    assert len(table.queued) == 1
    table.confirmed(b"1", 1, 1)
    assert waiter.told == [], "the answer to a round that was given up is not used"
    table.ask(b"2", 2.0)
    table.confirmed(b"2", 1, 1)
    assert waiter.told == [None]


def test_failing_reaches_every_stage() -> None:
    table = ReadTable()
    applying = asked(table, b"1")
    table.confirmed(b"1", 9, 1)
    out = asked(table, b"2")
    queued = Recorder()
    table.queued.append(queued)
    error = NoLeader("none")
    table.fail_all(error)
    assert [w.told for w in (applying, out, queued)] == [[error]] * 3
    assert not table
