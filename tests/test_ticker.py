"""Ticks come from the clock: late ones are not lost, and come one at a time."""

from __future__ import annotations

from multiraft.ticker import Ticker, owed_ticks_max


def test_no_tick_before_its_time() -> None:
    ticker = Ticker(10.0, 0.5, 40)
    assert not ticker.take(10.49)
    assert ticker.take(10.5)
    assert not ticker.take(10.9)


def test_a_late_pass_owes_every_tick_it_missed_one_by_one() -> None:
    ticker = Ticker(0.0, 1.0, 40)
    taken = 0
    while ticker.take(7.5):
        taken += 1
    assert taken == 7
    assert ticker.next_at == 8.0


def test_a_long_pause_owes_no_more_than_what_ends_every_timeout() -> None:
    ticker = Ticker(0.0, 1.0, 40)
    taken = 0
    while ticker.take(36_000.0):
        taken += 1
    assert 40 <= taken <= 42
    assert 36_000.0 < ticker.next_at <= 36_001.0


def test_what_was_missed_counts_in_full_only_where_leases_need_it() -> None:
    """Else less than an election timeout of it: a leader that was held up has not lost its followers."""
    assert owed_ticks_max(10, leases=True) >= 2 * 10
    assert 1 <= owed_ticks_max(10, leases=False) < 10
    assert owed_ticks_max(2, leases=False) == 1
