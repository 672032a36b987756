"""Who carries out the log's jobs: a thread, or the caller at once.

A writer takes jobs in order and hands all that wait to `Work.perform`, which writes them and syncs
once; then `finished` runs in the host's thread. Neither kind knows what a job is. A simulator
brings its own writer: keep a list in `submit`, and when its disk's time has come call `perform`
with a prefix of it, then `finished`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from multiraft.errors import StorageFailed
from multiraft.storage.files import storage_error

Job = Any
"""Made by the log and given back to it; opaque to writers."""

Deliver = Callable[[Callable[[], None]], None]
"""Runs a call in the host's own thread, soon; `trio.lowlevel.TrioToken.run_sync_soon` is one."""


class Work(Protocol):
    """What the log asks of a writer. `perform` and `rest` run in the writer's thread, one call at a
    time, with plain calls to `Files`; `finished` runs in the host's thread."""

    def perform(self, jobs: list[Job]) -> None:
        """Do `jobs` in order; all of it is durable on return. Raises: OSError, StorageFailed; then
        none of the jobs counts as done, and no other may be performed, ever."""

    def rest(self) -> None:
        """Called, if convenient, when no job waits. Raises like `perform`."""

    def finished(self, jobs: list[Job], error: StorageFailed | None) -> None:
        """`perform(jobs)` returned, or failed with `error`."""


class Writer(Protocol):
    def submit(self, job: Job) -> None:
        """Queue `job`. Does not block; after a failure it does nothing."""

    def close(self) -> None:
        """Return when every job that was submitted is performed, or failed. Call it once."""


WriterFactory = Callable[[Work], Writer]


class InlineWriter:
    """Performs each job at once, in the caller's thread. For tests and tools."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._queue: list[Job] = []
        self._busy = False
        self._failed = False

    def submit(self, job: Job) -> None:
        if self._failed:
            return
        self._queue.append(job)
        if self._busy:
            return  # called from `finished`: the loop below goes on with it, without recursion
        self._busy = True
        try:
            while self._queue and not self._failed:
                jobs, self._queue = self._queue, []
                error = _attempt(partial(self._work.perform, jobs))
                self._failed = error is not None
                self._work.finished(jobs, error)
                if not self._queue and error is None:
                    self._rest()
        finally:
            self._busy = False

    def close(self) -> None:
        assert not self._busy, "a log is not closed from its own callback"

    def _rest(self) -> None:
        error = _attempt(self._work.rest)
        if error is not None:
            self._failed = True
            self._work.finished([], error)


class ThreadWriter:
    """One daemon thread. All jobs that wait when it comes back from the disk share a sync."""

    def __init__(self, work: Work, deliver: Deliver) -> None:
        self._work = work
        self._deliver = deliver
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="multiraft-wal", daemon=True)
        self._thread.start()

    @classmethod
    def factory(cls, deliver: Deliver) -> WriterFactory:
        return lambda work: cls(work, deliver)

    def submit(self, job: Job) -> None:
        self._queue.put(job)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        jobs: list[Job] = []
        while self._take(jobs):
            error = _attempt(partial(self._work.perform, jobs))
            self._hand_back(jobs, error)
            if error is not None:
                return
            jobs = []
            if self._queue.empty():
                error = _attempt(self._work.rest)
                if error is not None:
                    self._hand_back([], error)
                    return

    def _take(self, jobs: list[Job]) -> bool:
        """Wait for a job, then take all there are. False: the writer was closed and none is left."""
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            try:
                job = self._queue.get_nowait()
            except Empty:
                return True
        if jobs:
            self._queue.put(None)
        return bool(jobs)

    def _hand_back(self, jobs: list[Job], error: StorageFailed | None) -> None:
        try:
            self._deliver(partial(self._work.finished, jobs, error))
        except RuntimeError:
            # The host's event loop ended (trio.RunFinishedError is one of these): there is
            # nobody left to tell. What is on disk stays there.
            return


def _attempt(step: Callable[[], None]) -> StorageFailed | None:
    try:
        step()
    except Exception as error:  # whatever it is, nothing may count as durable any more
        return storage_error(error, "writing the log")
    return None
