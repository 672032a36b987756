"""Recent entries of all groups, in one byte budget.

First in, first out over all groups. Each group's part is therefore always the *tail* of its log
(its oldest cached run leaves first, and new runs come last), so that the place of a run in the
group's index says whether it is cached and where, without a table of its own.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from multiraft.messages import Run

_OBJECT_BYTES: Final = 256
_ENTRY_BYTES: Final = 40


class CachedTail:
    """The cached part of one group's log; made when it is first needed."""

    __slots__ = ("runs", "stale")

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.stale = 0
        """Turns in the queue whose run is gone already, dropped by compaction or overwritten."""


def cost(run: Run) -> int:
    """Bytes of memory of a cached run: the encoding, the decoded payloads, and Python's objects."""
    return 2 * len(run.blob) + _ENTRY_BYTES * (run.last - run.first) + _OBJECT_BYTES


class EntryCache:
    """Holds the runs themselves, shared with the core and the outboxes: bytes exist once."""

    __slots__ = ("_queue", "budget", "count", "hits", "misses", "used")

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self.count = 0
        self.hits = 0
        self.misses = 0
        # One turn per run, oldest first. Invariant, for each tail: its turns in here are
        # tail.stale + len(tail.runs).
        self._queue: deque[CachedTail] = deque()

    def add(self, tail: CachedTail, run: Run) -> None:
        """Cache `run` as the last of its group. A run above the budget is let go at once."""
        tail.runs.append(run)
        self._queue.append(tail)
        self.count += 1
        self.used += 2 * len(run.blob) + _ENTRY_BYTES * (run.last - run.first) + _OBJECT_BYTES
        while self.used > self.budget:
            self._evict()

    def drop_oldest(self, tail: CachedTail, keep: int) -> None:
        """Forget all but the newest `keep` runs of a group."""
        self._forget(tail, tail.runs[: len(tail.runs) - keep])
        del tail.runs[: len(tail.runs) - keep]

    def drop_newest(self, tail: CachedTail, keep: int) -> None:
        """Forget all but the oldest `keep` runs of a group."""
        self._forget(tail, tail.runs[keep:])
        del tail.runs[keep:]

    def _forget(self, tail: CachedTail, runs: list[Run]) -> None:
        self.used -= sum(map(cost, runs))
        self.count -= len(runs)
        tail.stale += len(runs)
        if len(self._queue) > 2 * self.count + 1024:
            self._tidy()

    def _evict(self) -> None:
        tail = self._queue.popleft()
        if tail.stale:
            # Which of a group's turns are stale does not matter: one of its runs leaves a
            # little earlier or later than its exact turn.
            tail.stale -= 1
            return
        self.used -= cost(tail.runs.pop(0))
        self.count -= 1

    def _tidy(self) -> None:
        """Drop stale turns. Their number is bounded by the live ones, so the cost is amortized."""
        queue: deque[CachedTail] = deque()
        for tail in self._queue:
            if tail.stale:
                tail.stale -= 1
            else:
                queue.append(tail)
        self._queue = queue
