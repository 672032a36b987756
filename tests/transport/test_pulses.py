"""Pulses on the wire: every field checked, rows as a whole."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft.messages import PULSE_FIELDS, Pulse
from multiraft.transport.frames import WireError
from multiraft.transport.wire import decode, encode

u64 = st.integers(0, (1 << 64) - 1)
rows = st.lists(st.lists(u64, min_size=PULSE_FIELDS, max_size=PULSE_FIELDS), max_size=20).map(
    lambda found: [number for row in found for number in row]
)


@given(st.builds(Pulse, u64, u64, u64, u64, u64, st.booleans(), rows))
def test_a_pulse_arrives_as_it_was_sent(pulse: Pulse) -> None:
    assert decode(encode([(0, 0, pulse)])) == [(0, 0, pulse)]


@pytest.mark.parametrize(
    "row",
    [
        [1, 1, 1, 1, 1, False],
        [1, 1, 1, 1, 1, 1, []],
        [1, 1, 1, 1, -1, False, []],
        [1 << 64, 1, 1, 1, 1, False, []],
        [1, 1, 1, 1, 1, False, [1] * 5],
        [1, 1, 1, 1, 1, False, [1] * 5 + [-1]],
        [1, 1, 1, 1, 1, False, [1] * 5 + [1 << 64]],
        [1, 1, 1, 1, 1, False, [1] * 5 + [True]],
        [1, 1, 1, 1, 1, False, [1] * 5 + ["x"]],
        [1, 1, 1, 1, 1, False, {}],
        [1, 1, 1, 1, 1, False, [], 1],
    ],
)
def test_what_is_no_pulse_is_refused(row: list[object]) -> None:
    with pytest.raises(WireError):
        decode(cbor2.dumps([[42, *row]]))
