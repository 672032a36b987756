"""`Files` in memory, with a disk that forgets what was not synced, and with faults.

What a crash does here is the worst that POSIX allows, so that nothing relies on one file system's
kindness:

- Of each unsynced write any set of its pieces survives; pieces are cut at arbitrary bytes, not at
  sectors. An unsynced change of size may be lost or kept. Syncing a file makes its data durable,
  not its name.
- Of the unsynced names (made, renamed, removed) of each folder any subset survives, in any
  combination; a rename happens as a whole or not at all. Folders themselves are durable at once.

A write never damages bytes outside its range (as SQLite's "power-safe overwrite").
"""

from __future__ import annotations

import errno
import posixpath
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import attrs

from multiraft.errors import DataDirInUse
from multiraft.interfaces import Random

__all__ = ["Fault", "MemoryFile", "MemoryFiles"]

Fault = Callable[[str, str], OSError | None]
"""Asked before every operation with its name and path; an error it returns is raised. The
operation then has no effect, with two exceptions. Of a write the first half is there. A failed
sync leaves what was written readable, but takes it for clean, as Linux does: no later sync makes it
durable (https://lwn.net/Articles/752063/)."""

_PIECES_MAX = 6


class _Node:
    """A file's bytes, apart from its names. Past the end of `data` it reads as zero up to `size`."""

    __slots__ = ("data", "durable", "durable_size", "pending", "size")

    def __init__(self) -> None:
        self.data = bytearray()
        self.size = 0
        self.durable = bytearray()
        self.durable_size = 0
        # Since the last sync, in order: (offset, bytes) for writes, (size, None) for sizes.
        self.pending: list[tuple[int, bytes | None]] = []

    def read(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        found = bytes(self.data[offset:end])
        return found + bytes(end - offset - len(found))

    def write(self, offset: int, data: bytes) -> None:
        self.size = _put(self.data, self.size, offset, data)
        self.pending.append((offset, data))

    def resize(self, size: int) -> None:
        del self.data[size:]
        self.size = size
        self.pending.append((size, None))

    def sync(self) -> None:
        # Applied rather than copied: a sync costs what was written, not the whole file.
        for offset, data in self.pending:
            self._keep(offset, data)
        self.pending.clear()

    def after_crash(self, random: Random) -> _Node:
        for offset, data in self.pending:
            if data is None:
                if random(2):
                    self._keep(offset, None)
                continue
            for begin, end in _pieces(len(data), random):
                if random(2):
                    self._keep(offset + begin, data[begin:end])
        node = _Node()
        node.data, node.size = bytearray(self.durable), self.durable_size
        node.durable, node.durable_size = self.durable, self.durable_size
        return node

    def _keep(self, offset: int, data: bytes | None) -> None:
        if data is None:
            del self.durable[offset:]
            self.durable_size = offset
        else:
            self.durable_size = _put(self.durable, self.durable_size, offset, data)


def _put(target: bytearray, size: int, offset: int, data: bytes) -> int:
    if len(target) < offset:
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data
    return max(size, offset + len(data))


def _pieces(size: int, random: Random) -> list[tuple[int, int]]:
    cuts = sorted({random(size + 1) for _ in range(random(_PIECES_MAX))} | {0, size})
    return list(pairwise(cuts))


@attrs.define
class _NameChange:
    """`target` now names `node` (None: nothing), and `source`, if any, names nothing."""

    target: str
    node: _Node | None
    source: str | None = None


class MemoryFile:
    """An open file."""

    def __init__(self, files: MemoryFiles, path: str, node: _Node) -> None:
        self._files = files
        self._path = path
        self._node = node
        self._open = True
        files.open_files += 1
        self._boot = files.boot

    def read(self, offset: int, size: int) -> bytes:
        self._begin("read")
        return self._node.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        try:
            self._begin("write")
        except OSError:
            self._node.write(offset, bytes(data[: len(data) // 2]))
            raise
        self._node.write(offset, bytes(data))

    def allocate(self, size: int) -> None:
        self._begin("allocate")
        if size > self._node.size:
            self._node.resize(size)

    def truncate(self, size: int) -> None:
        self._begin("truncate")
        self._node.resize(size)

    def size(self) -> int:
        self._begin("size")
        return self._node.size

    def sync(self) -> None:
        try:
            self._begin("sync")
        except OSError:
            self._node.pending.clear()
            raise
        self._node.sync()

    def close(self) -> None:
        assert self._open, "a file is closed once"
        self._open = False
        if self._boot == self._files.boot:
            self._files.open_files -= 1

    def _begin(self, operation: str) -> None:
        assert self._open, "the file is open"
        self._files.begin(operation, self._path)


class MemoryFiles:
    """`Files` in memory. Not for use from several threads.

    Attributes:
        operations: How often each operation was begun, by name: open, read, write, allocate,
            truncate, size, sync, exists, list, make_folder, rename, remove, sync_folder, lock.
        fault: Decides which operations fail. Default: none.
        open_files: Files that were opened and not closed since the last crash.
        boot: Number of crashes so far.
    """

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()
        self.fault: Fault | None = None
        self.open_files = 0
        self.boot = 0
        self._names: dict[str, _Node] = {}
        self._durable_names: dict[str, _Node] = {}
        self._pending: list[_NameChange] = []
        self._folders = {"/"}
        self._locks: set[str] = set()

    # --- Files ------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> MemoryFile:
        self.begin("open", path)
        node = self._names.get(path)
        if node is None:
            self._require_folder(posixpath.dirname(path))
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            node = _Node()
            self._change(_NameChange(path, node))
        return MemoryFile(self, path, node)

    def exists(self, path: str) -> bool:
        self.begin("exists", path)
        return path in self._names or path in self._folders

    def list(self, folder: str) -> list[str]:
        self.begin("list", folder)
        self._require_folder(folder)
        return sorted(posixpath.basename(path) for path in self._inside(folder))

    def make_folder(self, path: str) -> None:
        self.begin("make_folder", path)
        while path not in self._folders:
            self._folders.add(path)
            path = posixpath.dirname(path)

    def rename(self, source: str, target: str) -> None:
        self.begin("rename", source)
        if source not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", source)
        self._require_folder(posixpath.dirname(target))
        self._change(_NameChange(target, self._names[source], source))

    def remove(self, path: str) -> None:
        """Remove a file, or a folder that is empty."""
        self.begin("remove", path)
        if path in self._folders:
            if self._inside(path):
                raise OSError(errno.ENOTEMPTY, "folder is not empty", path)
            self._folders.remove(path)
        elif path in self._names:
            self._change(_NameChange(path, None))
        else:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)

    def sync_folder(self, path: str) -> None:
        self.begin("sync_folder", path)
        self._require_folder(path)
        waiting = []
        for change in self._pending:
            if posixpath.dirname(change.target) == path:
                _rename(self._durable_names, change)
            else:
                waiting.append(change)
        self._pending = waiting

    def lock(self, path: str) -> Callable[[], None]:
        self.begin("lock", path)
        if path in self._locks:
            raise DataDirInUse(f"{path} is held by another open host")
        self._locks.add(path)
        boot = self.boot
        held = True

        def unlock() -> None:
            nonlocal held
            if held and boot == self.boot:  # a crash let go of it already
                self._locks.discard(path)
            held = False

        return unlock

    # --- what tests do ----------------------------------------------------------------------

    def crash(self, random: Random) -> None:
        """Lose, wholly or in part, what was not synced; as if the power had failed.

        What is done through files that were open before does not reach this disk any more.
        """
        for change in self._pending:
            if random(2):
                _rename(self._durable_names, change)
        self._pending.clear()
        fresh: dict[int, _Node] = {}
        for path, node in self._durable_names.items():
            if id(node) not in fresh:
                fresh[id(node)] = node.after_crash(random)
            self._durable_names[path] = fresh[id(node)]
        self._names = dict(self._durable_names)
        self.process_died()

    def process_died(self) -> None:
        """The process ends, the system goes on: nothing is lost, but nothing was synced either."""
        self._locks.clear()
        self.boot += 1
        self.open_files = 0

    def copy(self) -> MemoryFiles:
        """Another disk with the same content, unsynced parts included, and no locks or faults."""
        twin = MemoryFiles()
        twins: dict[int, _Node] = {}

        def twin_of(node: _Node) -> _Node:
            if id(node) not in twins:
                made = twins[id(node)] = _Node()
                made.data, made.size = bytearray(node.data), node.size
                made.durable, made.durable_size = bytearray(node.durable), node.durable_size
                made.pending = list(node.pending)
            return twins[id(node)]

        twin._names = {path: twin_of(node) for path, node in self._names.items()}
        twin._durable_names = {path: twin_of(node) for path, node in self._durable_names.items()}
        twin._pending = [
            _NameChange(c.target, None if c.node is None else twin_of(c.node), c.source)
            for c in self._pending
        ]
        twin._folders = set(self._folders)
        return twin

    def read_file(self, path: str) -> bytes:
        """All bytes of a file, without counting or faults."""
        node = self._names[path]
        return node.read(0, node.size)

    def damage(self, path: str, offset: int, data: bytes) -> None:
        """Put other bytes on the disk, durably, as failing hardware would."""
        node = self._names[path]
        node.write(offset, data)
        node.sync()

    def fail_nth(self, number: int, error: OSError) -> None:
        """Let the `number`-th operation from now on fail, counted from 1."""
        left = number

        def fault(_: str, __: str) -> OSError | None:
            nonlocal left
            left -= 1
            return error if left == 0 else None

        self.fault = fault

    def fail_matching(self, operation: str, path_part: str, error: OSError) -> None:
        """Let every `operation` on a path that contains `path_part` fail."""
        self.fault = lambda op, path: error if op == operation and path_part in path else None

    # --- inside -----------------------------------------------------------------------------

    def begin(self, operation: str, path: str) -> None:
        self.operations[operation] += 1
        if self.fault is not None:
            error = self.fault(operation, path)
            if error is not None:
                raise error

    def _change(self, change: _NameChange) -> None:
        _rename(self._names, change)
        self._pending.append(change)

    def _inside(self, folder: str) -> set[str]:
        paths = (*self._names, *self._folders)
        return {path for path in paths if path != "/" and posixpath.dirname(path) == folder}

    def _require_folder(self, path: str) -> None:
        if path not in self._folders:
            raise FileNotFoundError(errno.ENOENT, "no such folder", path)


def _rename(names: dict[str, _Node], change: _NameChange) -> None:
    if change.source is not None and names.get(change.source) is change.node:
        del names[change.source]
    if change.node is None:
        names.pop(change.target, None)
    else:
        names[change.target] = change.node
