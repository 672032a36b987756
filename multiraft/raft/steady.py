"""Replication as it nearly always is: everybody stands where everybody thinks they stand.

A group that is led, whose followers keep up and whose log just grows, takes the same few steps
for every proposal (thesis, Figure 3.1): the leader appends and sends, followers append, disks
report, acknowledgements arrive, the commit index rises. These functions are those steps, in the
one case in which each is a handful of assignments. Anything else they leave alone and say so;
then the message is stepped as a message, and the full rules of leader.py, follower.py and
replication.py decide. In the case they take, they do what stepping the message and taking the
Ready would have done, which tests/raft/test_steady.py checks state by state.

The steady case is: term, vote and role are written down (nothing of them waits for a Ready);
whatever is unstable is being written; no snapshot is on its way in; and

    at the leader     nobody is being handed the lead; followers replicate, or are paused
    at a follower     the append comes from the leader it follows and begins where its log ends
    an answer         comes in our own term from a member that replicates and is sent all there is
"""

from __future__ import annotations

from typing import Final

from multiraft.messages import Run
from multiraft.raft.progress import REPLICATE, SNAPSHOT
from multiraft.raft.replication import advance_commit, announce_commit, announce_to
from multiraft.raft.state import State
from multiraft.raft.trace import RaftRole
from multiraft.types import Index, MemberId, Term

__all__ = ["acknowledge", "follow", "lead", "stored", "take_committed"]

LEADER: Final = RaftRole.LEADER
FOLLOWER: Final = RaftRole.FOLLOWER


def lead(state: State, run: Run) -> list[MemberId] | None:
    """Append `run` at the leader and count it as handed to the disk and sent.

    `run` is placed behind our log, at our term, and is no configuration change.

    Returns:
        Whom it has to be sent to; None: the case is not steady, and nothing was done.
    """
    log, unstable = state.log, state.log.unstable
    if (
        state.role is not LEADER
        or state.lead_transferee
        or state.messages  # the last of them may be an append, which this one must not overtake
        or len(unstable.runs) != unstable.in_progress
        or state.accepted_term != state.term
        or state.accepted_vote != state.vote
        or state.id not in state.tracker.progress
    ):
        return None
    first, last, weight = run.first, run.last, len(run.blob)
    assert first == log.last_index + 1, "a run is placed behind the log"
    members: list[MemberId] = []
    sending = []
    for member, progress in state.tracker.others:
        if progress.flow_paused or progress.state is SNAPSHOT:
            continue
        if progress.state is not REPLICATE or progress.next != first or progress.inflights.full:
            return None
        members.append(member)
        sending.append(progress)
    if weight > state.max_message_bytes or not state.reserve(run.size):
        return None
    unstable.runs.append(run)
    unstable.in_progress += 1
    log.last_index = last
    log.last_term = run.term
    if run.origin != state.id and run.origin:
        state.awaited[run.origin] = last
    committed = log.committed
    for progress in sending:
        progress.next = last + 1
        progress.flow_paused = progress.inflights.add(last, weight)
        progress.sent_commit = committed
        progress.appended = True
    return members


def follow(
    state: State, leader: MemberId, term: Term, anchor_term: Term, anchor: Index, commit: Index, run: Run
) -> bool:
    """Append `run` at a follower and count it as handed to the disk.

    It begins right behind `anchor`, at the leader's own term. True: done, and once it is stored
    the leader is to be answered; False: the case is not steady, and nothing was done.
    """
    log, unstable = state.log, state.log.unstable
    if (
        term != state.term
        or leader != state.leader
        or anchor != log.last_index
        or anchor_term != log.last_term
        or state.role is not FOLLOWER
        or unstable.snapshot is not None
        or len(unstable.runs) != unstable.in_progress
        or state.accepted_term != term
        or state.accepted_vote != state.vote
    ):
        return False
    state.election_elapsed = 0
    unstable.runs.append(run)
    unstable.in_progress += 1
    last = log.last_index = run.last
    log.last_term = term
    if commit > log.committed:
        # Only what this append vouches for.
        log.committed = min(last, commit)
    return True


def stored(state: State, term: Term, index: Index) -> bool:
    """What `lead` or `follow` appended at `term` up to `index` is on disk.

    False: we are in a later term by now, in which that proves nothing (terms.py).
    """
    if term != state.term:
        return False
    state.log.stable_to(index, term)
    return True


def acknowledge(state: State, member: MemberId, term: Term, index: Index) -> bool | None:
    """A member, perhaps ourselves, has our log up to `index` on disk.

    Returns:
        Whether the commit index rose; None: the case is not steady, and nothing was done.
    """
    if term != state.term or state.role is not LEADER:
        return None
    log = state.log
    before = log.committed
    progress = state.tracker.progress.get(member)
    if (
        progress is None
        or progress.state is not REPLICATE
        or index <= progress.match
        or before < state.term_start
    ):
        return None
    if member == state.id:
        progress.next = index + 1
    elif index >= progress.next or progress.next <= log.last_index or member == state.lead_transferee:
        return None  # there may be more to send, or something to hand over
    else:
        progress.inflights.free_to(index)
    progress.recent_active = progress.answered = True
    progress.flow_paused = False
    progress.silent_beats = 0
    progress.match = index
    rose = index > before and advance_commit(state)
    if rose:
        announce_commit(state)
    if state.awaited and member != state.id and progress.sent_commit < min(log.committed, index):
        announce_to(state, member)
    return rose


def take_committed(state: State) -> list[Run]:
    """Hand out what may be applied now: committed, and on our own disk. It counts as handed out."""
    log = state.log
    state.accepted_commit = log.committed
    runs = log.take_committed(allow_unstable=False)
    if state.uncommitted_bytes:
        start, sizes = state.term_start, state.accepted_sizes
        for run in runs:
            if run.first >= start:
                sizes.append((run.last, run.size))
    return runs
