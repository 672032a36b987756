"""What can still be believed of a damaged log. Reads only; repair.py acts on it.

An unreadable batch may have held records of any group: nothing in it can be trusted to say whose
they were. So the log falls into what lies before the first damage, what lies behind the last one,
and islands in between; a missing segment is damage as well.

*Behind the last damage* nothing is missing: every batch continues the one before it. A group is
**whole** if these records alone say all there is to say about it, whatever came before: its meta,
its hard state, its snapshot point, every entry from the compaction point on, and where its log
ends. The end is said by an ENTRIES, SNAPSHOT or CREATE record; RELOCATED ones and COMPACT only say
something about entries that exist. A group whose removal stands there is gone for good.

*The end of the log* has to be vouched for by a marker, as every log at rest has one. In a log that is
known to be damaged nobody can tell a torn tail, or a stop under load, from acknowledged batches that
are gone with all that spoke of them. Without a marker the end counts as damage too, and no group is whole.

*Every other group* that is named anywhere is **damaged**: it may have lost entries, its vote or its
term. Of it is kept what stood before the first damage, where nothing is missing either: its log as of
that moment, without a gap, or a prefix of it if the rest had been copied to where the damage is. Entries
up to its commit index are certainly right; what followed may have been replaced later. Of a group
of which nothing certain stands there only the name is kept.

*A group that is named nowhere* may have been made in what is unreadable, and have voted since. So
the host as a whole is marked too (`UNKNOWN_GROUPS`).

What is intact and not understood comes from another version, and is never taken for damage.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Final, NamedTuple

import attrs

from multiraft.errors import CorruptRecord
from multiraft.interfaces import UNKNOWN_GROUPS, File, Files
from multiraft.storage.batch import Groups
from multiraft.storage.cache import EntryCache
from multiraft.storage.format import (
    BATCH_HEADER_BYTES,
    CREATE,
    ENTRIES,
    ENTRIES_HEAD,
    RECORD_HEAD,
    RECORD_HEAD_BYTES,
    REMOVE,
    SNAPSHOT,
    SegmentHeader,
    UnknownFormat,
    unpack_entries,
)
from multiraft.storage.group import StoredGroup
from multiraft.storage.recovery import needed, segments_in
from multiraft.storage.replay import Replay, records_of
from multiraft.storage.segment import Batch, Scan, Segment, claims, headers_from, segment_name
from multiraft.storage.shelf import Shelf

_ENDS: Final = frozenset({ENTRIES, SNAPSHOT, CREATE})
"""Kinds of records that say where a group's log ends."""


class Seen(NamedTuple):
    """Entries of a group that can be read in what does not count."""

    group: int
    first: int
    last: int


@attrs.frozen
class Damage:
    """A stretch of the log that cannot be read.

    Attributes:
        segment: File name.
        offset: Byte where it begins.
        bytes: Up to the next batch that can be read; 0 for a missing segment.
        reason: What is wrong there.
        seen: Entries in it that are whole by their own checksum. There may have been more.
    """

    segment: str
    offset: int
    bytes: int
    reason: str
    seen: tuple[Seen, ...] = ()

    def __str__(self) -> str:
        return f"{self.segment}: byte {self.offset}: {self.reason}"


@attrs.frozen
class DamagedGroup:
    """A group that may have lost something.

    Attributes:
        group: Its id.
        commit: The commit index that is kept; entries up to it are certainly right.
        kept: First and last index of the entries that are kept; None: none.
        dropped: First and last indexes of entries behind the first damage; they can be read, but
            nobody can say any more whether they count.
    """

    group: int
    commit: int
    kept: tuple[int, int] | None
    dropped: tuple[tuple[int, int], ...]


