"""Arithmetic on lists of runs: finding an index, cutting a stretch out, keeping to a limit.

Lists are in log order without gaps. Nothing here changes a list or a run it was given.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from multiraft.messages import Run
from multiraft.types import Index

__all__ = ["UNLIMITED", "fitting", "position", "stretch", "total_weight"]

UNLIMITED: Final = 1 << 62

_first = attrgetter("first")

# What CBOR adds at most to a payload, and to an array of payloads: one head each.
_HEAD_BYTES_MAX: Final = 9


def total_weight(runs: Sequence[Run]) -> int:
    """Bytes that `runs` take on the wire and on disk."""
    return sum([len(run.blob) for run in runs])


def position(runs: Sequence[Run], index: Index) -> int:
    """Where in `runs` the run that holds `index` is. The index must lie inside."""
    found = bisect_right(runs, index, key=_first) - 1
    assert found >= 0
    assert index <= runs[found].last
    return found


def stretch(runs: Sequence[Run], first: Index, last: Index) -> list[Run]:
    """The entries from `first` to `last`, both of which `runs` holds; cuts at most two runs."""
    begin = 0 if runs[0].first == first else position(runs, first)
    end = len(runs) if runs[-1].last == last else position(runs, last) + 1
    found = list(runs[begin:end])
    if found[-1].last != last:
        found[-1] = found[-1].cut(found[-1].first, last)
    if found[0].first != first:
        found[0] = found[0].cut(first, found[0].last)
    return found


def fitting(runs: list[Run], max_bytes: int) -> list[Run]:
    """The longest prefix of whole runs that weighs at most `max_bytes`.

    Only a first run that is too heavy by itself is cut, and even then one entry remains, so
    that a limit below one entry's weight slows the log down but never stops it.
    """
    budget = max_bytes
    for taken, run in enumerate(runs):
        budget -= len(run.blob)
        if budget < 0:
            return runs[:taken] if taken else [_head(run, max_bytes)]
    return runs


def _head(run: Run, max_bytes: int) -> Run:
    """The longest prefix of `run` that surely weighs at most `max_bytes`, or its first entry."""
    if run.first == run.last:
        return run
    weight = _HEAD_BYTES_MAX
    kept = 0
    for payload in run.payloads:
        weight += len(payload) + _HEAD_BYTES_MAX
        if weight > max_bytes:
            break
        kept += 1
    return run.cut(run.first, run.first + max(kept, 1) - 1)
