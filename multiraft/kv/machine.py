"""The state machines of the store: one per group, all in one SQLite file per host.

All groups that apply in one pass of the scheduler share one commit. What they apply is staged in
memory first and written when the batch ends, as one statement (database.py says why), so that
a machine whose `apply` raises has left nothing behind, and a batch that fails has changed nothing.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence

from multiraft.errors import StorageFailed
from multiraft.interfaces import StateMachine
from multiraft.kv.commands import CLAIM_KEY, Claim, Get, GetClaim, Page, Refused, Scan, Write, decode
from multiraft.kv.database import Database, Row
from multiraft.kv.stream import SnapshotStream, read_stream
from multiraft.types import Entry, GroupId, Index

STAGED_BYTES_MAX = 8 << 20
"""Bytes of entries staged before a batch is written early. Each group's rows and applied index
are still written together, which is all that a batch has to promise."""


class SqliteMachines:
    """Makes the machines of a host; hand it to `open_host(config, machines=...)`.

    Machines are touched by one thread at a time, except that any thread may run `query` and
    read the chunks of a snapshot.

    Args:
        path: The SQLite file. Made, with its folder, when the first machine is.
        cache_bytes: Pages kept in memory for writing. Default: 32 MiB.
    """

    def __init__(self, path: str, *, cache_bytes: int = 32 << 20) -> None:
        self._path = os.path.abspath(path)
        self._cache_bytes = cache_bytes
        self._database: Database | None = None
        self._staged: dict[KeyValueMachine, dict[bytes, bytes | None]] = {}
        self._staged_bytes = 0
        self._batch_thread: int | None = None
        self._failure: StorageFailed | None = None

    def __call__(self, group_id: GroupId) -> KeyValueMachine:
        """The machine of `group_id`, standing where the file says."""
        return KeyValueMachine(self, group_id, self.database.applied(group_id))

    @property
    def database(self) -> Database:
        # Opened late: open_host makes the data folder and sees to it that it is ours alone.
        if self._database is None:
            self._database = Database(self._path, cache_bytes=self._cache_bytes)
        return self._database

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """One commit for all that is applied within, when the block ends.

        Raises:
            StorageFailed: The commit failed. Nothing that was applied counts, and no machine of
                this object applies anything more: memory and disk disagree from here on.
        """
        assert self._batch_thread is None, "batches do not nest"
        self._batch_thread = threading.get_ident()
        try:
            yield
            self.flush()
        except BaseException as error:
            self._drop_staged(error)
            raise
        finally:
            self._batch_thread = None

    def stage(self, machine: KeyValueMachine, writes: dict[bytes, bytes | None], weight: int) -> None:
        """Take over what `machine` applied; written at the end of the batch, or now outside one."""
        if self._failure is not None:
            raise self._failure
        staged = self._staged.get(machine)
        if staged is None:
            self._staged[machine] = writes
        else:
            staged.update(writes)
        self._staged_bytes += weight
        if self._batch_thread is None or self._staged_bytes > STAGED_BYTES_MAX:
            self.flush()

    def staged(self, machine: KeyValueMachine) -> dict[bytes, bytes | None]:
        """What `machine` applied and is not written yet."""
        return self._staged.get(machine, {})

    def flush(self) -> None:
        """Write what is staged, in one transaction."""
        if not self._staged:
            return
        rows: list[Row] = []
        for machine, writes in self._staged.items():
            group = machine.group
            # Sorted, because neighbours in the file are then written together.
            rows += [(group, key, value) for key, value in sorted(writes.items())]
            rows.append((group, None, machine.seen))
        try:
            self.database.write(rows)
        except StorageFailed as error:
            self._drop_staged(error)
            raise
        for machine in self._staged:
            machine.applied_index = machine.seen
        self._staged.clear()
        self._staged_bytes = 0

    def flush_own_batch(self) -> None:
        """Write what this thread has staged, so that what it reads next is there."""
        if self._batch_thread == threading.get_ident():
            self.flush()

    def _drop_staged(self, cause: BaseException) -> None:
        if self._staged and self._failure is None:
            # Results were computed, perhaps seen; the engine believes that these were applied.
            self._failure = StorageFailed(f"{self._path}: an earlier batch was lost: {cause!r}")
        self._staged.clear()
        self._staged_bytes = 0

    def close(self) -> None:
        """Close the file. Call it when the host is closed."""
        if self._database is not None:
            self._database.close()
            self._database = None


class KeyValueMachine(StateMachine):
    """The rows of one group. Made by `SqliteMachines`."""

    blocking = True

    def __init__(self, machines: SqliteMachines, group: GroupId, applied: Index) -> None:
        self.group = group
        self.applied_index = applied
        """Committed in the file."""
        self.seen = applied
        """Applied, though perhaps only staged yet. applied_index <= seen."""
        self._machines = machines

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        """Apply commands; see commands.py.

        Returns:
            For each entry its index, or the standing claim for a claim, or `Refused`.
        """
        assert entries[0].index > self.seen, "the log is fed once, in order"
        writes: dict[bytes, bytes | None] = {}  # the last write of a key wins, so only it is kept
        results: list[object] = []
        weight = 0
        for entry in entries:
            weight += len(entry.data)
            command = decode(entry.data)
            if isinstance(command, Refused):
                results.append(command)
            elif isinstance(command, Claim):
                results.append(self._claim(writes, command.value))
            else:
                writes.update(command)
                results.append(entry.index)
        before, self.seen = self.seen, entries[-1].index
        try:
            self._machines.stage(self, writes, weight)
        except BaseException:
            self.seen = before
            raise
        return results

    def _claim(self, writes: dict[bytes, bytes | None], value: bytes) -> bytes:
        for place in (writes, self._machines.staged(self)):
            if (standing := place.get(CLAIM_KEY)) is not None:
                return standing
        standing = self._machines.database.get(self.group, CLAIM_KEY)
        if standing is None:
            writes[CLAIM_KEY] = standing = value
        return standing

    def query(self, request: object) -> object:
        """Answer `Get`, `Scan` or `GetClaim` from what is committed in the file.

        Raises:
            TypeError: It is none of them.
        """
        self._machines.flush_own_batch()
        database = self._machines.database
        if isinstance(request, Get):
            return database.get(self.group, request.key)
        if isinstance(request, Scan):
            # The claim's key is empty; users' keys begin behind it.
            start = max(request.start, b"\0")
            block = database.scan(self.group, start, request.end, request.limit, request.max_bytes)
            return Page(block.items, block.complete)
        if isinstance(request, GetClaim):
            return database.get(self.group, CLAIM_KEY)
        raise TypeError(f"not a query of the key-value store: {request!r}")

    def snapshot(self) -> Iterable[bytes]:
        """The state as of the call, read later from the file as it was then."""
        self._machines.flush_own_batch()
        return SnapshotStream(self._machines.database.view(), self.group)

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace this group's rows, and where it stands, by a snapshot's; all or nothing, durably.

        Raises:
            SnapshotInvalid: The chunks are no snapshot, or not all of one.
        """
        self._machines.flush_own_batch()
        applied, blocks = read_stream(chunks)
        rows = ([(self.group, key, value) for key, value in block] for block in blocks)

        def all_rows() -> Iterator[Sequence[Row]]:
            yield from rows
            yield [(self.group, None, applied)]

        self._machines.database.replace(self.group, all_rows())
        self.applied_index = self.seen = applied

    def sync(self) -> None:
        self._machines.flush_own_batch()
        self._machines.database.sync()

    def discard(self) -> None:
        """Delete the group's rows: the group has left this host. Durable when it returns."""
        self._machines.flush_own_batch()
        self._machines.database.replace(self.group, iter(()))
        self.applied_index = self.seen = 0


__all__ = ["KeyValueMachine", "SqliteMachines", "Write"]
