"""How a leader answers linearizable reads (thesis §6.4; leases §6.4.1)."""

from __future__ import annotations

from multiraft.messages import NO_MEMBER, Message, MessageType
from multiraft.raft.read_index import decode_position
from multiraft.raft.ready import ReadState
from multiraft.raft.replication import announce_to, send_heartbeats
from multiraft.raft.state import State
from multiraft.types import Index, MemberId, ReadMode

__all__ = ["confirm_reads", "on_read", "recheck_reads", "release_postponed"]


def on_read(state: State, message: Message) -> None:
    """A read of our own host, or forwarded by another member."""
    sender = message.sender or state.id
    if state.log.committed < state.term_start:
        # Until something of our term is committed we may not know all that was committed
        # before; a single voter after a restart does not, either.
        state.reads.postpone(sender, message.context)
        return
    _serve(state, sender, message.context)


def release_postponed(state: State) -> None:
    """The first entry of our term was committed."""
    waiting = state.reads.postponed
    state.reads.postponed = ()
    for sender, context in waiting:
        # No lease: what committed it may have waited here while the host was paused, and ticks
        # are counted only after messages.
        _ask_quorum(state, sender, context)


def _serve(state: State, sender: MemberId, context: bytes) -> None:
    if _holds_lease(state):
        _answer(state, state.log.committed, sender, context)
    else:
        _ask_quorum(state, sender, context)


def _ask_quorum(state: State, sender: MemberId, context: bytes) -> None:
    position = state.reads.add(state.log.committed, sender, context)
    recheck_reads(state)  # a single voter is its own quorum
    if state.reads.last_position:
        send_heartbeats(state, position)


def _holds_lease(state: State) -> bool:
    """Whether nobody else can have been elected yet.

    A quorum answered a heartbeat sent at most so long ago that each of them, counting an
    election timeout from when it heard it, still refuses other candidates. One tick is lost at
    either end to counting tick boundaries, and one more is left for clocks that drift. A member
    that was ordered to campaign is refused by nobody, so during a transfer, and for the rest of
    the term once TimeoutNow is out, there is no lease; such reads take a round.
    """
    if state.config.read_mode is not ReadMode.LEASE:
        return False
    if state.lead_transferee != NO_MEMBER or state.lease_given_up:
        return False
    sent = state.reads.lease_tick(state.tracker)
    return sent is not None and state.ticks - sent <= state.election_ticks - 3


def confirm_reads(state: State, message: Message) -> None:
    """A heartbeat was answered, and with it every read that waited when it was sent."""
    position = decode_position(message.context)
    if position:
        for request in state.reads.acknowledge(message.sender, position, state.tracker):
            _answer(state, request.index, request.sender, request.context)


def recheck_reads(state: State) -> None:
    """Who makes a quorum may have changed."""
    for request in state.reads.recheck(state.tracker):
        _answer(state, request.index, request.sender, request.context)


def _answer(state: State, index: Index, sender: MemberId, context: bytes) -> None:
    if sender == state.id:
        state.read_states.append(ReadState(index, context))
    else:
        state.messages.append(
            Message(MessageType.READ_INDEX_RESP, sender, state.id, state.term, index=index, context=context)
        )
        # It answers its reader when it has applied that far, so it has to know it may.
        state.awaited[sender] = max(index, state.awaited.get(sender, 0))
        announce_to(state, sender)