class Side:
    """The groups after some part of the log, alone."""

    def __init__(self, files: Files, folder: str) -> None:
        self.groups: Groups = {}
        self.shelf = Shelf(files, folder, EntryCache(0))
        self.replay = Replay(self.shelf, self.groups)
        self.ended: set[int] = set()
        """Groups whose end was said."""
        self.removed: set[int] = set()
        self._segment: Segment | None = None

    def batch(self, batch: Batch, header: SegmentHeader, size: int) -> None:
        """Raises: CorruptRecord for what this version cannot have written."""
        if self._segment is None or self._segment.header is not header:
            self._segment = Segment(header, size)
            self.replay.add(self._segment)
        self.replay.batch(batch, self._segment)
        for kind, group, _, _ in records_of(batch):
            if kind == REMOVE:
                self.removed.add(group)
                self.ended.discard(group)
            elif group:
                self.removed.discard(group)
                if kind in _ENDS:
                    self.ended.add(group)

    def is_whole(self, group: int) -> bool:
        """Whether this part alone says everything about the group, and it was not marked before."""
        log = self.groups.get(group)
        return log is not None and group in self.ended and not log.missing() and not log.damage


class Piece(NamedTuple):
    """A batch that can be read."""

    batch: Batch
    header: SegmentHeader
    size: int
    """Of the segment's file."""


@attrs.define
class Salvage:
    """The log, sorted."""

    damages: list[Damage]
    prefix: Side
    suffix: Side
    whole: list[int]
    damaged: list[DamagedGroup]
    sequences: list[int]
    """Of all segment files there are, ascending."""

    def kept(self, group: int) -> StoredGroup | None:
        """What is kept of a damaged group; None: its name."""
        log = self.prefix.groups.get(group)
        return log if log is not None and not log.missing() else None


def salvage(files: Files, folder: str) -> Salvage:
    """Sort the log in `folder`. No damage: `prefix` and `suffix` are both all of it.

    Memory: the groups' index twice, and one batch. Raises: CorruptRecord when something in it is
    whole, but of another version; OSError.
    """
    reader = _Reader(files, folder)
    prefix, suffix = Side(files, folder), Side(files, folder)
    damages: list[Damage] = []
    named: set[int] = set()
    ranges: dict[int, list[tuple[int, int]]] = {}
    start = 0
    for found in reader.pieces():
        if isinstance(found, Damage):
            damages.append(found)
            suffix.shelf.close()
            suffix = Side(files, folder)
            continue
        suffix.batch(*found)
        start = max(start, suffix.replay.start)
        if not damages:
            prefix.batch(*found)
        else:
            _note(found.batch, named, ranges)
    front = _front(reader, prefix, max(start, *reader.starts, 1), whole=not damages)
    if reader.open_end is not None and (damages or front is not None):
        damages.append(reader.open_end)
        suffix.shelf.close()
        suffix = Side(files, folder)
    if front is not None:
        damages.insert(0, front)
        for group in set(prefix.groups):
            if not prefix.is_whole(group):
                named.add(group)
                del prefix.groups[group]
    whole = [group for group in suffix.groups if suffix.is_whole(group)]
    rest = (named | prefix.groups.keys()) - set(whole) - suffix.removed - {UNKNOWN_GROUPS}
    result = Salvage(damages, prefix, suffix, whole, [], reader.sequences)
    if damages:
        result.damaged = [_damaged(result, group, ranges.get(group, [])) for group in sorted(rest)]
    return result


def _front(reader: _Reader, prefix: Side, start: int, *, whole: bool) -> Damage | None:
    """Damage before everything: segments that are gone without a trace but that."""
    first = reader.needed[0] if reader.needed else start
    if first > start:
        return Damage(segment_name(start), 0, 0, "the segment is missing")
    if whole:
        try:
            prefix.replay.check()
        except CorruptRecord as error:
            return Damage(error.segment, 0, 0, error.reason)
    return None


def _damaged(found: Salvage, group: int, ranges: list[tuple[int, int]]) -> DamagedGroup:
    log = found.kept(group)
    if log is None:
        return DamagedGroup(group, 0, None, tuple(ranges))
    first, last = log.first_index(), log.last_index()
    kept = (first, last) if last >= first else None
    return DamagedGroup(group, min(log.hard_state.commit, last), kept, tuple(ranges))


