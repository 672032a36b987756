"""Virtual time, randomness and the trace: what makes a run a function of its seed.

Nothing in a simulation may ask for the wall clock, a system random number, an `id()`, the hash of
a string or the order of a set. What would have been any of these comes from here.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable

from multiraft.interfaces import Random

LINES_KEPT = 300
"""Trace lines that a failure is reported with, at most."""


class Violation(BaseException):
    """A rule that must hold for ever does not. The message says which, where and how.

    Not an `Exception`: no handler of the code under test may take it for its own.
    """


class Trace:
    """Every event as one line: a rolling hash of all, the text of the last few."""

    def __init__(self, sink: Callable[[str], None] | None = None) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._sink = sink
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.count = 0

    def add(self, line: str) -> None:
        self._hash.update(line.encode())
        self._hash.update(b"\n")
        self.lines.append(line)
        self.count += 1
        if self._sink is not None:
            self._sink(line)

    @property
    def digest(self) -> str:
        """Equal for equal runs, and for no others."""
        return self._hash.hexdigest()


class World:
    """Events in the order of their times; those of one time in the order they were asked for."""

    def __init__(self, seed: int, sink: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.now = 0.0
        self.steps = 0
        self.trace = Trace(sink)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._asked = 0

    def random(self, name: str) -> random.Random:
        """A source of its own for each use, so that one more draw here moves nothing elsewhere."""
        return random.Random(f"{self.seed}/{name}")

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        assert delay_s >= 0
        self._asked += 1
        heapq.heappush(self._events, (self.now + delay_s, self._asked, event))

    def at(self, time: float, event: Callable[[], None]) -> None:
        self.after(max(0.0, time - self.now), event)

    def log(self, who: str, what: str) -> None:
        self.trace.add(f"{self.now:.6f} {who} {what}")

    def run_until(self, time: float, stop: Callable[[], bool] | None = None) -> bool:
        """Run events up to `time`, or until `stop` says so. True: it did."""
        events = self._events
        while events and events[0][0] <= time:
            self.now, _, event = heapq.heappop(events)
            self.steps += 1
            event()
            if stop is not None and stop():
                return True
        self.now = max(self.now, time)
        return False


def keep_everything(n: int) -> int:
    """A `Random` under which `MemoryFiles.crash` loses nothing: a killed process, not a power cut."""
    return n - 1


def between(source: random.Random, low: float, high: float) -> float:
    return low + (high - low) * source.random()


def drawn(source: random.Random) -> Random:
    return source.randrange
