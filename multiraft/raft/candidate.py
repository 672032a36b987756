"""What a candidate and a pre-candidate do with each message (thesis §3.4, §9.6)."""

from __future__ import annotations

from typing import Final

from multiraft.errors import ProposalDropped
from multiraft.messages import NO_MEMBER, Message, MessageType
from multiraft.raft import follower
from multiraft.raft.election import Campaign, campaign, learn_commit
from multiraft.raft.follower import Handler
from multiraft.raft.leader import become_leader
from multiraft.raft.quorum import VoteResult
from multiraft.raft.state import State
from multiraft.raft.trace import MESSAGE_NAMES, ROLE_NAMES, Level, RaftRole

__all__ = ["CANDIDATE_HANDLERS", "PRE_CANDIDATE_HANDLERS"]


def on_vote(state: State, message: Message) -> None:
    """An answer to our request of the kind this role waits for."""
    granted = not message.reject
    learn_commit(state, message)
    name = MESSAGE_NAMES[message.type]
    state.tracker.record_vote(message.sender, granted)
    votes, refusals, result = state.tracker.tally()
    if state.logger is not None:
        state.logger(
            Level.INFO,
            f"{state.id:x} received {name}{'' if granted else ' rejection'} from {message.sender:x} "
            f"at term {state.term}",
        )
        state.logger(
            Level.INFO, f"{state.id:x} has received {votes} {name} votes and {refusals} vote rejections"
        )
    if result is VoteResult.LOST:
        # At our own term: a pre-vote's refusal may carry a higher one, which was handled before.
        state.become_follower(state.term, NO_MEMBER)
    elif result is VoteResult.WON:
        if state.config.step_down_on_removal and not state.promotable:
            state.become_follower(state.term, NO_MEMBER)
        elif state.role is RaftRole.PRE_CANDIDATE:
            campaign(state, Campaign.ELECTION)
        elif state.id in state.tracker.votes or state.id not in state.tracker.config.voters:
            become_leader(state)
        # Else our own vote is not on disk yet, though a quorum of others may do without it. Were
        # we to lead now and crash, we could stand for this same term again: who voted for us would
        # do so once more, and this term would have two leaders with different logs (thesis §3.8).


def _concede(handle: Handler) -> Handler:
    """Somebody leads in our own term: follow, then do what a follower does."""

    def concede(state: State, message: Message) -> None:
        state.become_follower(message.term, message.sender)
        handle(state, message)

    return concede


def on_proposal(state: State, _message: Message) -> None:
    if state.logger is not None:
        state.logger(Level.INFO, f"{state.id:x} no leader at term {state.term}; dropping proposal")
    raise ProposalDropped("no leader")


def on_timeout_now(state: State, message: Message) -> None:
    if state.logger is not None:
        state.logger(
            Level.DEBUG,
            f"{state.id:x} [term {state.term} state {ROLE_NAMES[state.role]}] ignored MsgTimeoutNow "
            f"from {message.sender:x}",
        )


_COMMON: Final[dict[MessageType, Handler]] = {
    MessageType.APP: _concede(follower.handle_append),
    MessageType.HEARTBEAT: _concede(follower.handle_heartbeat),
    MessageType.COMMIT: _concede(follower.handle_commit),
    MessageType.SNAP: _concede(follower.handle_snapshot),
    MessageType.PROP: on_proposal,
    MessageType.TIMEOUT_NOW: on_timeout_now,
}

# Each role counts its own kind of vote only: a late pre-vote says nothing about the election.
CANDIDATE_HANDLERS: Final[dict[MessageType, Handler]] = {**_COMMON, MessageType.VOTE_RESP: on_vote}
PRE_CANDIDATE_HANDLERS: Final[dict[MessageType, Handler]] = {**_COMMON, MessageType.PRE_VOTE_RESP: on_vote}
