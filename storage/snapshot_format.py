"""Every byte of a snapshot file. docs/wal-format.md has the tables.

Preamble and head, then chunks, then a footer. The footer holds a digest of everything before it,
so that two files with the same digest are the same file; each chunk has a checksum besides, so
that damage is found before a damaged chunk is handed on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final
from zlib import crc32

import attrs
import cbor2

from multiraft.interfaces import File
from multiraft.messages import Snapshot
from multiraft.storage.format import encode_snapshot, snapshot_of

SNAPSHOT_MAGIC: Final = b"mraftsnp"
FOOTER_MAGIC: Final = b"mraftend"
SNAPSHOT_VERSION: Final = 1
CHUNK_BYTES_MAX: Final = 64 << 20
HEAD_BYTES_MAX: Final = 64 << 20
DIGEST_BYTES: Final = 32
_PREAMBLE: Final = struct.Struct("<8sIII")
"""Magic, version, length of the head, checksum of the head (its own fields but this one included)."""
_CHUNK: Final = struct.Struct("<II")
"""Length (never 0), checksum."""
_FOOTER: Final = struct.Struct("<IQQ32s8s")
"""0 where a chunk's length would stand, number of chunks, their bytes, digest, magic."""
_CRC: Final = struct.Struct("<I")
FOOTER_BYTES: Final = _FOOTER.size + _CRC.size
_WRITE_BYTES: Final = 1 << 20
_PREAMBLE_FIELDS: Final = 16


@attrs.frozen
class SnapshotHead:
    """What a file says about itself. The last two are known once it is whole."""

    group: int
    generation: int
    snapshot: Snapshot
    file_bytes: int = 0
    digest: bytes = b""


class SnapshotWriter:
    """Appends to an empty file; syncing and renaming are the caller's."""

    def __init__(self, file: File, head: SnapshotHead) -> None:
        self._file = file
        self._head = head
        self._digest = blake2b(digest_size=DIGEST_BYTES)
        self._buffers: list[bytes] = []
        self._buffered = 0
        self._offset = 0
        self._chunks = 0
        self._chunk_bytes = 0
        snapshot = cbor2.loads(encode_snapshot(head.snapshot))
        body = cbor2.dumps([head.group, head.generation, snapshot])
        fields = struct.pack("<8sII", SNAPSHOT_MAGIC, SNAPSHOT_VERSION, len(body))
        self._add(fields + _CRC.pack(crc32(body, crc32(fields))) + body)

    def chunk(self, data: bytes) -> None:
        """Empty chunks are left out; one above 64 MiB is split."""
        for begin in range(0, len(data), CHUNK_BYTES_MAX):
            piece = bytes(data[begin : begin + CHUNK_BYTES_MAX])
            self._add(_CHUNK.pack(len(piece), crc32(piece)))
            self._add(piece)
            self._chunks += 1
            self._chunk_bytes += len(piece)

    def finish(self) -> SnapshotHead:
        self._flush()
        digest = self._digest.digest()
        footer = _FOOTER.pack(0, self._chunks, self._chunk_bytes, digest, FOOTER_MAGIC)
        self._file.write(self._offset, footer + _CRC.pack(crc32(footer)))
        return attrs.evolve(self._head, file_bytes=self._offset + FOOTER_BYTES, digest=digest)

    def _add(self, data: bytes) -> None:
        self._buffers.append(data)
        self._buffered += len(data)
        if self._buffered >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._buffers)
        self._buffers = []
        self._buffered = 0
        self._digest.update(data)
        self._file.write(self._offset, data)
        self._offset += len(data)


class SnapshotReader:
    """Yields the chunks, each verified, and raises ValueError where anything is not as written."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.head = read_snapshot_head(file)
        self._end = self.head.file_bytes - FOOTER_BYTES

    def __iter__(self) -> Iterator[bytes]:
        digest = blake2b(digest_size=DIGEST_BYTES)
        preamble = self._file.read(0, _PREAMBLE.size)
        offset = _PREAMBLE.size + _PREAMBLE.unpack(preamble)[2]
        digest.update(self._file.read(0, offset))
        count = total = 0
        while offset < self._end:
            frame = self._file.read(offset, _CHUNK.size)
            length, crc = _CHUNK.unpack(frame)
            if not 0 < length <= min(CHUNK_BYTES_MAX, self._end - offset - _CHUNK.size):
                raise ValueError(f"the chunk at byte {offset} is damaged (length {length})")
            data = self._file.read(offset + _CHUNK.size, length)
            if len(data) != length or crc32(data) != crc:
                raise ValueError(f"the chunk at byte {offset} is damaged")
            digest.update(frame)
            digest.update(data)
            count += 1
            total += length
            offset += _CHUNK.size + length
            yield data
        if digest.digest() != self.head.digest:
            raise ValueError("the digest does not match")
        if (count, total) != _footer(self._file, self.head.file_bytes)[:2]:
            raise ValueError("chunks are missing")


def read_snapshot_head(file: File) -> SnapshotHead:
    """Head and footer, without the chunks. Raises: ValueError."""
    size = file.size()
    if size < _PREAMBLE.size + FOOTER_BYTES:
        raise ValueError("the file is cut short")
    preamble = file.read(0, _PREAMBLE.size)
    magic, version, length, crc = _PREAMBLE.unpack(preamble)
    if magic != SNAPSHOT_MAGIC:
        raise ValueError("not a snapshot file")
    if version != SNAPSHOT_VERSION:
        raise ValueError(f"snapshot format {version} is not known to this version of multiraft")
    if length > min(HEAD_BYTES_MAX, size - _PREAMBLE.size - FOOTER_BYTES):
        raise ValueError("the head is damaged")
    body = file.read(_PREAMBLE.size, length)
    if crc32(body, crc32(preamble[:_PREAMBLE_FIELDS])) != crc:
        raise ValueError("the head is damaged")
    try:
        group, generation, snapshot = cbor2.loads(body)
        head = SnapshotHead(int(group), int(generation), snapshot_of(snapshot))
    except (cbor2.CBORDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"the head is damaged: {error}") from None
    return attrs.evolve(head, file_bytes=size, digest=_footer(file, size)[2])


def _footer(file: File, size: int) -> tuple[int, int, bytes]:
    """Number of chunks, their bytes, digest."""
    data = file.read(size - FOOTER_BYTES, FOOTER_BYTES)
    if len(data) != FOOTER_BYTES:
        raise ValueError("the file is cut short")
    zero, count, total, digest, magic = _FOOTER.unpack_from(data)
    if (
        zero
        or magic != FOOTER_MAGIC
        or crc32(data[: _FOOTER.size]) != _CRC.unpack_from(data, _FOOTER.size)[0]
    ):
        raise ValueError("the footer is missing or damaged")
    return count, total, digest
