"""Disks and worker threads on virtual time.

A job takes effect when its time is up. A crash before that lets a random number of its first file
operations through; what of those was not synced is then lost or torn by `MemoryFiles.crash`. So
every moment between two file operations, and within one, is a moment to crash at.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from multiraft.errors import StorageFailed
from multiraft.storage.files import storage_error
from multiraft.storage.memory import MemoryFiles
from multiraft.storage.writer import Job, Work
from tests.sim.world import World

T = TypeVar("T")

OPERATIONS_BEFORE_DEATH = 12


class PowerLost(OSError):
    """What a file operation of a dying host raises; nobody survives to handle it."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the power failed")


def dies_after(operations: int) -> Callable[[str, str], OSError | None]:
    """A fault under which that many operations still work, and no other ever."""
    left = operations

    def fault(_: str, __: str) -> OSError | None:
        nonlocal left
        left -= 1
        return PowerLost() if left < 0 else None

    return fault


def fails_at(number: int) -> Callable[[str, str], OSError | None]:
    """A fault that fails the `number`-th write or sync from now, once."""
    left = number

    def fault(operation: str, _: str) -> OSError | None:
        nonlocal left
        if operation not in ("write", "sync"):
            return None
        left -= 1
        return OSError(errno.EIO, "the disk failed") if left == 0 else None

    return fault


def run_into_death(files: MemoryFiles, job: Callable[[], object], operations: int) -> None:
    """Do what of `job` comes before the power fails."""
    files.fault = dies_after(operations)
    try:
        job()
    except (OSError, StorageFailed):
        pass  # expected: nobody is left to be told
    finally:
        files.fault = None


class Owner(Protocol):
    """What a disk asks of the host it belongs to."""

    world: World
    files: MemoryFiles

    def disk_delay(self) -> float: ...

    def hand_delay(self) -> float: ...

    def when_running(self, event: Callable[[], None]) -> None:
        """Make `event` happen now, or when the host's pause is over; never if it dies first."""


class Mail:
    """A worker's results on their way to the host's thread: each takes a while, none overtakes."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._waiting: deque[Callable[[], None]] = deque()

    def send(self, result: Callable[[], None]) -> None:
        owner = self._owner
        self._waiting.append(result)
        owner.world.after(owner.hand_delay(), lambda: owner.when_running(self._deliver))

    def _deliver(self) -> None:
        self._waiting.popleft()()


class SimWriter:
    """Who writes the log: all jobs that wait when the disk is free share a sync, as in a thread."""

    def __init__(self, owner: Owner, work: Work) -> None:
        self._owner = owner
        self._work = work
        self._queue: list[Job] = []
        self._current: list[Job] = []
        self._mail = Mail(owner)
        self._failed = False

    def submit(self, job: Job) -> None:
        if self._failed:
            return
        self._queue.append(job)
        if not self._current:
            self._begin()

    def close(self) -> None:
        """Hosts of a simulation are never closed, only stopped."""

    def die(self, operations: int) -> None:
        jobs = self._current
        if jobs and not self._failed:
            run_into_death(self._owner.files, lambda: self._work.perform(jobs), operations)

    def _begin(self) -> None:
        self._current, self._queue = self._queue, []
        delay = self._owner.disk_delay()
        self._owner.world.after(delay, lambda: self._owner.when_running(self._perform))

    def _perform(self) -> None:
        jobs, self._current = self._current, []
        error = self._attempt(lambda: self._work.perform(jobs))
        self._hand_back(jobs, error)
        if self._queue and not self._failed:
            self._begin()
        elif not self._failed:
            error = self._attempt(self._work.rest)
            if error is not None:
                self._hand_back([], error)

    def _attempt(self, step: Callable[[], None]) -> StorageFailed | None:
        try:
            step()
        except (OSError, StorageFailed) as error:
            self._failed = True
            return storage_error(error, "writing the log")
        return None

    def _hand_back(self, jobs: list[Job], error: StorageFailed | None) -> None:
        self._mail.send(lambda: self._work.finished(jobs, error))


class SimExecutor:
    """One worker thread: jobs in order, each with its own duration."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._mail = Mail(owner)
        self._jobs: deque[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = deque()

    def submit(self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        self._jobs.append((job, done))
        if len(self._jobs) == 1:
            self._begin()

    def die(self, operations: int) -> None:
        if self._jobs and operations:
            job, _ = self._jobs[0]
            run_into_death(self._owner.files, job, operations)

    def _begin(self) -> None:
        self._owner.world.after(self._owner.disk_delay(), lambda: self._owner.when_running(self._perform))

    def _perform(self) -> None:
        job, done = self._jobs[0]
        result: Any = None
        failure: BaseException | None = None
        try:
            result = job()
        except Exception as error:
            failure = error
        self._jobs.popleft()
        self._mail.send(lambda: done(result, failure))
        if self._jobs:
            self._begin()
