"""Beats on the wire: flat rows of numbers, checked as a whole."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft.messages import BEAT_ACK_FIELDS, BEAT_FIELDS, BeatAcks, Beats, Envelope
from multiraft.transport.frames import WireError
from multiraft.transport.wire import decode, encode

u64 = st.integers(0, (1 << 64) - 1)


def rows(fields: int) -> st.SearchStrategy[list[int]]:
    row = st.lists(u64, min_size=fields, max_size=fields)
    return st.lists(row, min_size=1, max_size=20).map(lambda found: [n for each in found for n in each])


@given(rows(BEAT_FIELDS), rows(BEAT_ACK_FIELDS))
def test_beats_arrive_as_they_were_sent(beats: list[int], acks: list[int]) -> None:
    items: list[Envelope] = [(0, 0, Beats(beats)), (0, 0, BeatAcks(acks))]
    assert decode(encode(items)) == items


@pytest.mark.parametrize("kind", [33, 34])
@pytest.mark.parametrize(
    "row",
    [
        [],
        [[]],
        [[1] * 7],
        [[1] * 6, 1],
        [1],
        [[1] * 29 + ["x"]],
        [[1] * 29 + [-1]],
        [[1] * 29 + [1 << 64]],
        [[True] * 30],
        [[1.0] * 30],
        [{}],
    ],
)
def test_what_are_no_rows_is_refused(kind: int, row: list[object]) -> None:
    with pytest.raises(WireError):
        decode(cbor2.dumps([[kind, *row]]))
