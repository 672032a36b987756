"""The log as the host's thread sees it: where batches go, which are under way, what is done.

Everything here is plain and deterministic. The bytes are written by the appender in the writer's
thread; the only things both threads touch are jobs, which belong to one of them at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from multiraft.errors import GroupExists, GroupNotFound, HostClosed, StorageFailed
from multiraft.interfaces import GroupLog, Random, WriteBatch
from multiraft.storage.appender import Appender, CollectJob, LogJob, WriteJob
from multiraft.storage.batch import Batch, Groups
from multiraft.storage.format import (
    BATCH_BYTES_MAX,
    BATCH_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
)
from multiraft.storage.pace import Pace
from multiraft.storage.segment import Segment
from multiraft.storage.shelf import Shelf
from multiraft.storage.writer import Writer, WriterFactory

_OVERHEAD: Final = SEGMENT_HEADER_BYTES + 2 * BATCH_HEADER_BYTES
"""What a segment with one batch needs beside the records: its header, the batch's, a marker's."""


def random_nonce(random: Random) -> bytes:
    return bytes(random(256) for _ in range(16))


@attrs.define(eq=False)
class _UnderWay:
    batch: Batch
    job: WriteJob


class Wal:
    """Assigns places to batches and makes them visible, in order, when they are durable."""

    def __init__(
        self,
        shelf: Shelf,
        groups: Groups,
        appender: Appender,
        *,
        segment_bytes: int,
        start: int,
        random: Random,
        writer: WriterFactory,
        on_failure: Callable[[StorageFailed], None],
        pace: Pace,
    ) -> None:
        self.shelf = shelf
        self.live_groups = groups
        self.start = start
        """Segments below this are not needed, and may be gone."""
        self.batches = 0
        self.records = 0
        self.failure: StorageFailed | None = None
        self.pace = pace
        self._view: Mapping[int, GroupLog] = MappingProxyType(groups)
        self._appender = appender
        self._segment_bytes = segment_bytes
        self._random = random
        self._on_failure = on_failure
        self._active = next(reversed(shelf.segments.values()))
        self._under_way: deque[_UnderWay] = deque()
        self._pending: dict[int, bool] = {}
        """Groups created (True) or removed (False) by batches under way."""
        self._closed = False
        self._writer: Writer = writer(self)

    # --- what the engine calls --------------------------------------------------------------

    def groups(self) -> Mapping[int, GroupLog]:
        return self._view

    def batch(self) -> Batch:
        return Batch(self.live_groups, self._pending)

    def submit(self, batch: WriteBatch, done: Callable[[], None]) -> None:
        assert isinstance(batch, Batch), "a log takes its own batches"
        assert not batch.spent, "a batch is submitted once"
        self._check_open()
        self._check_overlay(batch)
        size = batch.bytes
        if size + _OVERHEAD > BATCH_BYTES_MAX:
            raise ValueError(f"a batch of {size} bytes is above the limit of {BATCH_BYTES_MAX} bytes")
        segment, offset = self._place(size) if batch else (self._active, self._active.used)
        job = WriteJob(segment, offset, batch.spend(), size, batch.count, done)
        self._under_way.append(_UnderWay(batch, job))
        self._writer.submit(job)

    def collect(self, sequences: list[int], done: Callable[[], None]) -> None:
        """Take segments away, lowest first, after everything submitted so far is durable."""
        self._check_open()
        for sequence in sequences:
            self.shelf.forget(sequence)
        self._writer.submit(CollectJob(sequences, done))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        try:
            if self.failure is None:
                self._appender.close()
            else:
                self._appender.abandon()
        finally:
            self.shelf.close()

    # --- for the collector --------------------------------------------------------------------

    @property
    def active(self) -> Segment:
        """The segment that the next batch goes to, unless it does not fit."""
        return self._active

    @property
    def first_busy(self) -> Segment:
        """The segment of the oldest batch that is not done; the active one if there is none."""
        return self._under_way[0].job.segment if self._under_way else self._active

    @property
    def under_way(self) -> int:
        """Batches that were submitted and are not done."""
        return len(self._under_way)

    def busy_groups(self) -> set[int]:
        """Groups that batches under way write to."""
        return {change[0] for waiting in self._under_way for change in waiting.batch.changes}

    # --- Work: what the writer calls ----------------------------------------------------------

    def perform(self, jobs: list[LogJob]) -> None:
        with self.pace:
            self._appender.perform(jobs)

    def rest(self) -> None:
        self._appender.mark_durable()

    def finished(self, jobs: list[LogJob], error: StorageFailed | None) -> None:
        if error is not None:
            if self.failure is None:
                self.failure = error
                self._on_failure(error)
            return
        for job in jobs:
            if type(job) is WriteJob:
                self._complete(job)
            job.done()

    # --- inside -----------------------------------------------------------------------------

    def _complete(self, job: WriteJob) -> None:
        waiting = self._under_way.popleft()
        assert waiting.job is job, "batches are done in the order of submission"
        batch = waiting.batch
        if batch:
            batch.apply(self.live_groups, self.shelf, job.segment, job.offset + BATCH_HEADER_BYTES)
            self.batches += 1
            self.records += job.count
        if batch.overlay:
            self._pending.clear()
            for later in self._under_way:
                self._pending.update(later.batch.overlay)

    def _place(self, size: int) -> tuple[Segment, int]:
        """Where a batch with `size` bytes of records goes; a new segment if it does not fit."""
        segment = self._active
        needed = size + BATCH_HEADER_BYTES
        if segment.used + needed + BATCH_HEADER_BYTES > segment.capacity:
            segment = self._rotate(max(self._segment_bytes, size + _OVERHEAD))
        offset = segment.used
        segment.used += needed
        return segment, offset

    def _rotate(self, capacity: int) -> Segment:
        # The writer adds what it alone knows: where the segment before this one ends.
        sequence = self._active.sequence + 1
        header = SegmentHeader(sequence, self.start, random_nonce(self._random), 0, 0)
        segment = Segment(header, capacity)
        self.shelf.segments[sequence] = segment
        self._active = segment
        return segment

    def _check_open(self) -> None:
        if self.failure is not None:
            raise type(self.failure)(*self.failure.args) from self.failure
        if self._closed:
            raise HostClosed("the log is closed")

    def _check_overlay(self, batch: Batch) -> None:
        if batch.overlay:
            for group, assumed in batch.assumed.items():
                if self._pending.get(group, group in self.live_groups) != assumed:
                    raise GroupNotFound(group) if assumed else GroupExists(group)
            self._pending.update(batch.overlay)
