"""What a follower does with each message (thesis, Figure 3.1, "Rules for Servers: Followers")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from multiraft.errors import ProposalDropped
from multiraft.messages import NO_MEMBER, Message, MessageType, Snapshot
from multiraft.raft.confchange import restore
from multiraft.raft.election import Campaign, learn_commit, start_campaign
from multiraft.raft.ready import ReadState
from multiraft.raft.state import State
from multiraft.raft.trace import Level, RaftRole
from multiraft.types import MemberId, ReadMode

__all__ = ["HANDLERS", "Handler", "handle_append", "handle_heartbeat", "handle_snapshot"]

Handler = Callable[[State, Message], None]

APP_RESP: Final = MessageType.APP_RESP


# --- from the leader -----------------------------------------------------------------------


def _hear(state: State, leader: MemberId) -> None:
    """The leader of our term spoke: the election timer starts anew."""
    state.election_elapsed = 0
    state.leader = leader


def on_append(state: State, message: Message) -> None:
    state.election_elapsed = 0
    state.leader = message.sender
    handle_append(state, message)


def handle_append(state: State, message: Message) -> None:
    """AppendEntries, receiver's part. The cost is per run; no entry is looked at one by one."""
    log = state.log
    anchor = message.index
    runs = message.runs
    last = runs[-1].last if runs else anchor
    if anchor == log.last_index and message.log_term == log.last_term:
        if runs:
            log.append(runs)
    elif anchor < log.committed:
        # A committed prefix is equal everywhere, so this says nothing new; but it tells the
        # leader where to go on.
        state.answer_append(message.sender, log.committed)
        return
    elif log.matches(anchor, message.log_term):
        log.merge(runs)
    else:
        _reject_append(state, message)
        return
    # Only what this append vouches for: behind it our log may still differ from the leader's.
    commit = min(last, message.commit)
    if commit > log.committed:
        log.commit_to(commit)
    state.responses.append(Message(APP_RESP, message.sender, state.id, state.term, 0, last))


def _reject_append(state: State, message: Message) -> None:
    log = state.log
    if state.logger is not None:
        state.logger(
            Level.DEBUG,
            f"{state.id:x} [logterm: {log.term_or_zero(message.index)}, index: {message.index}] rejected "
            f"MsgApp [logterm: {message.log_term}, index: {message.index}] from {message.sender:x}",
        )
    hint, hint_term = log.find_conflict_by_term(min(message.index, log.last_index), message.log_term)
    state.responses.append(
        Message(
            APP_RESP,
            message.sender,
            state.id,
            state.term,
            hint_term,
            message.index,
            reject=True,
            reject_hint=hint,
        )
    )


def on_heartbeat(state: State, message: Message) -> None:
    _hear(state, message.sender)
    handle_heartbeat(state, message)


def handle_heartbeat(state: State, message: Message) -> None:
    """The leader never names a commit index that we did not acknowledge."""
    state.log.commit_to(message.commit)
    state.messages.append(
        Message(MessageType.HEARTBEAT_RESP, message.sender, state.id, state.term, context=message.context)
    )


def on_commit(state: State, message: Message) -> None:
    """A commit index alone. It may overtake the append it is about, so it is capped here too."""
    if state.leader not in (message.sender, NO_MEMBER):
        return
    _hear(state, message.sender)
    handle_commit(state, message)


def handle_commit(state: State, message: Message) -> None:
    log = state.log
    log.commit_to(min(message.commit, log.last_index))


def on_snapshot(state: State, message: Message) -> None:
    _hear(state, message.sender)
    handle_snapshot(state, message)


def handle_snapshot(state: State, message: Message) -> None:
    """InstallSnapshot (thesis §5.1). Whatever comes of it, the leader learns where we stand."""
    snapshot = message.snapshot or Snapshot()
    restored = _restore(state, snapshot)
    if state.logger is not None:
        state.logger(
            Level.INFO,
            f"{state.id:x} [commit: {state.log.committed}] {'restored' if restored else 'ignored'} "
            f"snapshot [index: {snapshot.index}, term: {snapshot.term}]",
        )
    state.answer_append(message.sender, state.log.last_index if restored else state.log.committed)


