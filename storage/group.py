"""One group's stable state, in memory: index, cached tail, hard state, snapshot point, meta.

Only what is durable is in here. The store changes it in the host's thread, when a batch is done or
while the log is recovered, by the methods from `place` on; both ways run the same code, in the
order of the log, so a recovered group is what the running one was.

Ten thousands of these exist: slots, and nothing allocated before it is needed. The snapshot
point is kept encoded because nearly all of a group at rest would otherwise be its configuration.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from multiraft.errors import LogCompacted, LogUnavailable
from multiraft.messages import ConfState, HardState, Run, Snapshot, head_bytes
from multiraft.storage.cache import CachedTail
from multiraft.storage.format import (
    ENTRIES_HEAD_BYTES,
    HARD_STATE_BYTES,
    POINT_BYTES,
    RECORD_HEAD_BYTES,
    decode_snapshot,
    first_of_record,
    pack_meta,
    run_of_record,
)
from multiraft.storage.index import (
    FIRST,
    LAST,
    LENGTH,
    OFFSET_BITS,
    PLACE,
    STRIDE,
    TERM,
    cut_from,
    cut_up_to,
    find,
    holes,
    new_rows,
)

if TYPE_CHECKING:
    from multiraft.storage.segment import Segment
    from multiraft.storage.shelf import Shelf

_NOTHING: Final = HardState()

READ_RUNS_MAX: Final = 256
"""Runs that are returned at once: read back from disk they cost some 10 µs each, whatever their weight."""


class StoredGroup:
    """`GroupLog` of one group."""

    __slots__ = (
        "_base",
        "_base_term",
        "_changed_at",
        "_damage",
        "_hard",
        "_hard_at",
        "_meta",
        "_meta_at",
        "_point",
        "_point_at",
        "_rows",
        "_shelf",
        "_tail",
        "group",
    )

    def __init__(self, group: int, shelf: Shelf) -> None:
        self.group = group
        self._shelf = shelf
        self._meta = b""
        self._damage = ""
        self._hard = _NOTHING
        self._point = b""
        self._base = 0
        """Compaction point: entries up to here are gone. At most the snapshot point's index."""
        self._base_term = 0
        self._changed_at = 0
        self._rows: array[int] | None = None
        self._tail: CachedTail | None = None
        # The segments that hold the newest record of each part. None: not seen yet (recovery).
        self._meta_at: Segment | None = None
        self._hard_at: Segment | None = None
        self._point_at: Segment | None = None

    # --- what the core and the engine read -------------------------------------------------

    @property
    def meta(self) -> bytes:
        return self._meta

    @property
    def damage(self) -> str:
        return self._damage

    @property
    def hard_state(self) -> HardState:
        return self._hard

    @property
    def snapshot_point(self) -> Snapshot:
        return decode_snapshot(self._point)

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard, self.snapshot_point.conf_state

    def snapshot(self) -> Snapshot:
        """The snapshot point. Whether a file of it is at hand is for the engine to say."""
        return self.snapshot_point

    def first_index(self) -> int:
        return self._base + 1

    def last_index(self) -> int:
        rows = self._rows
        return rows[-4] if rows else self._base

    def term(self, index: int) -> int:
        if index <= self._base:
            if index == self._base:
                return self._base_term
            raise LogCompacted(f"index {index} of group {self.group} is compacted up to {self._base}")
        rows = self._rows
        if not rows or index > rows[-4]:
            raise LogUnavailable(f"group {self.group} has entries up to {self.last_index()}, not {index}")
        if index >= rows[-5]:
            return rows[-3]
        return rows[find(rows, index) * STRIDE + TERM]

    def runs(self, first: int, last: int, max_bytes: int) -> list[Run]:
        """Raises: LogCompacted, LogUnavailable, CorruptRecord, StorageFailed."""
        assert first <= last, "a range is not empty"
        if first <= self._base:
            raise LogCompacted(f"index {first} of group {self.group} is compacted up to {self._base}")
        rows = self._rows
        if not rows or last > rows[-4]:
            raise LogUnavailable(f"group {self.group} has entries up to {self.last_index()}, not {last}")
        found: list[Run] = []
        room = max_bytes
        number = find(rows, first)
        while True:
            # Asked before the run is fetched, so that what does not fit is not read from disk.
            if found and rows[number * STRIDE + LENGTH] - ENTRIES_HEAD_BYTES > room:
                return found
            if len(found) >= READ_RUNS_MAX:
                return found
            run = self._run(rows, number)
            until = min(last, rows[number * STRIDE + LAST])
            if run.first < first or run.last > until:
                run = run.cut(max(first, run.first), until)
            if not found and len(run.blob) > room:
                return [_lightened(run, room)]
            found.append(run)
            if until == last:
                return found
            room -= len(run.blob)
            number += 1

    def _run(self, rows: array[int], number: int) -> Run:
        tail, cache = self._tail, self._shelf.cache
        if tail is not None:
            cached = number - len(rows) // STRIDE + len(tail)
            if cached >= 0:
                cache.hits += 1
                cached += tail.gone
                return run_of_record(tail.heads[cached], tail.blobs[cached])
        cache.misses += 1
        at = number * STRIDE
        return self._shelf.load(self.group, rows[at + PLACE], rows[at + LENGTH])

    def changed_at(self) -> int:
        """The highest index at which a configuration change was ever placed: one may be gone by now."""
        return self._changed_at

    # --- what the log does to it ------------------------------------------------------------

    def note_change(self, index: int) -> None:
        """A run of configuration changes was placed or relocated, with its last one at `index`."""
        self._changed_at = max(self._changed_at, index)

    def place(self, first: int, last: int, term: int, segment: Segment, offset: int, length: int) -> None:
        """A run was written: it replaces everything from `first` on."""
        rows = self._rows
        if rows is None:
            rows = self._rows = new_rows()
        elif rows and rows[-4] >= first:
            self._cut_from(rows, first)
        rows.extend((first, last, term, segment.header.sequence << OFFSET_BITS | offset, length))
        segment.live += length

    def remember(self, run: Run, head: bytes) -> None:
        """Cache the run that was just placed, whose record has that head."""
        tail = self._tail
        if tail is None:
            if run.first == run.last and not run.size:
                # What an election leaves behind, in every group of the host: all there is of
                # most of them, and rarely read. Whatever comes next begins the cached tail.
                return
            tail = self._tail = CachedTail()
        self._shelf.cache.add(tail, head, run.blob)

    def relocate(self, first: int, last: int, term: int, segment: Segment, offset: int, length: int) -> None:
        """A copy of entries that are in the log already, or were until their segment went."""
        rows = self._rows
        if rows is None:
            rows = self._rows = new_rows()
        if last <= self._base:
            return
        number = find(rows, first)
        at = number * STRIDE
        place = segment.header.sequence << OFFSET_BITS | offset
        if at < len(rows) and rows[at + FIRST] <= last:
            # Something is there. The copy was made from what was visible when every batch
            # before it was, so anything but the very same run means that it was compacted or
            # overwritten by a batch that was on its way then: what is there wins.
            if (rows[at + FIRST], rows[at + LAST], rows[at + TERM]) != (first, last, term):
                return
            self._shelf.release(rows[at : at + STRIDE])
            rows[at + PLACE], rows[at + LENGTH] = place, length
        else:
            rows[at:at] = array("Q", (first, last, term, place, length))
        segment.live += length

    def set_meta(self, meta: bytes, segment: Segment, damage: str = "") -> None:
        if self._meta_at is not None:
            self._meta_at.live -= self._meta_bytes()
        self._meta, self._meta_at, self._damage = self._shelf.shared(meta), segment, damage
        segment.live += self._meta_bytes()

    def set_hard_state(self, state: HardState, segment: Segment) -> None:
        if self._hard_at is not segment:
            if self._hard_at is not None:
                self._hard_at.live -= HARD_STATE_BYTES
            self._hard_at = segment
            segment.live += HARD_STATE_BYTES
        self._hard = state

    def set_point(self, point: bytes, base: int, base_term: int, segment: Segment) -> None:
        """A new snapshot point; entries up to `base` are dropped.

        A lower base than the present one comes from a compaction that was asked for before a
        later one was done. It is passed over as a whole: if its record counted as the newest,
        the one with the true base could be collected.
        """
        if base < self._base:
            return
        if self._point_at is not None:
            self._point_at.live -= POINT_BYTES + len(self._point)
        self._point, self._point_at = self._shelf.shared(point), segment
        segment.live += POINT_BYTES + len(point)
        self._base, self._base_term = base, base_term
        self._drop_up_to(base)

    def restart(self, point: bytes, base: int, base_term: int, segment: Segment) -> None:
        """The log starts anew after a snapshot; nothing of what it held counts any more."""
        self.drop_entries()
        self._base = 0
        self.set_point(point, base, base_term, segment)

    def drop_entries(self) -> None:
        rows = self._rows
        if rows:
            self._shelf.release(rows)
        self._rows = None
        if self._tail is not None:
            self._shelf.cache.drop_oldest(self._tail, 0)

    def drop_all(self) -> None:
        """The group was removed: nothing in any segment is needed for it."""
        self.drop_entries()
        if self._meta_at is not None:
            self._meta_at.live -= self._meta_bytes()
        if self._hard_at is not None:
            self._hard_at.live -= HARD_STATE_BYTES
        if self._point_at is not None:
            self._point_at.live -= POINT_BYTES + len(self._point)
        self._meta_at = self._hard_at = self._point_at = None

    def _meta_bytes(self) -> int:
        if not self._damage:
            return RECORD_HEAD_BYTES + len(self._meta)
        return len(pack_meta(self.group, self._meta, self._damage))

    def _cut_from(self, rows: array[int], first: int) -> None:
        self._shelf.release(cut_from(rows, first))
        tail = self._tail
        if tail is not None:
            # Rows now ends where the cached tail has to end. The tail began at row `before`.
            keep = self._cached_rows(rows, tail)
            self._shelf.cache.drop_newest(tail, keep)

    def _drop_up_to(self, base: int) -> None:
        rows = self._rows
        if not rows:
            return
        self._shelf.release(cut_up_to(rows, base))
        tail = self._tail
        if tail is not None and len(tail) > len(rows) // STRIDE:
            self._shelf.cache.drop_oldest(tail, len(rows) // STRIDE)

    @staticmethod
    def _cached_rows(rows: array[int], tail: CachedTail) -> int:
        """How many of the cached runs begin at or below the last row's first index."""
        if not rows:
            return 0
        begin = rows[-5]
        keep = len(tail)
        while keep and first_of_record(tail.heads[tail.gone + keep - 1]) > begin:
            keep -= 1
        return keep

    # --- for the collector and recovery -----------------------------------------------------

    @property
    def rows(self) -> array[int] | None:
        """The index itself: replaying the log puts rows at its end."""
        return self._rows

    def missing(self) -> str:
        """What recovery did not find of this group; empty when it is whole."""
        parts = {"meta": self._meta_at, "hard state": self._hard_at, "snapshot point": self._point_at}
        absent = [name for name, segment in parts.items() if segment is None]
        if absent:
            return " and ".join(absent)
        hole = holes(self._rows, self._base) if self._rows else None
        return "" if hole is None else f"entry {hole}"

    def parts_in(self, sequence: int) -> tuple[bool, bool, bool]:
        """Whether meta, hard state and snapshot point lie in segments up to `sequence`."""
        return (
            self._meta_at is not None and self._meta_at.header.sequence <= sequence,
            self._hard_at is not None and self._hard_at.header.sequence <= sequence,
            self._point_at is not None and self._point_at.header.sequence <= sequence,
        )

    def rows_in(self, sequence: int) -> list[int]:
        """Numbers of the rows whose records lie in segments up to `sequence`."""
        rows = self._rows
        if not rows:
            return []
        limit = (sequence + 1) << OFFSET_BITS
        return [number for number, place in enumerate(rows[PLACE::STRIDE]) if place < limit]

    def bytes_in(self, sequence: int) -> int:
        """Bytes of entry records that lie in segments up to `sequence`."""
        rows = self._rows
        return sum(rows[number * STRIDE + LENGTH] for number in self.rows_in(sequence)) if rows else 0

    def visible(self, number: int) -> Run:
        """The entries of row `number` as they count now."""
        rows = self._rows
        assert rows is not None
        at = number * STRIDE
        run = self._run(rows, number)
        return run.cut(rows[at + FIRST], rows[at + LAST])

    @property
    def base(self) -> tuple[int, int]:
        """Compaction point and its term."""
        return self._base, self._base_term

    @property
    def point(self) -> bytes:
        """The snapshot point as it stands in the log."""
        return self._point


def _lightened(run: Run, max_bytes: int) -> Run:
    """The start of a run that is too heavy: as much as weighs `max_bytes`, at least one entry."""
    room = max_bytes - 9  # the longest array header
    count = 0
    for payload in run.payloads:
        room -= len(payload) + head_bytes(len(payload))
        if room < 0 and count:
            break
        count += 1
    return run.cut(run.first, run.first + count - 1)
