"""Ticks counted from the clock, so that a late pass is a late tick and never a lost one."""

from __future__ import annotations


def owed_ticks_max(election_ticks: int, *, leases: bool) -> int:
    """How many ticks that were missed are counted; what was missed before them is as if it had not passed.

    With leases all of them count until every timeout is over, as a lease is measured in the ticks of its
    leader. (More than that would keep a host with thousands of groups busy for minutes.) Nothing else
    needs them: a timeout may always be longer. And ticks that are made up for are shorter than they say: a
    whole election timeout of them passes before an answer can come to the beats in between. So every
    leader of a host that was held up for a second would step down, and every session end, just when
    the others have as much to do.
    """
    return 4 * election_ticks if leases else max(1, election_ticks // 2)


class Ticker:
    """Says when a tick is due.

    A host that was paused owes many ticks at once. It hands them out one by one, and the
    scheduler lets arrived messages in between any two: a host that slept must not blame its
    leader for a silence that was its own. But no more than `owed_max` (see `owed_ticks_max`).
    """

    __slots__ = ("_interval", "_next", "_owed_max_s")

    def __init__(self, now: float, interval_s: float, owed_max: int) -> None:
        self._interval = interval_s
        self._owed_max_s = owed_max * interval_s
        self._next = now + interval_s

    @property
    def next_at(self) -> float:
        """When the next tick is due, in seconds of the clock."""
        return self._next

    def take(self, now: float) -> bool:
        """Whether a tick is due; if so it counts as done."""
        if now < self._next:
            return False
        self._next = max(self._next, now - self._owed_max_s) + self._interval
        return True
