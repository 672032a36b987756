"""The snapshot files of a host: `<data_dir>/snapshots/<group>/<index>-<term>.snap`.

Those received from another host are called `<index>-<term>-<start of the digest>.snap`.

Writing and receiving both end the same way: the bytes are synced under a temporary name, then
renamed, then the folder is synced. A file with the final name is therefore whole, unless the disk
damaged it later; reading verifies every byte before it says that it is done.

All of it blocks and belongs in a worker thread. `OSError` comes through as it is: whether the
disk's trouble is the host's or one group's is for the engine to decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Final

from multiraft.errors import SnapshotInvalid
from multiraft.interfaces import File, Files, SnapshotFile, SnapshotOffer
from multiraft.messages import Snapshot
from multiraft.storage.snapshot_format import (
    SnapshotHead,
    SnapshotReader,
    SnapshotWriter,
    read_snapshot_head,
)

__all__ = ["FileSink", "SnapshotFiles", "open_snapshot_file"]

_SUFFIX: Final = ".snap"
_WRITING: Final = ".tmp"
_RECEIVING: Final = ".part"
_RAW_BYTES: Final = 256 << 10


def snapshot_name(snapshot: Snapshot) -> str:
    """Names sort like (index, term)."""
    return f"{snapshot.index:020d}-{snapshot.term:020d}{_SUFFIX}"


def received_name(snapshot: Snapshot, digest: bytes) -> str:
    """Names of received files. Two hosts may write the same state in different bytes, so one that
    came from elsewhere must not replace our own, which others may be told of by its digest."""
    return f"{snapshot_name(snapshot).removesuffix(_SUFFIX)}-{digest.hex()[:16]}{_SUFFIX}"


def open_snapshot_file(files: Files, path: str) -> SnapshotFile:
    """Look at the head and the footer of a snapshot file; any path, any group.

    Raises: SnapshotInvalid, naming the file, when these are not those of a whole snapshot. The
        chunks are verified when they are read.
    """
    try:
        with closing(files.open(path)) as file:
            return _described(path, read_snapshot_head(file))
    except FileNotFoundError:
        raise SnapshotInvalid(f"{path}: no such file") from None
    except ValueError as error:
        raise SnapshotInvalid(f"{path}: {error}") from None


class SnapshotFiles:
    """`SnapshotStore` on `Files`. Its methods may run in several threads, for different groups."""

    def __init__(self, files: Files, data_dir: str) -> None:
        """Make the folder if it is missing, and remove what a stop left unfinished."""
        self._files = files
        self._root = f"{data_dir}/snapshots"
        if not files.exists(self._root):
            files.make_folder(self._root)
            files.sync_folder(data_dir)
        for group in files.list(self._root):
            folder = f"{self._root}/{group}"
            for name in files.list(folder):
                if name.endswith((_WRITING, _RECEIVING)):
                    files.remove(f"{folder}/{name}")

    def files(self, group: int) -> list[SnapshotFile]:
        """Whole files of a group, newest first; damaged ones are left out."""
        found = []
        for name in self._names(group):
            try:
                file = open_snapshot_file(self._files, f"{self._folder(group)}/{name}")
            except SnapshotInvalid:
                continue
            expected = (snapshot_name(file.snapshot), received_name(file.snapshot, file.digest))
            if file.group == group and name in expected:
                found.append(file)
        return found

    def write(self, group: int, generation: int, snapshot: Snapshot, chunks: Iterable[bytes]) -> SnapshotFile:
        """Write `chunks` to a new file and return it when it is durable.

        Memory: about 1 MiB, or one chunk. Whatever `chunks` raises comes through, and the
        unfinished file is removed.
        """
        folder = self._make_folder(group)
        path = f"{folder}/{snapshot_name(snapshot)}"
        temporary = path + _WRITING
        try:
            with closing(self._files.open(temporary, create=True)) as file:
                file.truncate(0)
                writer = SnapshotWriter(file, SnapshotHead(group, generation, snapshot))
                for chunk in chunks:
                    writer.chunk(chunk)
                head = writer.finish()
                file.sync()
        except BaseException:
            self._discard(temporary)
            raise
        self._files.rename(temporary, path)
        self._files.sync_folder(folder)
        return _described(path, head)

    def read(self, file: SnapshotFile) -> Iterator[bytes]:
        """The chunks as they were written, but for empty ones and splits at 64 MiB.

        Raises: SnapshotInvalid, naming the file and the reason: at the first chunk that is
            damaged, or at the end when the file as a whole is not what it was. So nothing may
            be relied on before the last chunk has come.
        """
        return read_chunks(self._files, file.path)

    def raw(self, file: SnapshotFile, offset: int) -> Iterator[bytes]:
        """The file's bytes from `offset` on, unverified, in pieces of 256 KiB."""
        with closing(self._files.open(file.path)) as opened:
            while offset < file.file_bytes:
                data = opened.read(offset, min(_RAW_BYTES, file.file_bytes - offset))
                if not data:
                    raise SnapshotInvalid(f"{file.path}: it ends at byte {offset} of {file.file_bytes}")
                yield data
                offset += len(data)

    def sink(self, offer: SnapshotOffer) -> FileSink:
        """Where the bytes of `offer` go. What an earlier try left of the same file is kept."""
        return FileSink(self._files, self._make_folder(offer.group), offer)

    def prune(self, group: int, keep: int, needed: Iterable[str] = ()) -> None:
        """Delete all but the newest file and `keep` older ones, and those whose paths are `needed`."""
        folder = self._folder(group)
        kept = set(needed)
        old = [name for name in self._names(group)[1 + keep :] if f"{folder}/{name}" not in kept]
        for name in old:
            self._files.remove(f"{folder}/{name}")
        if old:
            self._files.sync_folder(folder)

    def remove(self, group: int) -> None:
        """Delete all files of a group."""
        folder = self._folder(group)
        if self._files.exists(folder):
            for name in self._files.list(folder):
                self._files.remove(f"{folder}/{name}")
            self._files.remove(folder)
            self._files.sync_folder(self._root)

    # --- inside -----------------------------------------------------------------------------

    def _folder(self, group: int) -> str:
        return f"{self._root}/{group}"

    def _make_folder(self, group: int) -> str:
        folder = self._folder(group)
        if not self._files.exists(folder):
            self._files.make_folder(folder)
            self._files.sync_folder(self._root)
        return folder

    def _names(self, group: int) -> list[str]:
        """Newest first."""
        folder = self._folder(group)
        if not self._files.exists(folder):
            return []
        return [name for name in reversed(self._files.list(folder)) if name.endswith(_SUFFIX)]

    def _discard(self, path: str) -> None:
        if self._files.exists(path):
            self._files.remove(path)


