"""When beats are due, alone and in time with another host's."""

from __future__ import annotations

import heapq
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft.rhythm import Rhythm

INTERVAL_S = 0.1


def beats(rhythm: Rhythm, heard: list[float], until: float) -> list[float]:
    """The moments at which beats leave, of a host that hears its pacemaker at those of `heard`."""
    sent: list[float] = []
    waiting = sorted(heard)
    while True:
        now = min([rhythm.due_at, *waiting[:1]])
        if now > until:
            return sent
        if waiting and waiting[0] == now:
            rhythm.heard(waiting.pop(0))
        if rhythm.due_at <= now:
            rhythm.beaten(now)
            sent.append(now)


def gaps(moments: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(moments)]


def test_alone_a_host_beats_once_per_interval() -> None:
    assert beats(Rhythm(0.1, INTERVAL_S), [], 1.05) == pytest.approx([n / 10 for n in range(1, 11)])


def test_what_was_missed_is_not_made_up_for() -> None:
    rhythm = Rhythm(0.1, INTERVAL_S)
    rhythm.beaten(0.47)
    assert rhythm.due_at == pytest.approx(0.5)


@pytest.mark.parametrize("phase_s", [n / 100 for n in range(10)])
def test_a_host_beats_with_its_pacemaker_after_a_few_intervals(phase_s: float) -> None:
    """Wherever it was before; and from then on once for each of the pacemaker's beats."""
    heard = [n * INTERVAL_S for n in range(1, 31)]
    sent = beats(Rhythm(0.1 + phase_s, INTERVAL_S), heard, 3.05)
    late = [moment for moment in sent if moment > 0.65]
    assert late == pytest.approx(heard[-len(late) :], abs=1e-6)
    assert len(late) == 24


@pytest.mark.parametrize("skew", [-1e-3, 1e-3])
def test_clocks_that_differ_do_not_part_them(skew: float) -> None:
    heard = [n * INTERVAL_S * (1 + skew) for n in range(1, 1001)]
    sent = beats(Rhythm(0.13, INTERVAL_S), heard, heard[-1] + 0.05)
    apart = [min(abs(moment - other) for other in heard) for moment in sent[10:]]
    assert max(apart) <= 2 * abs(skew) * INTERVAL_S
    assert len(sent) <= len(heard) + 1


@given(st.floats(0, 0.1), st.lists(st.floats(0, 5), max_size=300))
def test_no_pacemaker_can_hurry_or_hold_a_host_beyond_the_bounds(phase_s: float, heard: list[float]) -> None:
    """Not one that beats all the time, nor one whose beats come in heaps."""
    sent = beats(Rhythm(0.1 + phase_s, INTERVAL_S), heard, 5.5)
    assert all(INTERVAL_S / 2 - 1e-9 <= gap <= INTERVAL_S * 9 / 8 + 1e-9 for gap in gaps(sent))


@pytest.mark.parametrize("delay_s", [0.0002, 0.01, 0.03, 0.05, 0.07, 0.2])
def test_hosts_do_not_drive_each_other(delay_s: float) -> None:
    """In a row in which each follows the one before all go as the first does, however long beats take."""
    row = [Rhythm(0.1 + 0.037 * place, INTERVAL_S) for place in range(5)]
    counts = [0] * len(row)
    arrivals: list[tuple[float, int]] = []
    now = 0.0
    while now < 20:
        now = min(*(rhythm.due_at for rhythm in row), *(moment for moment, _ in arrivals[:1]))
        if arrivals and arrivals[0][0] <= now:
            row[heapq.heappop(arrivals)[1]].heard(now)
        for place, rhythm in enumerate(row):
            if rhythm.due_at <= now:
                rhythm.beaten(now)
                counts[place] += 1
                if place + 1 < len(row):
                    heapq.heappush(arrivals, (now + delay_s, place + 1))
    assert max(counts) - min(counts) <= len(row) + 1
    assert counts[0] == pytest.approx(200, abs=1)
