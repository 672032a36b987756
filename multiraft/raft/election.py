"""Standing for election and voting (thesis §3.4; pre-vote §9.6; leases against disruption §4.2.3)."""

from __future__ import annotations

import enum
from typing import Final

from multiraft.messages import NO_MEMBER, TRANSFER_CONTEXT, Message, MessageType
from multiraft.raft.state import State
from multiraft.raft.trace import MESSAGE_NAMES, Level, RaftRole
from multiraft.types import MemberId

__all__ = ["Campaign", "ask_again", "campaign", "in_lease", "on_vote_request", "stand", "start_campaign"]

_RESPONSE: Final = {
    MessageType.VOTE: MessageType.VOTE_RESP,
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESP,
}


class Campaign(enum.Enum):
    """Why a member stands: `TRANSFER` on its leader's order, which no lease holds back."""

    PRE_ELECTION = enum.auto()
    ELECTION = enum.auto()
    TRANSFER = enum.auto()


def stand(state: State) -> None:
    """The election timer ran out, or somebody asked for an election."""
    start_campaign(state, Campaign.PRE_ELECTION if state.config.pre_vote else Campaign.ELECTION)


def start_campaign(state: State, kind: Campaign) -> None:
    """Campaign if this member may."""
    logger = state.logger
    if state.role is RaftRole.LEADER:
        if logger is not None:
            logger(Level.DEBUG, f"{state.id:x} ignoring MsgHup because already leader")
        return
    if not state.promotable:
        if logger is not None:
            logger(Level.WARN, f"{state.id:x} is unpromotable and can not campaign")
        return
    if state.quiet_ticks and state.config.promise and kind is not Campaign.TRANSFER:
        return  # our own vote would break the promise to the leader that we heard
    log = state.log
    # Configurations count from when they are applied. Campaigning under an outdated one could
    # win a majority that does not overlap with the present one's.
    if log.applied < log.committed and log.has_conf_change(log.applied + 1, log.committed):
        if logger is not None:
            logger(
                Level.WARN,
                f"{state.id:x} cannot campaign at term {state.term} since there are still "
                "pending configuration changes to apply",
            )
        return
    if logger is not None:
        logger(Level.INFO, f"{state.id:x} is starting a new election at term {state.term}")
    campaign(state, kind)


def campaign(state: State, kind: Campaign) -> None:
    """Become (pre-)candidate and ask every voter, ourselves by way of the disk."""
    if kind is Campaign.PRE_ELECTION:
        _become_pre_candidate(state)
        request, term = MessageType.PRE_VOTE, state.term + 1
    else:
        _become_candidate(state)
        request, term = MessageType.VOTE, state.term
    context = TRANSFER_CONTEXT if kind is Campaign.TRANSFER else b""
    index, log_term = state.log.last_index, state.log.last_term
    for member in state.tracker.config.voters:
        if member == state.id:
            # Our own vote counts like any other only once it is durable: a vote that a crash
            # takes back could be given twice in the same term.
            state.responses.append(Message(_RESPONSE[request], member, state.id, term))
            continue
        if state.logger is not None:
            state.logger(
                Level.INFO,
                f"{state.id:x} [logterm: {log_term}, index: {index}] sent {MESSAGE_NAMES[request]} "
                f"request to {member:x} at term {state.term}",
            )
        state.messages.append(Message(request, member, state.id, term, log_term, index, context=context))


def ask_again(state: State, only: MemberId | None) -> None:
    """Repeat the requests of the present campaign that were not answered: they may be lost.

    The same words as the first time, so that whoever hears both answers both alike. Only a
    campaign on a leader's order is repeated without saying so; then a lease may hold it back.
    """
    if state.role is RaftRole.PRE_CANDIDATE:
        request, term = MessageType.PRE_VOTE, state.term + 1
    elif state.role is RaftRole.CANDIDATE:
        request, term = MessageType.VOTE, state.term
    else:
        return
    index, log_term = state.log.last_index, state.log.last_term
    for member in state.tracker.config.voters:
        if member != state.id and member not in state.tracker.votes and only in (None, member):
            state.messages.append(Message(request, member, state.id, term, log_term, index))


