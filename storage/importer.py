"""Snapshot files from anywhere, taken over as files of a new group. All of it blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from multiraft.errors import SnapshotInvalid
from multiraft.interfaces import Files, SnapshotFile
from multiraft.messages import Snapshot
from multiraft.storage.files import storage_error
from multiraft.storage.snapshots import SnapshotFiles, open_snapshot_file, read_chunks

__all__ = ["Importer"]


class Importer:
    """Copies snapshot files into a host's store."""

    def __init__(self, files: Files, store: SnapshotFiles) -> None:
        self._files = files
        self._store = store

    def write(
        self, path: str, group: int, generation: int, point: Callable[[Snapshot], Snapshot]
    ) -> SnapshotFile:
        """Copy the state in `path` to a file of `group`, which is durable when this returns.

        Every byte of the source is verified, the last one before the copy gets its name. `point` says
        what the copy's head tells in place of the source's. The source may even be a file of that
        name left by a former group: it is read to its end before it is replaced.

        Raises:
            SnapshotInvalid: The source is missing, does not read, or is damaged; nothing is left.
            StorageFailed, StorageFull: The copy cannot be written.
        """
        try:
            source = open_snapshot_file(self._files, path)
        except OSError as error:
            raise SnapshotInvalid(f"{path}: {error}") from error
        snapshot = point(source.snapshot)
        try:
            return self._store.write(group, generation, snapshot, self._chunks(path))
        except OSError as error:
            raise storage_error(error, f"writing a snapshot of group {group}") from error

    def _chunks(self, path: str) -> Iterator[bytes]:
        try:
            yield from read_chunks(self._files, path)
        except OSError as error:
            raise SnapshotInvalid(f"{path}: {error}") from error
