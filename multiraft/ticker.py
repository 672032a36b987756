"""Ticks counted from the clock, so that a late pass is a late tick and never a lost one."""

from __future__ import annotations


class Ticker:
    """Says when a tick is due.

    A host that was paused owes many ticks at once. It hands them out one by one, and the
    scheduler lets arrived messages in between any two: a host that slept must not blame its
    leader for a silence that was its own. But no more than `owed_max`: by then every timeout is
    over, and an hour's ticks for thousands of groups would keep a host busy for minutes.
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