def _become_candidate(state: State) -> None:
    assert state.role is not RaftRole.LEADER, "a leader does not stand for election"
    state.role = RaftRole.CANDIDATE
    state.reset(state.term + 1)
    state.vote = state.id
    if state.logger is not None:
        state.logger(Level.INFO, f"{state.id:x} became candidate at term {state.term}")


def _become_pre_candidate(state: State) -> None:
    """Term and vote stay: asking whether one could win must not disturb anybody.

    The leader is forgotten, or pre-candidates would refuse each other for ever on behalf of a
    leader that all of them have given up.
    """
    assert state.role is not RaftRole.LEADER, "a leader does not stand for election"
    state.role = RaftRole.PRE_CANDIDATE
    state.tracker.votes.clear()
    state.leader = NO_MEMBER
    if state.logger is not None:
        state.logger(Level.INFO, f"{state.id:x} became pre-candidate at term {state.term}")


def in_lease(state: State) -> bool:
    """Whether a leader was heard so recently that nobody else may have our vote (§4.2.3)."""
    if state.quiet_ticks:
        return True
    return (
        state.config.check_quorum
        and state.leader != NO_MEMBER
        and state.election_elapsed < state.election_ticks
    )


def on_vote_request(state: State, message: Message) -> None:
    """A (pre-)vote is asked for, at our own term or, for a pre-vote, a higher one."""
    kind = message.type
    pre_vote = kind is MessageType.PRE_VOTE
    if (
        state.quiet_ticks
        and state.config.promise
        and message.context != TRANSFER_CONTEXT
        and (pre_vote or state.vote != message.sender)
    ):
        # Of a higher term it would have been dropped before; but somebody may have raised ours.
        # Whoever has our vote already may hear so again.
        return
    may_vote = (
        state.vote == message.sender
        or (state.vote == NO_MEMBER and state.leader == NO_MEMBER)
        or (pre_vote and message.term > state.term)
    )
    granted = may_vote and state.log.up_to_date(message.index, message.log_term)
    log_vote(state, message, granted)
    # A grant names the term it is for, which for a pre-vote is not ours; a refusal names ours,
    # so that a sender that is behind catches up.
    term = message.term if granted else state.term
    answer = Message(_RESPONSE[kind], message.sender, state.id, term, reject=not granted)
    if not granted and state.config.coalesce_beats:
        answer.index, answer.log_term = state.log.committed, state.log.term(state.log.committed)
    state.responses.append(answer)
    if granted and not pre_vote:
        state.election_elapsed = 0
        state.vote = message.sender


def learn_commit(state: State, message: Message) -> None:
    """Who refuses a vote may say what it knows to be committed (`coalesce_beats`).

    If our log has that very entry it is equal up to there (thesis §3.5), so all of it is committed.
    Without this a candidate that does not know the last change of members to be committed may
    need the vote of a leader that this change removed, whose log is longer and who never stands again.
    """
    log = state.log
    if message.reject and message.index > log.committed and log.matches(message.index, message.log_term):
        log.commit_to(message.index)


def log_vote(state: State, message: Message, granted: bool) -> None:
    """Say how a request was answered. Call it before the vote changes."""
    if state.logger is None:
        return
    name = MESSAGE_NAMES[message.type]
    state.logger(
        Level.INFO,
        f"{state.id:x} [logterm: {state.log.last_term}, index: {state.log.last_index}, "
        f"vote: {state.vote:x}] {f'cast {name} for' if granted else f'rejected {name} from'} "
        f"{message.sender:x} [logterm: {message.log_term}, index: {message.index}] at term {state.term}",
    )
