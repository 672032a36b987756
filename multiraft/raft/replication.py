"""How a leader sends its log: appends, snapshots, heartbeats, commit notices (thesis §3.5, §3.6).

Called by leader.py and by changes of configuration; nothing here looks at messages.
"""

from __future__ import annotations

from typing import Final

from multiraft.errors import LogCompacted
from multiraft.messages import Message, MessageType, Run
from multiraft.raft.progress import PROBE, REPLICATE, Progress
from multiraft.raft.read_index import encode_position
from multiraft.raft.runs import total_weight
from multiraft.raft.state import State
from multiraft.raft.trace import Level
from multiraft.types import Index, MemberId, ReadMode

__all__ = [
    "advance_commit",
    "announce_commit",
    "ask_again",
    "broadcast_append",
    "broadcast_heartbeat",
    "queue_notices",
    "send_append",
    "take_beats",
]

SILENT_BEATS: Final = 4
"""Heartbeats answered without any progress until the leader asks what became of its appends."""

TELLING_BEATS: Final = 3
"""Intervals after which a beat tells those that a host vouches for of a commit that nobody waits for."""

APP: Final = MessageType.APP
COMMIT: Final = MessageType.COMMIT


def broadcast_append(state: State) -> None:
    """Send every other member what it lacks, if only the commit index."""
    for member, progress in state.tracker.others:
        send_append(state, member, progress, even_empty=True)


def send_append(state: State, member: MemberId, progress: Progress, *, even_empty: bool) -> bool:
    """Send one append, or a snapshot where the entries are compacted. False: nothing was sent."""
    if progress.paused:
        return False
    log = state.log
    first = progress.next
    anchor = first - 1
    try:
        # Nothing above the commit index is ever compacted, so for a follower that keeps up
        # the term is known without asking the log.
        anchor_term = (
            state.term if anchor >= state.term_start and anchor >= log.committed else log.term(anchor)
        )
        # Nothing is sent into a full window, not even when a heartbeat's answer let one append
        # through: to a dead follower that would go on for ever.
        runs: list[Run] = []
        if first <= log.last_index and (progress.state is PROBE or not progress.inflights.full):
            runs = log.runs(first, log.last_index, state.max_message_bytes)
    except LogCompacted:
        return _send_snapshot(state, member, progress)
    if runs:
        newest = runs[-1]
        progress.sent_entries(newest.last, len(newest.blob) if len(runs) == 1 else total_weight(runs))
    elif even_empty:
        progress.sent_nothing()
    else:
        return False
    progress.sent_commit = log.committed
    progress.appended = True
    state.messages.append(
        Message(APP, member, state.id, state.term, anchor_term, anchor, log.committed, runs)
    )
    return True


def ask_again(state: State, member: MemberId, progress: Progress) -> None:
    """Follow a probe that has no answer yet by an empty one; its answer tells as much.

    Copies of the probe itself, one for every beat, would fill a link that is slow, or that was held
    up while beats were queued, and nothing else would get through for a long time.
    """
    anchor = progress.next - 1
    try:
        term = state.log.term(anchor)
    except LogCompacted:
        progress.flow_paused = False
        _send_snapshot(state, member, progress)
        return
    state.messages.append(Message(APP, member, state.id, state.term, term, anchor, state.log.committed))


def _send_snapshot(state: State, member: MemberId, progress: Progress) -> bool:
    logger = state.logger
    if not progress.recent_active:
        # A snapshot is expensive, and somebody who does not answer would not take it.
        if logger is not None:
            logger(Level.DEBUG, f"ignore sending snapshot to {member:x} since it is not recently active")
        return False
    snapshot = state.log.snapshot()
    if snapshot is None:
        if logger is not None:
            logger(
                Level.DEBUG,
                f"{state.id:x} failed to send snapshot to {member:x} because snapshot is "
                "temporarily unavailable",
            )
        return False
    assert snapshot.index, "what was compacted is in some snapshot"
    if logger is not None:
        logger(
            Level.DEBUG,
            f"{state.id:x} [firstindex: {state.log.first_index}, commit: {state.log.committed}] sent "
            f"snapshot[index: {snapshot.index}, term: {snapshot.term}] to {member:x} [{progress}]",
        )
    progress.become_snapshot(snapshot.index)
    if logger is not None:
        logger(
            Level.DEBUG,
            f"{state.id:x} paused sending replication messages to {member:x} [{progress}]",
        )
    state.messages.append(Message(MessageType.SNAP, member, state.id, state.term, snapshot=snapshot))
    return True


