"""Tells of a disk that is slow: while the log's writer is at it, and when it is through.

The writer's thread only notes times. Whoever waits for a sync that never ends hears of it all the
same, because the looking is done here, by the host's thread and on its clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from multiraft.events import Events, SyncSlow

LOOKS = 4
"""Looks per threshold, but not more often than once in"""
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
    """Looks at a log's pace, again and again, and tells of each slow write twice at most."""

    def __init__(self, events: Events, pace: Pace, threshold_s: float) -> None:
        self._events = events
        self._pace = pace
        self._threshold_s = threshold_s
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

    async def run(self) -> None:
        pause = max(self._threshold_s / LOOKS, LOOK_S_MIN)
        while True:
            await trio.sleep(pause)
            self.look()