def _restore(state: State, snapshot: Snapshot) -> bool:
    """Replace log and configuration by `snapshot`. False: it was not needed."""
    log = state.log
    if snapshot.index <= log.committed:
        return False
    assert state.role is RaftRole.FOLLOWER, "who hears a leader follows it first"
    conf = snapshot.conf_state
    # A member that is about to leave is only in the outgoing half and still needs the log.
    if state.id not in {*conf.voters, *conf.learners, *conf.voters_outgoing}:
        if state.logger is not None:
            state.logger(
                Level.WARN,
                f"{state.id:x} attempted to restore snapshot but it is not in its configuration; "
                "should never happen",
            )
        return False
    if log.matches(snapshot.index, snapshot.term):
        _log_restored(state, snapshot, "fast-forwarded commit to")
        log.commit_to(snapshot.index)
        return False
    log.restore(snapshot)
    state.tracker.forget_members()
    state.install(restore(conf))
    state.tracker.progress[state.id].acknowledge(log.last_index)
    _log_restored(state, snapshot, "restored")
    return True


def _log_restored(state: State, snapshot: Snapshot, what: str) -> None:
    if state.logger is not None:
        log = state.log
        state.logger(
            Level.INFO,
            f"{state.id:x} [commit: {log.committed}, lastindex: {log.last_index}, lastterm: {log.last_term}] "
            f"{what} snapshot [index: {snapshot.index}, term: {snapshot.term}]",
        )


# --- for the leader ------------------------------------------------------------------------


def on_proposal(state: State, message: Message) -> None:
    """Forward it. The proposer stays its sender, whoever passes it on."""
    if state.leader == NO_MEMBER:
        if state.logger is not None:
            state.logger(Level.INFO, f"{state.id:x} no leader at term {state.term}; dropping proposal")
        raise ProposalDropped("no leader")
    if state.config.disable_proposal_forwarding:
        if state.logger is not None:
            state.logger(
                Level.INFO,
                f"{state.id:x} not forwarding to leader {state.leader:x} at term {state.term}; "
                "dropping proposal",
            )
        raise ProposalDropped("not the leader")
    _forward(state, message)


def _forward(state: State, message: Message) -> None:
    """Pass on to the leader without a term: it is for whoever leads when it arrives."""
    state.messages.append(attrs.evolve(message, to=state.leader, sender=message.sender or state.id, term=0))


def on_read(state: State, message: Message) -> None:
    if state.leader == NO_MEMBER:
        if state.logger is not None:
            state.logger(
                Level.INFO, f"{state.id:x} no leader at term {state.term}; dropping index reading msg"
            )
        return
    _forward(state, message)


def on_read_answer(state: State, message: Message) -> None:
    if not message.context:
        if state.logger is not None:
            state.logger(
                Level.ERROR,
                f"{state.id:x} invalid format of MsgReadIndexResp from {message.sender:x}: no context",
            )
        return
    state.read_states.append(ReadState(message.index, message.context))


def on_transfer(state: State, message: Message) -> None:
    if state.leader == NO_MEMBER:
        if state.logger is not None:
            state.logger(
                Level.INFO, f"{state.id:x} no leader at term {state.term}; dropping leader transfer msg"
            )
        return
    state.messages.append(attrs.evolve(message, to=state.leader, term=state.term))


# --- leadership ------------------------------------------------------------------------------


def on_timeout_now(state: State, message: Message) -> None:
    """The leader hands over (thesis §3.10). No pre-vote: leases would refuse it."""
    if state.logger is not None:
        state.logger(
            Level.INFO,
            f"{state.id:x} [term {state.term}] received MsgTimeoutNow from {message.sender:x} "
            "and starts an election to get leadership.",
        )
    start_campaign(state, Campaign.TRANSFER)


def on_forget_leader(state: State, _message: Message) -> None:
    """Free our vote for somebody else. The election timer goes on."""
    if state.config.read_mode is ReadMode.LEASE:
        # The leader's lease rests on our refusing to vote.
        if state.logger is not None:
            state.logger(Level.ERROR, "ignoring MsgForgetLeader due to ReadOnlyLeaseBased")
        return
    if state.leader != NO_MEMBER:
        if state.logger is not None:
            state.logger(Level.INFO, f"{state.id:x} forgetting leader {state.leader:x} at term {state.term}")
        state.leader = NO_MEMBER


HANDLERS: Final[dict[MessageType, Handler]] = {
    MessageType.APP: on_append,
    MessageType.HEARTBEAT: on_heartbeat,
    MessageType.COMMIT: on_commit,
    MessageType.SNAP: on_snapshot,
    MessageType.PROP: on_proposal,
    MessageType.READ_INDEX: on_read,
    MessageType.READ_INDEX_RESP: on_read_answer,
    MessageType.TRANSFER_LEADER: on_transfer,
    MessageType.TIMEOUT_NOW: on_timeout_now,
    MessageType.FORGET_LEADER: on_forget_leader,
    MessageType.VOTE_RESP: learn_commit,
    MessageType.PRE_VOTE_RESP: learn_commit,
}
