"""What a leader does with each message (thesis, Figure 3.1, "Rules for Servers: Leaders")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from multiraft.errors import ProposalDropped
from multiraft.messages import NO_MEMBER, ConfChange, Message, MessageType, Run
from multiraft.raft.confchange import apply_change, leaves_joint
from multiraft.raft.failures import ConfChangeRefused
from multiraft.raft.leader_reads import confirm_reads, on_read, release_postponed
from multiraft.raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress
from multiraft.raft.replication import (
    SILENT_BEATS,
    advance_commit,
    announce_commit,
    announce_to,
    ask_again,
    broadcast_append,
    broadcast_heartbeat,
    send_append,
)
from multiraft.raft.state import State
from multiraft.raft.trace import Level, RaftRole
from multiraft.raft.transfer import on_transfer, transfer_if_caught_up
from multiraft.types import MemberId

__all__ = ["HANDLERS", "become_leader", "objection", "propose", "tick"]

APP_RESP: Final = MessageType.APP_RESP


def become_leader(state: State) -> None:
    """The election is won: claim the term with an empty entry (thesis §6.4, step 1), and tell all."""
    assert state.role is RaftRole.CANDIDATE, "only a candidate is elected"
    state.role = RaftRole.LEADER
    state.reset(state.term)
    state.leader = state.id
    own = state.tracker.progress[state.id]
    own.become_replicate()
    own.recent_active = True
    # Changes of configuration may lurk in what we have not applied; rather than look, refuse
    # new ones until all of it is.
    state.pending_conf_index = state.log.last_index
    state.term_start = state.log.last_index + 1
    _append(state, [Run.of([b""])])
    if state.logger is not None:
        state.logger(Level.INFO, f"{state.id:x} became leader at term {state.term}")
    broadcast_append(state)


def tick(state: State) -> None:
    """Check for a quorum once per election timeout, beat once per heartbeat interval."""
    state.ticks += 1
    state.heartbeat_elapsed += 1
    state.election_elapsed += 1
    if state.election_elapsed >= state.election_ticks:
        state.election_elapsed = 0
        if state.config.check_quorum:
            _check_quorum(state)
        if state.role is not RaftRole.LEADER:
            return
        # A target that is not through by now will not be (thesis §3.10).
        state.lead_transferee = NO_MEMBER
    if state.heartbeat_elapsed >= state.config.heartbeat_ticks:
        state.heartbeat_elapsed = 0
        broadcast_heartbeat(state)


def _check_quorum(state: State) -> None:
    """A leader that no quorum answers steps down, so that its clients look elsewhere (§6.2)."""
    if not state.tracker.quorum_active():
        if state.logger is not None:
            state.logger(Level.WARN, f"{state.id:x} stepped down to follower since quorum is not active")
        state.become_follower(state.term, NO_MEMBER)
    state.tracker.start_activity_check()


# --- proposals -------------------------------------------------------------------------------


def on_proposal(state: State, message: Message) -> None:
    propose(state, message.runs)


def propose(state: State, runs: Sequence[Run]) -> list[Run]:
    """Append `runs` and send them. Returns them as placed in the log; the arguments stay as they are.

    A configuration change that is not allowed now becomes an empty entry in its place, with the
    proposer's mark, so that the proposer sees what became of it.

    Raises: ProposalDropped when nothing was appended.
    """
    assert runs, "a proposal has entries"
    if state.id not in state.tracker.progress:
        raise ProposalDropped("removed from the group")
    if state.lead_transferee != NO_MEMBER:
        if state.logger is not None:
            state.logger(
                Level.DEBUG,
                f"{state.id:x} [term {state.term}] transfer leadership to {state.lead_transferee:x} "
                "is in progress; dropping proposal",
            )
        raise ProposalDropped("leadership is being transferred")
    pending = state.pending_conf_index
    checked: list[Run] = []
    index = state.log.last_index + 1
    for run in runs:
        entry = run
        if run.kind:
            if _allows(state, run, pending):
                pending = index
            else:
                entry = Run.of([b""], origin=run.origin, sequence=run.sequence)
        checked.append(entry)
        index += run.last - run.first + 1
        if run.origin != state.id and run.origin:
            state.awaited[run.origin] = index - 1
    placed = _append(state, checked)
    state.pending_conf_index = pending
    broadcast_append(state)
    return placed


def _append(state: State, runs: Sequence[Run]) -> list[Run]:
    """Place `runs` behind our log. Raises: ProposalDropped above the limit of uncommitted bytes."""
    log = state.log
    index = log.last_index + 1
    placed: list[Run] = []
    for run in runs:
        placed.append(run.placed(index, state.term))
        index += run.last - run.first + 1
    if not state.reserve(sum([run.size for run in placed])):
        if state.logger is not None:
            state.logger(
                Level.WARN,
                f"{state.id:x} appending new entries to log would exceed uncommitted entry size limit; "
                "dropping proposal",
            )
        raise ProposalDropped("too many uncommitted bytes (max_uncommitted_bytes)")
    log.append(placed)
    # We count ourselves when our own disk has it, like everybody else (thesis §10.2.1).
    state.answer_append(state.id, index - 1)
    return placed


def _allows(state: State, run: Run, pending: int) -> bool:
    """Whether a configuration change may enter the log behind what is there."""
    try:
        change = ConfChange.decode(run.payloads[0])
    except ValueError:
        raise ProposalDropped("not a configuration change") from None
    if state.config.disable_conf_change_validation:
        return True
    reason = objection(state, change, pending)
    if reason is None:
        return True
    if state.logger is not None:
        state.logger(
            Level.INFO,
            f"{state.id:x} ignoring conf change {_describe(change)} at config "
            f"{state.tracker.config}: {reason}",
        )
    return False


def objection(state: State, change: ConfChange, pending: int) -> str | None:
    """Why `change` is refused; None: it is not.

    One change at a time: what is pending decides what the next one applies to, so the present
    configuration is known exactly, and a change that could not be applied is refused here too.
    """
    if pending > state.log.applied:
        return f"possible unapplied conf change at index {pending} (applied to {state.log.applied})"
    joint = state.tracker.config.joint
    if joint and not leaves_joint(change):
        return "must transition out of joint config first"
    if not joint and not change.changes:
        return "not in joint state; refusing empty conf change"
    try:
        apply_change(state.tracker.membership, change)
    except ConfChangeRefused as error:
        return str(error)
    return None


_TRANSITIONS: Final = ("Auto", "JointImplicit", "JointExplicit")
_CHANGES: Final = ("AddNode", "RemoveNode", "UpdateNode", "AddLearnerNode")


def _describe(change: ConfChange) -> str:
    parts = [f"transition:ConfChangeTransition{_TRANSITIONS[change.transition]}"]
    parts += [
        f" changes:{{type:ConfChange{_CHANGES[kind]} node_id:{member}}}" for kind, member in change.changes
    ]
    if change.context:
        text = change.context.decode("utf-8", "backslashreplace").replace('"', '\\"')
        parts.append(f' context:"{text}"')
    return "".join(parts)


# --- answers ---------------------------------------------------------------------------------


def on_append_response(state: State, message: Message) -> None:
    """A member, perhaps ourselves, has our log up to an index, or refused to append behind one."""
    member = message.sender
    progress = state.tracker.progress.get(member)
    if progress is None:
        _log_unknown(state, member)
        return
    progress.recent_active = progress.answered = True
    if message.reject:
        _on_rejection(state, message, progress)
        return
    index = message.index
    if not progress.acknowledge(index) and not (progress.match == index and progress.state is PROBE):
        return
    if progress.state is REPLICATE:
        progress.inflights.free_to(index)
        progress.silent_beats = 0
    elif progress.state is PROBE:
        progress.become_replicate()
    else:
        _recover_from_snapshot(state, member, progress)
    log = state.log
    committed = log.committed
    if index > committed and advance_commit(state):
        if committed < state.term_start:
            release_postponed(state)
        announce_commit(state)
    elif member != state.id and not state.config.commit_notices and progress.could_learn_commit(committed):
        # It has what is committed but may not know that it is: an empty append will do.
        send_append(state, member, progress, even_empty=True)
    if member == state.id:
        return
    # Room in the window, or a way found out of probing: send as much as that allows.
    while progress.next <= log.last_index and send_append(state, member, progress, even_empty=False):
        pass
    if progress.sent_commit < log.committed and progress.sent_commit < index:
        announce_to(state, member)
    if member == state.lead_transferee:
        transfer_if_caught_up(state, member, progress)


def _recover_from_snapshot(state: State, member: MemberId, progress: Progress) -> None:
    """Whatever brought it there, once its log reaches ours it needs no snapshot any more."""
    if progress.match + 1 < state.log.first_index:
        return
    if state.logger is not None:
        state.logger(
            Level.DEBUG,
            f"{state.id:x} recovered from needing snapshot, resumed sending replication messages to "
            f"{member:x} [{progress}]",
        )
    progress.become_probe()
    progress.become_replicate()


def _on_rejection(state: State, message: Message, progress: Progress) -> None:
    if state.logger is not None:
        state.logger(
            Level.DEBUG,
            f"{state.id:x} received MsgAppResp(rejected, hint: (index {message.reject_hint}, term "
            f"{message.log_term})) from {message.sender:x} for index {message.index}",
        )
    hint = message.reject_hint
    if message.log_term > 0:
        # Its log ends, or differs, with a term that ours may have left earlier: skip the rest
        # of that term at once.
        hint, _ = state.log.find_conflict_by_term(hint, message.log_term)
    if not progress.reject(message.index, hint):
        return
    if state.logger is not None:
        state.logger(Level.DEBUG, f"{state.id:x} decreased progress of {message.sender:x} to [{progress}]")
    if progress.state is REPLICATE:
        progress.become_probe()
    send_append(state, message.sender, progress, even_empty=True)


def on_heartbeat_response(state: State, message: Message) -> None:
    progress = state.tracker.progress.get(message.sender)
    if progress is None:
        _log_unknown(state, message.sender)
        return
    progress.recent_active = True
    if progress.state is PROBE and progress.flow_paused and state.config.commit_notices:
        ask_again(state, message.sender, progress)  # and it stays paused
    else:
        progress.flow_paused = False
    if (progress.match < state.log.last_index or progress.state is PROBE) and not _is_patient(
        state, progress
    ):
        # What was sent may be lost: an append, if only an empty one, finds out.
        send_append(state, message.sender, progress, even_empty=True)
    confirm_reads(state, message)


def _is_patient(state: State, progress: Progress) -> bool:
    """Whether to wait a few beats more for what is in flight to a follower that keeps up.

    Hosts' links lose nothing silently, and report what they lose. But where writing takes longer
    than a beat, an empty append for every beat and group, each answered, would slow the writing
    further: thousands of groups would not come out of that again.
    """
    if not state.config.commit_notices or progress.state is not REPLICATE:
        return False
    if progress.next <= state.log.last_index and not progress.inflights.full:
        return False
    if progress.silent_beats < 0:  # its host vouches for it, so it was not asked for long (take_beats)
        progress.silent_beats = 0
        return False
    progress.silent_beats += 1
    return progress.silent_beats % SILENT_BEATS != 0


# --- reports of our own host -----------------------------------------------------------------


def on_snapshot_report(state: State, message: Message) -> None:
    """Sending a snapshot came to an end. Either way, wait for an answer before sending more."""
    member = message.sender
    progress = state.tracker.progress.get(member)
    if progress is None:
        _log_unknown(state, member)
        return
    if progress.state is not SNAPSHOT:
        return
    if message.reject:
        progress.pending_snapshot = 0
    progress.become_probe()
    if state.logger is not None:
        outcome = "failed" if message.reject else "succeeded"
        state.logger(
            Level.DEBUG,
            f"{state.id:x} snapshot {outcome}, resumed sending replication messages to "
            f"{member:x} [{progress}]",
        )
    progress.flow_paused = True


def on_unreachable(state: State, message: Message) -> None:
    """What was sent ahead is probably lost: find out where to go on."""
    member = message.sender
    progress = state.tracker.progress.get(member)
    if progress is None:
        _log_unknown(state, member)
        return
    if progress.state is REPLICATE:
        progress.become_probe()
    elif progress.state is PROBE and state.config.commit_notices:
        progress.flow_paused = False  # no answer will come: another probe with the next proposal or beat
    if state.logger is not None:
        state.logger(
            Level.DEBUG,
            f"{state.id:x} failed to send message to {member:x} because it is unreachable [{progress}]",
        )


def _log_unknown(state: State, member: MemberId) -> None:
    if state.logger is not None:
        state.logger(Level.DEBUG, f"{state.id:x} no progress available for {member:x}")


HANDLERS: Final[dict[MessageType, Callable[[State, Message], None]]] = {
    MessageType.APP_RESP: on_append_response,
    MessageType.HEARTBEAT_RESP: on_heartbeat_response,
    MessageType.PROP: on_proposal,
    MessageType.READ_INDEX: on_read,
    MessageType.TRANSFER_LEADER: on_transfer,
    MessageType.SNAP_STATUS: on_snapshot_report,
    MessageType.UNREACHABLE: on_unreachable,
}
