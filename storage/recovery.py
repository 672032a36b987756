"""Reading the log back after a stop of any kind: what counts, what is cut off, what is damage.

The argument, from the appender's three rules:

*A segment with a successor* was on disk completely before the successor had its name. Its
successor's header says where it ends and with which chain value. Anything else found there is
damage.

*The last segment* may end in a torn tail: batches that were written, or partly written, and not
synced. Pages reach a disk in any order, so a later batch of the tail can be whole while an earlier
one is not. A batch that cannot be read is therefore damage only if something still says that it had
been durable: a batch header or marker further on whose `durable` lies above it. Such a header
has a checksum of its own and can come from nowhere but this life of this segment, and what it
says was true when it was written. If nothing says so, the batch was not acknowledged - or it was
one of the very last, all headers written after it were lost too, *and* it was damaged besides;
a marker after the last sync makes that take two independent faults in neighbouring sectors.

*Cutting the tail* changes nothing in the old segment: a new segment is started whose header says
where the old one ends. It gets its name atomically, so a crash in between leaves everything to
be decided again, in the same way. The rest of the old file can never be mistaken for part of the log.

*What counts must be durable* before anybody hears of it. After a crash of the process alone, the
tail may exist only in the system's memory - even after a failed sync, whose pages the kernel
considers clean (https://lwn.net/Articles/752063/). So whatever no header says to be durable is
written once more, the same bytes to the same place, and synced.

Replaying runs the records in order through the same methods that the running store uses. Segments
are collected from the front, so a replay may meet the later records of a group without the earlier
ones, and runs with gaps between them; every such gap is filled by a RELOCATED record or made
irrelevant by a later COMPACT, SNAPSHOT or REMOVE, or else the log is damaged.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from typing import Final

import attrs

from multiraft.errors import CorruptRecord
from multiraft.interfaces import File, Files
from multiraft.storage.batch import Groups
from multiraft.storage.format import SEGMENT_HEADER_BYTES, SegmentHeader
from multiraft.storage.replay import Replay
from multiraft.storage.segment import (
    NEW_SUFFIX,
    SPARE_SUFFIX,
    Claims,
    End,
    Scan,
    Segment,
    claims,
    read_header,
    segment_name,
    sequence_of,
)
from multiraft.storage.shelf import Shelf

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes there are."""

_REWRITE_BYTES: Final = 1 << 20


@attrs.frozen
class TornTail:
    """What was cut off the end of the log: written, never acknowledged."""

    segment: str
    offset: int
    bytes: int
    """How much of it could be recognized."""


@attrs.frozen
class RecoveryReport:
    """What was found when the log was opened."""

    segments: int = 0
    bytes: int = 0
    batches: int = 0
    records: int = 0
    groups: int = 0
    torn: TornTail | None = None


@attrs.define
class _Tail:
    """How the last segment ends."""

    end: End
    found: Claims


@attrs.frozen
class Recovered:
    report: RecoveryReport
    start: int
    next_sequence: int
    previous_end: int
    previous_chain: int
    spares: list[str]


def recover(
    files: Files,
    shelf: Shelf,
    groups: Groups,
    segment_bytes: int,
    progress: Progress | None,
    *,
    strict: bool = False,
) -> Recovered:
    """Fill `groups` and `shelf.segments` from the log in `shelf.folder`.

    Raises: CorruptRecord, if `strict` for a torn tail as well; then nothing on disk was changed.
    """
    folder = shelf.folder
    names = files.list(folder)
    found = segments_in(files, folder, names)
    sequences = needed(found)
    _refuse_gaps(sequences)
    headers = _good_headers(found, sequences)
    sizes = [_size(files, f"{folder}/{segment_name(s)}") for s in sequences]
    replay = Replay(shelf, groups)
    tail = _Tail(End(0, 0, 0, ""), Claims(0, 0))
    batches = done = 0
    for number, header in enumerate(headers):
        segment = Segment(header, sizes[number])
        replay.add(segment)
        successor = headers[number + 1] if number + 1 < len(headers) else None
        with closing(files.open(f"{folder}/{segment.name}")) as file:
            batches += _replay_segment(file, segment, successor, replay, tail)
        done += sizes[number]
        if progress is not None:
            progress(done, sum(sizes))
    start = max([1, replay.start, *(header.start for header in headers)])
    if sequences and sequences[0] > start:
        raise CorruptRecord(segment_name(start), 0, "the segment is missing")
    replay.check()
    # Everything was found in order. Only from here on anything on disk is changed.
    torn = None
    if headers:
        torn = _torn_tail(segment_name(sequences[-1]), tail)
        if strict and torn is not None:
            raise CorruptRecord(
                torn.segment, torn.offset, f"a torn tail of {torn.bytes} bytes, which TORN_TAIL cuts"
            )
        _make_durable(files, f"{folder}/{segment_name(sequences[-1])}", tail)
    spares = _clean(files, folder, names, segment_bytes)
    for sequence in found.keys() - set(sequences):
        files.remove(f"{folder}/{segment_name(sequence)}")
    report = RecoveryReport(len(headers), done, batches, replay.records, len(groups), torn)
    if not headers:
        return Recovered(report, start, 1, 0, 0, spares)
    if tail.end.offset == SEGMENT_HEADER_BYTES:
        # Nothing was written to the last segment: the new one takes its name and its place, so
        # that starting again and again does not leave a file each time.
        last = headers[-1]
        del shelf.segments[last.sequence]
        return Recovered(report, start, last.sequence, last.previous_end, last.previous_chain, spares)
    return Recovered(report, start, sequences[-1] + 1, tail.end.offset, tail.end.chain, spares)