class FileSink:
    """`SnapshotSink`: a file in the making. Bytes are written as they come and verified at the end.

    Attributes:
        offset: Bytes that are here.
        file: The file, once `finish` has succeeded.
    """

    def __init__(self, files: Files, folder: str, offer: SnapshotOffer) -> None:
        self.file: SnapshotFile | None = None
        self._files = files
        self._folder = folder
        self._offer = offer
        # The digest in the name lets a transfer resume only the very same file.
        self._path = f"{folder}/{snapshot_name(offer.snapshot)}.{offer.digest.hex()[:16]}{_RECEIVING}"
        self._opened: File | None = files.open(self._path, create=True)
        self.offset = self._opened.size()
        if self.offset > offer.file_bytes:
            self._opened.truncate(0)
            self.offset = 0

    def write(self, chunk: bytes) -> None:
        """Raises: SnapshotInvalid when more bytes come than were offered."""
        assert self._opened is not None
        if self.offset + len(chunk) > self._offer.file_bytes:
            raise SnapshotInvalid(f"{self._path}: more than the {self._offer.file_bytes} bytes offered")
        self._opened.write(self.offset, chunk)
        self.offset += len(chunk)

    def finish(self) -> None:
        """Verify the whole file, sync it and give it its name.

        Raises: SnapshotInvalid; then nothing of it is kept.
        """
        assert self._opened is not None
        try:
            head = self._verify(self._opened)
        except ValueError as error:
            self.abort()
            self._files.remove(self._path)
            raise SnapshotInvalid(f"{self._path}: {error}") from None
        try:
            self._opened.sync()
        except OSError:
            # After a failed sync the system may count pages as written that are not: a second
            # one would succeed and prove nothing. So nothing of this may be gone on with.
            self.abort()
            self._files.remove(self._path)
            raise
        self.abort()
        path = f"{self._folder}/{received_name(self._offer.snapshot, head.digest)}"
        self._files.rename(self._path, path)
        self._files.sync_folder(self._folder)
        self.file = _described(path, head)

    def abort(self) -> None:
        """Close the file; what was written stays for a resume, until the host is started again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _verify(self, file: File) -> SnapshotHead:
        offer = self._offer
        if self.offset != offer.file_bytes:
            raise ValueError(f"{self.offset} bytes came instead of {offer.file_bytes}")
        reader = SnapshotReader(file)
        for _ in reader:
            pass
        head = reader.head
        if head.digest != offer.digest:
            raise ValueError("it is not the file that was offered")
        if (head.group, head.generation) != (offer.group, offer.generation):
            raise ValueError(f"it is of group {head.group}, generation {head.generation}")
        if (head.snapshot.index, head.snapshot.term) != (offer.snapshot.index, offer.snapshot.term):
            raise ValueError(f"it stands at index {head.snapshot.index}, term {head.snapshot.term}")
        return head


def read_chunks(files: Files, path: str) -> Iterator[bytes]:
    """Raises: SnapshotInvalid, at the latest after the last chunk."""
    try:
        with closing(files.open(path)) as file:
            yield from SnapshotReader(file)
    except FileNotFoundError:
        raise SnapshotInvalid(f"{path}: no such file") from None
    except ValueError as error:
        raise SnapshotInvalid(f"{path}: {error}") from None


def _described(path: str, head: SnapshotHead) -> SnapshotFile:
    return SnapshotFile(path, head.group, head.generation, head.snapshot, head.file_bytes, head.digest)
