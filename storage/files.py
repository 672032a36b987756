"""The operating system's files: the only module of the storage layer that calls the OS."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable

from multiraft.errors import DataDirInUse, StorageFailed, StorageFull

__all__ = ["OsFile", "OsFiles", "storage_error"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

# flock(2) already refuses a second open file of this process, but some network file systems
# turn it into record locks, which belong to the process: hence a list of our own.
_held: set[str] = set()
_held_guard = threading.Lock()


def storage_error(error: BaseException, doing: str) -> StorageFailed:
    """Translate what the OS said; the one place where `OSError` becomes ours.

    `StorageFull` for a full disk or quota, `StorageFailed` for everything else.
    """
    if isinstance(error, StorageFailed):
        return error
    kind = StorageFull if isinstance(error, OSError) and error.errno in _FULL else StorageFailed
    translated = kind(f"{doing}: {error}")
    translated.__cause__ = error
    return translated


class OsFile:
    """An open file; positional reads and writes, so that it has no state but the descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._fd, size, offset)
        if len(data) == size or not data:
            return data
        pieces = [data]
        missing = size - len(data)
        while missing:  # pread stops at 2 GiB and at signals; only an empty answer means the end
            data = os.pread(self._fd, missing, offset + size - missing)
            if not data:
                break
            pieces.append(data)
            missing -= len(data)
        return b"".join(pieces)

    def write(self, offset: int, data: bytes) -> None:
        done = os.pwrite(self._fd, data, offset)
        while done < len(data):
            done += os.pwrite(self._fd, memoryview(data)[done:], offset + done)

    def allocate(self, size: int) -> None:
        if size > os.fstat(self._fd).st_size:
            os.posix_fallocate(self._fd, 0, size)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class OsFiles:
    """`Files` on the real file system."""

    def open(self, path: str, *, create: bool = False) -> OsFile:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return OsFile(os.open(path, flags, 0o644))

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def list(self, folder: str) -> list[str]:
        return sorted(os.listdir(folder))

    def make_folder(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)

    def remove(self, path: str) -> None:
        """Remove a file, or a folder that is empty."""
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.rmdir(path)
        else:
            os.unlink(path)

    def sync_folder(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, path: str) -> Callable[[], None]:
        path = os.path.realpath(path)
        with _held_guard:
            if path in _held:
                raise DataDirInUse(f"{path} is held by another open host of this process")
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise DataDirInUse(f"{path} is held by another process") from None
            except BaseException:
                os.close(fd)
                raise
            _held.add(path)

        held = True

        def unlock() -> None:
            nonlocal held
            with _held_guard:
                if held:
                    held = False
                    _held.discard(path)
                    os.close(fd)

        return unlock
