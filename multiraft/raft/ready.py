"""What a core hands to its host in one piece: what to write, send, apply and answer."""

from __future__ import annotations

import attrs

from multiraft.messages import HardState, Message, Run, Snapshot
from multiraft.raft.trace import RaftRole
from multiraft.types import Index, MemberId

__all__ = ["ReadState", "Ready", "SoftState"]


@attrs.frozen
class SoftState:
    """Who leads (0: nobody known) and what this member is. Not persisted."""

    leader: MemberId
    role: RaftRole


@attrs.frozen
class ReadState:
    """The read with `context` may be answered from any state applied up to `index`."""

    index: Index
    context: bytes


@attrs.define(eq=False)
class Ready:
    """Everything new since the last one. Taking it accepts it: nothing is handed out twice.

    Attributes:
        soft_state: If it changed.
        hard_state: If it changed. Write it before `responses` leave.
        read_states: Reads that are confirmed now.
        runs: Entries to write, in this order, before `responses` leave.
        snapshot: To write instead of the log up to its index, before `responses` leave.
        committed: Entries to apply. With asynchronous writes all of them are on disk already.
        messages: To send at once, in this order. In sync mode: to send after writing.
        responses: Asynchronous writes only. To keep until the three above are on disk; then those
            addressed to this member are stepped into the core and the others are sent, in order.
        must_sync: Whether the write must reach the disk before `responses` leave. False for a
            mere new commit index, which every start can find out again.
    """

    soft_state: SoftState | None
    hard_state: HardState | None
    read_states: list[ReadState]
    runs: list[Run]
    snapshot: Snapshot | None
    committed: list[Run]
    messages: list[Message]
    responses: list[Message]
    must_sync: bool

    @property
    def empty(self) -> bool:
        return not (
            self.soft_state
            or self.hard_state
            or self.read_states
            or self.runs
            or self.snapshot
            or self.committed
            or self.messages
            or self.responses
        )
