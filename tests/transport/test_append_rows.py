"""Appends and their answers as rows: what is sent arrives, and what could not be sent does not."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft.messages import APPEND_ACK_FIELDS, AppendAcks, AppendRow, Appends, EntryKind, Envelope, Run
from multiraft.transport.frames import WireError
from multiraft.transport.wire import decode, encode

u64 = st.integers(0, (1 << 64) - 1)
PAYLOAD = b"x" * 16


@st.composite
def append_rows(draw: st.DrawFn) -> AppendRow:
    payloads = draw(st.lists(st.binary(max_size=300), min_size=1, max_size=30))
    index = draw(st.integers(0, (1 << 64) - 1 - len(payloads)))
    term = draw(u64)
    run = Run.of(payloads, first=index + 1, term=term, origin=draw(u64), sequence=draw(u64))
    return (draw(u64), draw(u64), draw(u64), draw(u64), term, draw(u64), index, draw(u64), run)


def plain(row: AppendRow) -> tuple[object, ...]:
    run = row[8]
    placed = (run.first, run.last, run.term, run.kind, run.size, run.blob, run.origin, run.sequence)
    return (*row[:8], *placed, run.payloads)


@given(st.lists(append_rows(), min_size=1, max_size=10))
def test_appends_arrive_as_they_were_sent(rows: list[AppendRow]) -> None:
    [(group, generation, message)] = decode(encode([(0, 0, Appends(rows))]))
    assert (group, generation) == (0, 0)
    assert isinstance(message, Appends)
    assert [plain(row) for row in message.rows] == [plain(row) for row in rows]
    assert all(row[8].kind is EntryKind.NORMAL for row in message.rows)


@given(st.lists(u64, min_size=APPEND_ACK_FIELDS, max_size=10 * APPEND_ACK_FIELDS))
def test_answers_arrive_as_they_were_sent(numbers: list[int]) -> None:
    rows = numbers[: len(numbers) // APPEND_ACK_FIELDS * APPEND_ACK_FIELDS]
    items: list[Envelope] = [(0, 0, AppendAcks(rows))]
    assert decode(encode(items)) == items


def row(**changes: Any) -> list[Any]:
    """One row as it travels: a single entry of sixteen bytes behind index 9."""
    fields: dict[str, Any] = {
        "group": 1,
        "generation": 0,
        "to": 2,
        "sender": 3,
        "term": 4,
        "log_term": 4,
        "index": 9,
        "commit": 8,
        "count": 1,
        "size": len(PAYLOAD),
        "origin": 3,
        "sequence": 77,
        "blob": cbor2.dumps([PAYLOAD]),
    }
    return list({**fields, **changes}.values())


def test_the_row_that_the_others_are_made_from_is_fine() -> None:
    [(_, _, message)] = decode(cbor2.dumps([[38, [*row(), *row(group=5)]]]))
    assert isinstance(message, Appends)
    assert [each[0] for each in message.rows] == [1, 5]
    assert [each[8].payloads for each in message.rows] == [[PAYLOAD]] * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"group": -1},
        {"group": 1 << 64},
        {"group": "1"},
        {"term": True},
        {"commit": 1.0},
        {"index": (1 << 64) - 1},
        {"count": 0, "size": 0, "blob": b"\x80"},
        {"count": 2},
        {"size": 15},
        {"size": 17},
        {"blob": "text"},
        {"blob": b""},
        {"blob": cbor2.dumps([PAYLOAD]) + b"\0"},
        {"blob": b"\x81\x58\x10" + PAYLOAD},
        {"blob": b"\x81\x70" + PAYLOAD},
        {"blob": cbor2.dumps(PAYLOAD)},
        {"blob": cbor2.dumps([PAYLOAD, b""])},
    ],
    ids=str,
)
def test_a_row_that_could_not_have_been_sent_is_refused(changes: dict[str, Any]) -> None:
    good = row()
    for rows in (row(**changes), [*good, *row(**changes)], [*row(**changes), *good]):
        with pytest.raises(WireError):
            decode(cbor2.dumps([[38, rows]]))


@pytest.mark.parametrize("rest", [[], [[]], [row()[:-1]], [[*row(), 1]], [row(), 1], [1], [{}]], ids=str)
def test_what_are_no_rows_of_appends_is_refused(rest: list[object]) -> None:
    with pytest.raises(WireError):
        decode(cbor2.dumps([[38, *rest]]))


@pytest.mark.parametrize("rest", [[], [[]], [[1] * 7], [[1] * 5 + [-1]], [[1] * 5 + ["x"]], [1]], ids=str)
def test_what_are_no_rows_of_answers_is_refused(rest: list[object]) -> None:
    with pytest.raises(WireError):
        decode(cbor2.dumps([[39, *rest]]))
