"""Messages as bytes and back; and that nothing but messages gets through."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import attrs
import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiraft.messages import (
    ConfState,
    Disowned,
    EntryKind,
    Envelope,
    HostMessage,
    JoinAnswer,
    JoinRequest,
    Message,
    MessageType,
    OtherGeneration,
    ProposalRefused,
    Removal,
    Run,
    Snapshot,
)
from multiraft.transport.frames import FrameSplitter, WireError, framed
from multiraft.transport.wire import (
    MAX_CONTEXT_BYTES,
    MAX_FRAME_MESSAGES,
    MAX_MEMBERS,
    decode,
    encode,
    encode_frames,
)

M = MessageType
LOCAL = frozenset(
    {
        *(M.HUP, M.BEAT, M.UNREACHABLE, M.SNAP_STATUS, M.CHECK_QUORUM, M.FORGET_LEADER),
        *(M.STORAGE_APPEND, M.STORAGE_APPEND_RESP, M.STORAGE_APPLY, M.STORAGE_APPLY_RESP),
    }
)
CARRIED: dict[MessageType, frozenset[str]] = {
    M.PROP: frozenset({"runs"}),
    M.APP: frozenset({"log_term", "index", "commit", "runs"}),
    M.APP_RESP: frozenset({"log_term", "index", "commit", "reject", "reject_hint"}),
    M.COMMIT: frozenset({"commit"}),
    M.HEARTBEAT: frozenset({"commit", "context"}),
    M.HEARTBEAT_RESP: frozenset({"context"}),
}
"""Beside to, sender and term; every other type carries all fields but `responses`."""
RARE = frozenset(
    {"log_term", "index", "commit", "runs", "reject", "reject_hint", "vote", "snapshot", "context"}
)

u64 = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))
small = st.integers(0, 1 << 40)
payloads = st.lists(st.binary(max_size=40), min_size=1, max_size=6)


def comparable(message: object) -> object:
    """Values, all the way down: `Message` and `Run` compare by identity."""
    if isinstance(
        message, (Message, ProposalRefused, Removal, JoinRequest, JoinAnswer, OtherGeneration, Disowned)
    ):
        return type(message), [comparable(getattr(message, a.name)) for a in attrs.fields(type(message))]
    if isinstance(message, Run):
        return [
            *(message.first, message.last, message.term, message.kind, message.size, message.blob),
            *(message.origin, message.sequence, message.payloads),
        ]
    if isinstance(message, (list, tuple)):
        return [comparable(each) for each in message]
    return message


@st.composite
def runs_after(draw: st.DrawFn, index: int, *, placed: bool = True) -> list[Run]:
    runs: list[Run] = []
    for held in draw(st.lists(payloads, min_size=0 if placed else 1, max_size=3)):
        kind = draw(st.sampled_from(EntryKind))
        if kind is not EntryKind.NORMAL:
            held = held[:1]
        more = {"first": index + 1, "term": draw(small)} if placed else {}
        run = Run.of(held, kind, origin=draw(small), sequence=draw(small), **more)
        runs.append(run)
        index = run.last
    return runs


@st.composite
def messages(draw: st.DrawFn) -> HostMessage:
    others = ("refused", "removal", "join", "joined", "generation", "disowned")
    choice = draw(st.sampled_from([*sorted(set(M) - LOCAL), *others]))
    text = st.text(max_size=50)
    if choice == "generation":
        return OtherGeneration(draw(u64), draw(u64))
    if choice == "disowned":
        return Disowned(draw(u64), draw(u64))
    if choice == "removal":
        return Removal(draw(u64))
    if choice == "join":
        flags = [draw(st.booleans()) for _ in range(3)]
        return JoinRequest(draw(u64), draw(u64), draw(text), *flags)
    if choice == "joined":
        return JoinAnswer(draw(u64), draw(text))
    if choice == "refused":
        return ProposalRefused(draw(u64), draw(u64), draw(st.text(max_size=50)))
    assert isinstance(choice, MessageType)
    ids = st.lists(u64, max_size=5).map(tuple)
    conf = st.builds(ConfState, ids, ids, ids, ids, st.booleans())
    index = draw(small)
    values: dict[str, Any] = {
        "log_term": draw(u64),
        "index": index,
        "commit": draw(u64),
        "reject": draw(st.booleans()),
        "reject_hint": draw(u64),
        "vote": draw(u64),
        "context": draw(st.binary(max_size=40)),
        "snapshot": draw(st.none() | st.builds(Snapshot, u64, u64, conf, st.binary(max_size=40))),
        "runs": draw(runs_after(index, placed=choice is not M.PROP)),
    }
    carried = CARRIED.get(choice, RARE)
    values = {name: value for name, value in values.items() if name in carried}
    return Message(choice, draw(u64), draw(u64), draw(u64), **values)


envelopes = st.tuples(u64, u64, messages())


# --- what goes through -----------------------------------------------------------------------------


@pytest.mark.slow
@settings(deadline=None)  # the machine may be busy
@given(st.lists(envelopes, max_size=6))
def test_what_is_encoded_comes_back(items: list[Envelope]) -> None:
    assert comparable(decode(encode(items))) == comparable(items)


def test_every_type_either_travels_or_is_local() -> None:
    """A type added later must be thought about here."""
    assert set(M) - LOCAL == {
        *CARRIED,
        *(M.VOTE, M.VOTE_RESP, M.SNAP, M.TRANSFER_LEADER, M.TIMEOUT_NOW, M.READ_INDEX),
        *(M.READ_INDEX_RESP, M.PRE_VOTE, M.PRE_VOTE_RESP),
    }


def test_a_runs_bytes_are_not_touched() -> None:
    """Encode once: what the leader encoded is what the follower logs."""
    run = Run.of([b"one", b"", b"x" * 300], first=11, term=5, origin=4, sequence=77)
    ((_, _, got),) = decode(encode([(1, 1, Message(M.APP, 2, 1, 5, 5, 10, 9, [run]))]))
    assert isinstance(got, Message)
    assert got.runs[0].blob == run.blob
    assert got.runs[0].payloads == [b"one", b"", b"x" * 300]


def test_small_messages_are_small() -> None:
    """A bound on what a group costs per message; numbers as they are in practice."""
    sizes = {
        "APP_RESP": len(encode([(5000, 1, Message(M.APP_RESP, 2, 1, 5, 0, 100_000, 99_000))])),
        "COMMIT": len(encode([(5000, 1, Message(M.COMMIT, 2, 1, 5, commit=100_000))])),
        "HEARTBEAT": len(encode([(5000, 1, Message(M.HEARTBEAT, 2, 1, 5, commit=100_000))])),
    }
    assert max(sizes.values()) <= 24, sizes


@pytest.mark.parametrize("kind", sorted(LOCAL))
def test_local_messages_are_refused_in_both_directions(kind: MessageType) -> None:
    with pytest.raises(WireError, match=kind.name):
        encode([(1, 1, Message(kind))])
    with pytest.raises(WireError, match=f"envelope 0: {kind.name} is a message within a host"):
        decode(cbor2.dumps([[int(kind), 1, 1, 2, 1, 5]]))


def test_a_reason_is_cut_and_cleaned_rather_than_refused() -> None:
    reason = "\ud800" + "x" * 5000
    ((_, _, got),) = decode(encode([(1, 1, ProposalRefused(1, 2, reason))]))
    assert isinstance(got, ProposalRefused)
    assert got.reason == "?" + "x" * 1023


# --- several frames --------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_frames_keep_order_and_bounds(sizes: list[int]) -> None:
    items: list[Envelope] = [
        (n, 1, Message(M.HEARTBEAT, 2, 1, 5, context=b"x" * size)) for n, size in enumerate(sizes)
    ]
    frames = encode_frames(items, 500)
    bodies = FrameSplitter(500).feed(b"".join(frames))
    assert [group for body in bodies for group, _, _ in decode(body)] == list(range(len(sizes)))


def test_a_message_beyond_the_bound_is_an_error_that_names_it() -> None:
    with pytest.raises(WireError, match=r"HEARTBEAT of group 7 takes [0-9]+ bytes; a frame holds 1000"):
        encode_frames(
            [(1, 1, ProposalRefused(1, 1, "")), (7, 1, Message(M.HEARTBEAT, context=b"x" * 1010))], 1000
        )


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=20), max_size=10), st.lists(st.integers(1, 30)))
def test_where_a_stream_breaks_does_not_matter(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(framed, bodies))
    splitter = FrameSplitter(20)
    got: list[bytes] = []
    for size in cuts:
        got += splitter.feed(stream[:size])
        stream = stream[size:]
    got += splitter.feed(stream)
    assert got == bodies
    assert splitter.pending_bytes == 0


def test_a_length_beyond_the_bound_is_refused_before_its_bytes_come() -> None:
    with pytest.raises(WireError, match="a frame of 21 bytes"):
        FrameSplitter(20).feed(b"\0\0\0\x15")
    with pytest.raises(WireError, match="a frame of 0 bytes"):
        FrameSplitter(20).feed(b"\0\0\0\0")


# --- what does not go through ----------------------------------------------------------------------


def row(kind: int, **changes: object) -> list[object]:
    """A valid row of a hot kind, with changes by position (p0, p1…)."""
    run = Run.of([b"ab", b"c"])
    if kind != M.PROP:
        run = run.placed(11, 5)
    good = cbor2.loads(encode([(9, 1, Message(M(kind), 2, 1, 5, 5, 10, 9, [run]))]))[0]
    for name, value in changes.items():
        good[int(name[1:])] = value
    assert isinstance(good, list)
    return good


def run_row(**changes: object) -> list[object]:
    fields: dict[str, object] = {
        "first": 11,
        "last": 12,
        "term": 5,
        "kind": 0,
        "size": 3,
        "origin": 0,
        "sequence": 0,
        "blob": cbor2.dumps([b"ab", b"c"]),
    }
    return list((fields | changes).values())


def snapshot_message(**changes: object) -> list[object]:
    place: dict[str, object] = {
        "index": 1,
        "term": 1,
        "voters": [1],
        "learners": [],
        "outgoing": [],
        "next": [],
        "auto": False,
        "data": b"",
    }
    return [7, 9, 1, 2, 1, 5, 0, 0, 0, 0, 0, False, b"", list((place | changes).values()), []]


def tampered(blob: bytes, **more: object) -> list[object]:
    return row(3, p9=[run_row(blob=blob, **more)])


BAD: dict[str, object] = {
    "not an array": {1: 2},
    "a text": "abc",
    "envelope is bytes": [b"\x18\x01\x01\x02\x01\x05\x09"],
    "envelope is a map": [{0: 3}],
    "envelope is an int": [3],
    "empty envelope": [[]],
    "kind is text": [["APP"]],
    "kind is negative": [[-1, 9, 1, 1]],
    "kind is a bool": [[True, 9, 1, 1]],
    "kind is a float": [[24.0, 9, 1, 2, 1, 5, 7]],
    "unknown kind": [[25, 9, 1, 1]],
    "other generation with text": [[40, 9, 1, 1, "x"]],
    "disowned, short": [[41, 9, 1, 1]],
    "disowned, negative": [[41, 9, 1, 1, -1]],
    "kind beyond the table": [[34, 9, 1, 1]],
    "huge kind": [[1 << 63, 9, 1, 1]],
    "too few fields": [row(3)[:-1]],
    "too many fields": [[*row(3), 0]],
    "negative group": [row(3, p1=-1)],
    "negative term": [row(24, p5=-5)],
    "float index": [row(3, p7=10.0)],
    "bool for an int": [row(4, p7=True)],
    "int for a bool": [row(4, p10=1)],
    "null for an int": [row(3, p7=None)],
    "text for a context": [row(8, p7="abc")],
    "context too long": [row(8, p7=b"x" * (MAX_CONTEXT_BYTES + 1))],
    "reason too long": [[32, 1, 1, 1, 1, "x" * 1025]],
    "proposal without runs": [row(2, p6=[])],
    "proposal with a place": [row(2, p6=[run_row()])],
    "proposal with a term": [row(2, p6=[run_row(first=0, last=1)])],
    "run is no array": [row(3, p9=[b"abc"])],
    "run lacks a field": [row(3, p9=[run_row()[:-1]])],
    "run of an unknown kind": [row(3, p9=[run_row(kind=3)])],
    "run ends before it begins": [row(3, p9=[run_row(last=10)])],
    "run of no entries": [tampered(b"\x80", last=10, size=0)],
    "run with a gap": [row(3, p9=[run_row(first=12, last=13)])],
    "runs that overlap": [row(3, p9=[run_row(), run_row(first=12, last=13)])],
    "run with another count": [row(3, p9=[run_row(last=13)])],
    "run with another size": [row(3, p9=[run_row(size=4)])],
    "run of two conf changes": [row(3, p9=[run_row(kind=2)])],
    "blob is no CBOR": [tampered(b"\xff\xff\xff\xff\xff\xff")],
    "blob is no array": [tampered(cbor2.dumps(b"abcde"))],
    "blob has texts": [tampered(cbor2.dumps(["ab", "c"]))],
    "blob has numbers": [tampered(cbor2.dumps([1000, 1000]))],
    "blob has nested arrays": [tampered(cbor2.dumps([[b"a"], b"c"]))],
    "blob is indefinite": [tampered(b"\x9f" + cbor2.dumps([b"ab", b"c"])[1:] + b"\xff")],
    "blob has an indefinite string": [tampered(b"\x82\x5f\x41a\x41b\xff\x41c")],
    "blob is cut short": [tampered(cbor2.dumps([b"ab", b"c"])[:-1])],
    "blob is followed by a byte": [tampered(cbor2.dumps([b"ab", b"c"]) + b"\0")],
    "blob is longer than need be": [tampered(b"\x82\x58\x02ab\x41c")],
    "blob of large and small is longer than need be": [
        tampered(b"\x82\x58\x40" + b"x" * 64 + b"\x58\x01c", size=65)
    ],
    "blob is padded": [tampered(cbor2.dumps([b"ab", b"c"]) + b"\0" * 30)],
    "snapshot lacks a field": [[*snapshot_message()[:13], [1, 1], []]],
    "snapshot with a negative index": [snapshot_message(index=-1)],
    "snapshot with a member that is no number": [snapshot_message(voters=["a"])],
    "snapshot with a negative member": [snapshot_message(voters=[-1])],
    "snapshot with too many members": [snapshot_message(voters=list(range(MAX_MEMBERS + 1)))],
}


@pytest.mark.parametrize("what", BAD)
def test_malformed_frames_are_refused(what: str) -> None:
    with pytest.raises(WireError):
        decode(cbor2.dumps(BAD[what]))


def test_the_rows_that_are_changed_above_are_good_unchanged() -> None:
    """Otherwise those tests would show nothing."""
    for good in (row(2), row(3), row(4), row(8), row(24), row(3, p9=[run_row()]), snapshot_message()):
        assert len(decode(cbor2.dumps([good]))) == 1


@pytest.mark.parametrize(
    "body",
    [
        "9b00000000ffffffff",  # an array that claims four thousand million items
        "9bffffffffffffffff",
        "5bffffffffffffffff",
        "bb00000000ffffffff",
        "9f",  # indefinite
        "9f80ff",
        "81d81c81d81d00",  # a shared reference to itself
        "d81c81d81d00",
        "81c24101",  # a big integer
        "81c35901" + "00" + "ff" * 256,
        "81d823635b5d5b",  # a regular expression
        "81c482381900",  # a decimal fraction
        "d9d9f780",  # the tag that only says: this is CBOR
        "a1808000",
        "a201020103",  # a key twice
        "81f97e00",  # not a number
        "81f6",
        "81f7",
        "81e0",
        "81" * 1000 + "00",  # deep
        "c1" * 1000 + "00",
        "",
        "ff",
        "fc",
        "1c",
    ],
)
def test_hostile_cbor_is_refused(body: str) -> None:
    with pytest.raises(WireError):
        decode(bytes.fromhex(body))


def test_numbers_beyond_64_bits_are_refused() -> None:
    for number in (1 << 64, -1, -(1 << 64), 1 << 200):
        with pytest.raises(WireError):
            decode(cbor2.dumps([[24, 1, 1, 2, 3, 4, number]]))
    assert decode(cbor2.dumps([[24, 1, 1, 2, 3, 4, (1 << 64) - 1]]))


def test_too_many_envelopes_are_refused() -> None:
    with pytest.raises(WireError, match="65537 envelopes"):
        decode(cbor2.dumps([[24, 1, 1, 2, 3, 4, 5]] * (MAX_FRAME_MESSAGES + 1)))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_else(body: bytes) -> None:
    with contextlib.suppress(WireError):
        decode(body)


plain = st.recursive(
    st.one_of(
        st.integers(-(1 << 70), 1 << 70),
        st.binary(max_size=8),
        st.text(max_size=4),
        st.booleans(),
        st.none(),
        st.floats(),
        st.sampled_from([0, 1, 2, 3, 4, 7, 8, 24, 32, 33]),
    ),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=30,
)


@pytest.mark.slow
@settings(deadline=None)  # the machine may be busy
@given(plain)
def test_random_values_raise_nothing_else(value: object) -> None:
    with contextlib.suppress(WireError):
        decode(cbor2.dumps(value))


@pytest.mark.slow
@settings(deadline=None)  # the machine may be busy
@given(st.lists(envelopes, min_size=1, max_size=3), st.data())
def test_damaged_frames_raise_nothing_else(items: list[Envelope], data: st.DataObject) -> None:
    """What still decodes also encodes again: nothing half-checked gets in."""
    body = bytearray(encode(items))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = decode(bytes(body))
    except WireError:
        return
    assert comparable(decode(encode(got))) == comparable(got)


@pytest.mark.slow
def test_memory_of_a_hostile_frame_is_bounded() -> None:
    """The dearest thing a mebibyte can say is a list of empty lists."""
    body = b"\x9a\x00\x0f\xff\xf0" + b"\x80" * 0xFFFF0
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(body)