def broadcast_heartbeat(state: State) -> None:
    """Tell every other member that we lead, and what of its own log is committed.

    The commit index is capped at the member's match: beyond it, its log may still differ.
    """
    if state.config.read_mode is ReadMode.LEASE:
        position = state.reads.beat(state.ticks)
    else:
        position = state.reads.last_position
    if position or not state.config.coalesce_beats:
        send_heartbeats(state, position)
    else:
        state.beat_due = True


def take_beats(state: State) -> list[tuple[MemberId, Index]]:
    """Who is to get a plain heartbeat, and the commit index to tell it, instead of messages.

    Followers that an append with the present commit index went to since the last beat are
    spared. It did all that a heartbeat does: reset their timer, told the commit index, and asked
    for an answer. If it was lost, no append follows it in time, or one does and is refused; so
    the next beat, or that refusal, finds out. But only while answers come: on a lane that is
    slower than an election timeout appends arrive too late to keep a follower from standing.
    So are those that have our whole log and whose hosts vouch for them; and those that have not
    acknowledged all of it yet, for an election timeout. Then a beat's answer has the leader ask what
    became of its appends. No answer: another beat two election timeouts later. A commit index
    that nobody waits for is reason enough for a beat to them only when it was not told for a few.
    """
    state.beat_due = False
    committed = state.log.committed
    beats: list[tuple[MemberId, Index]] = []
    for member, progress in state.tracker.others:
        commit = min(progress.match, committed)
        appended, answered = progress.appended, progress.answered
        progress.appended = progress.answered = False
        if progress.vouch is not None and progress.state is REPLICATE:
            if progress.sent_commit < commit:
                progress.silent_beats += 1
                if 0 <= progress.silent_beats < TELLING_BEATS:
                    continue  # the next append tells it, or the row before we rest
            elif progress.match == state.log.last_index:
                continue  # its host vouches for it, and there is nothing to repair, nor to tell
            else:
                progress.silent_beats += 1
                if progress.silent_beats <= state.election_ticks:
                    continue  # the same, and what was sent is on its way: links report what they lose
                progress.silent_beats = -state.election_ticks  # the answer has us ask what became of it
        if appended and answered and progress.state is REPLICATE and progress.sent_commit >= commit:
            continue
        progress.sent_commit = commit
        beats.append((member, commit))
    return beats


def send_heartbeats(state: State, position: int) -> None:
    """Heartbeats that ask for confirmation of reads up to `position`; 0: of none."""
    context = encode_position(position)
    committed = state.log.committed
    for member, progress in state.tracker.others:
        commit = min(progress.match, committed)
        progress.sent_commit = commit
        state.messages.append(
            Message(MessageType.HEARTBEAT, member, state.id, state.term, commit=commit, context=context)
        )


# --- committing ------------------------------------------------------------------------------


def advance_commit(state: State) -> bool:
    """Commit what a quorum has on disk. True: the commit index rose.

    Only entries of our own term are committed by counting; those before follow with them
    (thesis §3.6.2, Figure 3.7).
    """
    index = state.tracker.committed()
    log = state.log
    if index <= log.committed or index < state.term_start:
        return False
    log.commit_to(index)
    return True


def announce_commit(state: State) -> None:
    """The commit index rose: followers are to know."""
    if not state.config.commit_notices:
        broadcast_append(state)
    elif state.awaited or not state.config.coalesce_beats:
        state.notices_due = True


def announce_to(state: State, member: MemberId) -> None:
    """One follower could be told more of the commit index than it was."""
    if member in state.awaited or not state.config.coalesce_beats:
        state.notices_due = state.config.commit_notices


def queue_notices(state: State) -> None:
    """Tell the commit index to those whom no append has told it meanwhile.

    Called when a Ready is taken and `notices_due` is set, so that proposals made since the
    commit rose have carried it along. Capped like in a heartbeat, which also repairs a loss.

    With `coalesce_beats`, only those are told at once where somebody waits; for the others the
    next append or beat is soon enough, and spares each of them a message and a Ready.
    """
    state.notices_due = False
    committed = state.log.committed
    awaited = state.awaited
    for member, progress in state.tracker.others:
        if progress.state is REPLICATE:
            commit = min(committed, progress.match)
            if state.config.coalesce_beats:
                index = awaited.get(member)
                if index is None:
                    continue
                if commit >= index:
                    del awaited[member]
            if commit > progress.sent_commit:
                progress.sent_commit = commit
                state.messages.append(Message(COMMIT, member, state.id, state.term, 0, 0, commit))
