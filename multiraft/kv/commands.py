"""What is proposed to the groups of the store, as bytes, and what is asked of their machines.

A command is one CBOR array: its kind, then its operands. Commands are decoded when they are
applied, on every host, and what cannot be decoded there gets a `Refused` for a result on every
host alike: a proposal that anybody may have made must not stop a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
import cbor2

KEY_BYTES_MAX: Final = 4096
"""Longest key. Percent-encoded it still fits the request line that HTTP servers accept."""

CLAIM_KEY: Final = b""
"""Where `claim` keeps its value: users' keys have at least one byte, so theirs it cannot be."""

PUT, DELETE, MULTI, CLAIM = range(4)

Write = tuple[bytes, bytes | None]
"""A key and its new value; None deletes it."""


@attrs.frozen
class Refused:
    """The result of a command that could not be understood. Nothing was changed."""

    reason: str


@attrs.frozen
class Claim:
    """Set the group's claim unless it is set; the result is the claim that stands."""

    value: bytes


@attrs.frozen
class Get:
    """A query for one value; the answer is bytes or None."""

    key: bytes


@attrs.frozen
class Scan:
    """A query for the rows from `start`, included, to `end`, excluded; the answer is a `Page`."""

    start: bytes
    end: bytes | None
    limit: int
    """Rows at most. At least 1."""
    max_bytes: int = 4 << 20
    """Keys and values at most, but always one row. Default: 4 MiB."""


@attrs.frozen
class GetClaim:
    """A query for the group's claim; the answer is bytes or None."""


@attrs.frozen
class Page:
    """Rows in key order."""

    items: list[tuple[bytes, bytes]]
    complete: bool
    """False: the range goes on behind the last row."""


def check_key(key: bytes) -> None:
    """Raises: ValueError when `key` cannot be a user's key; says why."""
    if not key:
        raise ValueError("the key is empty")
    if len(key) > KEY_BYTES_MAX:
        raise ValueError(f"the key has {len(key)} bytes; at most {KEY_BYTES_MAX} are allowed")


def encode_put(key: bytes, value: bytes) -> bytes:
    check_key(key)
    return cbor2.dumps([PUT, key, value])


def encode_delete(key: bytes) -> bytes:
    check_key(key)
    return cbor2.dumps([DELETE, key])


def encode_multi(writes: Sequence[Write]) -> bytes:
    """Several writes that take effect together, in order."""
    flat: list[bytes | None] = []
    for key, value in writes:
        check_key(key)
        flat += (key, value)
    return cbor2.dumps([MULTI, flat])


def encode_claim(value: bytes) -> bytes:
    return cbor2.dumps([CLAIM, value])


def decode(data: bytes) -> Sequence[Write] | Claim | Refused:
    """Decode a command. Never raises: see the head of this file."""
    try:
        command = cbor2.loads(data)
    except Exception as error:  # whatever the decoder makes of bytes that anybody may have proposed
        return Refused(f"not CBOR: {error}")
    if type(command) is not list or len(command) < 2:
        return Refused("not a command")
    kind, operands = command[0], command[1:]
    if type(kind) is not int:  # neither True, which equals PUT's neighbour, nor 1.0
        return Refused("not a command")
    if kind == PUT and len(operands) == 2 and _is_key(operands[0]) and type(operands[1]) is bytes:
        return ((operands[0], operands[1]),)
    if kind == DELETE and len(operands) == 1 and _is_key(operands[0]):
        return ((operands[0], None),)
    if kind == MULTI and len(operands) == 1:
        return _decode_multi(operands[0])
    if kind == CLAIM and len(operands) == 1 and type(operands[0]) is bytes:
        return Claim(operands[0])
    return Refused("unknown kind of command, or wrong operands")


def _decode_multi(flat: Any) -> Sequence[Write] | Refused:
    if type(flat) is not list or len(flat) % 2:
        return Refused("a multiple write is a list of keys and values in turn")
    keys, values = flat[::2], flat[1::2]
    if not all(map(_is_key, keys)):
        return Refused("a key of a multiple write is not a valid key")
    if not all(value is None or type(value) is bytes for value in values):
        return Refused("a value of a multiple write is neither bytes nor null")
    return list(zip(keys, values, strict=True))


def _is_key(key: Any) -> bool:
    return type(key) is bytes and 0 < len(key) <= KEY_BYTES_MAX
