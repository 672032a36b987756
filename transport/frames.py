"""Frames as bytes: strict CBOR in, length prefixes, and cutting a byte stream into frames.

Pure: bytes in, bytes or plain values out. Nothing here knows what a frame means.

A frame is four bytes of length, most significant first, and that many bytes of CBOR. The
decoder takes the plain part of CBOR (RFC 8949) alone: no tags (big integers, regular
expressions, shared references…), nothing of indefinite length, bounded depth. All of that is
refused inside the C decoder, before it costs memory or time.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

import cbor2

from multiraft.errors import MultiraftError

PREFIX_BYTES: Final = 4
MAX_DEPTH: Final = 6
"""Frame, envelope, runs, run: four levels; a snapshot's member list: five."""


class WireError(MultiraftError):
    """Bytes from outside, or a message of ours, that may not travel. Says what and where."""


def _no_tags(_value: object, _immutable: bool) -> NoReturn:
    raise ValueError("tags are not allowed")


# Every tag that the decoder would otherwise act on; all others go to `tag_hook`.
_KNOWN_TAGS: Final = (
    *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100),
    *(256, 258, 260, 261, 1004, 43000, 55799),
)
_TAG_DECODERS: Final = dict.fromkeys(_KNOWN_TAGS, _no_tags)


def loads(data: bytes) -> Any:
    """Decode one CBOR item that fills `data`.

    A hostile item costs at most about eighty times its size in memory (a list of empty
    lists), so the bound on a frame bounds that as well.

    Raises:
        WireError: It is not plain CBOR.
    """
    try:
        return cbor2.loads(
            data,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            tag_hook=_no_tags,
            semantic_decoders=_TAG_DECODERS,
        )
    except (
        cbor2.CBORDecodeError,
        ValueError,
        TypeError,
        RecursionError,
        OverflowError,
        MemoryError,
    ) as error:
        cause = error.__cause__
        raise WireError(f"not plain CBOR: {error}{f' ({cause})' if cause is not None else ''}") from None


def framed(body: bytes) -> bytes:
    """`body` with its length in front."""
    return len(body).to_bytes(PREFIX_BYTES, "big") + body


class FrameSplitter:
    """Cuts a byte stream into frames; holds at most one unfinished frame and one chunk."""

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes of the stream; return the frames they complete.

        Raises:
            WireError: A frame announces more than the allowed size, or nothing at all. The
                stream cannot be followed any further.
        """
        buffer = self._buffer
        buffer += chunk
        frames: list[bytes] = []
        start, end = 0, len(buffer)
        while end - start >= PREFIX_BYTES:
            size = int.from_bytes(buffer[start : start + PREFIX_BYTES], "big")
            if not 0 < size <= self._max_frame_bytes:
                raise WireError(f"a frame of {size} bytes; allowed are 1 to {self._max_frame_bytes}")
            body = start + PREFIX_BYTES
            if end - body < size:
                break
            frames.append(bytes(buffer[body : body + size]))
            start = body + size
        # One move of the rest for the whole chunk, not one for each frame.
        del buffer[:start]
        return frames
