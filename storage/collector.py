"""Bounding the log: which segments go, and what is written once more so that they can.

Segments are collected from the front only. That costs little - what pins an old segment is copied
to the end - and buys a simple argument: whatever is still on disk is a complete suffix of the
log, so a record of removal is never gone before the records it removes (raft-engine orders
tombstones before entries for the same reason).

Copying is safe at every step because a copy changes nothing: it is written right after the
state it was made from, in the same order as every other batch; replayed, it says the same again.
The old segment goes when the copies are durable, because only then its live bytes drop to zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from multiraft.storage.batch import Batch
from multiraft.storage.group import StoredGroup
from multiraft.storage.segment import Segment
from multiraft.storage.wal import Wal

_COPY_RATIO: Final = 0.7
"""Copying frees little when more than this part of the log is live; then only compaction helps."""
_IDLE_RATIO: Final = 0.125
"""Below this part live, the log is shrunk even within its budget: it makes starting faster."""
_SEGMENTS_KEPT: Final = 4
_LAGGARD_SHARE: Final = 16


@attrs.frozen
class Collection:
    """What one call of `collect` did.

    Attributes:
        more: Call again soon; there is work left that can be done now.
        laggards: Groups, with bytes of entries, that pin the oldest segment with more than a
            sixteenth of a segment. A snapshot and a compaction of these does more good than a
            copy of their entries, which is made at the next round if nothing changed.
    """

    more: bool = False
    laggards: tuple[tuple[int, int], ...] = ()


class Collector:
    """Plain and synchronous: it decides in the host's thread, the writer does the work."""

    def __init__(self, wal: Wal, *, segment_bytes: int, total_bytes: int) -> None:
        self._wal = wal
        self._laggard_bytes = segment_bytes // _LAGGARD_SHARE
        self._kept_bytes = _SEGMENTS_KEPT * segment_bytes
        self._total_bytes = max(total_bytes, self._kept_bytes)
        self._waiting = False
        self._front = 0
        self._round = 0
        self._cursor: Iterator[int] = iter(())
        self._current: int | None = None
        self.collected = 0
        self.copied_bytes = 0

    def collect(self, max_bytes: int, max_groups: int) -> Collection:
        """One bounded step. Raises: CorruptRecord when what has to be copied is damaged."""
        if self._wal.failure is not None:
            return Collection()
        if self._waiting:
            return Collection(more=True)  # what is being written lets more be done
        dead = self._dead()
        if dead:
            self._drop(dead)
            return Collection(more=True)
        front = next(iter(self._wal.shelf.segments.values()))
        if front.sequence >= self._first_busy() or not self._worthwhile():
            return Collection()
        return self._copy(front, max_bytes, max_groups)

    # --- segments without anything live -------------------------------------------------------

    def _dead(self) -> list[Segment]:
        dead = []
        for segment in self._wal.shelf.segments.values():
            if segment.live or segment.sequence >= self._first_busy():
                break
            dead.append(segment)
        return dead

    def _first_busy(self) -> int:
        """Segments from this one on may get live bytes from batches that are not done."""
        return self._wal.first_busy.sequence

    def _drop(self, dead: list[Segment]) -> None:
        sequences = [segment.sequence for segment in dead]
        self._wal.start = sequences[-1] + 1
        batch = self._wal.batch()
        batch.log_start(self._wal.start)
        self._submit(batch)
        self._wal.collect(sequences, self._done)
        self.collected += len(sequences)

    # --- what pins the oldest one -------------------------------------------------------------

    def _worthwhile(self) -> bool:
        sealed = [s for s in self._wal.shelf.segments.values() if s is not self._wal.active]
        size = sum(segment.capacity for segment in sealed)
        live = sum(segment.live for segment in sealed)
        if size + self._wal.active.capacity > self._total_bytes:
            return live < size * _COPY_RATIO
        return size >= self._kept_bytes and live < size * _IDLE_RATIO

    def _copy(self, front: Segment, max_bytes: int, max_groups: int) -> Collection:
        if front.sequence != self._front:
            self._front, self._round = front.sequence, 0
            self._begin_round()
        groups = self._wal.live_groups
        busy = self._wal.busy_groups()
        batch = self._wal.batch()
        laggards: list[tuple[int, int]] = []
        ended = False
        for _ in range(max_groups):
            group = self._current if self._current is not None else next(self._cursor, None)
            self._current = None
            if group is None:
                ended = True
                break
            log = groups.get(group)
            # A batch under way may replace what would be copied; the next round looks again.
            if log is None or group in busy:
                continue
            held = log.bytes_in(front.sequence)
            if held > self._laggard_bytes and self._round == 0:
                laggards.append((group, held))
                continue
            if not self._copy_group(batch, log, front.sequence, max_bytes):
                self._current = group  # go on with it when this batch is done
                break
            if batch.bytes >= max_bytes:
                break
        copied = bool(batch)
        if copied:
            self.copied_bytes += batch.bytes
            self._submit(batch)
        if ended:
            self._round += 1
            self._begin_round()
        # Once the copies are durable the segment may be dead; and a look at a segment that nothing
        # could be done about is not repeated at once.
        return Collection(copied or not ended, tuple(laggards))

    def _begin_round(self) -> None:
        self._cursor = iter(list(self._wal.live_groups))
        self._current = None

    @staticmethod
    def _copy_group(batch: Batch, log: StoredGroup, sequence: int, max_bytes: int) -> bool:
        """Copy what the group has in segments up to `sequence`. False: the batch is full."""
        meta, hard, point = log.parts_in(sequence)
        if meta:
            batch.meta(log.group, log.meta)
        if hard:
            batch.hard_state(log.group, log.hard_state)
        if point:
            batch.relocate_point(log)
        for number in log.rows_in(sequence):
            if batch.bytes >= max_bytes:
                return False
            batch.relocate(log.group, log.visible(number))
        return True

    def _submit(self, batch: Batch) -> None:
        self._waiting = True
        self._wal.submit(batch, self._done)

    def _done(self) -> None:
        self._waiting = False
