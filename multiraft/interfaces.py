"""The seams: what the engine asks of the outside world, and what the outside may ask of it.

Everything that is not deterministic comes in through here (time, randomness, files, network,
worker threads), so that the simulator can own it. Nothing here imports trio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeVar, runtime_checkable

import attrs

from multiraft.messages import ConfState, Envelope, HardState, Hello, Lane, Run, Snapshot
from multiraft.types import Entry, GroupId, Index, MemberId, Term

UNKNOWN_GROUPS: Final = 1 << 63
"""Stands in a log, like a group, for those whose very names may have been lost. Never a group's id."""

T = TypeVar("T")

Random = Callable[[int], int]
"""`random(n)` returns an integer in [0, n), each equally likely."""


class Clock(Protocol):
    def now(self) -> float:
        """Seconds that never go back; only differences mean anything."""


class Executor(Protocol):
    """One worker that runs blocking jobs in the order they were submitted."""

    def submit(self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Run `job` elsewhere, then call `done(result, error)` in the host's own thread."""


# --- the state machine -----------------------------------------------------------------------


class StateMachine:
    """What a program replicates; subclass it. One instance per group and host.

    Methods are plain and synchronous. They run on the host's own thread unless `blocking` is
    true. An exception stops the group on this host, and no other group, except that one from
    `query` goes to the caller. A machine that shares a transaction with others (`Machines.batch`)
    must leave nothing of a call that raised.
    """

    applied_index: Index = 0
    """Where the state stands if it is durable: entries up to here are not applied again."""

    blocking: bool = False
    """True: it does I/O, so `apply`, `query` and `snapshot` run in a worker thread, in order."""

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        """Apply committed proposals in order and return one result for each."""
        raise NotImplementedError

    def query(self, request: object) -> object:
        """Answer a read from local state; the engine has ordered it after a barrier."""
        raise NotImplementedError

    def snapshot(self) -> Iterable[bytes]:
        """Return the state as of this call, in chunks.

        The state must be captured before this returns: the chunks are read later, in a worker
        thread, while `apply` goes on.
        """
        raise NotImplementedError

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by one that `snapshot` produced."""
        raise NotImplementedError

    def sync(self) -> None:
        """Make all that was applied durable. Called before the log is compacted past it."""

    def discard(self) -> None:
        """Delete what the machine keeps on disk, durably: its group has left this host.

        A later group of the same id must find nothing, or it would count as applied already.
        """


@runtime_checkable
class Machines(Protocol):
    """A factory of state machines that share a store: one commit for all applies of a pass."""

    def __call__(self, group_id: GroupId, /) -> StateMachine: ...

    def batch(self) -> AbstractContextManager[object]: ...


MachineFactory = Callable[[GroupId], StateMachine]


# --- the log ---------------------------------------------------------------------------------


class LogReader(Protocol):
    """The stable log of one group, as its core reads it. Indexes are inclusive at both ends."""

    def initial_state(self) -> tuple[HardState, ConfState]: ...

    def first_index(self) -> Index:
        """The first index whose entry is here: one above the compaction point."""

    def last_index(self) -> Index: ...

    def term(self, index: Index) -> Term:
        """The term at `index`, which may be the compaction point itself.

        Raises: LogCompacted below it, LogUnavailable above the last index.
        """

    def runs(self, first: Index, last: Index, max_bytes: int) -> list[Run]:
        """Entries from `first` to `last` as whole runs: as many as weigh at most `max_bytes`, or fewer.

        Where the first run alone is too heavy it is cut; at least one entry is returned.
        Raises: LogCompacted, LogUnavailable.
        """

    def changed_at(self) -> Index:
        """An index above which no entry is a configuration change. It may be higher than it has to be.

        Known without reading the log, so that standing for election need not.
        """

    def snapshot(self) -> Snapshot:
        """The snapshot to bring a follower up with.

        Raises: SnapshotUnavailable when there is none just now.
        """


class WriteBatch(Protocol):
    """The writes of one scheduler pass, for any number of groups; atomic on disk.

    Order within one group is kept. Nothing is visible to readers until the batch is done.
    """

    def create(self, group: GroupId, meta: bytes, state: HardState, snapshot: Snapshot) -> None:
        """A new group whose log starts after `snapshot` (index and term of its dummy entry)."""

    def meta(self, group: GroupId, meta: bytes) -> None:
        """Replace what the engine remembers of the group; opaque here."""

    def append(self, group: GroupId, runs: Sequence[Run]) -> None:
        """Entries, replacing everything from the first one's index on."""

    def hard_state(self, group: GroupId, state: HardState) -> None: ...

    def snapshot(self, group: GroupId, snapshot: Snapshot) -> None:
        """The log restarts after a snapshot that was received; what it held is gone."""

    def compact(self, group: GroupId, snapshot: Snapshot, index: Index) -> None:
        """Remember `snapshot`, a file of which is durable, and drop entries up to `index`.

        `index` is at most the snapshot's.
        """

    def remove(self, group: GroupId) -> None: ...

    def __bool__(self) -> bool: ...


class GroupLog(LogReader, Protocol):
    """One group's stable state."""

    @property
    def group(self) -> GroupId: ...
    @property
    def meta(self) -> bytes: ...
    @property
    def damage(self) -> str:
        """What the log here lost of the group; empty: nothing. Such a group must not take part."""

    @property
    def hard_state(self) -> HardState: ...
    @property
    def snapshot_point(self) -> Snapshot:
        """The newest snapshot written by `create`, `snapshot` or `compact`."""


class Collection(Protocol):
    """What a step of the log's collector did."""

    @property
    def more(self) -> bool:
        """Another step can be done at once."""

    @property
    def laggards(self) -> Sequence[tuple[GroupId, int]]:
        """Groups, with bytes of entries, whose snapshot would free the oldest segment."""


class LogStore(Protocol):
    """One write-ahead log for all groups of a host."""

    def groups(self) -> Mapping[GroupId, GroupLog]: ...

    def batch(self) -> WriteBatch: ...

    def submit(self, batch: WriteBatch, done: Callable[[], None]) -> None:
        """Write and sync `batch` in the writer's thread, then call `done` in the host's thread.

        Batches become durable in the order of submission; several may share one sync. After a
        failed write or sync no `done` is ever called again; the failure callback is, once.
        """

    def collect(self) -> Collection:
        """A bounded step of deleting segments that no group needs.

        Raises: CorruptRecord, StorageFailed.
        """

    def close(self) -> None: ...


# --- snapshot files ---------------------------------------------------------------------------


@attrs.frozen
class SnapshotOffer:
    """The head of a snapshot transfer: whose it is, where it stands, how large the file is."""

    group: GroupId
    generation: int
    sender: MemberId
    to: MemberId
    term: Term
    snapshot: Snapshot
    file_bytes: int
    digest: bytes
    """Of the whole file, so that a transfer resumes only the very same file."""


@attrs.frozen
class SnapshotFile:
    """A snapshot file that is whole and on disk."""

    path: str
    group: GroupId
    generation: int
    snapshot: Snapshot
    file_bytes: int
    digest: bytes


class SnapshotSink(Protocol):
    """Where a received snapshot goes. Methods may block and are called in a worker thread."""

    offset: int
    """Bytes already here from an earlier try; the sender goes on from there."""
    file: SnapshotFile | None
    """The file, once `finish` has succeeded."""

    def write(self, chunk: bytes) -> None: ...

    def finish(self) -> None:
        """All bytes are here: verify and make durable. Raises: SnapshotInvalid."""

    def abort(self) -> None:
        """The connection broke. What was written may be kept for a resume."""


class SnapshotStore(Protocol):
    """The snapshot files of a host. All of it may block: call it in a worker."""

    def files(self, group: GroupId) -> list[SnapshotFile]:
        """Whole files of a group, newest first."""

    def write(
        self, group: GroupId, generation: int, snapshot: Snapshot, chunks: Iterable[bytes]
    ) -> SnapshotFile:
        """Write a file under a temporary name, sync it, give it its name, sync the folder."""

    def read(self, file: SnapshotFile) -> Iterator[bytes]:
        """The state machine's chunks. Raises: SnapshotInvalid, at the first damaged chunk."""

    def raw(self, file: SnapshotFile, offset: int) -> Iterator[bytes]:
        """The file's bytes from `offset` on, for a transfer."""

    def sink(self, offer: SnapshotOffer) -> SnapshotSink: ...

    def prune(self, group: GroupId, keep: int, needed: Iterable[str] = ()) -> None:
        """Delete all but the newest file and `keep` older ones, and those whose paths are `needed`."""

    def remove(self, group: GroupId) -> None:
        """Delete all files of a group."""


# --- files -----------------------------------------------------------------------------------


class File(Protocol):
    """An open file. Offsets and sizes are bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`."""

    def allocate(self, size: int) -> None:
        """Make the file at least `size` bytes long, with its blocks reserved, reading as zero."""

    def truncate(self, size: int) -> None: ...

    def size(self) -> int: ...

    def sync(self) -> None:
        """Data, and what is needed to read it back, are on disk (fdatasync)."""

    def close(self) -> None: ...


class Files(Protocol):
    """The only operating system calls of the storage layer. Paths are absolute strings."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open for reading and writing. Raises: FileNotFoundError unless `create`."""

    def exists(self, path: str) -> bool: ...

    def list(self, folder: str) -> list[str]:
        """Names in `folder`, sorted."""

    def make_folder(self, path: str) -> None:
        """With parents; no error if it is there."""

    def rename(self, source: str, target: str) -> None:
        """Atomically, replacing `target`."""

    def remove(self, path: str) -> None: ...

    def sync_folder(self, path: str) -> None:
        """Names made, renamed and removed in `path` are on disk."""

    def lock(self, path: str) -> Callable[[], None]:
        """Take an exclusive lock on the file `path`, made if missing; call the result to let go.

        Raises: DataDirInUse when it is held, by this process or another.
        """


# --- the network -----------------------------------------------------------------------------


class Receiver(Protocol):
    """What the transport calls, in the host's own thread. None of it blocks but `wait_room`."""

    def receive(self, peer: Hello, lane: Lane, items: list[Envelope]) -> None:
        """A frame arrived. It is queued here; the next pass handles it."""

    async def wait_room(self) -> None:
        """Return when the inbox has room; called after each frame, so that the stream's flow
        control pushes back on a sender that is faster than we are."""

    def peer_up(self, peer: Hello, lane: Lane) -> None:
        """Our stream to `peer` is open."""

    def peer_down(self, address: str, lane: Lane, reason: str) -> None:
        """Our stream to `address` broke or could not be opened; what was queued is gone."""

    def snapshot_sink(self, peer: Hello, offer: SnapshotOffer) -> SnapshotSink:
        """Raises: MultiraftError when this host will not take the snapshot (unknown group, cap)."""

    def snapshot_received(self, peer: Hello, offer: SnapshotOffer, sink: SnapshotSink) -> None:
        """`sink.finish` succeeded."""


class Transport(Protocol):
    """Links to other hosts, by address. Nothing here blocks or raises for a peer's sake."""

    def connect(self, address: str) -> None:
        """Start dialing, unless the lanes to `address` are open or being dialed."""

    def send(self, address: str, lane: Lane, items: Sequence[Envelope]) -> bool:
        """Queue one frame. False: it was dropped, as the lane is not open or its outbox is full."""

    def send_snapshot(
        self,
        address: str,
        offer: SnapshotOffer,
        chunks: Callable[[int], Iterator[bytes]],
        done: Callable[[BaseException | None], None],
    ) -> None:
        """Stream a snapshot file in a request of its own.

        `chunks(offset)` reads the file from `offset` on, in a worker thread. `done` is called
        once in the host's thread: None when the receiver has verified the file and has it on
        disk. Transfers beyond the cap wait their turn.
        """

    def release(self, address: str) -> None:
        """No group has a member there any more: close the link."""
