"""Tells of a disk that is slow: while the log's writer is at it, and when it is through.

The writer's thread only notes times. Whoever waits for a sync that never ends hears of it all the
same, because the looking is done here, by the host's thread and on its clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from multiraft.events import Events, SyncSlow

LOOKS = 4
"""Looks per threshold at least, but none need be sooner after another than"""
LOOK_S_MIN = 0.25


class Pace(Protocol):
    """What the log notes about its writes; see storage/pace.py."""

    @property
    def busy_since(self) -> float | None: ...

    @property
    def slow_s(self) -> deque[float]: ...

    @property
    def now(self) -> Callable[[], float]: ...


class SyncWatch:
    """Looks at a log's pace, when asked to, and tells of each slow write twice at most.

    Attributes:
        pause_s: How long there may be between two looks.
    """

    def __init__(self, events: Events, pace: Pace, threshold_s: float) -> None:
        self._events = events
        self._pace = pace
        self._threshold_s = threshold_s
        self.pause_s = max(threshold_s / LOOKS, LOOK_S_MIN)
        self._told: float | None = None
        """When the write began that was told of and is not through."""

    def look(self) -> None:
        pace = self._pace
        while pace.slow_s:
            self._events.emit(SyncSlow(pace.slow_s.popleft(), done=True))
        since = pace.busy_since
        if since is not None and since != self._told and (took := pace.now() - since) >= self._threshold_s:
            self._told = since
            self._events.emit(SyncSlow(took, done=False))
