"""The writes of one scheduler pass: encoded as they are asked for, applied when they are durable.

This is the hot path of the log. Measured with bench/bench_wal.py on one core of the development
machine, half entries and half hard states: 0.6 µs to build a record, 0.75 µs to apply it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from zlib import crc32

from multiraft.errors import GroupExists, GroupNotFound, LogUnavailable
from multiraft.messages import HardState, Run, Snapshot
from multiraft.storage.format import (
    BATCH_BYTES_MAX,
    COMPACT,
    ENTRIES,
    ENTRIES_HEAD_BYTES,
    HARD_STATE,
    HARD_STATE_BYTES,
    RECORD_HEAD_BYTES,
    RELOCATED,
    REMOVE,
    SNAPSHOT,
    encode_snapshot,
    pack_crc,
    pack_create,
    pack_entries,
    pack_entries_head,
    pack_hard_state,
    pack_log_start,
    pack_meta,
    pack_point,
    pack_record,
)
from multiraft.storage.group import StoredGroup

if TYPE_CHECKING:
    from multiraft.storage.segment import Segment
    from multiraft.storage.shelf import Shelf

_ENTRIES_TAIL = ENTRIES_HEAD_BYTES - RECORD_HEAD_BYTES
_HARD_STATE_TAIL = HARD_STATE_BYTES - RECORD_HEAD_BYTES

Groups = dict[int, StoredGroup]
Change = Callable[[Groups, "Shelf", "Segment", int], None]
"""Applied with the segment and the byte in it where the batch's records begin."""


