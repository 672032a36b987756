"""Recent entries of all groups, in one byte budget.

First in, first out over all groups. Each group's part is therefore always the *tail* of its log
(its oldest cached run leaves first, and new runs come last), so that the place of a run in the
group's index says whether it is cached and where, without a table of its own.

A run is kept as the two byte strings of its record, and made anew when it is read. Most are never
read again, and Python's collector of garbage never sees byte strings: a cache of objects was most
of what survived long enough for it to look at, and made it look at everything else that was under way.
"""

from __future__ import annotations

from collections import deque
from typing import Final

RECORD_BYTES: Final = 176
"""What a cached run takes beside its entries: the head of its record, and Python's share of both."""


class CachedTail:
    """The cached part of one group's log; made when it is first needed. Its length is that in runs.

    Attributes:
        heads: The heads of the records, checksums left out, in log order.
        blobs: The encoded entries of each; the bytes are those that the core and the outboxes have.
        gone: Places at the start of both that are empty by now: up to half of them, as moving up all
            the others for each run that leaves would take as long as the group's part is large.
        stale: Turns in the queue whose run is gone already, dropped by compaction or overwritten.
    """

    __slots__ = ("blobs", "gone", "heads", "stale")

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.blobs: list[bytes] = []
        self.gone = 0
        self.stale = 0

    def __len__(self) -> int:
        return len(self.heads) - self.gone


class EntryCache:
    """The budget, and whose turn it is to leave."""

    __slots__ = ("_queue", "budget", "count", "hits", "misses", "used")

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self.count = 0
        self.hits = 0
        self.misses = 0
        # One turn per run, oldest first. Invariant, for each tail: its turns in here are
        # tail.stale + len(tail).
        self._queue: deque[CachedTail] = deque()

    def add(self, tail: CachedTail, head: bytes, blob: bytes) -> None:
        """Cache a run as the last of its group. One above the budget is let go at once."""
        tail.heads.append(head)
        tail.blobs.append(blob)
        self._queue.append(tail)
        self.count += 1
        self.used += len(blob) + RECORD_BYTES
        while self.used > self.budget:
            self._evict()

    def drop_oldest(self, tail: CachedTail, keep: int) -> None:
        """Forget all but the newest `keep` runs of a group."""
        self._forget(tail, tail.gone, len(tail.heads) - keep)

    def drop_newest(self, tail: CachedTail, keep: int) -> None:
        """Forget all but the oldest `keep` runs of a group."""
        self._forget(tail, tail.gone + keep, len(tail.heads))

    def _forget(self, tail: CachedTail, first: int, end: int) -> None:
        self.used -= sum(map(len, tail.blobs[first:end])) + RECORD_BYTES * (end - first)
        self.count -= end - first
        tail.stale += end - first
        for each in (tail.heads, tail.blobs):
            del each[first:end]
            del each[: tail.gone]
        tail.gone = 0
        if len(self._queue) > 2 * self.count + 1024:
            self._tidy()

    def _evict(self) -> None:
        tail = self._queue.popleft()
        if tail.stale:
            # Which of a group's turns are stale does not matter: one of its runs leaves a
            # little earlier or later than its exact turn.
            tail.stale -= 1
            return
        heads, blobs, gone = tail.heads, tail.blobs, tail.gone
        self.used -= len(blobs[gone]) + RECORD_BYTES
        self.count -= 1
        heads[gone] = blobs[gone] = b""
        gone += 1
        if 2 * gone >= len(heads):
            del heads[:gone]
            del blobs[:gone]
            gone = 0
        tail.gone = gone

    def _tidy(self) -> None:
        """Drop stale turns. Their number is bounded by the live ones, so the cost is amortized."""
        queue: deque[CachedTail] = deque()
        for tail in self._queue:
            if tail.stale:
                tail.stale -= 1
            else:
                queue.append(tail)
        self._queue = queue
