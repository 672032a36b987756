"""Messages between hosts as bytes, and back. Pure; docs/wire-format.md gives every field.

A frame's body is one CBOR array of envelopes; an envelope is a flat array that begins with
kind, group and generation. Encoding is one `cbor2.dumps` over a list of tuples
(`row_writers.py`). Decoding is one `loads` and then, for each envelope, a function chosen by
its kind (`row_readers.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import cbor2

from multiraft.messages import Envelope, Message
from multiraft.transport.frames import WireError, framed, loads
from multiraft.transport.row_format import (
    MAX_CONTEXT_BYTES,
    MAX_FRAME_MESSAGES,
    MAX_MEMBERS,
    MAX_REASON_CHARACTERS,
)
from multiraft.transport.row_readers import READERS
from multiraft.transport.row_writers import WRITERS, host_message_row

__all__ = [
    "MAX_CONTEXT_BYTES",
    "MAX_FRAME_MESSAGES",
    "MAX_MEMBERS",
    "MAX_REASON_CHARACTERS",
    "WireError",
    "decode",
    "encode",
    "encode_frames",
]


def encode(items: Sequence[Envelope]) -> bytes:
    """One frame's body (without its length) for `items`.

    Fields that a message's type does not use are not carried (docs/wire-format.md).

    Raises:
        WireError: A message that belongs within a host.
    """
    writers = WRITERS
    return cbor2.dumps(
        [
            writers[m.type](group, generation, m)
            if type(m) is Message
            else host_message_row(group, generation, m)
            for group, generation, m in items
        ]
    )


def encode_frames(items: Sequence[Envelope], max_frame_bytes: int) -> list[bytes]:
    """`items` as frames with their lengths: one, or more where one would be too large.

    Raises:
        WireError: A message that belongs within a host, or one that alone is too large.
    """
    if len(items) <= MAX_FRAME_MESSAGES:
        body = encode(items)
        if len(body) <= max_frame_bytes:
            return [framed(body)]
        if len(items) == 1:
            group, _, message = items[0]
            name = message.type.name if isinstance(message, Message) else type(message).__name__
            raise WireError(
                f"{name} of group {group} takes {len(body)} bytes; a frame holds {max_frame_bytes}"
            )
    half = len(items) // 2
    return encode_frames(items[:half], max_frame_bytes) + encode_frames(items[half:], max_frame_bytes)


def decode(body: bytes) -> list[Envelope]:
    """The envelopes in a frame's body.

    Raises:
        WireError: Anything that `encode` would not have written, with the envelope's place
            in the frame. Nothing else is ever raised, whatever the bytes.
    """
    rows = loads(body)
    if type(rows) is not list:
        raise WireError(f"a frame is an array of envelopes, not {type(rows).__name__}")
    if len(rows) > MAX_FRAME_MESSAGES:
        raise WireError(f"{len(rows)} envelopes in one frame; allowed are {MAX_FRAME_MESSAGES}")
    items: list[Envelope] = []
    add, readers = items.append, READERS
    for row in rows:
        if type(row) is not list:
            raise WireError(f"envelope {len(items)}: not an array but {type(row).__name__}")
        try:
            add(readers[row[0]](row))
        except WireError as error:
            raise WireError(f"envelope {len(items)}: {error}") from None
        except struct.error:
            raise WireError(f"envelope {len(items)}: a number outside 0 to 2**64 - 1") from None
        except (TypeError, IndexError):
            # An empty array, or one whose kind is no index of the table.
            raise WireError(f"envelope {len(items)}: does not begin with a known kind") from None
    return items
