"""What an outbox keeps, and what it does at its bound."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from multiraft.messages import Lane
from multiraft.transport.outbox import Outbox


def test_bulk_refuses_the_new_frame_and_keeps_the_old() -> None:
    outbox = Outbox(Lane.BULK, 10, 100)
    assert outbox.push([b"12345"])
    assert outbox.push([b"67890"])
    assert not outbox.push([b"x"])
    assert not outbox.overflowed
    assert outbox.take(100) == b"1234567890"
    assert outbox.push([b"x"])


def test_liveness_drops_everything_and_stays_shut() -> None:
    outbox = Outbox(Lane.LIVENESS, 10, 100)
    assert outbox.push([b"12345"])
    assert outbox.push([b"6"])
    assert not outbox.push([b"789012"])
    assert outbox.overflowed
    assert outbox.lost == 2
    assert len(outbox) == 0
    assert outbox.frame_bytes == 0
    assert not outbox.push([b"x"])


def test_an_empty_outbox_takes_any_frame() -> None:
    """Otherwise a frame larger than the bound could never be sent."""
    outbox = Outbox(Lane.BULK, 10, 1)
    assert outbox.push([b"x" * 20])
    assert not outbox.push([b"y"])
    assert outbox.take(1) == b"x" * 20


def test_the_number_of_frames_is_bounded_too() -> None:
    outbox = Outbox(Lane.BULK, 1000, 3)
    assert [outbox.push([b"x"]) for _ in range(5)] == [True, True, True, False, False]


def test_parts_of_one_send_stay_together() -> None:
    outbox = Outbox(Lane.BULK, 10, 100)
    assert outbox.push([b"1234567"])
    assert not outbox.push([b"8", b"9", b"0", b"1"])
    assert outbox.take(100) == b"1234567"


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=30), st.integers(1, 100))
def test_chunks_are_the_frames_in_order(frames: list[bytes], max_bytes: int) -> None:
    """Nothing is lost, cut or moved, and a chunk is over its bound only for one large frame."""
    outbox = Outbox(Lane.BULK, 10_000, 10_000)
    for frame in frames:
        assert outbox.push([frame])
    chunks = []
    while len(outbox):
        chunks.append(outbox.take(max_bytes))
        assert len(chunks[-1]) <= max_bytes or chunks[-1] in frames
    assert b"".join(chunks) == b"".join(frames)
    assert outbox.frame_bytes == 0
