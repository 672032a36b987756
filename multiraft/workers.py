"""The worker threads of a host: one for state machines that do I/O, one for snapshot files."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

Deliver = Callable[[Callable[[], object]], object]
"""Has a function called in the host's own thread; any thread may call it."""


class ThreadExecutor:
    """One thread, kept alive (a hop to a fresh one costs 100 µs), that runs jobs in order.

    Implements `Executor`. The queue is bounded by those who submit: appliers have one job out,
    snapshots as many as are captured at a time.
    """

    def __init__(self, name: str, deliver: Deliver) -> None:
        self._deliver = deliver
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Run `job` in the thread, then call `done(result, error)` in the host's thread."""

        def run() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = job()
            except BaseException as raised:
                error = raised
            self._deliver(lambda: done(result, error))

        self._jobs.put(run)

    def close(self) -> None:
        """Finish what was submitted, then end the thread. Blocks."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (run := self._jobs.get()) is not None:
            run()