def _replay_segment(
    file: File, segment: Segment, successor: SegmentHeader | None, replay: Replay, tail: _Tail
) -> int:
    """Replay one segment and return the number of its batches."""
    scan = Scan(file, segment.header, successor.previous_end if successor is not None else None)
    batches = 0
    for batch in scan:
        replay.batch(batch, segment)
        batches += 1
    segment.used = scan.end.offset
    if successor is not None:
        _check_sealed(segment.name, scan.end, successor)
    else:
        tail.end = scan.end
        tail.found = claims(file, segment.header, scan.end.offset)
        if tail.found.durable > scan.end.offset:
            raise CorruptRecord(segment.name, scan.end.offset, scan.end.reason or "batches are missing")
    return batches


def _refuse_gaps(sequences: list[int]) -> None:
    for before, after in pairwise(sequences):
        if after != before + 1:
            raise CorruptRecord(segment_name(before + 1), 0, "the segment is missing")


def segments_in(files: Files, folder: str, names: list[str]) -> dict[int, SegmentHeader | ValueError]:
    """The header of every segment, ascending; what is wrong with it where there is none."""
    found: dict[int, SegmentHeader | ValueError] = {}
    for sequence in sorted(s for s in map(sequence_of, names) if s is not None):
        with closing(files.open(f"{folder}/{segment_name(sequence)}")) as file:
            try:
                header = read_header(file)
            except ValueError as error:
                found[sequence] = error
                continue
        if header.sequence == sequence:
            found[sequence] = header
        else:
            found[sequence] = ValueError(f"the header is that of segment {header.sequence:x}")
    return found


def needed(found: dict[int, SegmentHeader | ValueError]) -> list[int]:
    """Sequence numbers, without those below the highest `start`: a crash left these behind.

    What is left is a complete suffix of the log, and all that a repair leaves (salvage.py).
    """
    start = max((h.start for h in found.values() if isinstance(h, SegmentHeader)), default=0)
    return [sequence for sequence in found if sequence >= start]


def _good_headers(found: dict[int, SegmentHeader | ValueError], sequences: list[int]) -> list[SegmentHeader]:
    headers = []
    for sequence in sequences:
        header = found[sequence]
        if isinstance(header, ValueError):
            raise CorruptRecord(segment_name(sequence), 0, str(header))
        headers.append(header)
    return headers


def _size(files: Files, path: str) -> int:
    with closing(files.open(path)) as file:
        return file.size()


def _check_sealed(name: str, end: End, successor: SegmentHeader) -> None:
    if end.offset != successor.previous_end:
        raise CorruptRecord(name, end.offset, end.reason or "the segment ends too early")
    if end.chain != successor.previous_chain:
        raise CorruptRecord(segment_name(successor.sequence), 0, "it does not continue the one before it")


def _torn_tail(name: str, tail: _Tail) -> TornTail | None:
    offset = tail.end.offset
    if not tail.end.reason or tail.found.extent == offset:
        return None  # a marker, or nothing that this life of the segment wrote
    return TornTail(name, offset, tail.found.extent - offset)


def _make_durable(files: Files, path: str, tail: _Tail) -> None:
    """Write what may not be on disk once more, and sync (see above)."""
    offset, end = max(tail.end.durable, tail.found.durable), tail.end.offset
    with closing(files.open(path)) as file:
        while offset < end:
            data = file.read(offset, min(_REWRITE_BYTES, end - offset))
            file.write(offset, data)
            offset += len(data)
        file.sync()


def _clean(files: Files, folder: str, names: list[str], segment_bytes: int) -> list[str]:
    """Remove what a crash left unfinished; return the spare segments that can be used."""
    spares = []
    for name in names:
        path = f"{folder}/{name}"
        if sequence_of(name, NEW_SUFFIX) is not None:
            files.remove(path)
        elif sequence_of(name, SPARE_SUFFIX) is not None:
            if _size(files, path) == segment_bytes:
                spares.append(name)
            else:
                files.remove(path)
    return spares