def _note(batch: Batch, named: set[int], ranges: dict[int, list[tuple[int, int]]]) -> None:
    """Remember whom a batch behind damage names, and which entries."""
    for kind, group, at, _ in records_of(batch):
        if group:
            named.add(group)
        if kind == ENTRIES:
            fields = ENTRIES_HEAD.unpack_from(batch.data, at)
            first, last = fields[5], fields[5] + fields[9] - 1
            known = ranges.setdefault(group, [])
            if known and known[-1][1] + 1 == first:
                known[-1] = (known[-1][0], last)
            else:
                known.append((first, last))


class _Reader:
    """The log's batches in order, and the damage between them."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self._folder = folder
        self._found = segments_in(files, folder, files.list(folder))
        self.sequences = list(self._found)
        self.needed = needed(self._found)
        self.starts = [h.start for h in self._found.values() if isinstance(h, SegmentHeader)] or [0]
        self.open_end: Damage | None = None
        """After `pieces` came to its end: where the log stops without a marker."""

    def pieces(self) -> Iterator[Piece | Damage]:
        before: int | None = None
        for sequence in self.needed:
            if before is not None and sequence > before + 1:
                count = sequence - before - 1
                reason = (
                    "the segment is missing" if count == 1 else f"{count} segments from here on are missing"
                )
                yield Damage(segment_name(before + 1), 0, 0, reason)
            before = sequence
            header, path = self._found[sequence], f"{self._folder}/{segment_name(sequence)}"
            with closing(self._files.open(path)) as file:
                if isinstance(header, SegmentHeader):
                    yield from self._segment(file, header)
                elif isinstance(header, UnknownFormat):
                    raise CorruptRecord(segment_name(sequence), 0, str(header))
                else:
                    yield Damage(segment_name(sequence), 0, file.size(), str(header))

    def _segment(self, file: File, header: SegmentHeader) -> Iterator[Piece | Damage]:
        following = self._found.get(header.sequence + 1)
        successor = following if isinstance(following, SegmentHeader) else None
        size, name = file.size(), segment_name(header.sequence)
        stop = size if successor is None else successor.previous_end
        scan = Scan(file, header, stop)
        while True:
            for batch in scan:
                yield Piece(batch, header, size)
            end = scan.end
            if successor is not None and end.offset == successor.previous_end:
                if end.chain != successor.previous_chain:
                    yield Damage(name, end.offset, 0, "the next segment does not continue it")
                return
            again = _next(file, header, end.offset + 1, stop)
            if successor is None:
                found = claims(file, header, end.offset)
                if found.durable <= end.offset:
                    if header.sequence == self.sequences[-1] and end.reason:
                        reason = "nothing says that the log ended here"
                        self.open_end = Damage(name, end.offset, found.extent - end.offset, reason)
                    return
                stop = max(found.durable, found.extent)
            until = stop if again is None else again[0]
            seen = _entries_in(file, header, end.offset, until)
            yield Damage(name, end.offset, until - end.offset, end.reason or "batches are missing", seen)
            if again is None:
                return
            scan = Scan(file, header, stop, begin=again[0], chain=again[1])


def _next(file: File, header: SegmentHeader, offset: int, stop: int) -> tuple[int, int] | None:
    """The next batch header with records from `offset` on, and the chain value it continues."""
    for at, found in headers_from(file, header, offset):
        if at >= stop:
            return None
        if found.length:
            return at, found.previous
    return None


def _entries_in(file: File, header: SegmentHeader, offset: int, until: int) -> tuple[Seen, ...]:
    """Runs in a damaged batch that are whole by their own checksum; for people to read only."""
    at, found = next(headers_from(file, header, offset), (-1, None))
    if at != offset or found is None:
        return ()
    data = file.read(offset + BATCH_HEADER_BYTES, min(found.length, until - offset))
    seen: list[Seen] = []
    place = 0
    while place + RECORD_HEAD_BYTES <= len(data):
        kind, _, _, length, group = RECORD_HEAD.unpack_from(data, place)
        after = place + RECORD_HEAD_BYTES + length
        if kind == ENTRIES:
            try:
                run = unpack_entries(data[place:after], group)
            except (ValueError, struct.error):
                return tuple(seen)
            seen.append(Seen(group, run.first, run.last))
        place = after
    return tuple(seen)
