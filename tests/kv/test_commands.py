"""Commands as bytes."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft.kv.commands import (
    KEY_BYTES_MAX,
    Claim,
    Refused,
    Write,
    decode,
    encode_claim,
    encode_delete,
    encode_multi,
    encode_put,
)

keys = st.binary(min_size=1, max_size=20)


@given(keys, st.binary(max_size=40))
def test_single_writes_survive(key: bytes, value: bytes) -> None:
    assert decode(encode_put(key, value)) == ((key, value),)
    assert decode(encode_delete(key)) == ((key, None),)
    assert decode(encode_claim(value)) == Claim(value)


@given(st.lists(st.tuples(keys, st.none() | st.binary(max_size=9))))
def test_multiple_writes_survive_in_order(writes: list[Write]) -> None:
    assert decode(encode_multi(writes)) == writes


def test_a_put_costs_few_bytes_beyond_key_and_value() -> None:
    assert len(encode_put(b"k" * 16, b"v" * 16)) <= 36


@pytest.mark.parametrize("key", [b"", b"k" * (KEY_BYTES_MAX + 1)])
def test_keys_out_of_bounds_are_the_callers_error(key: bytes) -> None:
    with pytest.raises(ValueError, match="key"):
        encode_put(key, b"")
    with pytest.raises(ValueError, match="key"):
        encode_delete(key)
    with pytest.raises(ValueError, match="key"):
        encode_multi([(b"good", b""), (key, b"")])


@pytest.mark.parametrize(
    "command",
    [
        None,
        7,
        {},
        [],
        [0],
        [0, b"k"],
        [0, b"k", None],
        [0, b"k", "text"],
        [0, "k", b"v"],
        [0, b"", b"v"],
        [0, b"k" * (KEY_BYTES_MAX + 1), b"v"],
        [0, b"k", b"v", b"more"],
        [False, b"k", b"v"],
        [0.0, b"k", b"v"],
        [1],
        [1, b""],
        [1, b"k", b"v"],
        [2, [b"k"]],
        [2, [b"k", 1]],
        [2, ["k", b"v"]],
        [2, b"kv"],
        [2, [b"", b"v"]],
        [3, None],
        [4, b"k"],
        [-1, b"k", b"v"],
    ],
)
def test_what_is_no_command_is_refused_when_applied(command: object) -> None:
    assert isinstance(decode(cbor2.dumps(command)), Refused)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    decode(data)


@pytest.mark.parametrize("data", [b"\x81" * 100_000, b"\x9b" + b"\xff" * 8, b"\xd8" * 5000, b""])
def test_hostile_bytes_are_refused(data: bytes) -> None:
    """Deep nesting and huge declared lengths take neither the stack nor the memory."""
    assert isinstance(decode(data), Refused)
