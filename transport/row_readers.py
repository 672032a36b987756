"""Rows as envelopes: a function for each kind, which lets nothing else through.

Each compares the types of all fields with the kind's shape in one go (`tuple(map(type, …))`,
which also tells a bool from an int) and their range with one `struct.pack`: both run in C, so
that strictness costs less than a microsecond a message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

from multiraft.messages import (
    APPEND_ACK_FIELDS,
    BEAT_ACK_FIELDS,
    BEAT_FIELDS,
    PULSE_FIELDS,
    AppendAcks,
    BeatAcks,
    Beats,
    Disowned,
    Envelope,
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
    MAX_CONTEXT_BYTES,
    MAX_REASON_CHARACTERS,
    NUMBERS_SHAPE,
    OTHER_GENERATION,
    PROP,
    PROPOSAL_REFUSED,
    PULSE,
    RARE,
    REMOVAL,
    U64,
    misshapen,
)
from multiraft.transport.run_rows import read_appends, read_log_runs, read_run
from multiraft.transport.snapshot_rows import read_snapshot

_APP_SHAPE: Final = (*[int] * 9, list)
_APP_RESP_SHAPE: Final = (*[int] * 10, bool)
_PROP_SHAPE: Final = (*[int] * 6, list)
_COMMIT_SHAPE: Final = (*[int] * 7,)
_HEARTBEAT_SHAPE: Final = (*[int] * 7, bytes)
_HEARTBEAT_RESP_SHAPE: Final = (*[int] * 6, bytes)
_RARE_SHAPE: Final = (*[int] * 11, bool, bytes, list, list)
_REFUSED_SHAPE: Final = (*[int] * 5, str)
_REMOVAL_SHAPE: Final = (*[int] * 4,)
_NOTICE_SHAPE: Final = (*[int] * 5,)
_JOIN_REQUEST_SHAPE: Final = (*[int] * 5, str, bool, bool, bool)
_JOIN_ANSWER_SHAPE: Final = (*[int] * 4, str)
_PULSE_SHAPE: Final = (*[int] * 6, bool, list)

_TYPES: Final = tuple(MessageType(n) for n in range(len(MessageType)))
_u64_4, _u64_5, _u64_6, _u64_7, _u64_9, _u64_10, _u64_11 = (U64[n] for n in (4, 5, 6, 7, 9, 10, 11))


# --- raft's messages ---------------------------------------------------------------------------


def _read_app(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _APP_SHAPE:
        raise misshapen("APP", row, _APP_SHAPE)
    kind, group, generation, to, sender, term, log_term, index, commit, rows = row
    _u64_9(kind, group, generation, to, sender, term, log_term, index, commit)
    runs = read_log_runs(rows, index) if rows else ()
    return group, generation, Message(MessageType.APP, to, sender, term, log_term, index, commit, runs)


def _read_app_resp(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _APP_RESP_SHAPE:
        raise misshapen("APP_RESP", row, _APP_RESP_SHAPE)
    kind, group, generation, to, sender, term, log_term, index, commit, hint, reject = row
    _u64_10(kind, group, generation, to, sender, term, log_term, index, commit, hint)
    message = Message(MessageType.APP_RESP, to, sender, term, log_term, index, commit, (), reject, hint)
    return group, generation, message


def _read_prop(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _PROP_SHAPE:
        raise misshapen("PROP", row, _PROP_SHAPE)
    kind, group, generation, to, sender, term, rows = row
    _u64_6(kind, group, generation, to, sender, term)
    runs = [read_run(r) for r in rows]
    if not runs or any(r.first or r.term for r in runs):
        raise WireError("PROP: carries no run, or one that claims a place in the log")
    return group, generation, Message(MessageType.PROP, to, sender, term, runs=runs)


def _read_commit(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _COMMIT_SHAPE:
        raise misshapen("COMMIT", row, _COMMIT_SHAPE)
    _u64_7(*row)
    _, group, generation, to, sender, term, commit = row
    return group, generation, Message(MessageType.COMMIT, to, sender, term, 0, 0, commit)


def _read_heartbeat(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _HEARTBEAT_SHAPE:
        raise misshapen("HEARTBEAT", row, _HEARTBEAT_SHAPE)
    kind, group, generation, to, sender, term, commit, context = row
    _u64_7(kind, group, generation, to, sender, term, commit)
    _check_context(context)
    message = Message(MessageType.HEARTBEAT, to, sender, term, 0, 0, commit, context=context)
    return group, generation, message


def _read_heartbeat_resp(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _HEARTBEAT_RESP_SHAPE:
        raise misshapen("HEARTBEAT_RESP", row, _HEARTBEAT_RESP_SHAPE)
    kind, group, generation, to, sender, term, context = row
    _u64_6(kind, group, generation, to, sender, term)
    _check_context(context)
    return group, generation, Message(MessageType.HEARTBEAT_RESP, to, sender, term, context=context)


def _read_rare(row: list[Any]) -> Envelope:
    name = _TYPES[row[0]].name
    if tuple(map(type, row)) != _RARE_SHAPE:
        raise misshapen(name, row, _RARE_SHAPE)
    kind, group, generation, to, sender, term, log_term, index, commit, hint, vote = row[:11]
    reject, context, snapshot, rows = row[11:]
    _u64_11(*row[:11])
    _check_context(context)
    message = Message(
        _TYPES[kind],
        to,
        sender,
        term,
        log_term,
        index,
        commit,
        [read_run(r) for r in rows] if rows else (),
        reject,
        hint,
        vote,
        read_snapshot(snapshot),
        context,
    )
    return group, generation, message


def _check_context(context: bytes) -> None:
    if len(context) > MAX_CONTEXT_BYTES:
        raise WireError(f"a context of {len(context)} bytes; allowed are {MAX_CONTEXT_BYTES}")


# --- messages between hosts --------------------------------------------------------------------


def _read_refused(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _REFUSED_SHAPE:
        raise misshapen("proposal refused", row, _REFUSED_SHAPE)
    kind, group, generation, to, sequence, reason = row
    _u64_5(kind, group, generation, to, sequence)
    if len(reason) > MAX_REASON_CHARACTERS:
        raise WireError(f"a reason of {len(reason)} characters; allowed are {MAX_REASON_CHARACTERS}")
    return group, generation, ProposalRefused(to, sequence, reason)


def _read_removal(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _REMOVAL_SHAPE:
        raise misshapen("removal", row, _REMOVAL_SHAPE)
    kind, group, generation, to = row
    _u64_4(kind, group, generation, to)
    return group, generation, Removal(to)


def _read_other_generation(row: list[Any]) -> Envelope:
    group, generation, to, heard = _read_notice("other generation", row)
    return group, generation, OtherGeneration(to, heard)


def _read_disowned(row: list[Any]) -> Envelope:
    group, generation, to, host_id = _read_notice("disowned", row)
    return group, generation, Disowned(to, host_id)


def _read_notice(what: str, row: list[Any]) -> list[int]:
    if tuple(map(type, row)) != _NOTICE_SHAPE:
        raise misshapen(what, row, _NOTICE_SHAPE)
    _u64_5(*row)
    return row[1:]


def _read_join_request(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _JOIN_REQUEST_SHAPE:
        raise misshapen("join request", row, _JOIN_REQUEST_SHAPE)
    kind, group, generation, number, member, address, voter, add, staging = row
    _u64_5(kind, group, generation, number, member)
    _check_text(address)
    return group, generation, JoinRequest(number, member, address, voter, add, staging)


def _read_join_answer(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _JOIN_ANSWER_SHAPE:
        raise misshapen("join answer", row, _JOIN_ANSWER_SHAPE)
    kind, group, generation, number, refused = row
    _u64_4(kind, group, generation, number)
    _check_text(refused)
    return group, generation, JoinAnswer(number, refused)


def _check_text(text: str) -> None:
    if len(text) > MAX_REASON_CHARACTERS:
        raise WireError(f"a text of {len(text)} characters; allowed are {MAX_REASON_CHARACTERS}")


# --- flat rows of many groups ------------------------------------------------------------------


def _read_beats(row: list[Any]) -> Envelope:
    return 0, 0, Beats(_read_numbers("BEATS", row, BEAT_FIELDS))


def _read_beat_acks(row: list[Any]) -> Envelope:
    return 0, 0, BeatAcks(_read_numbers("BEAT_ACKS", row, BEAT_ACK_FIELDS))


def _read_append_acks(row: list[Any]) -> Envelope:
    return 0, 0, AppendAcks(_read_numbers("APPEND_ACKS", row, APPEND_ACK_FIELDS))


def _read_numbers(what: str, row: list[Any], fields: int) -> list[int]:
    """A flat list of rows of `fields` numbers; looked at in C, as there may be thousands."""
    if tuple(map(type, row)) != NUMBERS_SHAPE:
        raise misshapen(what, row, NUMBERS_SHAPE)
    numbers: list[int] = row[1]
    if not numbers:
        raise WireError(f"{what}: no rows")
    return _check_numbers(what, numbers, fields)


def _check_numbers(what: str, numbers: list[int], fields: int) -> list[int]:
    if len(numbers) % fields:
        raise WireError(f"{what}: {len(numbers)} numbers do not make rows of {fields}")
    if set(map(type, numbers)) != {int}:
        raise WireError(f"{what}: holds something that is no number")
    if min(numbers) < 0 or max(numbers) >> 64:
        raise WireError(f"{what}: a number outside 0 to 2**64 - 1")
    return numbers


def _read_pulse(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _PULSE_SHAPE:
        raise misshapen("PULSE", row, _PULSE_SHAPE)
    kind, half, other, number, beat, ack, urgent, rows = row
    _u64_6(kind, half, other, number, beat, ack)
    if rows:
        _check_numbers("PULSE", rows, PULSE_FIELDS)
    return 0, 0, Pulse(half, other, number, beat, ack, urgent, rows)


# --- by kind -----------------------------------------------------------------------------------


def _refuse_kind(row: list[Any]) -> NoReturn:
    kind: int = row[0]
    if kind < len(_TYPES):
        raise WireError(f"{_TYPES[kind].name} is a message within a host; it does not travel")
    raise WireError(f"kind {kind} is unknown")


_Reader = Callable[[list[Any]], Envelope]


def _readers() -> tuple[_Reader, ...]:
    table: list[_Reader] = [_refuse_kind] * (PULSE + 1)
    for kind in RARE:
        table[kind] = _read_rare
    table[PROP] = _read_prop
    table[APP] = _read_app
    table[APP_RESP] = _read_app_resp
    table[COMMIT] = _read_commit
    table[HEARTBEAT] = _read_heartbeat
    table[HEARTBEAT_RESP] = _read_heartbeat_resp
    table[PROPOSAL_REFUSED] = _read_refused
    table[BEATS] = _read_beats
    table[BEAT_ACKS] = _read_beat_acks
    table[REMOVAL] = _read_removal
    table[JOIN_REQUEST] = _read_join_request
    table[JOIN_ANSWER] = _read_join_answer
    table[APPENDS] = read_appends
    table[APPEND_ACKS] = _read_append_acks
    table[OTHER_GENERATION] = _read_other_generation
    table[DISOWNED] = _read_disowned
    table[PULSE] = _read_pulse
    return tuple(table)


READERS: Final = _readers()
"""By kind. They raise WireError, and struct.error for a number out of range."""
