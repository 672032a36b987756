"""A group's rows as a stream of bytes: what snapshot files hold and followers are sent.

    magic, 16 bytes            b"multiraft kv 1\\r\\n"
    applied index, 8 bytes     big-endian, as every number here
    blocks                     4 bytes of length, then a CBOR list: key, value, key, value, ...
    end                        4 zero bytes, then 8 bytes: how many rows there were

Rows are in key order and a block holds about BLOCK_BYTES of them, so both ends need memory for a
block and not for the state. Chunks may be cut and joined on the way: readers trust lengths only.
The group's id is not in it: a snapshot can be restored as another group. Damage on disk or on
the wire is found by whoever carries the stream; the end marker tells a short one.
"""

from __future__ import annotations

import sqlite3
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

import cbor2

from multiraft.errors import SnapshotInvalid
from multiraft.kv.database import read_applied, read_block
from multiraft.types import GroupId, Index

MAGIC: Final = b"multiraft kv 1\r\n"
BLOCK_BYTES: Final = 256 * 1024
BLOCK_ROWS: Final = 1024
_NUMBER: Final = struct.Struct(">Q")
_LENGTH: Final = struct.Struct(">I")


class SnapshotStream(Iterator[bytes]):
    """Reads one group through a connection that holds on to the state of a moment.

    May be read in another thread than the one that made it. Closes the connection at the end,
    or when it is dropped before.
    """

    def __init__(self, view: sqlite3.Connection, group: GroupId) -> None:
        self._view: sqlite3.Connection | None = view
        self._group = group
        self._lock = threading.Lock()
        self._started = False
        self._next_key = b""
        self._rows = 0

    def __next__(self) -> bytes:
        with self._lock:
            if self._view is None:
                raise StopIteration
            if not self._started:
                self._started = True
                return MAGIC + _NUMBER.pack(read_applied(self._view, self._group))
            block = read_block(self._view, self._group, self._next_key, None, BLOCK_ROWS, BLOCK_BYTES)
            self._rows += len(block.items)
            chunk = b""
            if block.items:
                encoded = cbor2.dumps(list(chain.from_iterable(block.items)))
                chunk = _LENGTH.pack(len(encoded)) + encoded
                self._next_key = block.items[-1][0] + b"\0"  # the smallest key above it
            if block.complete:
                chunk += _LENGTH.pack(0) + _NUMBER.pack(self._rows)
                self.close()
            return chunk

    def close(self) -> None:
        """Let go of the state; SQLite can reuse the space of what changed since."""
        view, self._view = self._view, None
        if view is not None:
            view.close()

    def __del__(self) -> None:
        self.close()


def read_stream(chunks: Iterable[bytes]) -> tuple[Index, Iterator[Sequence[tuple[bytes, bytes]]]]:
    """The applied index of a stream, and its rows block by block.

    Raises:
        SnapshotInvalid: Here or from the iterator: it is no such stream, or it ends too early.
    """
    source = _Source(chunks)
    if source.take(len(MAGIC)) != MAGIC:
        raise SnapshotInvalid("not a snapshot of a key-value group")
    (applied,) = _NUMBER.unpack(source.take(_NUMBER.size))
    return applied, _read_blocks(source)


def _read_blocks(source: _Source) -> Iterator[Sequence[tuple[bytes, bytes]]]:
    rows = 0
    while length := _LENGTH.unpack(source.take(_LENGTH.size))[0]:
        try:
            flat = cbor2.loads(source.take(length))
        except cbor2.CBORDecodeError as error:
            raise SnapshotInvalid(f"a block of the snapshot is damaged: {error}") from None
        if type(flat) is not list or len(flat) % 2 or not all(type(each) is bytes for each in flat):
            raise SnapshotInvalid("a block of the snapshot is not a list of keys and values")
        rows += len(flat) // 2
        yield list(zip(flat[::2], flat[1::2], strict=True))
    (expected,) = _NUMBER.unpack(source.take(_NUMBER.size))
    if rows != expected:
        raise SnapshotInvalid(f"the snapshot should have {expected} rows and has {rows}")


class _Source:
    """Bytes by count from chunks of any size."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = bytearray()

    def take(self, count: int) -> bytes:
        while len(self._held) < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise SnapshotInvalid("the snapshot ends too early")
            self._held += chunk
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken
