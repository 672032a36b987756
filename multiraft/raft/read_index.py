"""Linearizable reads on a leader: which wait, and what confirms them (thesis §6.4).

A read is answered with the commit index of the moment it arrived, once a quorum has said,
after that moment, that the leader still leads. Reads are numbered by a *position* of ours that
travels in heartbeats: a caller's own context may come back (a retry) and must not confirm
anything but the read it belongs to. One answer confirms its position and all before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from multiraft.raft.tracker import Tracker
from multiraft.types import Index, MemberId

__all__ = ["ReadQueue", "ReadRequest", "decode_position", "encode_position"]

_POSITION_BYTES = 8
_NOBODY: Final[dict[MemberId, int]] = {}
"""Who has acknowledged anything before the first read; never changed."""


@attrs.define
class ReadRequest:
    """A read that waits. `sender` is the member that asked, which may be the leader itself."""

    position: int
    index: Index
    sender: MemberId
    context: bytes


def encode_position(position: int) -> bytes:
    """As the context of a heartbeat; empty for none."""
    return position.to_bytes(_POSITION_BYTES, "big") if position else b""


def decode_position(context: bytes) -> int:
    """0 for anything that is no position."""
    return int.from_bytes(context, "big") if len(context) == _POSITION_BYTES else 0


class ReadQueue:
    """Reads of one leadership, in order of arrival. Nothing is allocated before there is one.

    Attributes:
        postponed: (sender, context) of reads that arrived before the first commit of the term:
            until then the leader may not know of entries that were acknowledged before (§6.4).
    """

    __slots__ = ("_acknowledged", "_position", "_sent_ticks", "_waiting", "postponed")

    def __init__(self) -> None:
        self._position = 0
        self._waiting: list[ReadRequest] | None = None
        self._acknowledged = _NOBODY
        self._sent_ticks: dict[int, int] | None = None
        self.postponed: Sequence[tuple[MemberId, bytes]] = ()

    def clear(self) -> None:
        """The role changed: callers have to ask again, the postponed ones too.

        Positions go on counting, so that no answer to an old heartbeat can ever fit a new read.
        """
        self._waiting = self._sent_ticks = None
        self.postponed = ()
        self._acknowledged = _NOBODY

    def postpone(self, sender: MemberId, context: bytes) -> None:
        self.postponed = [*self.postponed, (sender, context)]

    @property
    def last_position(self) -> int:
        """Of the newest read that still waits; 0: none does."""
        return self._waiting[-1].position if self._waiting else 0

    def add(self, index: Index, sender: MemberId, context: bytes) -> int:
        """A read arrived while `index` was committed. Returns its position, to be beaten for."""
        self._position += 1
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(ReadRequest(self._position, index, sender, context))
        return self._position

    def acknowledge(self, member: MemberId, position: int, tracker: Tracker) -> list[ReadRequest]:
        """`member` answered a heartbeat that named `position`. Returns reads confirmed by that.

        A position that was never given out is somebody's mistake and confirms nothing.
        """
        if not 0 < position <= self._position or position <= self._acknowledged.get(member, 0):
            return []
        if self._acknowledged is _NOBODY:
            self._acknowledged = {}
        self._acknowledged[member] = position
        return self._confirmed(tracker)

    def recheck(self, tracker: Tracker) -> list[ReadRequest]:
        """Who counts has changed. Returns reads that are confirmed now."""
        return self._confirmed(tracker)

    def _confirmed(self, tracker: Tracker) -> list[ReadRequest]:
        reached = tracker.acknowledged(self._acknowledged, self._position)
        waiting = self._waiting
        if not waiting or waiting[0].position > reached:
            return []
        done = len(waiting)
        while waiting[done - 1].position > reached:
            done -= 1
        confirmed = waiting[:done]
        del waiting[:done]
        return confirmed

    # --- leases ------------------------------------------------------------------------------

    def beat(self, tick: int) -> int:
        """A heartbeat is sent to everybody at `tick`: number it, for `lease_tick`."""
        self._position += 1
        if self._sent_ticks is None:
            self._sent_ticks = {}
        self._sent_ticks[self._position] = tick
        return self._position

    def lease_tick(self, tracker: Tracker) -> int | None:
        """When the newest heartbeat was sent that a quorum has answered; None: there is none.

        A lease counts from the sending: what a follower promises starts no earlier (§6.4.1).
        """
        if self._sent_ticks is None:
            return None
        reached = tracker.acknowledged(self._acknowledged, self._position)
        answered = [position for position in self._sent_ticks if position <= reached]
        for position in answered[:-1]:
            del self._sent_ticks[position]
        return self._sent_ticks[answered[-1]] if answered else None
