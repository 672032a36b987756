"""How a `Ready` is put together: what is new since the last one, taken exactly once."""

from __future__ import annotations

from typing import Final

from multiraft.messages import APPEND_THREAD, APPLY_THREAD, HardState, Message, MessageType, Run, Snapshot
from multiraft.raft.ready import Ready, SoftState
from multiraft.raft.replication import queue_notices
from multiraft.raft.state import State

__all__ = ["take_ready"]

_WRITTEN: Final = MessageType.STORAGE_APPEND_RESP


def take_ready(state: State) -> Ready:
    """Take everything new from `state`, which then counts as handed out."""
    assert state.advance_messages is None, "advance comes before the next Ready"
    if state.notices_due:
        queue_notices(state)
    log = state.log
    unstable = log.unstable
    in_async = state.config.async_storage_writes
    soft_state = None
    if state.accepted_role is not state.role or state.accepted_leader != state.leader:
        soft_state = _take_soft_state(state)
    hard_state = None
    must_sync = False
    commit = log.committed
    if state.accepted_term != state.term or state.accepted_vote != state.vote:
        must_sync = True
        hard_state = _take_hard_state(state)
    elif state.accepted_commit != commit:
        if state.config.coalesce_beats:
            # Such hosts write no commit index by itself, so need not be handed one.
            state.accepted_commit = commit
        else:
            hard_state = _take_hard_state(state)
    snapshot = unstable.snapshot
    if snapshot is not None:
        snapshot = unstable.fresh_snapshot
    committed = _take_committed(state, not in_async) if commit > log.applying else []
    runs: list[Run] = []
    to_report = snapshot is not None or len(unstable.runs) > 0
    if to_report:
        runs = unstable.accept()
    read_states = state.read_states
    if read_states:
        state.read_states = []
    messages = state.messages
    state.messages = []
    responses = state.responses
    state.responses = []
    if not in_async:
        state.advance_messages = [answer for answer in responses if answer.to == state.id]
        messages += [answer for answer in responses if answer.to != state.id]
        responses = []
        if to_report:
            state.advance_messages.append(_write_report(state, snapshot))
        if committed:
            state.advance_messages.append(
                Message(MessageType.STORAGE_APPLY_RESP, state.id, APPLY_THREAD, runs=committed)
            )
    elif to_report and (runs or responses or hard_state is not None or snapshot is not None):
        responses.append(_write_report(state, snapshot))
    return Ready(
        soft_state,
        hard_state,
        read_states,
        runs,
        snapshot,
        committed,
        messages,
        responses,
        must_sync or len(runs) > 0,
    )


def _take_hard_state(state: State) -> HardState:
    state.accepted_term = state.term
    state.accepted_vote = state.vote
    state.accepted_commit = state.log.committed
    return HardState(state.term, state.vote, state.log.committed)


def _take_soft_state(state: State) -> SoftState:
    state.accepted_role = state.role
    state.accepted_leader = state.leader
    return SoftState(state.leader, state.role)


def _take_committed(state: State, allow_unstable: bool) -> list[Run]:
    committed = state.log.take_committed(allow_unstable)
    if state.uncommitted_bytes:
        start = state.term_start
        state.accepted_sizes += [(run.last, run.size) for run in committed if run.first >= start]
    return committed


def _write_report(state: State, snapshot: Snapshot | None) -> Message:
    """What to tell us once this Ready is on disk.

    It names the end of the whole log, not of this write, which may hold no entries at all:
    writes are done in order, so all of it is on disk by then; and reports of earlier terms
    being ignored, the entries they were about would stay unstable for ever if later reports
    did not cover them.
    """
    log = state.log
    report = Message(_WRITTEN, state.id, APPEND_THREAD, state.term, log.last_term, log.last_index)
    if not log.unstable.runs:
        report.index = report.log_term = 0
    if snapshot is not None:
        report.snapshot = snapshot
    return report
