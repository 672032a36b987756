"""The end of the log as the writer's thread sees it: bytes go to the disk here and nowhere else.

Rules that recovery (recovery.py) relies on:

1. A segment gets its final name only after its header is on disk, and after the segment before
   it is on disk completely. So a segment that has a successor has no torn tail, and a bad segment
   header is never the trace of a crash.
2. A batch header is written with `durable`, the offset up to which this segment had been synced at
   that moment. It is true whatever a crash leaves of the rest.
3. Segments go lowest first, each one's disappearance on disk before the next, and only after a
   LOG_START record that allows it is on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from zlib import crc32

import attrs

from multiraft.errors import StorageFailed
from multiraft.interfaces import File, Files
from multiraft.storage.format import (
    BATCH_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    pack_batch_header,
)
from multiraft.storage.segment import NEW_SUFFIX, SPARE_SUFFIX, Segment, segment_name

SPARES_MAX: Final = 2
WRITE_BYTES_MAX: Final = 8 << 20
"""Batches that wait together go out in writes of about this size, to bound the copy in memory."""


@attrs.define(eq=False)
class WriteJob:
    """One batch at its place. `offset` is that of the batch header."""

    segment: Segment
    offset: int
    buffers: list[bytes]
    length: int
    count: int
    done: Callable[[], None]


@attrs.define(eq=False)
class CollectJob:
    """Take away the segments with these sequence numbers, ascending."""

    sequences: list[int]
    done: Callable[[], None]


LogJob = WriteJob | CollectJob


class Appender:
    """Performs jobs. After an exception from any method it must not be used again."""

    def __init__(self, files: Files, folder: str, segment_bytes: int) -> None:
        self._files = files
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._spares: list[str] = []
        self._file: File | None = None
        self._segment: Segment | None = None
        self._mark = self._seed = 0
        self._chain = 0
        self._end = 0
        self._durable = 0
        # What the next write consists of; it ends at _end.
        self._staged: list[bytes] = []
        self._staged_bytes = 0
        self._unsynced = False
        # Counted here, read by the host's thread without a lock: each is one int.
        self.syncs = 0
        self.writes = 0
        self.bytes_written = 0

    def perform(self, jobs: list[LogJob]) -> None:
        for job in jobs:
            if type(job) is WriteJob:
                if job.count:
                    self._stage(job)
            else:
                assert type(job) is CollectJob
                self._flush_and_sync()  # the LOG_START record first (rule 3)
                self._collect(job.sequences)
        self._flush_and_sync()

    def mark_durable(self) -> None:
        """Say on disk that all batches so far are durable; not synced, and overwritten by the next.

        It lets recovery tell damage to the last batches from a torn tail when no later batch
        says so. The page is dirty anyway as soon as the next batch comes.
        """
        assert not self._staged
        assert not self._unsynced
        if self._file is not None and self._durable == self._end > SEGMENT_HEADER_BYTES:
            header = (self._mark, 0, 0, self._chain, self._durable, 0)
            self._file.write(self._end, pack_batch_header(header, self._seed)[0])

    def open_segment(self, segment: Segment) -> None:
        """Make `segment` the one that is written from now on (rule 1)."""
        self._flush_and_sync()
        header = attrs.evolve(segment.header, previous_end=self._end, previous_chain=self._chain)
        self._start(segment, header)

    def resume(self, segment: Segment, spares: list[str]) -> None:
        """The first segment after recovery; its header says already what it continues."""
        self._spares = spares[:SPARES_MAX]
        for name in spares[SPARES_MAX:]:
            self._files.remove(f"{self._folder}/{name}")
        self._start(segment, segment.header)

    def close(self) -> None:
        """Leave a marker on disk, so that the next start knows every byte to be durable.

        Raises: StorageFailed when a job failed, which the host's thread may not have heard yet.
        """
        if self._staged or self._unsynced:
            self.abandon()
            raise StorageFailed("the last writes to the log failed")
        try:
            self.mark_durable()
            if self._file is not None:
                self._file.sync()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is, after a failure."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # --- inside -----------------------------------------------------------------------------

    def _stage(self, job: WriteJob) -> None:
        if job.segment is not self._segment:
            self.open_segment(job.segment)
        assert job.offset == self._end, "batches are written where the host's thread put them"
        body = b"".join(job.buffers)
        assert len(body) == job.length
        durable = self._durable
        fields = (self._mark, job.length, job.count, self._chain, durable, crc32(body, self._seed))
        header, self._chain = pack_batch_header(fields, self._seed)
        self._staged += (header, body)
        self._staged_bytes += BATCH_HEADER_BYTES + job.length
        self._end += BATCH_HEADER_BYTES + job.length
        if self._staged_bytes >= WRITE_BYTES_MAX:
            self._flush()

    def _flush(self) -> None:
        if self._staged:
            assert self._file is not None
            data = b"".join(self._staged)
            self._staged = []
            self._staged_bytes = 0
            self._unsynced = True
            self._file.write(self._end - len(data), data)
            self.writes += 1
            self.bytes_written += len(data)

    def _flush_and_sync(self) -> None:
        self._flush()
        if self._unsynced:
            assert self._file is not None
            self._file.sync()
            self._unsynced = False
            self.syncs += 1
        self._durable = self._end

    def _start(self, segment: Segment, header: SegmentHeader) -> None:
        files, folder = self._files, self._folder
        making = f"{folder}/{segment_name(header.sequence, NEW_SUFFIX)}"
        reused = bool(self._spares) and segment.capacity == self._segment_bytes
        if reused:
            files.rename(f"{folder}/{self._spares.pop()}", making)
        file = files.open(making, create=not reused)
        try:
            if not reused:
                file.allocate(segment.capacity)
            file.write(0, header.pack())
            file.sync()
            files.rename(making, f"{folder}/{segment_name(header.sequence)}")
            files.sync_folder(folder)
        except BaseException:
            file.close()
            raise
        self.syncs += 2
        if self._file is not None:
            self._file.close()
        self._file = file
        self._segment = segment
        self._mark, self._seed, self._chain = header.mark, header.seed, header.chain
        self._end = self._durable = SEGMENT_HEADER_BYTES

    def _collect(self, sequences: list[int]) -> None:
        files, folder = self._files, self._folder
        for sequence in sequences:
            path = f"{folder}/{segment_name(sequence)}"
            if len(self._spares) < SPARES_MAX and self._is_usual(path):
                spare = segment_name(sequence, SPARE_SUFFIX)
                files.rename(path, f"{folder}/{spare}")
                self._spares.append(spare)
            else:
                files.remove(path)
            files.sync_folder(folder)
            self.syncs += 1

    def _is_usual(self, path: str) -> bool:
        file = self._files.open(path)
        try:
            return file.size() == self._segment_bytes
        finally:
            file.close()
