"""Making a damaged log one that opens again, without pretending that nothing happened.

What salvage.py believes is written into one new segment behind all others, which says that it is
the first one that is needed. Order is everything:

1. Every segment is copied to `backup-<n>/`, each copy synced before it gets its name.
2. The new segment is written under a temporary name and synced. Until here the log is untouched.
3. Its final name appears, atomically, and is synced: from now on this is the log, because recovery
   passes over segments below the highest `start`.
4. The old segments are removed, in any order. Those that a crash leaves, the next start removes.

A crash before the third step leaves the damaged log as it was, one after it the repaired one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Final
from zlib import crc32

import attrs

from multiraft.errors import StorageFailed
from multiraft.interfaces import UNKNOWN_GROUPS, File, Files, Random
from multiraft.messages import ConfState, HardState, Snapshot
from multiraft.storage.format import (
    BATCH_HEADER_BYTES,
    COMPACT,
    ENTRIES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    encode_snapshot,
    pack_batch_header,
    pack_entries,
    pack_hard_state_record,
    pack_meta,
    pack_point,
)
from multiraft.storage.group import StoredGroup
from multiraft.storage.salvage import Damage, DamagedGroup, Salvage, salvage
from multiraft.storage.segment import NEW_SUFFIX, segment_name, sequence_of
from multiraft.storage.wal import random_nonce

BACKUP_PREFIX: Final = "backup-"
_COPY_SUFFIX: Final = ".copy"
_PIECE_BYTES: Final = 1 << 20
_SEGMENT_BYTES_MAX: Final = (1 << 32) - (1 << 20)
"""Offsets in the index have 32 bits."""
_NOTHING_KEPT: Final = Snapshot(0, 0, ConfState(), b"")


@attrs.frozen
class Repair:
    """What was wrong with a log, and what a repair makes of it.

    Attributes:
        damages: What cannot be read, in the order of the log; empty: the log is whole.
        whole: Groups that are provably complete. They run on.
        damaged: Groups that may have lost something. They are kept, and open stopped.
        backup: Folder with the segments as they were; None: nothing was changed.
    """

    damages: tuple[Damage, ...]
    whole: tuple[int, ...]
    damaged: tuple[DamagedGroup, ...]
    backup: str | None = None


def plan_repair(files: Files, folder: str) -> Repair:
    """What `repair_log` would do with the log in `folder`. Changes nothing.

    Raises: CorruptRecord as `repair_log`; OSError, StorageFailed.
    """
    found = salvage(files, folder)
    try:
        return _report(found, None)
    finally:
        _close(found)


def repair_log(files: Files, folder: str, random: Random) -> Repair:
    """Repair the log in `folder`, whose lock the caller holds. A log that is whole is not changed.

    Needs room for a copy of the log and for what is kept of it.

    Raises:
        CorruptRecord: Something in it is whole, but from another version; nothing was changed.
        StorageFailed: More than 4 GiB would be kept; nothing was changed.
        OSError: The disk failed. The log is the damaged or the repaired one.
    """
    found = salvage(files, folder)
    try:
        if not found.damages:
            return _report(found, None)
        sequence = found.sequences[-1] + 1
        if sequence >= 1 << 63:
            raise StorageFailed(f"{segment_name(found.sequences[-1])} is no segment's name: move it away")
        backup = _back_up(files, folder, found.sequences)
        making = f"{folder}/{segment_name(sequence, NEW_SUFFIX)}"
        with closing(files.open(making, create=True)) as file:
            file.truncate(0)
            _write_segment(file, SegmentHeader(sequence, sequence, random_nonce(random), 0, 0), found)
        files.rename(making, f"{folder}/{segment_name(sequence)}")
        files.sync_folder(folder)
    finally:
        _close(found)
    for old in found.sequences:
        files.remove(f"{folder}/{segment_name(old)}")
    files.sync_folder(folder)
    return _report(found, backup)


def _report(found: Salvage, backup: str | None) -> Repair:
    damages, damaged = tuple(found.damages), tuple(found.damaged)
    return Repair(damages, tuple(sorted(found.whole)), damaged, backup)


def _close(found: Salvage) -> None:
    found.prefix.shelf.close()
    found.suffix.shelf.close()


# --- the backup ------------------------------------------------------------------------------


def _back_up(files: Files, folder: str, sequences: list[int]) -> str:
    """Copy the segments; go on with the newest backup if that is an unfinished one of the same."""
    numbers = [
        int(name.removeprefix(BACKUP_PREFIX))
        for name in files.list(folder)
        if name.startswith(BACKUP_PREFIX) and name.removeprefix(BACKUP_PREFIX).isdecimal()
    ]
    newest = max(numbers, default=0)
    target = f"{folder}/{BACKUP_PREFIX}{newest}"
    if not newest or not _is_part(files, folder, target, sequences):
        target = f"{folder}/{BACKUP_PREFIX}{newest + 1}"
        files.make_folder(target)
        files.sync_folder(folder)
    present = set(files.list(target))
    for sequence in sequences:
        name = segment_name(sequence)
        if name not in present:
            _copy(files, f"{folder}/{name}", f"{target}/{name}")
    files.sync_folder(target)
    return target


def _is_part(files: Files, folder: str, target: str, sequences: list[int]) -> bool:
    """Whether every file of a backup is one of the segments as they are now."""
    for name in files.list(target):
        if name.endswith(_COPY_SUFFIX):
            files.remove(f"{target}/{name}")
        elif sequence_of(name) not in sequences or not _same(files, f"{folder}/{name}", f"{target}/{name}"):
            return False
    return True


def _same(files: Files, one: str, other: str) -> bool:
    with closing(files.open(one)) as left, closing(files.open(other)) as right:
        size = left.size()
        if size != right.size():
            return False
        offsets = range(0, size, _PIECE_BYTES)
        return all(left.read(at, _PIECE_BYTES) == right.read(at, _PIECE_BYTES) for at in offsets)


def _copy(files: Files, source: str, target: str) -> None:
    copying = target + _COPY_SUFFIX
    with closing(files.open(source)) as file, closing(files.open(copying, create=True)) as copy:
        size = file.size()
        copy.truncate(size)
        for at in range(0, size, _PIECE_BYTES):
            copy.write(at, file.read(at, _PIECE_BYTES))
        copy.sync()
    files.rename(copying, target)


# --- the new segment -------------------------------------------------------------------------


def _write_segment(file: File, header: SegmentHeader, found: Salvage) -> None:
    """Everything that is kept, in batches, synced."""
    file.write(0, header.pack())
    offset, chain = SEGMENT_HEADER_BYTES, header.chain
    for records in _batches(_records(found)):
        body = b"".join(records)
        # True when anybody reads it: the file has no name before all of it is on disk.
        fields = (header.mark, len(body), len(records), chain, offset, crc32(body, header.seed))
        packed, chain = pack_batch_header(fields, header.seed)
        end = offset + BATCH_HEADER_BYTES + len(body)
        if end > _SEGMENT_BYTES_MAX:
            raise StorageFailed("more than 4 GiB would be kept of the log: restore this host from its peers")
        file.write(offset, packed + body)
        offset = end
    marker = (header.mark, 0, 0, chain, offset, 0)
    file.write(offset, pack_batch_header(marker, header.seed)[0])
    file.sync()


def _batches(records: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record)
        if size >= _PIECE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _records(found: Salvage) -> Iterator[bytes]:
    first = str(found.damages[0])
    for group in found.whole:
        yield from _group_records(found.suffix.groups[group], "")
    for damaged in found.damaged:
        log = found.kept(damaged.group)
        reason = f"the log was damaged ({first})"
        if log is None:
            yield from _name_only(damaged.group, reason)
        else:
            yield from _group_records(log, reason)
    yield from _name_only(UNKNOWN_GROUPS, first)


def _group_records(log: StoredGroup, damage: str) -> Iterator[bytes]:
    group, (base, base_term) = log.group, log.base
    yield pack_meta(group, log.meta, log.damage or damage)
    state = log.hard_state
    if damage:  # nobody may find less than what is committed
        state = attrs.evolve(state, commit=min(state.commit, log.last_index()))
    yield pack_hard_state_record(group, state)
    yield pack_point(COMPACT, group, base, base_term, log.point)
    first, last = log.first_index(), log.last_index()
    while first <= last:
        for run in log.runs(first, last, _PIECE_BYTES):
            yield b"".join(pack_entries(ENTRIES, group, run))
            first = run.last + 1


def _name_only(group: int, damage: str) -> Iterator[bytes]:
    yield pack_meta(group, b"", damage)
    yield pack_hard_state_record(group, HardState())
    yield pack_point(COMPACT, group, 0, 0, encode_snapshot(_NOTHING_KEPT))
