"""How long the log's writes take, as noted by the writer's thread. Nothing is decided by it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final

SLOW_MAX: Final = 64
"""Slow writes kept until somebody looks."""


class Pace:
    """The time from the first byte written to the end of the sync, for whatever is written at once.

    Written by the writer's thread, read by any other: each step is one assignment.

    Attributes:
        busy_since: When the write under way began; None: there is none.
        slow_s: What each write took that reached the threshold, oldest first. Take them off.
    """

    def __init__(self, threshold_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.busy_since: float | None = None
        self.slow_s: deque[float] = deque(maxlen=SLOW_MAX)
        self._threshold_s = threshold_s

    def __enter__(self) -> None:
        self.busy_since = self.now()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        since, self.busy_since = self.busy_since, None
        if since is not None and (took := self.now() - since) >= self._threshold_s:
            self.slow_s.append(took)
