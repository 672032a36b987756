"""Segments: their names, what the host's thread knows of each, and how one is read from the start.

Reading is written for a file that may end in anything: a torn batch, zeros, or what an earlier
life of the file left behind. `scan` stops at the first byte that does not continue the chain and
`claimed` then looks whether anything further on says that this byte had been durable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple
from zlib import crc32

import attrs

from multiraft.interfaces import File
from multiraft.storage.format import (
    BATCH_BYTES_MAX,
    BATCH_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    BatchHeader,
    SegmentHeader,
    unpack_batch_header,
    unpack_segment_header,
)

SUFFIX: Final = ".wal"
SPARE_SUFFIX: Final = ".free"
"""A collected segment that waits to be used again."""
NEW_SUFFIX: Final = ".new"
"""A segment in the making."""
_DIGITS: Final = 16
_WINDOW_BYTES: Final = 1 << 20


@attrs.define(eq=False)
class Segment:
    """A segment as the host's thread sees it; the writer only reads `header` and `capacity`."""

    header: SegmentHeader
    capacity: int
    """Bytes of the file. Larger than the usual for one batch that would not fit otherwise."""
    used: int = SEGMENT_HEADER_BYTES
    """Where the next batch goes, whether or not the ones before are written yet."""
    live: int = 0
    """Bytes of records that are still needed, headers of batches left out."""

    @property
    def sequence(self) -> int:
        return self.header.sequence

    @property
    def name(self) -> str:
        return segment_name(self.header.sequence)


def segment_name(sequence: int, suffix: str = SUFFIX) -> str:
    return f"{sequence:0{_DIGITS}x}{suffix}"


def sequence_of(name: str, suffix: str = SUFFIX) -> int | None:
    """The sequence number in a file name, or None for any other file."""
    stem = name.removesuffix(suffix)
    if stem == name or len(stem) != _DIGITS or not set(stem) <= set("0123456789abcdef"):
        return None
    return int(stem, 16)


def read_header(file: File) -> SegmentHeader:
    """Raises: ValueError when it is no segment header."""
    return unpack_segment_header(file.read(0, SEGMENT_HEADER_BYTES))


class Batch(NamedTuple):
    """One valid batch: its records are `data[start:start + header.length]`."""

    offset: int
    header: BatchHeader
    data: bytes
    start: int


class End(NamedTuple):
    """Where the chain ends, and how."""

    offset: int
    chain: int
    durable: int
    """The highest offset that a valid batch or marker up to here says was on disk."""
    reason: str
    """What stands at `offset` instead of a batch; empty for a marker."""


class Scan:
    """The valid batches of one segment in order; `end` says where and why they stop.

    Memory: one window of 1 MiB, or one batch if that is larger.
    """

    def __init__(
        self,
        file: File,
        header: SegmentHeader,
        stop: int | None = None,
        *,
        begin: int = SEGMENT_HEADER_BYTES,
        chain: int | None = None,
    ) -> None:
        """Read up to byte `stop`. Default: the end of the file.

        `begin` and `chain` go on behind damage: where a batch stands, and what it continues.
        """
        size = file.size()
        self._file = file
        self._stop = size if stop is None else min(stop, size)
        self._mark = header.mark
        self._seed = header.seed
        self.end = End(begin, header.chain if chain is None else chain, SEGMENT_HEADER_BYTES, "")

    def __iter__(self) -> Iterator[Batch]:
        window = b""
        offset, chain, durable, _ = self.end
        base = offset
        while True:
            if base + len(window) - offset < BATCH_HEADER_BYTES:
                window, base = self._read(offset, 0), offset
            at = offset - base
            header = unpack_batch_header(window, at, self._mark, self._seed)
            reason = self._objection(header, chain, offset)
            if header is not None and not reason:
                durable = max(durable, header.durable)
                if at + BATCH_HEADER_BYTES + header.length > len(window):
                    window, base, at = self._read(offset, header.length), offset, 0
                start = at + BATCH_HEADER_BYTES
                body = memoryview(window)[start : start + header.length]
                if header.length and crc32(body, self._seed) == header.body_crc:
                    yield Batch(offset, header, window, start)
                    offset += BATCH_HEADER_BYTES + header.length
                    chain = header.chain
                    continue
                reason = "checksum mismatch" if header.length else ""
            self.end = End(offset, chain, durable, reason)
            return

    def _read(self, offset: int, body: int) -> bytes:
        size = max(_WINDOW_BYTES, BATCH_HEADER_BYTES + body)
        return self._file.read(offset, max(0, min(size, self._stop - offset)))

    def _objection(self, header: BatchHeader | None, chain: int, offset: int) -> str:
        if header is None:
            return "no batch header"
        if header.previous != chain:
            return "the batch continues another one than the one before it"
        if header.length > min(BATCH_BYTES_MAX, self._stop - offset - BATCH_HEADER_BYTES):
            return "the batch is cut short"
        return ""


class Claims(NamedTuple):
    """What valid batch headers at or after some offset say, whether or not their bodies are whole."""

    durable: int
    """The highest offset that one of them says was on disk when it was written."""
    extent: int
    """Where the last of them ends; the offset itself when there is none."""


def claims(file: File, header: SegmentHeader, offset: int) -> Claims:
    """Look for batch headers from `offset` to the end of the file.

    Headers carry a checksum of their own, so each can be believed alone: nothing but this life
    of this segment can have produced it.
    """
    durable, extent = 0, offset
    for at, found in headers_from(file, header, offset):
        durable = max(durable, found.durable)
        extent = max(extent, at + BATCH_HEADER_BYTES + found.length)
    return Claims(durable, extent)


def headers_from(file: File, header: SegmentHeader, offset: int) -> Iterator[tuple[int, BatchHeader]]:
    """Every valid batch header from byte `offset` on, wherever it stands. Memory: a window of 1 MiB."""
    mark = header.nonce[:4]
    size = file.size()
    while offset + BATCH_HEADER_BYTES <= size:
        # Windows overlap by a header less one byte, so that none is missed at a border.
        window = file.read(offset, _WINDOW_BYTES + BATCH_HEADER_BYTES - 1)
        at = window.find(mark)
        while at >= 0:
            found = unpack_batch_header(window, at, header.mark, header.seed)
            if found is not None:
                yield offset + at, found
            at = window.find(mark, at + 1)
        offset += _WINDOW_BYTES
