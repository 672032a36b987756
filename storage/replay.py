"""Running the log's records, in order, into groups. No files."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from multiraft.errors import CorruptRecord
from multiraft.messages import HardState
from multiraft.storage.batch import Groups
from multiraft.storage.format import (
    BATCH_HEADER_BYTES,
    COMPACT,
    CREATE,
    DAMAGED,
    ENTRIES,
    ENTRIES_HEAD,
    ENTRIES_HEAD_BYTES,
    HARD_STATE,
    HARD_STATE_BYTES,
    HARD_STATE_RECORD,
    LOG_START,
    META,
    RECORD_HEAD,
    RECORD_HEAD_BYTES,
    RELOCATED,
    REMOVE,
    SNAPSHOT,
    decode_snapshot,
    unpack_create,
    unpack_damaged,
    unpack_log_start,
    unpack_point,
)
from multiraft.storage.group import StoredGroup
from multiraft.storage.index import OFFSET_BITS
from multiraft.storage.segment import Batch, Segment
from multiraft.storage.shelf import Shelf


def records_of(
    batch: Batch, at: int | None = None, left: int | None = None
) -> Iterator[tuple[int, int, int, int]]:
    """Kind, group, and where in `batch.data` each record begins and ends. Raises: ValueError.

    Of the last `left` records, which begin at byte `at`. Default: of all.
    """
    data = batch.data
    end = batch.start + batch.header.length
    at = batch.start if at is None else at
    for _ in range(batch.header.records if left is None else left):
        if at + RECORD_HEAD_BYTES > end:
            raise ValueError("the batch holds fewer records than it says")
        kind, _, _, length, group = RECORD_HEAD.unpack_from(data, at)
        after = at + RECORD_HEAD_BYTES + length
        if after > end:
            raise ValueError("the record reaches beyond its batch")
        yield kind, group, at, after
        at = after
    if at != end:
        raise ValueError("the batch holds more than the records it says")


class Replay:
    """Feed it every batch in order; `check` then says whether the groups are whole."""

    def __init__(self, shelf: Shelf, groups: Groups) -> None:
        self.start = 0
        """The first segment that is needed, as the newest LOG_START record says."""
        self.records = 0
        self._shelf = shelf
        self._groups = groups

    def add(self, segment: Segment) -> None:
        """Begin with a segment; its live bytes are counted from here on."""
        self._shelf.segments[segment.sequence] = segment

    def batch(self, batch: Batch, segment: Segment) -> None:
        """Raises: CorruptRecord for a record that this version cannot have written."""
        base = batch.offset + BATCH_HEADER_BYTES - batch.start
        at, left = batch.start, batch.header.records
        try:
            while True:
                at, left = self._runs(batch, segment, base, at, left)
                # One record of another kind, or one with which something is wrong; or the end.
                record = next(records_of(batch, at, left), None)
                if record is None:
                    break
                kind, group, at, after = record
                self._record(kind, group, batch.data, at, after, segment, base + at)
                at, left = after, left - 1
        except (ValueError, struct.error) as error:
            raise CorruptRecord(segment.name, base + at, str(error)) from None
        self.records += batch.header.records

    def _runs(self, batch: Batch, segment: Segment, base: int, at: int, left: int) -> tuple[int, int]:
        """Replay records from byte `at` on while each is one more run of proposals at the end of its
        group's log.

        A log is made of little else, and starting takes as long as this does, so it does what
        `StoredGroup.place` would, with as few calls as may be. Returns where that ends, and how
        many of the `left` records are left there.
        """
        data, unpack, groups = batch.data, ENTRIES_HEAD.unpack_from, self._groups
        end = batch.start + batch.header.length
        place = (segment.sequence << OFFSET_BITS) + base
        live = 0
        while left and at + ENTRIES_HEAD_BYTES <= end:
            kind, change, _, body, group, first, term, _, _, count, _ = unpack(data, at)
            length = RECORD_HEAD_BYTES + body
            if kind != ENTRIES or change or not count or length < ENTRIES_HEAD_BYTES or at + length > end:
                break
            rows = groups[group].rows if group in groups else None
            if not rows or rows[-4] >= first:
                break
            rows.extend((first, first + count - 1, term, place + at, length))
            live += length
            at += length
            left -= 1
        segment.live += live
        return at, left

    def check(self) -> None:
        """Raises: CorruptRecord when a group's earlier records should be there and are not."""
        for group, log in self._groups.items():
            missing = log.missing()
            if missing:
                first = next(iter(self._shelf.segments.values()))
                raise CorruptRecord(first.name, 0, f"group {group} has no {missing}")

    def _record(
        self, kind: int, group: int, data: bytes, at: int, after: int, segment: Segment, offset: int
    ) -> None:
        log = self._groups.get(group)
        if kind == REMOVE:
            if log is not None:
                del self._groups[group]
                log.drop_all()
            return
        if kind == LOG_START:
            self.start = max(self.start, unpack_log_start(data[at + RECORD_HEAD_BYTES : after]))
            return
        if log is None:
            log = self._groups[group] = StoredGroup(group, self._shelf)
        if kind in (ENTRIES, RELOCATED):
            _, change, _, _, _, first, term, _, _, count, _ = ENTRIES_HEAD.unpack_from(data, at)
            if not count or after - at < ENTRIES_HEAD_BYTES:
                raise ValueError("no entries")
            step = log.place if kind == ENTRIES else log.relocate
            step(first, first + count - 1, term, segment, offset, after - at)
            if change:
                log.note_change(first + count - 1)
        elif kind == HARD_STATE:
            if after - at != HARD_STATE_BYTES:
                raise ValueError("a hard state of another length")
            _, _, _, _, _, term, vote, commit = HARD_STATE_RECORD.unpack_from(data, at)
            log.set_hard_state(HardState(term, vote, commit), segment)
        else:
            self._state(kind, log, data[at + RECORD_HEAD_BYTES : after], segment)

    def _state(self, kind: int, log: StoredGroup, body: bytes, segment: Segment) -> None:
        if kind == META:
            log.set_meta(body, segment)
        elif kind == DAMAGED:
            damage, meta = unpack_damaged(body)
            log.set_meta(meta, segment, damage)
        elif kind in (COMPACT, SNAPSHOT):
            base, base_term, point = unpack_point(body)
            decode_snapshot(point)
            step = log.set_point if kind == COMPACT else log.restart
            step(point, base, base_term, segment)
        elif kind == CREATE:
            meta, state, point = unpack_create(body)
            snapshot = decode_snapshot(point)
            log.set_meta(meta, segment)
            log.set_hard_state(HardState(*state), segment)
            log.restart(point, snapshot.index, snapshot.term, segment)
        else:
            raise ValueError(f"record kind {kind} is not known to this version of multiraft")
