"""Where messages of a pass wait for its end: one list per peer and lane, so one frame each.

Grouping by host is what makes a thousand groups as cheap on the wire as one.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from multiraft.interfaces import Transport
from multiraft.messages import (
    BEAT_ACK_FIELDS,
    BEAT_FIELDS,
    AppendAcks,
    AppendRow,
    Appends,
    BeatAcks,
    Beats,
    Envelope,
    HostMessage,
    Lane,
    MessageType,
)
from multiraft.types import GroupId

if TYPE_CHECKING:
    from multiraft.sessions import Session

_LIVENESS = {
    MessageType.VOTE,
    MessageType.VOTE_RESP,
    MessageType.PRE_VOTE,
    MessageType.PRE_VOTE_RESP,
    MessageType.HEARTBEAT,
    MessageType.HEARTBEAT_RESP,
    MessageType.TIMEOUT_NOW,
}

BULK, LIVENESS, APPEND, PROPOSAL, SNAPSHOT = range(5)

WAYS: list[int] = [
    LIVENESS
    if kind in _LIVENESS
    else {
        MessageType.APP: APPEND,
        MessageType.PROP: PROPOSAL,
        MessageType.SNAP: SNAPSHOT,
    }.get(kind, BULK)
    for kind in MessageType
]
"""How a message leaves, by its type: one look-up for each message sent.

Liveness messages are small, and an election hangs on their being in time, so they never wait
behind appends. A list, because hashing an enum member is a Python call.
"""

FRAME_MESSAGES_MAX = 1024
FRAME_BYTES_MAX = 512 * 1024
"""Weight of entries after which a frame is full. One message may weigh more by itself."""

BEAT_GROUPS_MAX = 8192
"""Groups in one message of beats: at most about 400 KB."""

REFUSALS_MAX = 1024
"""Refusals that are told again when a link breaks and is back; those before have had their time."""

REFUSALS_AWAY_MAX = 1 << 16
"""The same while there is no link: none of these was told. Beyond that the oldest are forgotten, and who
waits for one hears of it when the leader changes."""


class Peer:
    """Another host, by address, with what this pass has for it."""

    __slots__ = (
        "acks",
        "address",
        "appends",
        "beat_acks",
        "beats",
        "bulk",
        "bulk_bytes",
        "connected",
        "groups",
        "idle",
        "lanes",
        "liveness",
        "liveness_lost",
        "lost",
        "queued",
        "refusals",
        "session",
        "up",
    )

    def __init__(self, address: str) -> None:
        self.address = address
        self.liveness: list[Envelope] = []
        self.beats: list[int] = []
        self.beat_acks: list[int] = []
        self.bulk: list[Envelope] = []
        self.bulk_bytes = 0
        self.appends: list[AppendRow] | None = None
        """Rows of the `Appends` in `bulk` that more may be put into; None: there is none."""
        self.acks: list[int] | None = None
        """Likewise, of `AppendAcks`."""
        self.connected = False
        """Our bulk lane to it is open."""
        self.groups: set[GroupId] = set()
        """Groups that have a member there."""
        self.idle = False
        """No group had a member there, and nothing was sent there, since the last look."""
        self.lost: list[Envelope] = []
        """Bulk messages that the transport would not take."""
        self.refusals: deque[Envelope] = deque()
        """The last refusals: of forwarded proposals, as somebody waits for each; and of whole members."""
        self.queued = False
        self.session: Session | None = None
        """What the liveness lanes to and from it make together."""
        self.liveness_lost = False
        """The transport would not take something of the liveness lane."""
        self.lanes: set[Lane] = set()
        """Our lanes to it that are open."""
        self.up: bool | None = None
        """All of them are. None: nobody knows yet."""

    def lane_up(self, lane: Lane) -> bool:
        """Our stream opened. Whether that makes the host one that is up."""
        self.lanes.add(lane)
        if self.up or len(self.lanes) < len(Lane):
            return False
        self.up = True
        return True

    def lane_down(self, lane: Lane) -> bool:
        """Our stream broke, or could not be opened. Whether that makes the host one that is down."""
        self.lanes.discard(lane)
        before, self.up = self.up, False
        return before is not False

    def add_bulk(self, item: Envelope) -> None:
        """Queue one message. What comes after it must not overtake it, so it ends the rows before."""
        self.bulk.append(item)
        self.appends = self.acks = None

    def keep_refusal(self, item: Envelope) -> None:
        """Remember what is to be told again when there is a link (again)."""
        self.refusals.append(item)
        most = REFUSALS_MAX if self.connected else REFUSALS_AWAY_MAX
        while len(self.refusals) > most:
            self.refusals.popleft()

    def open_appends(self) -> list[AppendRow]:
        rows = self.appends = []
        self.bulk.append((0, 0, Appends(rows)))
        return rows

    def open_acks(self) -> list[int]:
        rows = self.acks = []
        self.bulk.append((0, 0, AppendAcks(rows)))
        return rows

    def flush(self, transport: Transport) -> None:
        """Hand the pass's messages over. What the bulk lane refuses is left in `lost`."""
        self.queued = False
        if self.beats or self.beat_acks:
            self._coalesce()
        if self.liveness:
            items, self.liveness = self.liveness, []
            # Refused liveness messages are gone: the next tick makes new ones.
            for start in range(0, len(items), FRAME_MESSAGES_MAX):
                if not transport.send(self.address, Lane.LIVENESS, items[start : start + FRAME_MESSAGES_MAX]):
                    self.liveness_lost = True
        if self.bulk:
            self.flush_bulk(transport)

    def _coalesce(self) -> None:
        """Turn the rows into messages, each well within a frame: behind pulses, which must be in time."""
        beats, self.beats = self.beats, []
        acks, self.beat_acks = self.beat_acks, []
        step = BEAT_FIELDS * BEAT_GROUPS_MAX
        messages: list[HostMessage] = [
            Beats(beats[start : start + step]) for start in range(0, len(beats), step)
        ]
        step = BEAT_ACK_FIELDS * BEAT_GROUPS_MAX
        messages += [BeatAcks(acks[start : start + step]) for start in range(0, len(acks), step)]
        self.liveness += [(0, 0, message) for message in messages]

    def flush_bulk(self, transport: Transport) -> None:
        items, self.bulk = self.bulk, []
        self.bulk_bytes = 0
        self.appends = self.acks = None
        if not transport.send(self.address, Lane.BULK, items):
            self.lost.extend(items)
