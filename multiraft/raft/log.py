"""One member's log: the stable part, read through a `LogReader`, and the unstable end.

    first_index <= applied + 1,  applied <= applying <= committed <= last_index

`committed` may run ahead of what is on disk here: a quorum of others can be faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from multiraft.errors import LogCompacted, LogUnavailable, SnapshotUnavailable
from multiraft.interfaces import LogReader
from multiraft.messages import Run, Snapshot
from multiraft.raft.failures import EntriesLost
from multiraft.raft.runs import fitting, total_weight
from multiraft.raft.trace import Level, Logger, fail
from multiraft.raft.unstable import Unstable
from multiraft.types import Index, Term

__all__ = ["RaftLog"]

# What a log keeps at hand until it is applied.
_SETTLED_RUNS_MAX: Final = 16
_SETTLED_BYTES_MAX: Final = 64 << 10


class RaftLog:
    """The log as the roles see it.

    Attributes:
        last_index, last_term: Of the last entry, stable or not; kept here because every
            append, vote and acknowledgement asks for them.
        committed: The highest index known to be on a quorum's disks.
        applying: The highest index handed out to be applied.
        applied: The highest index whose application was reported.
        held: Nothing is handed out to be applied, until somebody says otherwise (catchup.py).
    """

    __slots__ = (
        "_applying_bytes",
        "_applying_paused",
        "_logger",
        "_max_apply_bytes",
        "_settled",
        "_storage",
        "applied",
        "applying",
        "committed",
        "held",
        "last_index",
        "last_term",
        "unstable",
    )

    def __init__(self, storage: LogReader, max_apply_bytes: int, logger: Logger | None) -> None:
        self._storage = storage
        self._logger = logger
        self._max_apply_bytes = max_apply_bytes
        self._applying_bytes = 0
        self._applying_paused = False
        self.held = False
        self._settled: list[Run] = []
        self.last_index = storage.last_index()
        self.last_term = storage.term(self.last_index)
        self.unstable = Unstable(self.last_index + 1, logger)
        # Until somebody says otherwise, what was compacted is all that was committed.
        compacted = storage.first_index() - 1
        self.committed = self.applying = self.applied = compacted

    # --- reading ---------------------------------------------------------------------------

    @property
    def first_index(self) -> Index:
        first = self.unstable.first_index
        return self._storage.first_index() if first is None else first

    def term(self, index: Index) -> Term:
        """The term at `index`, which may be the compaction point.

        Raises: LogCompacted below it, LogUnavailable above the last index.
        """
        if index == self.last_index:
            return self.last_term
        if index > self.last_index:
            raise LogUnavailable(index)
        held = self.unstable.term(index)
        if held is not None:
            return held
        if self.unstable.snapshot is not None:
            # What the storage still holds is about to be replaced.
            raise LogCompacted(index)
        return self._storage.term(index)

    def term_or_zero(self, index: Index) -> Term:
        """Like `term`, with 0 where the log does not know."""
        try:
            return self.term(index)
        except (LogCompacted, LogUnavailable):
            return 0

    def matches(self, index: Index, term: Term) -> bool:
        """Whether the entry at `index` is known and of `term` (thesis §3.5)."""
        try:
            return self.term(index) == term
        except (LogCompacted, LogUnavailable):
            return False

    def up_to_date(self, index: Index, term: Term) -> bool:
        """Whether a log that ends at (index, term) is at least as complete as ours (§3.6.1)."""
        return term > self.last_term or (term == self.last_term and index >= self.last_index)

    def runs(self, first: Index, last: Index, max_bytes: int) -> list[Run]:
        """Entries from `first` to at most `last`: whole runs, as many as weigh `max_bytes`.

        At least one entry; empty only for an empty range.
        Raises: LogCompacted.
        """
        if first > last:
            return []
        assert last <= self.last_index
        unstable = self.unstable
        if first >= unstable.offset:
            newest = unstable.runs[-1]
            if newest.first == first and newest.last == last and len(newest.blob) <= max_bytes:
                return [newest]
            return fitting(unstable.stretch(first, last), max_bytes)
        if unstable.snapshot is not None:
            raise LogCompacted(first)
        last_stable = min(last, unstable.offset - 1)
        found = self._storage.runs(first, last_stable, max_bytes)
        if last == last_stable or found[-1].last < last_stable:
            return found
        budget = max_bytes - total_weight(found)
        rest = unstable.stretch(unstable.offset, last)
        # Entries are there already, so nothing forces an entry over the limit any more.
        return found + fitting(rest, budget) if len(rest[0].blob) <= budget else found

    def snapshot(self) -> Snapshot | None:
        """A snapshot for a follower; None: not available just now."""
        if self.unstable.snapshot is not None:
            return self.unstable.snapshot
        try:
            return self._storage.snapshot()
        except SnapshotUnavailable:
            return None

    def find_conflict_by_term(self, index: Index, term: Term) -> tuple[Index, Term]:
        """The largest index up to `index` whose term is at most `term`, and its term.

        Terms that are compacted or absent may match: such an index is returned with term 0.
        Skipping whole terms this way is what makes a diverged log converge in a few round
        trips (thesis §3.5, end). Terms never fall along the log, so halving finds it.
        """
        if index > self.last_index:
            return index, 0
        low, high = self.first_index - 1, index
        if high < low:
            return index, 0
        if self.term_or_zero(low) > term:
            return low - 1, 0
        while low < high:
            middle = (low + high + 1) // 2
            if self.term(middle) <= term:
                low = middle
            else:
                high = middle - 1
        return low, self.term_or_zero(low)

    def has_conf_change(self, first: Index, last: Index) -> bool:
        """Whether a configuration change is among the entries from `first` to `last`.

        What is on disk is read only where it may hold one: after a restart that is all of the log, and
        every group asks before it stands.
        """
        unstable = self.unstable
        if any(run.kind and run.first <= last and run.last >= first for run in unstable.runs):
            return True
        last = min(last, unstable.offset - 1, self._storage.changed_at())
        while first <= last:
            page = self.runs(first, last, self._max_apply_bytes)
            if any(run.kind for run in page):
                return True
            first = page[-1].last + 1
        return False

    # --- growing ---------------------------------------------------------------------------

    def append(self, runs: Sequence[Run]) -> None:
        """Put `runs` at their place, replacing what is there and behind. None is committed."""
        first = runs[0].first
        if first == self.last_index + 1:
            self.unstable.runs.extend(runs)
        else:
            if first <= self.committed:
                fail(self._logger, f"after({first - 1}) is out of range [committed({self.committed})]")
            self.unstable.append(runs)
            self._settled.clear()
        newest = runs[-1]
        self.last_index = newest.last
        self.last_term = newest.term

    def merge(self, runs: Sequence[Run]) -> None:
        """A follower's append: keep what is already there, from the first difference on replace.

        The caller has checked that the entry before `runs` matches. By the Log Matching
        Property (thesis §3.5) one equal entry then proves all before it equal, so a run is
        compared by its last entry, and only a run that differs is searched.
        """
        for skipped, run in enumerate(runs):
            known = min(run.last, self.last_index)
            if run.first > known or not self.matches(known, run.term):
                self._merge_from(runs, skipped, known)
                return
            if run.last > known:
                self.append([run.cut(known + 1, run.last), *runs[skipped + 1 :]])
                return

    def _merge_from(self, runs: Sequence[Run], skipped: int, known: Index) -> None:
        """`runs[skipped]` is new to us or differs at the latest at `known`: find where it does."""
        run = runs[skipped]
        first, high = run.first, known
        while first <= high:  # the entries before `first` match, the ones after `high` do not
            middle = (first + high) // 2
            if self.matches(middle, run.term):
                first = middle + 1
            else:
                high = middle - 1
        if first <= self.last_index:
            if self._logger is not None:
                self._logger(
                    Level.INFO,
                    f"found conflict at index {first} [existing term: {self.term_or_zero(first)}, "
                    f"conflicting term: {run.term}]",
                )
            if first <= self.committed:
                fail(
                    self._logger, f"entry {first} conflict with committed entry [committed({self.committed})]"
                )
        self.append([run.cut(first, run.last), *runs[skipped + 1 :]])

    def commit_to(self, index: Index) -> None:
        """Raise the commit index to `index`; never lowers it.

        Raises: RaftFailure beyond the last entry: this log lost entries that it had promised.
        """
        if index > self.committed:
            if index > self.last_index:
                fail(
                    self._logger,
                    f"tocommit({index}) is out of range [lastIndex({self.last_index})]. "
                    "Was the raft log corrupted, truncated, or lost?",
                    EntriesLost,
                )
            self.committed = index

    def restore(self, snapshot: Snapshot) -> None:
        """Replace everything by `snapshot`."""
        if self._logger is not None:
            self._logger(
                Level.INFO,
                f"log [{self}] starts to restore snapshot [index: {snapshot.index}, term: {snapshot.term}]",
            )
        self.committed = snapshot.index
        self.unstable.restore(snapshot)
        self._settled.clear()
        self.last_index = snapshot.index
        self.last_term = snapshot.term

    def stable_to(self, index: Index, term: Term) -> None:
        """Entries up to (index, term) are on disk, unless that entry was replaced meanwhile.

        They are about to be applied, so a few small runs stay at hand; reading them back from
        the storage would cost more than all the rest of applying them.
        """
        unstable, settled = self.unstable, self._settled
        runs = unstable.runs
        if len(runs) == 1 and not settled:
            # One run under way at a time is by far the most common: without a list for each.
            run = runs[0]
            if run.last == index and run.term == term:
                runs.clear()
                unstable.in_progress = 0
                unstable.offset = index + 1
                if run.first == self.applying + 1 and len(run.blob) <= _SETTLED_BYTES_MAX:
                    settled.append(run)
                return
        written = unstable.stable_to(index, term)
        expected = settled[-1].last + 1 if settled else self.applying + 1
        room = _SETTLED_BYTES_MAX - total_weight(settled)
        for run in written:
            room -= len(run.blob)
            if run.first != expected or len(settled) >= _SETTLED_RUNS_MAX or room < 0:
                settled.clear()  # a gap would be worse than none at all
                return
            settled.append(run)
            expected = run.last + 1

    # --- applying --------------------------------------------------------------------------

    def appliable(self, allow_unstable: bool) -> Index:
        """The last index that may be applied now.

        Entries that are not on our own disk wait when `allow_unstable` is false: a state
        machine that is ahead of its log could not be explained after a crash.
        """
        if allow_unstable:
            return self.committed
        return min(self.committed, self.unstable.offset - 1)

    def has_committed(self, allow_unstable: bool) -> bool:
        """Whether `take_committed` would return anything."""
        return (
            self.committed > self.applying
            and not self._applying_paused
            and not self.held
            and self.unstable.snapshot is None
            and self.appliable(allow_unstable) > self.applying
        )

    def take_committed(self, allow_unstable: bool) -> list[Run]:
        """Hand out committed entries to apply, within what `max_apply_bytes` leaves free.

        The limit bounds what is handed out and not reported applied, over any number of calls.
        """
        unstable = self.unstable
        last = self.committed
        if not allow_unstable and last >= unstable.offset:
            last = unstable.offset - 1
        first = self.applying + 1
        if last < first or self._applying_paused or self.held or unstable.snapshot is not None:
            return []
        budget = self._max_apply_bytes - self._applying_bytes
        settled = self._settled
        if (
            settled
            and settled[0].first == first
            and settled[0].last == last
            and len(settled[0].blob) <= budget
        ):
            # One proposal at a time is by far the most common.
            found = [settled.pop(0)]
            weight = len(found[0].blob)
        else:
            found = self._take_settled(last, budget) if settled else []
            if not found:
                found = self.runs(first, last, budget)
            weight = total_weight(found)
        self.applying = found[-1].last
        weight = self._applying_bytes = self._applying_bytes + weight
        self._applying_paused = weight >= self._max_apply_bytes or self.applying < last
        return found

    def _take_settled(self, last: Index, budget: int) -> list[Run]:
        """All that may be applied, if it is at hand in whole runs; else nothing."""
        settled = self._settled
        if settled[0].first == self.applying + 1 and settled[-1].last == last:
            if sum([len(run.blob) for run in settled]) <= budget:
                self._settled = []
                return settled
        elif settled[0].first == self.applying + 1 and settled[-1].last > last:
            found = [run for run in settled if run.last <= last]
            if found and found[-1].last == last and total_weight(found) <= budget:
                del settled[: len(found)]
                return found
        settled.clear()
        return []

    def applied_to(self, index: Index, weight: int) -> None:
        """Entries up to `index` were applied; `weight` bytes of what was handed out are done.

        Raises: RaftFailure outside of [applied, committed].
        """
        if index > self.committed or index < self.applied:
            fail(
                self._logger,
                f"applied({index}) is out of range "
                f"[prevApplied({self.applied}), committed({self.committed})]",
            )
        self.applied = index
        if index > self.applying:
            self.applying = index
        weight = self._applying_bytes - weight
        self._applying_bytes = max(0, weight)
        self._applying_paused = weight >= self._max_apply_bytes

    def __str__(self) -> str:
        unstable = self.unstable
        return (
            f"committed={self.committed}, applied={self.applied}, applying={self.applying}, "
            f"unstable.offset={unstable.offset}, unstable.offsetInProgress={unstable.offset_in_progress}, "
            f"len(unstable.Entries)={unstable.entry_count}"
        )
