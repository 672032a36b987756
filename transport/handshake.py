"""What links say before and beside the frames of messages: hellos, events, snapshot offers.

Pure. All of it is CBOR in the same framing as messages, and as strictly checked, because a
hello comes from whoever dials the port.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import attrs
import cbor2

from multiraft.config import normalize_address
from multiraft.errors import ConfigError, MultiraftError
from multiraft.interfaces import SnapshotOffer
from multiraft.messages import Hello, Lane
from multiraft.transport.frames import WireError, framed, loads
from multiraft.transport.snapshot_rows import read_snapshot, snapshot_row

VERSION: Final = 1
HELLO_PATH: Final = "/multiraft/1/hello"
STREAM_PATH: Final = "/multiraft/1/stream"
SNAPSHOT_PATH: Final = "/multiraft/1/snapshot"
CONTENT_TYPE: Final = "application/vnd.multiraft+cbor"
"""Of requests and of every answer of ours, refusals included: the mark of a multiraft host."""

MAX_REQUEST_BYTES: Final = 1 << 20
"""A snapshot offer carries its group's membership; hellos are far smaller."""
MAX_EVENT_BYTES: Final = 1 << 16
MAX_TEXT: Final = 1024

_HELLO_SHAPE: Final = (str, int, int, str, int)
_OFFER_SHAPE: Final = (int, int, int, int, int, list, int, bytes)


class SnapshotNotSent(MultiraftError):
    """A snapshot did not arrive. `retry` is false when trying again will not help by itself."""

    def __init__(self, address: str, reason: str, *, retry: bool = True) -> None:
        super().__init__(f"snapshot not taken by {address}: {reason}")
        self.address = address
        self.reason = reason
        self.retry = retry


# --- requests ----------------------------------------------------------------------------------


def hello_row(hello: Hello) -> tuple[Any, ...]:
    return (hello.cluster_id, hello.host_id, hello.epoch, hello.address, hello.version)


def lane_request(hello: Hello, lane: Lane) -> bytes:
    """The body that opens a lane."""
    return cbor2.dumps((hello_row(hello), int(lane)))


def read_lane_request(body: bytes) -> tuple[Hello, Lane]:
    """Raises: WireError."""
    row = loads(body)
    if type(row) is not list or len(row) != 2 or type(row[1]) is not int or row[1] not in tuple(Lane):
        raise WireError("a hello is an array of a host and a lane")
    return read_hello(row[0]), Lane(row[1])


def snapshot_request(hello: Hello, offer: SnapshotOffer) -> bytes:
    """The body that offers a snapshot."""
    ids = (offer.group, offer.generation, offer.sender, offer.to, offer.term)
    return cbor2.dumps(
        (hello_row(hello), (*ids, snapshot_row(offer.snapshot), offer.file_bytes, offer.digest))
    )


def read_snapshot_request(body: bytes) -> tuple[Hello, SnapshotOffer]:
    """Raises: WireError."""
    row = loads(body)
    if type(row) is not list or len(row) != 2:
        raise WireError("an offer is an array of a host and a snapshot")
    hello = read_hello(row[0])
    offer = row[1]
    if type(offer) is not list or tuple(map(type, offer)) != _OFFER_SHAPE:
        raise WireError("a snapshot offer has fields of the wrong number or types")
    group, generation, sender, to, term, place, file_bytes, digest = offer
    try:
        struct.pack("5Qq", group, generation, sender, to, term, file_bytes)
        snapshot = read_snapshot(place)
    except struct.error:
        raise WireError("a snapshot offer has a number out of range") from None
    if snapshot is None or file_bytes < 0 or not 0 < len(digest) <= 64:
        raise WireError("a snapshot offer lacks its snapshot, size or digest")
    return hello, SnapshotOffer(group, generation, sender, to, term, snapshot, file_bytes, digest)


def read_hello(row: object) -> Hello:
    """Raises: WireError."""
    if type(row) is not list or tuple(map(type, row)) != _HELLO_SHAPE:
        raise WireError("a hello has fields of the wrong number or types")
    cluster_id, host_id, epoch, address, version = row
    if len(cluster_id) > MAX_TEXT or len(address) > MAX_TEXT:
        raise WireError(f"a hello has a text of more than {MAX_TEXT} characters")
    try:
        struct.pack("3Q", host_id, epoch, version)
        address = normalize_address(address)
    except struct.error:
        raise WireError("a hello has a number out of range") from None
    except ConfigError as error:
        raise WireError(f"a hello names no usable address: {error.reason}") from None
    return Hello(cluster_id, host_id, epoch, address, version)


def mismatch(ours: Hello, theirs: Hello) -> str | None:
    """Why these two hosts must not talk, or None. The same words serve both sides' logs."""
    if theirs.version != ours.version:
        return (
            f"{ours.address} speaks version {ours.version} of the protocol, "
            f"{theirs.address} version {theirs.version}"
        )
    if theirs.cluster_id != ours.cluster_id:
        return (
            f"{ours.address} is a host of cluster {ours.cluster_id!r}, "
            f"{theirs.address} of cluster {theirs.cluster_id!r}"
        )
    return None


# --- events: what the side that was dialed says while a session lasts -----------------------------


@attrs.frozen
class Accepted:
    """First, and always: who answers, the session's name, and how much of a file is there."""

    hello: Hello
    session: str
    offset: int = 0


@attrs.frozen
class StreamOpen:
    """The data stream of this session has arrived."""


@attrs.frozen
class Ended:
    """Last: nothing more will be taken. Empty reason: a snapshot is verified and on disk.

    `retry` tells a passing condition from one that only a person can change.
    """

    reason: str
    retry: bool = True


Event = Accepted | StreamOpen | Ended


def encode_event(event: Event) -> bytes:
    """One frame, with its length."""
    if isinstance(event, Accepted):
        return framed(cbor2.dumps((1, hello_row(event.hello), event.session, event.offset)))
    if isinstance(event, StreamOpen):
        return framed(cbor2.dumps((2,)))
    reason = event.reason[:MAX_TEXT].encode(errors="replace").decode()
    return framed(cbor2.dumps((3, reason, event.retry)))


def decode_event(body: bytes) -> Event:
    """Raises: WireError."""
    row = loads(body)
    shape = tuple(map(type, row)) if type(row) is list else ()
    if shape == (int, list, str, int) and row[0] == 1 and 0 <= row[3] < 1 << 63 and _is_token(row[2]):
        return Accepted(read_hello(row[1]), row[2], row[3])
    if shape == (int,) and row[0] == 2:
        return StreamOpen()
    if shape == (int, str, bool) and row[0] == 3 and len(row[1]) <= MAX_TEXT:
        return Ended(row[1], row[2])
    raise WireError("an event that is not known")


def _is_token(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isascii() and text.isalnum()