class Batch:
    """`WriteBatch`. Use it once: it is spent when it was submitted.

    Every method raises GroupNotFound for a group that is not here once everything submitted and
    this batch so far is done (`create`: GroupExists), before anything is added. A record for a
    group that nobody created would keep the log from being opened again.
    """

    __slots__ = ("_groups", "_overlay", "_pending", "assumed", "buffers", "bytes", "changes", "count")

    def __init__(self, groups: Groups, pending: Mapping[int, bool]) -> None:
        """`pending` says which groups are created (True) or removed by batches under way."""
        self._groups = groups
        self._pending = pending
        self._overlay: dict[int, bool] | None = None
        self.assumed: dict[int, bool] = {}
        """Of each group in the overlay, whether it was here when the batch first touched that."""
        self.buffers: list[bytes] = []
        self.bytes = 0
        """What the batch takes on disk so far, its own header left out."""
        self.count = 0
        # (group, run, offset, length, head) for entries, (group, None, function) for all else; tuples,
        # because one is made per record.
        self.changes: list[tuple[Any, ...]] = []

    def __bool__(self) -> bool:
        return self.count > 0

    @property
    def has_room(self) -> bool:
        """Whether it is below a quarter of the largest batch there can be (1 GiB)."""
        return self.bytes < BATCH_BYTES_MAX >> 2

    @property
    def overlay(self) -> Mapping[int, bool]:
        """Groups that this batch creates (True) or removes (False)."""
        return self._overlay or {}

    # --- the interface ----------------------------------------------------------------------

    def append(self, group: int, runs: Sequence[Run]) -> None:
        if group not in self._groups or self._pending or self._overlay:
            self._require(group)
        add = self.buffers.append
        changes = self.changes
        offset = self.bytes
        for run in runs:
            blob = run.blob
            first = run.first
            body = _ENTRIES_TAIL + len(blob)
            head = pack_entries_head(
                ENTRIES,
                run.kind,
                0,
                body,
                group,
                first,
                run.term,
                run.origin,
                run.sequence,
                run.last - first + 1,
                run.size,
            )
            add(head)
            add(pack_crc(crc32(blob, crc32(head))))
            add(blob)
            changes.append((group, run, offset, RECORD_HEAD_BYTES + body, head))
            offset += RECORD_HEAD_BYTES + body
        self.bytes = offset
        self.count += len(runs)

    def hard_state(self, group: int, state: HardState) -> None:
        if group not in self._groups or self._pending or self._overlay:
            self._require(group)
        self.buffers.append(
            pack_hard_state(HARD_STATE, 0, 0, _HARD_STATE_TAIL, group, state.term, state.vote, state.commit)
        )
        self.bytes += HARD_STATE_BYTES
        self.count += 1
        self.changes.append((group, None, state))

    def create(self, group: int, meta: bytes, state: HardState, snapshot: Snapshot) -> None:
        if self._known(group):
            raise GroupExists(group)
        self._note(group, present=True)
        point = encode_snapshot(snapshot)
        self._add(pack_create(group, meta, state, point))
        base, base_term = snapshot.index, snapshot.term

        def change(groups: Groups, shelf: Shelf, segment: Segment, _: int) -> None:
            log = groups[group] = StoredGroup(group, shelf)
            log.set_meta(meta, segment)
            log.set_hard_state(state, segment)
            log.restart(point, base, base_term, segment)

        self.changes.append((group, None, change))

    def meta(self, group: int, meta: bytes) -> None:
        self._require(group)
        # A mark stays until the group is removed; one that is just being made anew has none.
        anew = group in self._pending or group in self.overlay
        damage = "" if anew else self._groups[group].damage
        self._add(pack_meta(group, meta, damage))
        self._change(group, lambda log, segment: log.set_meta(meta, segment, damage))

    def snapshot(self, group: int, snapshot: Snapshot) -> None:
        self._require(group)
        point = encode_snapshot(snapshot)
        base, base_term = snapshot.index, snapshot.term
        self._add(pack_point(SNAPSHOT, group, base, base_term, point))
        self._change(group, lambda log, segment: log.restart(point, base, base_term, segment))

    def compact(self, group: int, snapshot: Snapshot, index: int) -> None:
        """Remember `snapshot` and drop entries up to `index`.

        The entry at `index` has to be durable here (`GroupLog.last_index()` at least), unless it
        is the snapshot's own; its term is written with it. Below the compaction point: nothing
        is dropped, the snapshot is remembered all the same.
        Raises: LogUnavailable when the entry is not there yet.
        """
        self._require(group)
        assert index <= snapshot.index, "entries above the snapshot are still needed"
        base, base_term = self._base(group, snapshot, index)
        point = encode_snapshot(snapshot)
        self._add(pack_point(COMPACT, group, base, base_term, point))
        self._change(group, lambda log, segment: log.set_point(point, base, base_term, segment))

    def remove(self, group: int) -> None:
        self._require(group)
        self._note(group, present=False)
        self._add(pack_record(REMOVE, group, b""))

        def change(groups: Groups, _: Shelf, __: Segment, ___: int) -> None:
            groups.pop(group).drop_all()

        self.changes.append((group, None, change))

    # --- for the collector --------------------------------------------------------------------

    def relocate(self, group: int, run: Run) -> None:
        """Write entries once more that are in the log already."""
        pieces = pack_entries(RELOCATED, group, run)
        offset, length = self.bytes, sum(map(len, pieces))
        self.buffers += pieces
        self.bytes += length
        self.count += 1

        def change(groups: Groups, _: Shelf, segment: Segment, at: int) -> None:
            log = groups.get(group)
            if log is not None:
                log.relocate(run.first, run.last, run.term, segment, at + offset, length)
                if run.kind:
                    log.note_change(run.last)

        self.changes.append((group, None, change))

    def relocate_point(self, log: StoredGroup) -> None:
        base, base_term = log.base
        point = log.point
        self._add(pack_point(COMPACT, log.group, base, base_term, point))
        self._change(log.group, lambda log, segment: log.set_point(point, base, base_term, segment))

    def log_start(self, sequence: int) -> None:
        self._add(pack_log_start(sequence))

    def spend(self) -> list[bytes]:
        """Hand over what is to be written; from now on every method raises AttributeError.

        Else a write added too late would be shown without ever having been on disk.
        """
        buffers, self.buffers = self.buffers, cast("list[bytes]", ())
        return buffers

    @property
    def spent(self) -> bool:
        return type(self.buffers) is not list

    # --- when it is durable -----------------------------------------------------------------

    def apply(self, groups: Groups, shelf: Shelf, segment: Segment, offset: int) -> None:
        """Make everything visible. The records begin at byte `offset` of `segment`."""
        for change in self.changes:
            run = change[1]
            if run is not None:
                group, _, at, length, head = change
                log = groups[group]
                log.place(run.first, run.last, run.term, segment, offset + at, length)
                if run.kind:
                    log.note_change(run.last)
                log.remember(run, head)
            elif type(change[2]) is HardState:
                groups[change[0]].set_hard_state(change[2], segment)
            else:
                change[2](groups, shelf, segment, offset)

    # --- inside -----------------------------------------------------------------------------

    def _add(self, record: bytes) -> None:
        self.buffers.append(record)
        self.bytes += len(record)
        self.count += 1

    def _change(self, group: int, change: Callable[[StoredGroup, Segment], None]) -> None:
        def of_group(groups: Groups, _: Shelf, segment: Segment, __: int) -> None:
            change(groups[group], segment)

        self.changes.append((group, None, of_group))

    def _base(self, group: int, snapshot: Snapshot, index: int) -> tuple[int, int]:
        """Compaction point and term to write. Never lower than the one that is durable: the
        older record may be collected as soon as this one stands in the log."""
        log = self._groups.get(group)
        if log is not None and index <= log.base[0]:
            return log.base
        if index == snapshot.index:
            return index, snapshot.term
        if log is None:
            raise LogUnavailable(f"group {group} is still being created")
        return index, log.term(index)

    def _known(self, group: int) -> bool:
        for changed in (self._overlay, self._pending):
            if changed and group in changed:
                return changed[group]
        return group in self._groups

    def _require(self, group: int) -> None:
        if not self._known(group):
            raise GroupNotFound(group)

    def _note(self, group: int, *, present: bool) -> None:
        if self._overlay is None:
            self._overlay = {}
        self.assumed.setdefault(group, not present)
        self._overlay[group] = present
