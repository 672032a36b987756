"""Messages between hosts as bytes, and back. Pure; docs/wire-format.md gives every field.

A frame's body is one CBOR array of envelopes; an envelope is a flat array that begins with
kind, group and generation. Encoding is one `cbor2.dumps` over a list of tuples. Decoding is
one `loads` and then, for each envelope, a function chosen by its kind, which compares the
types of all fields with the kind's shape in one go (`tuple(map(type, …))`, which also tells a
bool from an int) and their range with one `struct.pack`: both run in C, so that strictness
costs less than a microsecond a message.

A run's blob is decoded here even though most followers could do without: bytes that are not
what they claim must never reach a log, and the payloads are needed for apply soon anyway.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import cbor2

from multiraft.messages import (
    APPEND_ACK_FIELDS,
    BEAT_ACK_FIELDS,
    BEAT_FIELDS,
    AppendAcks,
    AppendRow,
    Appends,
    BeatAcks,
    Beats,
    ConfState,
    Disowned,
    EntryKind,
    Envelope,
    JoinAnswer,
    JoinRequest,
    Message,
    MessageType,
    OtherGeneration,
    ProposalRefused,
    Removal,
    Run,
    Snapshot,
)
from multiraft.transport.frames import WireError, framed, loads

__all__ = [
    "MAX_CONTEXT_BYTES",
    "MAX_FRAME_MESSAGES",
    "MAX_MEMBERS",
    "MAX_REASON_CHARACTERS",
    "WireError",
    "decode",
    "encode",
    "encode_frames",
]

MAX_FRAME_MESSAGES: Final = 1 << 16
MAX_CONTEXT_BYTES: Final = 1 << 16
MAX_MEMBERS: Final = 1 << 12
MAX_REASON_CHARACTERS: Final = 1024

_PROP: Final = 2
_APP: Final = 3
_APP_RESP: Final = 4
_HEARTBEAT: Final = 8
_HEARTBEAT_RESP: Final = 9
_COMMIT: Final = 24
_PROPOSAL_REFUSED: Final = 32
_BEATS: Final = 33
_BEAT_ACKS: Final = 34
_REMOVAL: Final = 35
_JOIN_REQUEST: Final = 36
_JOIN_ANSWER: Final = 37
_APPENDS: Final = 38
_APPEND_ACKS: Final = 39
_OTHER_GENERATION: Final = 40
_DISOWNED: Final = 41

_APPEND_FIELDS: Final = 13

# Rare kinds share one shape with every field in it.
_RARE: Final = (
    MessageType.VOTE,
    MessageType.VOTE_RESP,
    MessageType.SNAP,
    MessageType.TRANSFER_LEADER,
    MessageType.TIMEOUT_NOW,
    MessageType.READ_INDEX,
    MessageType.READ_INDEX_RESP,
    MessageType.PRE_VOTE,
    MessageType.PRE_VOTE_RESP,
)

Row = tuple[Any, ...]
_TYPES: Final = tuple(MessageType(n) for n in range(len(MessageType)))
# Indexing a tuple with an IntEnum is C; hashing one, as a dict would, is a Python call.
_PLAIN: Final = tuple(range(len(MessageType)))
_KINDS: Final = tuple(EntryKind)


# --- encoding ----------------------------------------------------------------------------------


def _run_rows(runs: Sequence[Run]) -> list[Row]:
    plain = _PLAIN
    if len(runs) == 1:
        r = runs[0]
        return [(r.first, r.last, r.term, plain[r.kind], r.size, r.origin, r.sequence, r.blob)]
    return [(r.first, r.last, r.term, plain[r.kind], r.size, r.origin, r.sequence, r.blob) for r in runs]


def _write_app(group: int, generation: int, m: Message) -> Row:
    rows = _run_rows(m.runs)
    return (_APP, group, generation, m.to, m.sender, m.term, m.log_term, m.index, m.commit, rows)


def _write_app_resp(group: int, generation: int, m: Message) -> Row:
    hint, reject = m.reject_hint, m.reject
    return (_APP_RESP, group, generation, m.to, m.sender, m.term, m.log_term, m.index, m.commit, hint, reject)


def _write_prop(group: int, generation: int, m: Message) -> Row:
    return (_PROP, group, generation, m.to, m.sender, m.term, _run_rows(m.runs))


def _write_commit(group: int, generation: int, m: Message) -> Row:
    return (_COMMIT, group, generation, m.to, m.sender, m.term, m.commit)


def _write_heartbeat(group: int, generation: int, m: Message) -> Row:
    return (_HEARTBEAT, group, generation, m.to, m.sender, m.term, m.commit, m.context)


def _write_heartbeat_resp(group: int, generation: int, m: Message) -> Row:
    return (_HEARTBEAT_RESP, group, generation, m.to, m.sender, m.term, m.context)


def _write_rare(group: int, generation: int, m: Message) -> Row:
    ids = (_PLAIN[m.type], group, generation, m.to, m.sender, m.term)
    places = (m.log_term, m.index, m.commit, m.reject_hint, m.vote, m.reject)
    return (*ids, *places, m.context, snapshot_row(m.snapshot), _run_rows(m.runs))


def snapshot_row(snapshot: Snapshot | None) -> Row:
    """A snapshot as a plain tuple; empty for none."""
    if snapshot is None:
        return ()
    conf = snapshot.conf_state
    ids = (conf.voters, conf.learners, conf.voters_outgoing, conf.learners_next)
    return (snapshot.index, snapshot.term, *ids, conf.auto_leave, snapshot.data)


def _refuse_local(_group: int, _generation: int, m: Message) -> NoReturn:
    raise WireError(f"{m.type.name} is a message within a host; it does not travel")


_Writer = Callable[[int, int, Message], Row]


def _writers() -> tuple[_Writer, ...]:
    table: list[_Writer] = [_refuse_local] * len(MessageType)
    for kind in _RARE:
        table[kind] = _write_rare
    table[_PROP] = _write_prop
    table[_APP] = _write_app
    table[_APP_RESP] = _write_app_resp
    table[_COMMIT] = _write_commit
    table[_HEARTBEAT] = _write_heartbeat
    table[_HEARTBEAT_RESP] = _write_heartbeat_resp
    return tuple(table)


_WRITERS: Final = _writers()


def _row(group: int, generation: int, message: object) -> Row:
    if isinstance(message, ProposalRefused):
        # Whatever is in a reason must not keep the frame around it from travelling.
        reason = message.reason[:MAX_REASON_CHARACTERS].encode(errors="replace").decode()
        return (_PROPOSAL_REFUSED, group, generation, message.to, message.sequence, reason)
    if isinstance(message, Beats):
        return (_BEATS, message.rows)
    if isinstance(message, BeatAcks):
        return (_BEAT_ACKS, message.rows)
    if isinstance(message, Appends):
        return (_APPENDS, _flat_appends(message.rows))
    if isinstance(message, AppendAcks):
        return (_APPEND_ACKS, message.rows)
    if isinstance(message, Removal):
        return (_REMOVAL, group, generation, message.to)
    if isinstance(message, JoinRequest):
        m = message
        return (_JOIN_REQUEST, group, generation, m.number, m.member, m.address, m.voter, m.add, m.staging)
    if isinstance(message, JoinAnswer):
        reason = message.refused[:MAX_REASON_CHARACTERS].encode(errors="replace").decode()
        return (_JOIN_ANSWER, group, generation, message.number, reason)
    if isinstance(message, OtherGeneration):
        return (_OTHER_GENERATION, group, generation, message.to, message.heard)
    if isinstance(message, Disowned):
        return (_DISOWNED, group, generation, message.to, message.host_id)
    raise WireError(f"{type(message).__name__} is not a message between hosts")


def _flat_appends(rows: Sequence[AppendRow]) -> list[Any]:
    """What follows from the rest of the row (first, term, kind) is left out."""
    flat: list[Any] = []
    for group, generation, to, sender, term, log_term, index, commit, run in rows:
        flat += (group, generation, to, sender, term, log_term, index, commit)
        flat += (run.last - index, run.size, run.origin, run.sequence, run.blob)
    return flat


def encode(items: Sequence[Envelope]) -> bytes:
    """One frame's body (without its length) for `items`.

    Fields that a message's type does not use are not carried (docs/wire-format.md).

    Raises:
        WireError: A message that belongs within a host.
    """
    writers = _WRITERS
    return cbor2.dumps(
        [
            writers[m.type](group, generation, m) if type(m) is Message else _row(group, generation, m)
            for group, generation, m in items
        ]
    )


def encode_frames(items: Sequence[Envelope], max_frame_bytes: int) -> list[bytes]:
    """`items` as frames with their lengths: one, or more where one would be too large.

    Raises:
        WireError: A message that belongs within a host, or one that alone is too large.
    """
    if len(items) <= MAX_FRAME_MESSAGES:
        body = encode(items)
        if len(body) <= max_frame_bytes:
            return [framed(body)]
        if len(items) == 1:
            group, _, message = items[0]
            name = message.type.name if isinstance(message, Message) else type(message).__name__
            raise WireError(
                f"{name} of group {group} takes {len(body)} bytes; a frame holds {max_frame_bytes}"
            )
    half = len(items) // 2
    return encode_frames(items[:half], max_frame_bytes) + encode_frames(items[half:], max_frame_bytes)


# --- decoding ----------------------------------------------------------------------------------

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
_RUN_SHAPE: Final = (*[int] * 7, bytes)
_NUMBERS_SHAPE: Final = (int, list)
_SNAPSHOT_SHAPE: Final = (int, int, list, list, list, list, bool, bytes)

# Packing as unsigned 64-bit numbers is the range check: negative or larger raises struct.error.
_U64: Final = tuple(struct.Struct(f"{n}Q").pack for n in range(12))
_u64_4, _u64_5, _u64_6, _u64_7, _u64_9, _u64_10, _u64_11 = (_U64[n] for n in (4, 5, 6, 7, 9, 10, 11))


def _misshapen(what: str, row: list[Any], shape: tuple[type, ...]) -> WireError:
    found = ", ".join(type(field).__name__ for field in row[:16])
    return WireError(f"{what}: fields ({found}) where ({', '.join(t.__name__ for t in shape)}) belong")


def _read_run(row: object) -> Run:
    if type(row) is not list or tuple(map(type, row)) != _RUN_SHAPE:
        raise _misshapen("run", row if type(row) is list else [row], _RUN_SHAPE)
    first, last, term, kind, size, origin, sequence, blob = row
    _u64_7(first, last, term, kind, size, origin, sequence)
    if kind >= len(_KINDS):
        raise WireError(f"run: entry kind {kind} is unknown")
    count = last - first + 1
    # Each payload takes one to nine bytes beside its own; checked before decoding anything.
    if not size + count < len(blob) + 1 <= size + 9 * count + 10:
        raise WireError(f"run: {count} entries of {size} bytes do not fit a blob of {len(blob)} bytes")
    payloads = _read_payloads(blob, count, size)
    if kind and count != 1:
        raise WireError(f"run: {count} configuration changes in one run")
    return Run(first, last, term, _KINDS[kind], size, blob, origin, sequence, payloads)


def _read_payloads(blob: bytes, count: int, size: int) -> list[bytes]:
    """What is in a blob that has about the right length."""
    if count == 1 and size < 24 and len(blob) == size + 2 and blob[0] == 0x81 and blob[1] == 0x40 | size:
        return [blob[2:]]  # one short byte string, by far the most common
    payloads = loads(blob)
    if type(payloads) is not list or len(payloads) != count or set(map(type, payloads)) != {bytes}:
        raise WireError(f"run: the blob is not an array of {count} byte strings")
    if sum(map(len, payloads)) != size or not _is_shortest(blob, payloads, size):
        raise WireError(f"run: the blob is not the shortest array of payloads of {size} bytes")
    return payloads


def _is_shortest(blob: bytes, payloads: list[bytes], size: int) -> bool:
    """Whether `blob` is what the leader's encoder makes: nothing longer decodes to the same.

    The decoder overlooks bytes behind the array, and lengths written with more bytes than
    they need. As no header can be shorter than it must, the total tells.
    """
    count = len(payloads)
    if count == 1 and size < 24:
        return len(blob) == size + 2
    lengths = list(map(len, payloads))
    least, most = min(lengths), max(lengths)
    if most < 24:
        return len(blob) == size + count + _head_bytes(count)
    if least >= 24 and most < 256:
        return len(blob) == size + 2 * count + _head_bytes(count)
    return len(blob) == len(cbor2.dumps(payloads))


def _head_bytes(count: int) -> int:
    return 1 if count < 24 else 2 if count < 256 else 3 if count < 65536 else 5


def _read_log_runs(rows: list[Any], index: int) -> list[Run]:
    """Runs that follow `index` without a gap."""
    runs = [_read_run(row) for row in rows]
    for run in runs:
        if run.first != index + 1:
            raise WireError(f"run: starts at {run.first} where {index + 1} belongs")
        index = run.last
    return runs


def _read_app(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _APP_SHAPE:
        raise _misshapen("APP", row, _APP_SHAPE)
    kind, group, generation, to, sender, term, log_term, index, commit, rows = row
    _u64_9(kind, group, generation, to, sender, term, log_term, index, commit)
    runs = _read_log_runs(rows, index) if rows else ()
    return group, generation, Message(MessageType.APP, to, sender, term, log_term, index, commit, runs)


def _read_app_resp(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _APP_RESP_SHAPE:
        raise _misshapen("APP_RESP", row, _APP_RESP_SHAPE)
    kind, group, generation, to, sender, term, log_term, index, commit, hint, reject = row
    _u64_10(kind, group, generation, to, sender, term, log_term, index, commit, hint)
    message = Message(MessageType.APP_RESP, to, sender, term, log_term, index, commit, (), reject, hint)
    return group, generation, message


def _read_prop(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _PROP_SHAPE:
        raise _misshapen("PROP", row, _PROP_SHAPE)
    kind, group, generation, to, sender, term, rows = row
    _u64_6(kind, group, generation, to, sender, term)
    runs = [_read_run(r) for r in rows]
    if not runs or any(r.first or r.term for r in runs):
        raise WireError("PROP: carries no run, or one that claims a place in the log")
    return group, generation, Message(MessageType.PROP, to, sender, term, runs=runs)


def _read_commit(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _COMMIT_SHAPE:
        raise _misshapen("COMMIT", row, _COMMIT_SHAPE)
    _u64_7(*row)
    _, group, generation, to, sender, term, commit = row
    return group, generation, Message(MessageType.COMMIT, to, sender, term, 0, 0, commit)


def _read_heartbeat(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _HEARTBEAT_SHAPE:
        raise _misshapen("HEARTBEAT", row, _HEARTBEAT_SHAPE)
    kind, group, generation, to, sender, term, commit, context = row
    _u64_7(kind, group, generation, to, sender, term, commit)
    _check_context(context)
    message = Message(MessageType.HEARTBEAT, to, sender, term, 0, 0, commit, context=context)
    return group, generation, message


def _read_heartbeat_resp(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _HEARTBEAT_RESP_SHAPE:
        raise _misshapen("HEARTBEAT_RESP", row, _HEARTBEAT_RESP_SHAPE)
    kind, group, generation, to, sender, term, context = row
    _u64_6(kind, group, generation, to, sender, term)
    _check_context(context)
    return group, generation, Message(MessageType.HEARTBEAT_RESP, to, sender, term, context=context)


def _read_rare(row: list[Any]) -> Envelope:
    name = _TYPES[row[0]].name
    if tuple(map(type, row)) != _RARE_SHAPE:
        raise _misshapen(name, row, _RARE_SHAPE)
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
        [_read_run(r) for r in rows] if rows else (),
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


def read_snapshot(row: object) -> Snapshot | None:
    """The inverse of `snapshot_row`. Raises: WireError, struct.error for a number out of range."""
    if row == []:
        return None
    if type(row) is not list or tuple(map(type, row)) != _SNAPSHOT_SHAPE:
        raise _misshapen("snapshot", row if type(row) is list else [row], _SNAPSHOT_SHAPE)
    index, term, voters, learners, outgoing, learners_next, auto_leave, data = row
    _U64[2](index, term)
    conf = ConfState(
        _read_ids(voters), _read_ids(learners), _read_ids(outgoing), _read_ids(learners_next), auto_leave
    )
    return Snapshot(index, term, conf, data)


def _read_ids(row: list[Any]) -> tuple[int, ...]:
    if len(row) > MAX_MEMBERS or not set(map(type, row)) <= {int}:
        raise WireError(f"snapshot: a list of {len(row)} members that is too long or not of integers")
    struct.pack(f"{len(row)}Q", *row)
    return tuple(row)


def _read_refused(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _REFUSED_SHAPE:
        raise _misshapen("proposal refused", row, _REFUSED_SHAPE)
    kind, group, generation, to, sequence, reason = row
    _u64_5(kind, group, generation, to, sequence)
    if len(reason) > MAX_REASON_CHARACTERS:
        raise WireError(f"a reason of {len(reason)} characters; allowed are {MAX_REASON_CHARACTERS}")
    return group, generation, ProposalRefused(to, sequence, reason)


def _read_removal(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _REMOVAL_SHAPE:
        raise _misshapen("removal", row, _REMOVAL_SHAPE)
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
        raise _misshapen(what, row, _NOTICE_SHAPE)
    _u64_5(*row)
    return row[1:]


def _read_join_request(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _JOIN_REQUEST_SHAPE:
        raise _misshapen("join request", row, _JOIN_REQUEST_SHAPE)
    kind, group, generation, number, member, address, voter, add, staging = row
    _u64_5(kind, group, generation, number, member)
    _check_text(address)
    return group, generation, JoinRequest(number, member, address, voter, add, staging)


def _read_join_answer(row: list[Any]) -> Envelope:
    if tuple(map(type, row)) != _JOIN_ANSWER_SHAPE:
        raise _misshapen("join answer", row, _JOIN_ANSWER_SHAPE)
    kind, group, generation, number, refused = row
    _u64_4(kind, group, generation, number)
    _check_text(refused)
    return group, generation, JoinAnswer(number, refused)


def _check_text(text: str) -> None:
    if len(text) > MAX_REASON_CHARACTERS:
        raise WireError(f"a text of {len(text)} characters; allowed are {MAX_REASON_CHARACTERS}")


def _read_beats(row: list[Any]) -> Envelope:
    return 0, 0, Beats(_read_numbers("BEATS", row, BEAT_FIELDS))


def _read_beat_acks(row: list[Any]) -> Envelope:
    return 0, 0, BeatAcks(_read_numbers("BEAT_ACKS", row, BEAT_ACK_FIELDS))


def _read_appends(row: list[Any]) -> Envelope:
    """Rows of appends. Types and ranges are looked at column by column, in C."""
    if tuple(map(type, row)) != _NUMBERS_SHAPE:
        raise _misshapen("APPENDS", row, _NUMBERS_SHAPE)
    flat: list[Any] = row[1]
    count = len(flat) // _APPEND_FIELDS
    if not flat or len(flat) % _APPEND_FIELDS or count > MAX_FRAME_MESSAGES:
        raise WireError(f"APPENDS: {len(flat)} fields do not make rows of {_APPEND_FIELDS}")
    blobs = flat[_APPEND_FIELDS - 1 :: _APPEND_FIELDS]
    if set(map(type, blobs)) != {bytes}:
        raise WireError("APPENDS: a blob that is no byte string")
    numbers = [flat[column::_APPEND_FIELDS] for column in range(_APPEND_FIELDS - 1)]
    pack = struct.Struct(f"{count}Q").pack
    for column in numbers:
        if set(map(type, column)) != {int}:
            raise WireError("APPENDS: holds something that is no number")
        pack(*column)
    rows: list[AppendRow] = []
    add, normal = rows.append, EntryKind.NORMAL
    heads = zip(*numbers[:8], strict=True)
    for row, entries, size, origin, sequence, blob in zip(heads, *numbers[8:], blobs, strict=True):
        index = row[6]
        last = index + entries
        if last >> 64 or not entries:
            raise WireError(f"run: {entries} entries behind index {index}")
        if not size + entries < len(blob) + 1 <= size + 9 * entries + 10:
            raise WireError(f"run: {entries} entries of {size} bytes do not fit a blob of {len(blob)} bytes")
        payloads = _read_payloads(blob, entries, size)
        add((*row, Run(index + 1, last, row[4], normal, size, blob, origin, sequence, payloads)))
    return 0, 0, Appends(rows)


def _read_append_acks(row: list[Any]) -> Envelope:
    return 0, 0, AppendAcks(_read_numbers("APPEND_ACKS", row, APPEND_ACK_FIELDS))


def _read_numbers(what: str, row: list[Any], fields: int) -> list[int]:
    """A flat list of rows of `fields` numbers; looked at in C, as there may be thousands."""
    if tuple(map(type, row)) != _NUMBERS_SHAPE:
        raise _misshapen(what, row, _NUMBERS_SHAPE)
    numbers: list[int] = row[1]
    if not numbers or len(numbers) % fields:
        raise WireError(f"{what}: {len(numbers)} numbers do not make rows of {fields}")
    if set(map(type, numbers)) != {int}:
        raise WireError(f"{what}: holds something that is no number")
    if min(numbers) < 0 or max(numbers) >> 64:
        raise WireError(f"{what}: a number outside 0 to 2**64 - 1")
    return numbers


def _refuse_kind(row: list[Any]) -> NoReturn:
    kind: int = row[0]
    if kind < len(_TYPES):
        raise WireError(f"{_TYPES[kind].name} is a message within a host; it does not travel")
    raise WireError(f"kind {kind} is unknown")


_Reader = Callable[[list[Any]], Envelope]


def _readers() -> tuple[_Reader, ...]:
    table: list[_Reader] = [_refuse_kind] * (_DISOWNED + 1)
    for kind in _RARE:
        table[kind] = _read_rare
    table[_PROP] = _read_prop
    table[_APP] = _read_app
    table[_APP_RESP] = _read_app_resp
    table[_COMMIT] = _read_commit
    table[_HEARTBEAT] = _read_heartbeat
    table[_HEARTBEAT_RESP] = _read_heartbeat_resp
    table[_PROPOSAL_REFUSED] = _read_refused
    table[_BEATS] = _read_beats
    table[_BEAT_ACKS] = _read_beat_acks
    table[_REMOVAL] = _read_removal
    table[_JOIN_REQUEST] = _read_join_request
    table[_JOIN_ANSWER] = _read_join_answer
    table[_APPENDS] = _read_appends
    table[_APPEND_ACKS] = _read_append_acks
    table[_OTHER_GENERATION] = _read_other_generation
    table[_DISOWNED] = _read_disowned
    return tuple(table)


_READERS: Final = _readers()


def decode(body: bytes) -> list[Envelope]:
    """The envelopes in a frame's body.

    Raises:
        WireError: Anything that `encode` would not have written, with the envelope's place
            in the frame. Nothing else is ever raised, whatever the bytes.
    """
    rows = loads(body)
    if type(rows) is not list:
        raise WireError(f"a frame is an array of envelopes, not {type(rows).__name__}")
    if len(rows) > MAX_FRAME_MESSAGES:
        raise WireError(f"{len(rows)} envelopes in one frame; allowed are {MAX_FRAME_MESSAGES}")
    items: list[Envelope] = []
    add, readers = items.append, _READERS
    for row in rows:
        if type(row) is not list:
            raise WireError(f"envelope {len(items)}: not an array but {type(row).__name__}")
        try:
            add(readers[row[0]](row))
        except WireError as error:
            raise WireError(f"envelope {len(items)}: {error}") from None
        except struct.error:
            raise WireError(f"envelope {len(items)}: a number outside 0 to 2**64 - 1") from None
        except (TypeError, IndexError):
            # An empty array, or one whose kind is no index of the table.
            raise WireError(f"envelope {len(items)}: does not begin with a known kind") from None
    return items
