"""Runs as rows and back, alone or as appends; nothing gets in that is not what it claims.

A run's blob is decoded here even though most followers could do without: bytes that are not
what they claim must never reach a log, and the payloads are needed for apply soon anyway.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import cbor2

from multiraft.messages import AppendRow, Appends, EntryKind, Envelope, Run, head_bytes
from multiraft.transport.frames import WireError, loads
from multiraft.transport.row_format import MAX_FRAME_MESSAGES, NUMBERS_SHAPE, PLAIN, U64, Row, misshapen

_APPEND_FIELDS: Final = 13
_RUN_SHAPE: Final = (*[int] * 7, bytes)
_KINDS: Final = tuple(EntryKind)
_u64_7: Final = U64[7]


# --- runs as rows ------------------------------------------------------------------------------


def run_rows(runs: Sequence[Run]) -> list[Row]:
    """The runs of one message."""
    plain = PLAIN
    if len(runs) == 1:
        r = runs[0]
        return [(r.first, r.last, r.term, plain[r.kind], r.size, r.origin, r.sequence, r.blob)]
    return [(r.first, r.last, r.term, plain[r.kind], r.size, r.origin, r.sequence, r.blob) for r in runs]


def flat_appends(rows: Sequence[AppendRow]) -> list[Any]:
    """Appends of many groups; what follows from the rest of a row (first, term, kind) is left out."""
    flat: list[Any] = []
    for group, generation, to, sender, term, log_term, index, commit, run in rows:
        flat += (group, generation, to, sender, term, log_term, index, commit)
        flat += (run.last - index, run.size, run.origin, run.sequence, run.blob)
    return flat


# --- and back ----------------------------------------------------------------------------------


def read_run(row: object) -> Run:
    """One run of `run_rows`. Raises: WireError, struct.error for a number out of range."""
    if type(row) is not list or tuple(map(type, row)) != _RUN_SHAPE:
        raise misshapen("run", row if type(row) is list else [row], _RUN_SHAPE)
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
        return len(blob) == size + count + head_bytes(count)
    if least >= 24 and most < 256:
        return len(blob) == size + 2 * count + head_bytes(count)
    return len(blob) == len(cbor2.dumps(payloads))


def read_log_runs(rows: list[Any], index: int) -> list[Run]:
    """Runs that follow `index` without a gap. Raises: as `read_run`."""
    runs = [read_run(row) for row in rows]
    for run in runs:
        if run.first != index + 1:
            raise WireError(f"run: starts at {run.first} where {index + 1} belongs")
        index = run.last
    return runs


def read_appends(row: list[Any]) -> Envelope:
    """The inverse of `flat_appends`. Types and ranges are looked at column by column, in C.

    Raises:
        WireError: Rows that `flat_appends` would not have made.
        struct.error: A number out of range.
    """
    if tuple(map(type, row)) != NUMBERS_SHAPE:
        raise misshapen("APPENDS", row, NUMBERS_SHAPE)
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
