"""Looking at a log without opening it: everything that is there, and everything that is wrong.

Nothing is changed and no lock is taken, so this works on a damaged log. On the log of a host that
runs, the end of the last segment may be in the middle of a write.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import attrs
import cbor2

from multiraft.errors import CorruptRecord
from multiraft.interfaces import File, Files
from multiraft.storage.cache import EntryCache
from multiraft.storage.format import (
    BATCH_HEADER_BYTES,
    ENTRIES,
    LOG_START,
    RELOCATED,
    RecordKind,
    SegmentHeader,
    unpack_entries,
)
from multiraft.storage.recovery import needed, segments_in
from multiraft.storage.replay import Replay, records_of
from multiraft.storage.segment import (
    Batch,
    Scan,
    Segment,
    claims,
    headers_from,
    segment_name,
)
from multiraft.storage.shelf import Shelf
from multiraft.storage.store import wal_folder

SEGMENT_ITEM: Final = "SEGMENT"
TORN_ITEM: Final = "TORN_TAIL"


@attrs.frozen
class Item:
    """Something in the log.

    Attributes:
        segment: File name.
        offset: Byte where it begins.
        bytes: How long it is; of a segment: the file.
        kind: SEGMENT, TORN_TAIL, or the name of a `RecordKind`.
        group: None for what belongs to no group.
        first, last, term: Of entries; 0 for everything else.
    """

    segment: str
    offset: int
    bytes: int
    kind: str
    group: int | None = None
    first: int = 0
    last: int = 0
    term: int = 0


@attrs.frozen
class Problem:
    """Something that keeps the log from being opened, or a record from being read."""

    segment: str
    offset: int
    reason: str


def inspect_log(files: Files, data_dir: str) -> Iterator[Item | Problem]:
    """Walk the log in `data_dir` from the start; behind damage, go on with the next whole batch.

    Memory: one window of 1 MiB or one batch. Raises: OSError.
    """
    folder = wal_folder(data_dir)
    if not files.exists(folder):
        return
    replay: Replay | None = Replay(Shelf(files, folder, EntryCache(0)), {})
    opened = segments_in(files, folder, files.list(folder))
    sequences = needed(opened)
    headers = {}
    for sequence in sequences:
        header = opened[sequence]
        if isinstance(header, ValueError):
            yield Problem(segment_name(sequence), 0, str(header))
        else:
            headers[sequence] = header
    start = max([0, *(header.start for header in headers.values())])
    for number, sequence in enumerate(sequences):
        before = sequences[number - 1] + 1 if number else min(start, sequence) or sequence
        for missing in range(before, sequence):
            yield Problem(segment_name(missing), 0, "the segment is missing")
            replay = None
        present = headers.get(sequence)
        if present is None:
            replay = None
            continue
        with closing(files.open(f"{folder}/{segment_name(sequence)}")) as file:
            walk = _Walk(file, present, headers.get(sequence + 1), sequence == sequences[-1])
            for found in walk.items(replay):
                if isinstance(found, Problem):
                    replay = None
                yield found
    if replay is not None:
        yield from _completeness(replay, sequences, start)


def verify_log(files: Files, data_dir: str) -> list[Problem]:
    """All problems of the log in `data_dir`; none: it opens with everything that was acknowledged."""
    return [found for found in inspect_log(files, data_dir) if isinstance(found, Problem)]


def _completeness(replay: Replay, sequences: list[int], start: int) -> Iterator[Problem]:
    start = max(1, start, replay.start)
    if sequences and sequences[0] > start:
        yield Problem(segment_name(start), 0, "the segment is missing")
    try:
        replay.check()
    except CorruptRecord as error:
        yield Problem(error.segment, error.offset, error.reason)


class _Walk:
    """One segment."""

    def __init__(
        self, file: File, header: SegmentHeader, successor: SegmentHeader | None, last: bool
    ) -> None:
        self._file = file
        self._header = header
        self._name = segment_name(header.sequence)
        self._successor = successor
        self._last = last

    def items(self, replay: Replay | None) -> Iterator[Item | Problem]:
        file, header, successor = self._file, self._header, self._successor
        segment = Segment(header, file.size())
        if replay is not None:
            replay.add(segment)
        yield Item(self._name, 0, file.size(), SEGMENT_ITEM)
        stop = successor.previous_end if successor is not None else None
        scan = Scan(file, header, stop)
        while True:
            for batch in scan:
                yield from self._batch(batch, segment, replay)
            end = scan.end
            problem = self._objection(scan)
            if problem is None:
                return
            yield problem
            if isinstance(problem, Item):
                return
            replay = None
            again = self._next(end.offset + 1, stop)
            if again is None:
                return
            scan = Scan(file, header, stop, begin=again[0], chain=again[1])

    def _objection(self, scan: Scan) -> Problem | Item | None:
        """What is wrong where a scan stopped; nothing at the proper end of a segment."""
        end, successor = scan.end, self._successor
        if successor is not None:
            if end.offset != successor.previous_end:
                return Problem(self._name, end.offset, end.reason or "the segment ends too early")
            if end.chain != successor.previous_chain:
                return Problem(segment_name(successor.sequence), 0, "it does not continue the one before it")
            return None
        if not self._last:
            return None  # the successor is missing or damaged, which is reported already
        found = claims(self._file, self._header, end.offset)
        if found.durable > end.offset:
            return Problem(self._name, end.offset, end.reason or "batches are missing")
        if end.reason and found.extent > end.offset:
            return Item(self._name, end.offset, found.extent - end.offset, TORN_ITEM)
        return None

    def _next(self, offset: int, stop: int | None) -> tuple[int, int] | None:
        """The next batch header that has records, and the chain value it continues."""
        for at, found in headers_from(self._file, self._header, offset):
            if stop is not None and at >= stop:
                return None
            if found.length:
                return at, found.previous
        return None

    def _batch(self, batch: Batch, segment: Segment, replay: Replay | None) -> Iterator[Item | Problem]:
        base = batch.offset + BATCH_HEADER_BYTES - batch.start
        try:
            for kind, group, at, after in records_of(batch):
                yield self._record(kind, group, base + at, batch.data[at:after])
            if replay is not None:
                replay.batch(batch, segment)
        except (ValueError, struct.error) as error:
            yield Problem(self._name, batch.offset, str(error))
        except CorruptRecord as error:
            yield Problem(error.segment, error.offset, error.reason)

    def _record(self, kind: int, group: int, offset: int, data: bytes) -> Item | Problem:
        try:
            name = RecordKind(kind).name
            if kind not in (ENTRIES, RELOCATED):
                owner = None if kind == LOG_START else group
                return Item(self._name, offset, len(data), name, owner)
            run = unpack_entries(data, group)
            held = cbor2.loads(run.blob)
            if not isinstance(held, list) or len(held) != run.count:
                return Problem(self._name, offset, "the record holds another number of entries")
        except (ValueError, cbor2.CBORDecodeError) as error:
            return Problem(self._name, offset, str(error))
        return Item(self._name, offset, len(data), name, group, run.first, run.last, run.term)
