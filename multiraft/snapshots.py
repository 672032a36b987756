"""Snapshots of a host's groups: when they are taken, written, compacted behind, sent, installed.

The order that safety hangs on: the machine's `sync`, then the file (temporary name, fsync,
rename, fsync of the folder), then the compaction record in the log, and only when that is
durable may older files and log entries go. At every moment the log's snapshot point thus has
a durable file at or above it whose entries, up to the newest, are still in the log.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import attrs

from multiraft.apply import Applier, Work
from multiraft.errors import MultiraftError, SnapshotInvalid, StateMachineFailed, StorageFailed, StorageFull
from multiraft.events import Events, SnapshotTaken
from multiraft.group import Group
from multiraft.interfaces import Executor, GroupLog, SnapshotFile, SnapshotStore, StateMachine
from multiraft.membership import GroupMeta
from multiraft.messages import Snapshot
from multiraft.proposals import Waiter
from multiraft.types import GroupId, Index

INITIAL_INDEX = 1
"""Where a new group's log starts. The empty state there needs no file."""

WRITES_MAX = 2
"""Snapshots of a host captured at a time; a captured state may hold memory until it is written."""


class Snapshots:
    """Takes snapshots of groups when it is time, a few at once, and has the log compacted."""

    def __init__(
        self,
        store: SnapshotStore,
        executor: Executor,
        apply_executor: Executor,
        applier: Applier,
        events: Events,
        *,
        compact: Callable[[Group, Snapshot, Index], None],
        store_failed: Callable[[StorageFailed], None],
        group_failed: Callable[[Group, StateMachineFailed], None],
    ) -> None:
        self.store = store
        self._executor = executor
        self._apply_executor = apply_executor
        self._applier = applier
        self._events = events
        self._compact = compact
        self._store_failed = store_failed
        self._group_failed = group_failed
        self._queue: dict[Group, None] = {}
        self._writing: set[Group] = set()
        self._told: dict[Group, list[Waiter]] = {}
        """Who is told of the file being written."""
        self._pinned: dict[Group, list[str]] = {}
        """Paths of received files that are not installed yet."""
        self.taken = 0

    @property
    def busy(self) -> bool:
        return bool(self._writing) or bool(self._queue)

    def due(self, group: Group) -> None:
        """The group applied as much since its last snapshot as there may be between two."""
        if group.applied > group.snapshot_index:
            self.want(group, None)

    def want(self, group: Group, waiter: Waiter | None) -> None:
        """Have a snapshot taken soon; `waiter` gets its SnapshotFile."""
        if waiter is not None:
            group.capture_waiters.append(waiter)
        if group in self._writing or group in self._queue:
            return  # waiters that came too late for the capture under way get the next one
        self._queue[group] = None
        self.start()

    def captured(self, work: Work) -> None:
        """The applier captured a state: write it, in the snapshot worker."""
        group, capture, chunks = work.group, work.capture, work.chunks
        assert capture is not None
        assert chunks is not None
        file = group.snapshot_file
        if file is not None and file.snapshot.index >= capture.index:
            self._take_waiters(group)
            self._written(group, file, None)
            return
        self._take_waiters(group)
        group.bytes_since_snapshot = 0
        self._executor.submit(
            lambda: self.store.write(group.id, group.generation, capture, chunks),
            lambda file, error: self._written(group, file, error),
        )

    def start(self) -> None:
        """Capture as many as may be under way. Called now and then: groups that stopped make room."""
        self._writing = {group for group in self._writing if group.failed is None}
        while self._queue and len(self._writing) < WRITES_MAX:
            group = next(iter(self._queue))
            del self._queue[group]
            if group.failed is None:
                self._writing.add(group)
                self._applier.want_capture(group)
                group.host.mark_dirty(group)

    def compacted(self, group: Group) -> None:
        """The compaction record is durable: older files may go."""
        keep = group.host.config.max_snapshot_files

        def prune() -> None:
            # The newest files need not be the ones that count: what was received may not be in the
            # log yet, or never get there.
            file = group.snapshot_file
            needed = [*self._pinned.get(group, ()), *([] if file is None else [file.path])]
            self.store.prune(group.id, keep, needed)

        self._executor.submit(prune, self._pruned)

    def pin(self, group: Group, file: SnapshotFile) -> None:
        """Keep a received file until it is installed, or not wanted."""
        self._pinned.setdefault(group, []).append(file.path)

    def unpin(self, group: Group, file: SnapshotFile) -> None:
        pinned = self._pinned[group]
        pinned.remove(file.path)
        if not pinned:
            del self._pinned[group]

    def install(self, group: Group, file: SnapshotFile, done: Callable[[], None]) -> None:
        """Replace the group's state by a received snapshot that the log has recorded."""
        if group.apply_queue or group.applying:
            # What was committed before goes first, so that no apply and no restore overlap.
            group.on_drained = lambda: self.install(group, file, done)
            return
        group.restoring = True

        def finish(_: None, error: BaseException | None) -> None:
            group.restoring = False
            self.unpin(group, file)
            if group.failed is not None:
                return
            if error is not None:
                self._group_failed(group, _as_failure(group, error))
                return
            group.snapshot_file = file
            group.machine_at = group.applied = file.snapshot.index
            group.snapshot_index = file.snapshot.index
            group.bytes_since_snapshot = 0
            if group.asked_snapshot:
                self._applier.want_capture(group)
            done()

        # A blocking machine is touched by its own worker alone. Another must not stop the host's
        # thread for as long as a large state takes, so nothing else touches it meanwhile.
        executor = self._apply_executor if group.machine.blocking else self._executor
        executor.submit(lambda: group.machine.restore(self.store.read(file)), finish)

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for a file that is being written."""
        return any(self._told.values())

    def stop(self, error: MultiraftError) -> None:
        """Nothing more will be done: tell those who wait."""
        told, self._told = self._told, {}
        for waiters in told.values():
            for waiter in waiters:
                waiter.fail(error)

    def _take_waiters(self, group: Group) -> None:
        waiters, group.capture_waiters = group.capture_waiters, []
        self._told.setdefault(group, []).extend(waiters)

    def _written(
        self,
        group: Group,
        file: SnapshotFile | None,
        error: BaseException | None,
    ) -> None:
        self._writing.discard(group)
        waiters = self._told.pop(group, [])
        if error is not None:
            failure: MultiraftError
            if isinstance(error, OSError):
                # The shared disk's trouble stops the host.
                kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
                failure = kind(f"writing a snapshot of group {group.id} failed: {error}")
                self._store_failed(failure)
            else:
                failure = _as_failure(group, error)
                if group.failed is None:
                    self._group_failed(group, failure)
            for waiter in waiters:
                waiter.fail(failure)
        else:
            assert file is not None
            self._installed(group, file)
            for waiter in waiters:
                waiter.resolve(file)
        if group.capture_waiters and group.failed is None:
            self._queue[group] = None
        self.start()

    def _installed(self, group: Group, file: SnapshotFile) -> None:
        if group.failed is not None or (
            group.snapshot_file is not None and group.snapshot_file.snapshot.index >= file.snapshot.index
        ):
            return
        if file.snapshot.index < group.raft.first_index - 1:
            return  # raft took a newer one from the leader meanwhile, which is being installed
        self.taken += 1
        if self._events.on:
            self._events.emit(SnapshotTaken(group.id, file.snapshot.index, file.file_bytes))
        group.snapshot_file = file
        group.snapshot_index = file.snapshot.index
        # A tail stays for followers that are a little behind: entries are cheaper than a snapshot.
        keep = group.limit("snapshot_keep_entries")
        self._compact(group, file.snapshot, max(file.snapshot.index - keep, group.raft.first_index - 1))

    def _pruned(self, _: None, error: BaseException | None) -> None:
        if error is not None:
            self._store_failed(StorageFailed(f"deleting old snapshots failed: {error}"))


def _as_failure(group: Group, error: BaseException) -> StateMachineFailed:
    failure = StateMachineFailed(f"group {group.id}: snapshot: {error!r}")
    failure.__cause__ = error
    return failure


def restore_failure(group: GroupId, error: BaseException) -> StateMachineFailed:
    """What a machine raised in `restore`."""
    failure = StateMachineFailed(f"group {group}: restore: {error!r}")
    failure.__cause__ = error
    return failure


def usable_file(log: GroupLog, files: list[SnapshotFile]) -> SnapshotFile | None:
    """The newest file that fits the log, so that its state may be restored and the log followed.

    A file counts only where the log still has its very entry (same index, same term): then the
    logs agree up to there (thesis §3.5). A received file whose installation was never recorded
    may lie beyond the log or beside it; it is not used. That index and term name one entry is
    so within a generation; a file of an earlier one counts up to where that ended.
    """
    meta = GroupMeta.decode(log.meta) if files else None
    for file in files:
        index, term = file.snapshot.index, file.snapshot.term
        assert meta is not None
        if (
            log.snapshot_point.index <= index <= log.last_index()
            and log.term(index) == term
            and meta.counts(file.generation, index)
        ):
            return file
    return None


@attrs.frozen
class Standing:
    """How a machine is brought up to its group's log."""

    file: SnapshotFile | None
    """The newest one that may be sent."""
    index: Index
    """Where the machine stands then."""
    restore: bool
    """Whether it has to be restored from the file."""


