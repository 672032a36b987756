"""Envelopes as rows: a function for each of raft's message types, and one for all between hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

from multiraft.messages import (
    AppendAcks,
    Appends,
    BeatAcks,
    Beats,
    Disowned,
    JoinAnswer,
    JoinRequest,
    Message,
    MessageType,
    OtherGeneration,
    ProposalRefused,
    Pulse,
    Removal,
)
from multiraft.transport.frames import WireError
from multiraft.transport.row_format import (
    APP,
    APP_RESP,
    APPEND_ACKS,
    APPENDS,
    BEAT_ACKS,
    BEATS,
    COMMIT,
    DISOWNED,
    HEARTBEAT,
    HEARTBEAT_RESP,
    JOIN_ANSWER,
    JOIN_REQUEST,
    MAX_REASON_CHARACTERS,
    OTHER_GENERATION,
    PLAIN,
    PROP,
    PROPOSAL_REFUSED,
    PULSE,
    RARE,
    REMOVAL,
    Row,
)
from multiraft.transport.run_rows import flat_appends, run_rows
from multiraft.transport.snapshot_rows import snapshot_row


def _write_app(group: int, generation: int, m: Message) -> Row:
    rows = run_rows(m.runs)
    return (APP, group, generation, m.to, m.sender, m.term, m.log_term, m.index, m.commit, rows)


def _write_app_resp(group: int, generation: int, m: Message) -> Row:
    hint, reject = m.reject_hint, m.reject
    return (APP_RESP, group, generation, m.to, m.sender, m.term, m.log_term, m.index, m.commit, hint, reject)


def _write_prop(group: int, generation: int, m: Message) -> Row:
    return (PROP, group, generation, m.to, m.sender, m.term, run_rows(m.runs))


def _write_commit(group: int, generation: int, m: Message) -> Row:
    return (COMMIT, group, generation, m.to, m.sender, m.term, m.commit)


def _write_heartbeat(group: int, generation: int, m: Message) -> Row:
    return (HEARTBEAT, group, generation, m.to, m.sender, m.term, m.commit, m.context)


def _write_heartbeat_resp(group: int, generation: int, m: Message) -> Row:
    return (HEARTBEAT_RESP, group, generation, m.to, m.sender, m.term, m.context)


def _write_rare(group: int, generation: int, m: Message) -> Row:
    ids = (PLAIN[m.type], group, generation, m.to, m.sender, m.term)
    places = (m.log_term, m.index, m.commit, m.reject_hint, m.vote, m.reject)
    return (*ids, *places, m.context, snapshot_row(m.snapshot), run_rows(m.runs))


def _refuse_local(_group: int, _generation: int, m: Message) -> NoReturn:
    raise WireError(f"{m.type.name} is a message within a host; it does not travel")


_Writer = Callable[[int, int, Message], Row]


def _writers() -> tuple[_Writer, ...]:
    table: list[_Writer] = [_refuse_local] * len(MessageType)
    for kind in RARE:
        table[kind] = _write_rare
    table[PROP] = _write_prop
    table[APP] = _write_app
    table[APP_RESP] = _write_app_resp
    table[COMMIT] = _write_commit
    table[HEARTBEAT] = _write_heartbeat
    table[HEARTBEAT_RESP] = _write_heartbeat_resp
    return tuple(table)


WRITERS: Final = _writers()
"""By type of message. They raise WireError for one that does not travel."""


def host_message_row(group: int, generation: int, message: object) -> Row:
    """Anything between hosts but a `Message`. Raises: WireError for what is nothing of the kind."""
    if isinstance(message, ProposalRefused):
        # Whatever is in a reason must not keep the frame around it from travelling.
        reason = message.reason[:MAX_REASON_CHARACTERS].encode(errors="replace").decode()
        return (PROPOSAL_REFUSED, group, generation, message.to, message.sequence, reason)
    if isinstance(message, Beats):
        return (BEATS, message.rows)
    if isinstance(message, BeatAcks):
        return (BEAT_ACKS, message.rows)
    if isinstance(message, Pulse):
        p = message
        return (PULSE, p.half, p.other, p.number, p.beat, p.ack, p.urgent, p.rows)
    if isinstance(message, Appends):
        return (APPENDS, flat_appends(message.rows))
    if isinstance(message, AppendAcks):
        return (APPEND_ACKS, message.rows)
    if isinstance(message, Removal):
        return (REMOVAL, group, generation, message.to)
    if isinstance(message, JoinRequest):
        m = message
        return (JOIN_REQUEST, group, generation, m.number, m.member, m.address, m.voter, m.add, m.staging)
    if isinstance(message, JoinAnswer):
        reason = message.refused[:MAX_REASON_CHARACTERS].encode(errors="replace").decode()
        return (JOIN_ANSWER, group, generation, message.number, reason)
    if isinstance(message, OtherGeneration):
        return (OTHER_GENERATION, group, generation, message.to, message.heard)
    if isinstance(message, Disowned):
        return (DISOWNED, group, generation, message.to, message.host_id)
    raise WireError(f"{type(message).__name__} is not a message between hosts")
