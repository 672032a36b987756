"""When a host's beats are due: once per interval, and where that can be had together with the others'. Pure.

Most of what an idle host does for a beat that it sends or hears costs so much because code and data have
left the processor's caches since the last one. Hosts that beat at the same moment wake up once in an
interval, and find them there for all but the first. So a host keeps time with one other, its *pacemaker*
(`Liveness.beat` says which): a beat that is due soon leaves when the pacemaker's comes, and one that left
shortly before it is put off the next time.
"""

from __future__ import annotations

from typing import Final

EARLY_MAX: Final = 1 / 2
"""By how much of an interval a beat may be early."""
LATE_MAX: Final = 1 / 8
"""By how much of one it may be put off."""


class Rhythm:
    """The moments at which beats are due, in seconds of the host's clock.

    Whatever is heard: from one moment to the next it is half an interval at least, and an interval and an
    eighth at most. Who hears no pacemaker beats once per interval. Who hears one does, within a few
    intervals, whenever that does.

    Attributes:
        due_at: When the next beat is due.
    """

    __slots__ = ("_before", "_interval_s", "due_at")

    def __init__(self, due_at: float, interval_s: float) -> None:
        self.due_at = due_at
        self._interval_s = interval_s
        self._before = due_at - interval_s
        """The moment before that, which is over."""

    def beaten(self, now: float) -> None:
        """Beats that were due leave now. Those that were missed are not made up for."""
        assert self.due_at <= now, "not before they are due"
        self._before = self.due_at + self._interval_s * ((now - self.due_at) // self._interval_s)
        self.due_at = self._before + self._interval_s

    def heard(self, now: float) -> None:
        """The pacemaker has beaten: ours may be due with that, or later than they were."""
        interval_s = self._interval_s
        left_s = self.due_at - now
        if left_s <= interval_s * EARLY_MAX:
            self.due_at = min(self.due_at, now)
        elif left_s < interval_s:
            self.due_at = min(now + interval_s, self._before + interval_s * (1 + LATE_MAX))