def standing_of(log: GroupLog, files: list[SnapshotFile], machine: StateMachine) -> Standing:
    """How to bring `machine` up to its group's snapshot.

    Raises:
        SnapshotInvalid: The file that the log needs is missing or damaged.
        StorageFailed: The machine is ahead of the log, so the log has lost entries.
    """
    file = usable_file(log, files)
    if machine.applied_index > log.last_index():
        raise StorageFailed(
            f"group {log.group}: the state machine has applied up to {machine.applied_index}, but the "
            f"log ends at {log.last_index()}: entries were lost; restore this host from its peers"
        )
    if file is not None and file.snapshot.index > machine.applied_index:
        return Standing(file, file.snapshot.index, restore=True)
    point = log.snapshot_point.index
    if machine.applied_index < point and point > INITIAL_INDEX:
        raise SnapshotInvalid(f"group {log.group}: the snapshot file at index {point} is missing")
    return Standing(file, max(machine.applied_index, point), restore=False)


def restore_machine(
    log: GroupLog, files: list[SnapshotFile], store: SnapshotStore, machine: StateMachine
) -> Standing:
    """Bring a machine up to its group's snapshot at start-up. Raises: as `standing_of`."""
    standing = standing_of(log, files, machine)
    if standing.restore:
        assert standing.file is not None
        machine.restore(store.read(standing.file))
    return standing
