"""What arrived and waits for a pass: in pieces small enough to stop between any two. Plain data.

A frame may hold what a host takes tens of milliseconds for: a thousand requests for votes when a host
was lost, a thousand rows of appends. So it is cut, in order, into pieces of `PIECE_MESSAGES` messages or
`PIECE_ROWS` rows, and a pass looks at the clock after each.

The order. There are three queues, and each keeps its own: pulses (sessions.py), what else the liveness lane
carries (votes, heartbeats), and the bulk lane. Nobody may rely on more: the lanes are separate streams, and
what a pulse says hangs on no message beside it, nor they on it. Pulses go first: a host that has a
hundred thousand heartbeats and votes before it, some seconds of work, must see in time that the others are
alive, or it ends its sessions, which makes more work of the same kind. Then comes the rest of the lane, as
elections hang on its being in time. But after `FIRST` pieces that went before another queue comes one of
that, so that none starves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

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
    Pulse,
)

MESSAGES_MAX: Final = 65536
"""Messages and rows waiting; above it streams are not read any further."""

PIECE_MESSAGES: Final = 32
"""Messages in a piece: each takes a host some 20 to 50 µs."""

PIECE_ROWS: Final = 128
"""Rows in a piece: each takes a host 3 to 20 µs."""

FIRST: Final = 4
"""Pieces of a queue in a row while another waits behind it."""

_FIELDS: Final = {
    AppendAcks: APPEND_ACK_FIELDS,
    Beats: BEAT_FIELDS,
    BeatAcks: BEAT_ACK_FIELDS,
    Pulse: PULSE_FIELDS,
}
"""Messages with flat rows, and how many numbers make one."""

Piece = tuple[Hello, list[Envelope], int]
"""From whom, what, and its weight in messages and rows."""


class Inbox:
    """The pieces that wait.

    Attributes:
        weight: Messages and rows that wait; 0 only if there is no piece.
    """

    __slots__ = ("_bulk", "_lane_row", "_liveness", "_pulses", "_pulses_row", "_taken", "weight")

    def __init__(self) -> None:
        self.weight = 0
        self._pulses: deque[Piece] = deque()
        self._liveness: deque[Piece] = deque()
        self._bulk: deque[Piece] = deque()
        self._taken = [0, 0, 0]
        """Pieces taken from each, ever."""
        self._pulses_row = 0
        """Pieces of pulses since the last one of what else the lane carries."""
        self._lane_row = 0
        """Pieces of the whole lane since the last one of the other."""

    def put(self, peer: Hello, lane: Lane, items: list[Envelope]) -> None:
        """Queue one frame. One without a message is nothing."""
        if not items:
            return
        waiting = self._bulk
        if lane is Lane.LIVENESS:
            waiting = self._liveness
            if type(items[0][2]) is Pulse:
                items = self._put_pulses(peer, items)
                if not items:
                    return
        if len(items) <= PIECE_MESSAGES and (weight := weight_of(items)) <= PIECE_ROWS:
            waiting.append((peer, items, weight))
            self.weight += weight
            return
        for piece in pieces(items):
            weight = weight_of(piece)
            waiting.append((peer, piece, weight))
            self.weight += weight

    def _put_pulses(self, peer: Hello, items: list[Envelope]) -> list[Envelope]:
        """Queue the pulses that `items` begins with, and return the rest.

        Each is a piece: its sender keeps them small.
        """
        count = 0
        for _, _, message in items:
            if type(message) is not Pulse:
                break
            weight = 1 + len(message.rows) // PULSE_FIELDS
            self._pulses.append((peer, items[count : count + 1], weight))
            self.weight += weight
            count += 1
        return items[count:]

    def take(self) -> Piece:
        """The next piece. Only when there is one: `weight` says so."""
        pulses, liveness, bulk = self._pulses, self._liveness, self._bulk
        if bulk and (self._lane_row >= FIRST or not (pulses or liveness)):
            self._lane_row = 0
            self._taken[2] += 1
            piece = bulk.popleft()
        elif pulses and (self._pulses_row < FIRST or not liveness):
            self._lane_row += 1
            self._pulses_row += 1
            self._taken[0] += 1
            piece = pulses.popleft()
        else:
            self._lane_row += 1
            self._pulses_row = 0
            self._taken[1] += 1
            piece = liveness.popleft()
        self.weight -= piece[2]
        return piece

    def mark(self) -> tuple[int, int, int]:
        """Stands for all that waits now; see `is_past`."""
        pulses, liveness, bulk = self._taken
        return pulses + len(self._pulses), liveness + len(self._liveness), bulk + len(self._bulk)

    def is_past(self, mark: tuple[int, int, int]) -> bool:
        """Whether all that waited at `mark` has been taken."""
        pulses, liveness, bulk = self._taken
        return pulses >= mark[0] and liveness >= mark[1] and bulk >= mark[2]


def weight_of(items: list[Envelope]) -> int:
    """Messages and rows. Each envelope counts as well."""
    weight = len(items)
    for _, _, message in items:
        kind = type(message)
        if kind is Appends:
            weight += len(message.rows)  # type: ignore[union-attr]  # a look at the type costs less
        elif kind in _FIELDS:
            weight += len(message.rows) // _FIELDS[kind]  # type: ignore[union-attr]  # likewise
    return weight


def pieces(items: list[Envelope]) -> Iterator[list[Envelope]]:
    """Cut a frame. What has more rows than a piece may have stands alone, a part of it in each."""
    piece: list[Envelope] = []
    weight = 0
    for item in items:
        own = weight_of([item])
        if piece and (weight + own > PIECE_ROWS or len(piece) >= PIECE_MESSAGES):
            yield piece
            piece, weight = [], 0
        if own > PIECE_ROWS:
            yield from parts(item)
            continue
        piece.append(item)
        weight += own
    if piece:
        yield piece


def parts(item: Envelope) -> Iterator[list[Envelope]]:
    """Cut the rows of one message."""
    group, generation, message = item
    if type(message) is Pulse:
        yield [item]  # one thing, and its sender keeps it small (sessions.py)
        return
    if type(message) is Appends:
        for start in range(0, len(message.rows), PIECE_ROWS):
            yield [(group, generation, Appends(message.rows[start : start + PIECE_ROWS]))]
        return
    assert isinstance(message, (AppendAcks, Beats, BeatAcks)), "what has rows is made of them"
    rows, step = message.rows, _FIELDS[type(message)] * PIECE_ROWS
    for start in range(0, len(rows), step):
        yield [(group, generation, type(message)(rows[start : start + step]))]
