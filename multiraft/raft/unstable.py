"""The end of the log that is not known to be on disk yet, and a snapshot on its way there."""

from __future__ import annotations

from collections.abc import Sequence

from multiraft.messages import Run, Snapshot
from multiraft.raft.runs import position, stretch
from multiraft.raft.trace import Level, Logger
from multiraft.types import Index, Term

__all__ = ["Unstable"]


class Unstable:
    """Runs from `offset` on, of which the first `in_progress` were handed out to be written.

    What is in progress is never handed out again, but stays readable until it is known stable.

    Attributes:
        offset: The index of the first entry here, or of the next one to come.
        runs: Without gaps, in log order. The list is never handed out, only copies of it.
        in_progress: How many of `runs` were handed out. Runs are cut where that count changes,
            so that it always falls between two of them.
        snapshot: A snapshot that replaces everything below `offset`.
        snapshot_in_progress: It was handed out.
    """

    __slots__ = ("_logger", "in_progress", "offset", "runs", "snapshot", "snapshot_in_progress")

    def __init__(self, offset: Index, logger: Logger | None) -> None:
        self.offset = offset
        self.runs: list[Run] = []
        self.in_progress = 0
        self.snapshot: Snapshot | None = None
        self.snapshot_in_progress = False
        self._logger = logger

    # --- reading ---------------------------------------------------------------------------

    @property
    def first_index(self) -> Index | None:
        """The first index of the log, if a snapshot here decides it."""
        return None if self.snapshot is None else self.snapshot.index + 1

    @property
    def last_index(self) -> Index | None:
        """The last index of the log, if anything is here."""
        if self.runs:
            return self.runs[-1].last
        return None if self.snapshot is None else self.snapshot.index

    @property
    def offset_in_progress(self) -> Index:
        """The first index that was not handed out yet."""
        return self.runs[self.in_progress - 1].last + 1 if self.in_progress else self.offset

    @property
    def entry_count(self) -> int:
        return self.runs[-1].last + 1 - self.offset if self.runs else 0

    def term(self, index: Index) -> Term | None:
        """The term at `index`; None: it is not known here."""
        if index < self.offset:
            if self.snapshot is not None and self.snapshot.index == index:
                return self.snapshot.term
            return None
        runs = self.runs
        if not runs or index > runs[-1].last:
            return None
        if index >= runs[-1].first:
            return runs[-1].term
        return runs[position(runs, index)].term

    def stretch(self, first: Index, last: Index) -> list[Run]:
        """Entries from `first` to `last`, both of which must be here."""
        return stretch(self.runs, first, last)

    # --- handing out -----------------------------------------------------------------------

    @property
    def has_fresh(self) -> bool:
        """Whether there are entries that were not handed out yet."""
        return len(self.runs) > self.in_progress

    @property
    def fresh_snapshot(self) -> Snapshot | None:
        return None if self.snapshot_in_progress else self.snapshot

    def accept(self) -> list[Run]:
        """Hand out what was not handed out yet, and count it as in progress."""
        fresh = self.runs[self.in_progress :]
        self.in_progress = len(self.runs)
        if self.snapshot is not None:
            self.snapshot_in_progress = True
        return fresh

    # --- writing ---------------------------------------------------------------------------

    def append(self, runs: Sequence[Run]) -> None:
        """Put `runs` at their place; what was there and behind is gone."""
        first = runs[0].first
        end = self.runs[-1].last + 1 if self.runs else self.offset
        if first == end:
            self.runs.extend(runs)
        elif first <= self.offset:
            self._say(f"replace the unstable entries from index {first}")
            self.offset = first
            self.runs = list(runs)
            self.in_progress = 0
        else:
            self._say(f"truncate the unstable entries before index {first}")
            self._truncate(first - 1)
            self.runs.extend(runs)

    def _truncate(self, last: Index) -> None:
        """Keep only what is up to `last`, which is here."""
        kept = position(self.runs, last)
        self.runs[kept:] = [self.runs[kept].cut(self.runs[kept].first, last)]
        # A run that was being written counts as such after a cut too: its kept part will be on
        # disk, and the part that was cut off is overwritten by a later write.
        self.in_progress = min(self.in_progress, kept + 1)

    def restore(self, snapshot: Snapshot) -> None:
        """Start over behind `snapshot`."""
        self.offset = snapshot.index + 1
        self.runs = []
        self.in_progress = 0
        self.snapshot = snapshot
        self.snapshot_in_progress = False

    # --- what reached the disk -------------------------------------------------------------

    def stable_to(self, index: Index, term: Term) -> list[Run]:
        """Entries up to (index, term) are on disk. Returns what is not held here any more.

        Ignored unless that very entry is here: a write of entries that were replaced meanwhile
        says nothing about what replaced them.
        """
        runs = self.runs
        if runs and runs[-1].last == index and runs[-1].term == term:
            self.runs = []
            self.in_progress = 0
            self.offset = index + 1
            return runs
        held = self.term(index)
        if held is None:
            self._say(f"entry at index {index} missing from unstable log; ignoring")
        elif index < self.offset:
            self._say(f"entry at index {index} matched unstable snapshot; ignoring")
        elif held != term:
            self._say(
                f"entry at (index,term)=({index},{term}) mismatched with entry at "
                f"({index},{held}) in unstable log; ignoring"
            )
        else:
            return self._drop_to(index)
        return []

    def _drop_to(self, index: Index) -> list[Run]:
        found = position(self.runs, index)
        written = self.stretch(self.runs[0].first, index)
        run = self.runs[found]
        rest = [] if run.last == index else [run.cut(index + 1, run.last)]
        dropped = found + 1 - len(rest)
        self.runs[: found + 1] = rest
        self.in_progress = max(self.in_progress - dropped, 0)
        self.offset = index + 1
        return written

    def stable_snapshot_to(self, index: Index) -> None:
        """The snapshot at `index` is on disk. Ignored unless it is the one here."""
        if self.snapshot is not None and self.snapshot.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    def _say(self, text: str) -> None:
        if self._logger is not None:
            self._logger(Level.INFO, text)
