"""The store of one host: the log with its recovery and collector, behind the lock of a data folder."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from multiraft.errors import CorruptRecord, StorageFailed
from multiraft.interfaces import Files, GroupLog, Random, WriteBatch
from multiraft.storage.appender import Appender
from multiraft.storage.batch import Batch, Groups
from multiraft.storage.cache import EntryCache
from multiraft.storage.collector import Collection, Collector
from multiraft.storage.files import storage_error
from multiraft.storage.format import SegmentHeader
from multiraft.storage.pace import Pace
from multiraft.storage.recovery import Progress, Recovered, RecoveryReport, recover
from multiraft.storage.repair import Repair, plan_repair, repair_log
from multiraft.storage.segment import Segment, segment_name
from multiraft.storage.shelf import Shelf
from multiraft.storage.wal import Wal, random_nonce
from multiraft.storage.writer import Deliver, ThreadWriter, WriterFactory
from multiraft.types import RecoveryMode

__all__ = ["SEGMENT_BYTES_MIN", "Store", "StoreStatistics", "open_store", "repair_store", "wal_folder"]

SEGMENT_BYTES_MIN: Final = 4096


@attrs.frozen
class StoreStatistics:
    """What the store did since it was opened, and what it holds. Sizes in bytes."""

    groups: int
    segments: int
    bytes: int
    """Of all segment files, spare ones left out."""
    live_bytes: int
    """Of records that are still needed."""
    batches: int
    records: int
    writes: int
    syncs: int
    bytes_written: int
    batches_under_way: int
    segments_collected: int
    bytes_copied: int
    """Written once more so that an old segment could go."""
    cache_bytes: int
    cache_runs: int
    cache_hits: int
    cache_misses: int


class Store:
    """`LogStore`, made by `open_store`. All methods belong to the host's thread.

    Attributes:
        recovery: What was found when the log was opened.
        repaired: What was done to a damaged log then (SALVAGE); None: it was whole.
        pace: How long writes take.
    """

    def __init__(
        self,
        wal: Wal,
        appender: Appender,
        collector: Collector,
        recovery: RecoveryReport,
        repaired: Repair | None,
        unlock: Callable[[], None],
    ) -> None:
        self.recovery = recovery
        self.repaired = repaired
        self.pace = wal.pace
        self._wal = wal
        self._appender = appender
        self._collector = collector
        self._unlock = unlock

    def groups(self) -> Mapping[int, GroupLog]:
        """A live view of the groups whose creation is durable."""
        return self._wal.groups()

    def batch(self) -> Batch:
        return self._wal.batch()

    def submit(self, batch: WriteBatch, done: Callable[[], None]) -> None:
        """Write and sync `batch`, then call `done` in the host's thread.

        An empty batch writes nothing; its `done` comes in turn. Raises: StorageFailed after a
        failure, HostClosed after `close`, GroupExists when the batch creates a group that
        another one created meanwhile, ValueError above 1 GiB; then nothing was done.
        """
        self._wal.submit(batch, done)

    def collect(self, *, max_bytes: int = 1 << 20, max_groups: int = 1000) -> Collection:
        """Do a bounded piece of the collector's work; call it now and then.

        Looks at no more than `max_groups` groups and copies about `max_bytes` (and at least one
        run). Cheap when there is nothing to do. Segment files are taken away by the writer.

        Raises: CorruptRecord, StorageFailed when live entries cannot be read back.
        """
        return self._collector.collect(max_bytes, max_groups)

    @property
    def records(self) -> int:
        """Records written since the log was opened."""
        return self._wal.records

    def statistics(self) -> StoreStatistics:
        wal, cache = self._wal, self._wal.shelf.cache
        segments = wal.shelf.segments.values()
        return StoreStatistics(
            groups=len(wal.live_groups),
            segments=len(segments),
            bytes=sum(segment.capacity for segment in segments),
            live_bytes=sum(segment.live for segment in segments),
            batches=wal.batches,
            records=wal.records,
            writes=self._appender.writes,
            syncs=self._appender.syncs,
            bytes_written=self._appender.bytes_written,
            batches_under_way=wal.under_way,
            segments_collected=self._collector.collected,
            bytes_copied=self._collector.copied_bytes,
            cache_bytes=cache.used,
            cache_runs=cache.count,
            cache_hits=cache.hits,
            cache_misses=cache.misses,
        )

    def close(self) -> None:
        """Wait until everything submitted is on disk, then let go of the folder.

        Blocks for as long as the disk takes. The `done` calls of the last batches may still be
        on their way to the host's thread when this returns. Calling it twice is harmless.
        """
        try:
            self._wal.close()
        except OSError as error:
            raise storage_error(error, "closing the log") from error
        finally:
            self._unlock()


def wal_folder(data_dir: str) -> str:
    return f"{data_dir}/wal"


def open_store(
    files: Files,
    data_dir: str,
    *,
    random: Random,
    on_failure: Callable[[StorageFailed], None],
    deliver: Deliver | None = None,
    writer: WriterFactory | None = None,
    segment_bytes: int = 64 << 20,
    cache_bytes: int = 64 << 20,
    total_bytes: int = 1 << 30,
    slow_sync_s: float = math.inf,
    recovery: RecoveryMode = RecoveryMode.TORN_TAIL,
    progress: Progress | None = None,
) -> Store:
    """Open the log in `data_dir`, made if missing, and recover what it holds. Blocks.

    Args:
        data_dir: An absolute path.
        random: Only for the nonces of segments.
        on_failure: Called once, in the host's thread, when a write or sync failed. Nothing is
            acknowledged from then on; only a restart recovers.
        deliver: Runs a call in the host's thread, soon; given this, a thread writes the log.
        writer: In place of `deliver`, who writes: `InlineWriter` in tools and tests.
        segment_bytes: Size of a segment file. Default: 64 MiB. Minimum: 4 KiB. A batch that
            does not fit gets a segment of its own size, up to 1 GiB.
        cache_bytes: Budget of recent entries kept in memory, for all groups. Default: 64 MiB.
        total_bytes: The collector copies live records out of old segments above this, as long
            as less than seven tenths are live. Default: 1 GiB. Minimum: four segments.
        slow_sync_s: Writes that take this long, syncs included, are noted in `Store.pace`. Default: none.
        recovery: STRICT refuses a torn tail, SALVAGE repairs a damaged log first (repair.py).
            Default: TORN_TAIL.
        progress: Called with bytes read and bytes in all while the log is read.

    Raises: DataDirInUse, CorruptRecord (nothing was changed), StorageFailed, StorageFull.
    """
    assert segment_bytes >= SEGMENT_BYTES_MIN
    if writer is None:
        assert deliver is not None, "somebody has to write the log"
        writer = ThreadWriter.factory(deliver)
    try:
        unlock = _lock(files, data_dir)
        try:
            shelf, groups = Shelf(files, wal_folder(data_dir), EntryCache(cache_bytes)), Groups()
            repaired = None
            strict = recovery is RecoveryMode.STRICT
            try:
                recovered = recover(files, shelf, groups, segment_bytes, progress, strict=strict)
            except CorruptRecord:
                if recovery is not RecoveryMode.SALVAGE:
                    raise
                repaired = repair_log(files, shelf.folder, random)
                shelf, groups = Shelf(files, shelf.folder, EntryCache(cache_bytes)), Groups()
                recovered = recover(files, shelf, groups, segment_bytes, progress)
            appender = Appender(files, shelf.folder, segment_bytes)
            try:
                _start_segment(files, shelf, appender, recovered, segment_bytes, random)
            except BaseException:
                appender.abandon()
                raise
        except BaseException:
            unlock()
            raise
    except OSError as error:
        raise storage_error(error, f"opening the log in {data_dir}") from error
    wal = Wal(
        shelf,
        groups,
        appender,
        segment_bytes=segment_bytes,
        start=recovered.start,
        random=random,
        writer=writer,
        on_failure=on_failure,
        pace=Pace(slow_sync_s),
    )
    collector = Collector(wal, segment_bytes=segment_bytes, total_bytes=total_bytes)
    return Store(wal, appender, collector, recovered.report, repaired, unlock)


def repair_store(files: Files, data_dir: str, random: Random, *, dry_run: bool = False) -> Repair:
    """Repair the log in `data_dir`, or only say what that would change. Blocks.

    Raises: DataDirInUse when its host runs; CorruptRecord, StorageFailed, StorageFull.
    """
    try:
        unlock = files.lock(f"{data_dir}/lock")
        try:
            if dry_run:
                return plan_repair(files, wal_folder(data_dir))
            return repair_log(files, wal_folder(data_dir), random)
        finally:
            unlock()
    except OSError as error:
        raise storage_error(error, f"repairing the log in {data_dir}") from error


def _lock(files: Files, data_dir: str) -> Callable[[], None]:
    assert os.path.isabs(data_dir)
    files.make_folder(wal_folder(data_dir))
    unlock = files.lock(f"{data_dir}/lock")
    try:
        if not files.list(wal_folder(data_dir)):
            # Until there is a segment the folders may be new. Later the one above, which may not
            # even be readable, is none of our business.
            files.sync_folder(os.path.dirname(data_dir))
            files.sync_folder(data_dir)
    except BaseException:
        unlock()
        raise
    return unlock


def _start_segment(
    files: Files, shelf: Shelf, appender: Appender, recovered: Recovered, segment_bytes: int, random: Random
) -> None:
    """Go on in a new segment; the tail of the last one is cut off by that (recovery.py)."""
    header = SegmentHeader(
        recovered.next_sequence,
        recovered.start,
        random_nonce(random),
        recovered.previous_end,
        recovered.previous_chain,
    )
    segment = Segment(header, segment_bytes)
    previous = shelf.segments.get(recovered.next_sequence - 1)
    shelf.segments[recovered.next_sequence] = segment
    appender.resume(segment, recovered.spares)
    if previous is not None and previous.capacity > previous.used:
        # Give back what it will never use. Not synced: if it is lost, only room is.
        file = files.open(f"{shelf.folder}/{segment_name(previous.sequence)}")
        try:
            file.truncate(previous.used)
        finally:
            file.close()
        previous.capacity = previous.used
