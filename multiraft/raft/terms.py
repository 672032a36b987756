"""What a message of another term than ours means, whatever our role (thesis §3.3)."""

from __future__ import annotations

from typing import Final

from multiraft.messages import NO_MEMBER, TRANSFER_CONTEXT, Message, MessageType
from multiraft.raft.election import in_lease, log_vote
from multiraft.raft.state import State
from multiraft.raft.trace import MESSAGE_NAMES, Level

__all__ = ["settle_term"]

_FROM_LEADER: Final = frozenset(
    {MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP, MessageType.COMMIT}
)


def settle_term(state: State, message: Message) -> bool:
    """The message is of another term. Whether the role should still handle it."""
    if message.term > state.term:
        return _meet_higher_term(state, message)
    _meet_lower_term(state, message)
    return False


def _meet_higher_term(state: State, message: Message) -> bool:
    kind = message.type
    if kind in (MessageType.VOTE, MessageType.PRE_VOTE):
        if message.context != TRANSFER_CONTEXT and in_lease(state):
            _log_lease(state, message)
            return False
        if kind is MessageType.PRE_VOTE:
            return True  # asking does not move our term
    if kind is MessageType.PRE_VOTE_RESP and not message.reject:
        return True  # granted for a term that we are not in yet
    if state.logger is not None:
        state.logger(
            Level.INFO,
            f"{state.id:x} [term: {state.term}] received a {MESSAGE_NAMES[kind]} message with higher "
            f"term from {message.sender:x} [term: {message.term}]",
        )
    state.become_follower(message.term, message.sender if kind in _FROM_LEADER else NO_MEMBER)
    return True


def _log_lease(state: State, message: Message) -> None:
    if state.logger is None:
        return
    state.logger(
        Level.INFO,
        f"{state.id:x} [logterm: {state.log.last_term}, index: {state.log.last_index}, vote: {state.vote:x}] "
        f"ignored {MESSAGE_NAMES[message.type]} from {message.sender:x} [logterm: {message.log_term}, "
        f"index: {message.index}] at term {state.term}: lease is not expired "
        f"(remaining ticks: {state.election_ticks - state.election_elapsed})",
    )


def _meet_lower_term(state: State, message: Message) -> None:
    kind = message.type
    config = state.config
    if (config.check_quorum or config.pre_vote) and kind in (
        MessageType.HEARTBEAT,
        MessageType.APP,
        MessageType.COMMIT,
    ):
        # An outdated leader would be ignored for ever by a member whose term is higher
        # but whose votes nobody answers, because all hear that leader: the answer makes
        # it step down, and the group elects anew (§4.2.3 needs this to stay alive).
        state.answer_append(message.sender, 0)
    elif kind is MessageType.PRE_VOTE:
        # Who is behind has to learn it, or a group of mixed settings gets stuck.
        log_vote(state, message, granted=False)
        state.responses.append(
            Message(MessageType.PRE_VOTE_RESP, message.sender, state.id, state.term, reject=True)
        )
    elif kind is MessageType.VOTE and config.coalesce_beats:
        # Figure 3.1 answers with the term. Where two votes are all there are, and a member that has missed
        # who its peer is stands as often as that one, each ignores the other for as long as it is behind.
        log_vote(state, message, granted=False)
        state.responses.append(
            Message(MessageType.VOTE_RESP, message.sender, state.id, state.term, reject=True)
        )
    elif kind is MessageType.STORAGE_APPEND_RESP:
        _meet_old_write(state, message)
    elif state.logger is not None:
        state.logger(
            Level.INFO,
            f"{state.id:x} [term: {state.term}] ignored a {MESSAGE_NAMES[kind]} message with lower "
            f"term from {message.sender:x} [term: {message.term}]",
        )


def _meet_old_write(state: State, message: Message) -> None:
    """A write of an earlier term is done. Its entries may not be what the disk ends up with.

    Say (index 5, term 1) is being written, a leader of term 2 replaces 5 by (5, 2), and one
    of term 3 puts (5, 1) back. When the first write is reported now, an entry (5, 1) is
    unstable, but (5, 2) is still to be written over it: taking the report for it would
    forget an entry that the disk then loses. The last write of our own term covers all.
    A snapshot is committed, so nothing replaces it.
    """
    if message.index and state.logger is not None:
        state.logger(
            Level.INFO,
            f"{state.id:x} [term: {state.term}] ignored entry appends from a MsgStorageAppendResp "
            f"message with lower term [term: {message.term}]",
        )
    if message.snapshot is not None:
        state.snapshot_stored(message.snapshot)
