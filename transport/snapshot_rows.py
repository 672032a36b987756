"""Where a snapshot stands, as a row and back: in messages and in offers of snapshot files."""

from __future__ import annotations

import struct
from typing import Any, Final

from multiraft.messages import ConfState, Snapshot
from multiraft.transport.frames import WireError
from multiraft.transport.row_format import MAX_MEMBERS, U64, Row, misshapen

_SNAPSHOT_SHAPE: Final = (int, int, list, list, list, list, bool, bytes)


def snapshot_row(snapshot: Snapshot | None) -> Row:
    """A snapshot as a plain tuple; empty for none."""
    if snapshot is None:
        return ()
    conf = snapshot.conf_state
    ids = (conf.voters, conf.learners, conf.voters_outgoing, conf.learners_next)
    return (snapshot.index, snapshot.term, *ids, conf.auto_leave, snapshot.data)


def read_snapshot(row: object) -> Snapshot | None:
    """The inverse of `snapshot_row`. Raises: WireError, struct.error for a number out of range."""
    if row == []:
        return None
    if type(row) is not list or tuple(map(type, row)) != _SNAPSHOT_SHAPE:
        raise misshapen("snapshot", row if type(row) is list else [row], _SNAPSHOT_SHAPE)
    index, term, voters, learners, outgoing, learners_next, auto_leave, data = row
    U64[2](index, term)
    conf = ConfState(
        _read_ids(voters), _read_ids(learners), _read_ids(outgoing), _read_ids(learners_next), auto_leave
    )
    return Snapshot(index, term, conf, data)


def _read_ids(row: list[Any]) -> tuple[int, ...]:
    if len(row) > MAX_MEMBERS or not set(map(type, row)) <= {int}:
        raise WireError(f"snapshot: a list of {len(row)} members that is too long or not of integers")
    struct.pack(f"{len(row)}Q", *row)
    return tuple(row)
