"""How a leader hands leadership over (thesis §3.10)."""

from __future__ import annotations

from multiraft.messages import NO_MEMBER, Message, MessageType
from multiraft.raft.progress import Progress
from multiraft.raft.replication import send_append
from multiraft.raft.state import State
from multiraft.raft.trace import Level
from multiraft.types import MemberId

__all__ = ["on_transfer", "transfer_if_caught_up"]


def on_transfer(state: State, message: Message) -> None:
    """Hand over to the message's sender: at once if it has our whole log, else once it has."""
    target = message.sender
    progress = state.tracker.progress.get(target)
    if progress is None:
        _say(state, Level.DEBUG, f"{state.id:x} no progress available for {target:x}")
        return
    if progress.is_learner:
        _say(state, Level.DEBUG, f"{state.id:x} is learner. Ignored transferring leadership")
        return
    if not _replaces_previous(state, target):
        return
    if target == state.id:
        _say(state, Level.DEBUG, f"{state.id:x} is already leader. Ignored transferring leadership to self")
        return
    _say(state, Level.INFO, f"{state.id:x} [term {state.term}] starts to transfer leadership to {target:x}")
    # It should be through within an election timeout; the leader's tick drops it otherwise.
    state.election_elapsed = 0
    state.lead_transferee = target
    if progress.match == state.log.last_index:
        _send_timeout_now(state, target)
        _say(
            state,
            Level.INFO,
            f"{state.id:x} sends MsgTimeoutNow to {target:x} immediately as {target:x} already has "
            "up-to-date log",
        )
    else:
        send_append(state, target, progress, even_empty=True)


def _replaces_previous(state: State, target: MemberId) -> bool:
    """Abort a transfer to somebody else. False: `target` is being handed over to already."""
    previous = state.lead_transferee
    if previous == target:
        _say(
            state,
            Level.INFO,
            f"{state.id:x} [term {state.term}] transfer leadership to {target:x} is in progress, "
            f"ignores request to same node {target:x}",
        )
        return False
    if previous != NO_MEMBER:
        state.lead_transferee = NO_MEMBER
        _say(
            state,
            Level.INFO,
            f"{state.id:x} [term {state.term}] abort previous transferring leadership to {previous:x}",
        )
    return True


def transfer_if_caught_up(state: State, member: MemberId, progress: Progress) -> None:
    """The target of a transfer acknowledged something."""
    if progress.match == state.log.last_index:
        _say(state, Level.INFO, f"{state.id:x} sent MsgTimeoutNow to {member:x} after received MsgAppResp")
        _send_timeout_now(state, member)


def _send_timeout_now(state: State, target: MemberId) -> None:
    state.lease_given_up = True
    state.messages.append(Message(MessageType.TIMEOUT_NOW, target, state.id, state.term))


def _say(state: State, level: Level, text: str) -> None:
    if state.logger is not None:
        state.logger(level, text)
