"""What all rows keep to: the numbers of their kinds, their bounds, and how fields are checked.

A row is an envelope, or a part of one, as the flat array that travels.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from multiraft.messages import MessageType
from multiraft.transport.frames import WireError

# A frame with more than that is refused; docs/wire-format.md says where each holds.
MAX_FRAME_MESSAGES: Final = 1 << 16
MAX_CONTEXT_BYTES: Final = 1 << 16
MAX_MEMBERS: Final = 1 << 12
MAX_REASON_CHARACTERS: Final = 1024

# Below 32: the numbers of `MessageType`. From there on: messages between hosts, not of raft.
PROP: Final = 2
APP: Final = 3
APP_RESP: Final = 4
HEARTBEAT: Final = 8
HEARTBEAT_RESP: Final = 9
COMMIT: Final = 24
PROPOSAL_REFUSED: Final = 32
BEATS: Final = 33
BEAT_ACKS: Final = 34
REMOVAL: Final = 35
JOIN_REQUEST: Final = 36
JOIN_ANSWER: Final = 37
APPENDS: Final = 38
APPEND_ACKS: Final = 39
OTHER_GENERATION: Final = 40
DISOWNED: Final = 41
PULSE: Final = 42

# Rare kinds share one shape with every field in it.
RARE: Final = (
    MessageType.VOTE,
    MessageType.VOTE_RESP,
    MessageType.SNAP,
    MessageType.TRANSFER_LEADER,
    MessageType.TIMEOUT_NOW,
    MessageType.READ_INDEX,
    MessageType.READ_INDEX_RESP,
    MessageType.PRE_VOTE,
    MessageType.PRE_VOTE_RESP,
)

Row = tuple[Any, ...]
NUMBERS_SHAPE: Final = (int, list)
"""A kind and flat rows of many groups."""

# Indexing a tuple with an IntEnum is C; hashing one, as a dict would, is a Python call.
PLAIN: Final = tuple(range(len(MessageType)))

# Packing as unsigned 64-bit numbers is the range check: negative or larger raises struct.error.
U64: Final = tuple(struct.Struct(f"{n}Q").pack for n in range(12))


def misshapen(what: str, row: list[Any], shape: tuple[type, ...]) -> WireError:
    """What to raise for a row whose fields are not those of its shape."""
    found = ", ".join(type(field).__name__ for field in row[:16])
    return WireError(f"{what}: fields ({found}) where ({', '.join(t.__name__ for t in shape)}) belong")
