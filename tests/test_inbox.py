"""What waits for a pass: in order, in pieces that a pass can stop between, and fair to both lanes."""

from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from multiraft.inbox import FIRST, PIECE_MESSAGES, PIECE_ROWS, Inbox
from multiraft.messages import (
    APPEND_ACK_FIELDS,
    BEAT_ACK_FIELDS,
    BEAT_FIELDS,
    PULSE_FIELDS,
    AppendAcks,
    Appends,
    BeatAcks,
    Beats,
    Envelope,
    Hello,
    Lane,
    Message,
    MessageType,
    Pulse,
    Run,
)

PEER = Hello("c", 1, 1, "127.0.0.1:1")
RUN = Run.of([b"x"], first=1, term=1)


def vote(group: int) -> Envelope:
    return group, 0, Message(MessageType.VOTE, 1, 2, 3)


def rows(first: int, count: int) -> Appends:
    return Appends([(first + number, 0, 1, 2, 1, 1, 0, 0, RUN) for number in range(count)])


def drained(inbox: Inbox) -> list[list[Envelope]]:
    found = []
    while inbox.weight:
        found.append(inbox.take()[1])
    return found


def said(items: list[Envelope]) -> list[object]:
    """Every message and every row, one by one, in order."""
    found: list[object] = []
    for group, _, message in items:
        if isinstance(message, Appends):
            found += message.rows
        elif isinstance(message, AppendAcks | Beats | BeatAcks):
            fields = {AppendAcks: APPEND_ACK_FIELDS, Beats: BEAT_FIELDS, BeatAcks: BEAT_ACK_FIELDS}
            step = fields[type(message)]
            found += [
                (type(message), *message.rows[at : at + step]) for at in range(0, len(message.rows), step)
            ]
        else:
            found.append((group, message))
    return found


def test_a_small_frame_stays_as_it_is() -> None:
    inbox = Inbox()
    items = [vote(number) for number in range(PIECE_MESSAGES)]
    inbox.put(PEER, Lane.LIVENESS, items)
    assert inbox.weight == PIECE_MESSAGES
    assert drained(inbox)[0] is items
    assert inbox.weight == 0


some_items = st.lists(
    st.one_of(
        st.integers(1, 9).map(vote),
        st.builds(lambda first, count: (0, 0, rows(first, count)), st.integers(0, 9), st.integers(0, 600)),
        st.integers(0, 600).map(lambda n: (0, 0, AppendAcks(list(range(n * APPEND_ACK_FIELDS))))),
        st.integers(0, 600).map(lambda n: (0, 0, Beats(list(range(n * BEAT_FIELDS))))),
        st.integers(0, 600).map(lambda n: (0, 0, BeatAcks(list(range(n * BEAT_ACK_FIELDS))))),
    ),
    max_size=80,
)


@given(some_items)
def test_a_large_frame_is_cut_in_order_into_pieces_that_are_bounded(items: list[Envelope]) -> None:
    """Nothing is lost, doubled or overtaken, and a piece is never more than a pass may have to do at once."""
    inbox = Inbox()
    inbox.put(PEER, Lane.BULK, items)
    total = inbox.weight
    weights = []
    found: list[Envelope] = []
    while inbox.weight:
        peer, piece, weight = inbox.take()
        assert peer is PEER
        assert len(piece) <= PIECE_MESSAGES
        assert len(said(piece)) <= PIECE_ROWS
        weights.append(weight)
        found += piece
    assert said(found) == said(items)
    assert sum(weights) == total
    assert inbox.weight == 0


def test_a_pulse_is_not_cut() -> None:
    """Its rows, acknowledgement and beat are one thing."""
    pulse = Pulse(1, 2, 3, 4, 5, False, [0] * PULSE_FIELDS * (PIECE_ROWS + 1))
    inbox = Inbox()
    items = [(0, 0, pulse), vote(1), vote(2)]
    inbox.put(PEER, Lane.LIVENESS, items)
    assert inbox.weight == PIECE_ROWS + 1 + 1 + 2
    assert list(chain(*drained(inbox))) == items
    assert inbox.weight == 0


def beat(number: int) -> Envelope:
    return 0, 0, Pulse(1, 2, number, number, 0, False, [])


def test_pulses_go_before_all_that_waits_and_do_not_starve_it() -> None:
    """Whoever has seconds of votes before it must still hear in time that the other host is alive."""
    inbox = Inbox()
    inbox.put(PEER, Lane.BULK, [vote(100)])
    for number in range(3):
        inbox.put(PEER, Lane.LIVENESS, [vote(number)])
    beats = [beat(number) for number in range(1, 2 * FIRST)]
    inbox.put(PEER, Lane.LIVENESS, [*beats[:2], vote(3)])
    for item in beats[2:]:
        inbox.put(PEER, Lane.LIVENESS, [item])
    order = [
        f"beat {message.beat}" if isinstance(message, Pulse) else group
        for items in drained(inbox)
        for group, _, message in items
    ]
    first = [f"beat {beat}" for beat in range(1, FIRST + 1)]
    second = [f"beat {beat}" for beat in range(FIRST + 1, 2 * FIRST)]
    assert order == [*first, 100, 0, *second, 1, 2, 3]


def test_liveness_goes_first_and_does_not_starve_the_other_lane() -> None:
    inbox = Inbox()
    for number in range(3):
        inbox.put(PEER, Lane.BULK, [vote(100 + number)])
    for number in range(2 * FIRST):
        inbox.put(PEER, Lane.LIVENESS, [vote(number)])
    order = [items[0][0] for items in drained(inbox)]
    assert order == [*range(FIRST), 100, *range(FIRST, 2 * FIRST), 101, 102]


def test_a_mark_is_past_when_all_that_waited_then_is_taken() -> None:
    """Of both lanes, whatever has come since."""
    inbox = Inbox()
    assert inbox.is_past(inbox.mark())
    inbox.put(PEER, Lane.LIVENESS, [vote(1)])
    inbox.put(PEER, Lane.BULK, [vote(2)])
    mark = inbox.mark()
    inbox.put(PEER, Lane.LIVENESS, [vote(3)])
    inbox.take()
    inbox.take()
    assert not inbox.is_past(mark)
    inbox.take()
    assert inbox.is_past(mark)
