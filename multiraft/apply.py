"""Committed runs on their way into state machines.

In a pass, what is committed is only queued here; at its end all machines that share a store
are fed under one `batch()`. Those that the pass has no time left for come first in the next
one. Machines that do I/O are fed in one worker thread, one job at a time: what commits while a
job runs makes the next job, so batches grow with the load.

Only what programs proposed reaches a machine. Configuration changes and the entries that raft
appends for itself are handled here, in the host's thread and in their place in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from math import inf
from typing import Final

import attrs

from multiraft.errors import StateMachineFailed, StorageFailed
from multiraft.group import Group
from multiraft.interfaces import Clock, Executor, MachineFactory, Machines
from multiraft.messages import Run, Snapshot
from multiraft.types import Entry, Index

JOB_BYTES_MAX: Final = 8 << 20
"""Weight of the runs in one job; a group's own share is bounded by `max_apply_bytes`."""

PIECE_GROUPS: Final = 128
"""Groups whose machines, sharing nothing, are fed before any results are handed out."""

CLOCK_CHECK_ENTRIES: Final = 64
"""Groups and entries fed in a pass between two looks at the clock."""


@attrs.define(eq=False)
class Work:
    """What one group does in one job: apply `runs`, then perhaps capture its state."""

    group: Group
    configured: list[Run]
    """Configuration changes that came before `runs`; they took effect when this was made."""
    runs: list[Run]
    last: Index
    """Where it leaves the group; 0 if there is nothing to apply."""
    weight: int
    capture: Snapshot | None = None
    """Set: capture the state after `runs`. Says where that is, and the configuration there."""
    fed: Sequence[Run] = ()
    """What of `runs` the machine got: not what it had durably, nor what raft made for itself."""
    refused: dict[Index, str] = attrs.field(factory=dict)
    """Of `configured`: those that did not fit and changed nothing, with the reason."""
    results: Sequence[object] = ()
    """One for each entry of `fed`."""
    chunks: Iterable[bytes] | None = None
    error: BaseException | None = None

    def run(self) -> None:
        """Feed the machine. Runs in the worker thread for blocking machines."""
        try:
            self._apply()
            if self.capture is not None:
                # sync() before the log may be compacted up to here: see Snapshots.
                self.group.machine.sync()
                self.chunks = _chunks(self.group.machine.snapshot())
        except Exception as error:
            self.error = error

    def _apply(self) -> None:
        group = self.group
        entries: list[Entry] = []
        fed: list[Run] = []
        for run in self.runs:
            if run.origin and run.last > group.machine_at:
                fresh = run if run.first > group.machine_at else run.cut(group.machine_at + 1, run.last)
                fed.append(fresh)
                entries += map(Entry, range(fresh.first, fresh.last + 1), repeat(run.term), fresh.payloads)
        if entries:
            results = group.machine.apply(entries)
            if len(results) != len(entries):
                raise ValueError(f"apply returned {len(results)} results for {len(entries)} entries")
            self.fed, self.results = fed, results
        if self.last > group.machine_at:
            group.machine_at = self.last


class Applier:
    """Feeds the state machines of a host, in the order of each group's log."""

    def __init__(
        self,
        factory: MachineFactory,
        executor: Executor,
        clock: Clock,
        *,
        applied: Callable[[Work], None],
        applied_run: Callable[[Group, Run, Sequence[object]], None],
        configure: Callable[[Group, Run], str | None],
        failed: Callable[[Group, StateMachineFailed], None],
        store_failed: Callable[[StorageFailed], None],
    ) -> None:
        self._shared = isinstance(factory, Machines)
        """They share a store, so all of a pass are fed under one `batch()`."""
        self._batch: Callable[[], AbstractContextManager[object]] = (
            factory.batch if isinstance(factory, Machines) else nullcontext
        )
        self._executor = executor
        self._clock = clock
        self._applied = applied
        self._applied_run = applied_run
        self._configure = configure
        self._failed = failed
        self._store_failed = store_failed
        self.inline: dict[Group, None] = {}
        """Groups with something to apply, or to capture, in the host's thread."""
        self.blocking: dict[Group, None] = {}
        """The same for the worker."""
        self._busy = False
        self.behind = False
        """The pass's time was over before all machines that are fed in it were."""

    @property
    def busy(self) -> bool:
        return self._busy or bool(self.inline or self.blocking)

    def add(self, group: Group, runs: list[Run]) -> None:
        """Queue committed runs; `flush` applies them."""
        group.apply_queue += runs
        (self.blocking if group.machine.blocking else self.inline)[group] = None

    def want_capture(self, group: Group) -> None:
        """Capture the group's state as soon as its queue allows."""
        group.asked_snapshot = True
        self.add(group, [])

    def flush(self, deadline: float = inf) -> None:
        """Apply what is queued: here, until `deadline` or for one piece, or in the worker if it is free."""
        self.behind = False
        # Applying may ask for a capture, so again: the worker must never touch these machines.
        while self.inline and not self.behind:
            groups = [*self.inline]
            piece = len(groups) if self._shared else PIECE_GROUPS
            for start in range(0, len(groups), piece):
                if start and self._clock.now() > deadline:
                    self.behind = True
                if self.behind:
                    break
                self._apply_inline(groups[start : start + piece], deadline)
        self._submit()

    def _apply_inline(self, groups: list[Group], deadline: float) -> None:
        began, count = self._clock.now(), 0
        plain: list[tuple[Group, Run, Sequence[object]]] = []
        done: list[Work] = []
        try:
            with self._batch():
                for group in groups:
                    count += 1
                    if count >= CLOCK_CHECK_ENTRIES:
                        count = 0
                        now = self._clock.now()
                        # Results are still to be handed out, which takes as long as it took to get them.
                        if now + (now - began) > deadline:
                            self.behind = True
                            break
                    del self.inline[group]
                    if _is_plain(group):
                        run = group.apply_queue.pop()
                        count += run.count
                        try:
                            plain.append((group, run, _feed(group, run)))
                        except Exception as error:
                            done.append(Work(group, [], [run], run.last, len(run.blob), error=error))
                        continue
                    while (work := self._next_work(group)) is not None:
                        work.run()
                        done.append(work)
                        count += work.last - group.applied
                        if work.error is not None or not group.apply_queue:
                            break
        except Exception as error:
            self._store_lost(error)
            return
        applied_run = self._applied_run
        for group, run, results in plain:
            applied_run(group, run, results)
            if group.on_drained is not None:
                self._drained(group)
        for work in done:
            self._finish(work)

    def _store_lost(self, error: BaseException) -> None:
        """The shared store could not begin, or commit: the shared disk's trouble stops the host.

        Nothing is fed any more: whoever waits for it is told so when the host stops.
        """
        self.inline.clear()
        self.blocking.clear()
        self._store_failed(_as_storage_failure(error))

    def _submit(self) -> None:
        """Give the worker its next job, if it is free and there is one."""
        if not self.blocking or self._busy:
            return
        works: list[Work] = []
        weight = 0
        for group in [*self.blocking]:
            if weight >= JOB_BYTES_MAX:
                break
            del self.blocking[group]
            work = self._next_work(group)
            if work is not None:
                works.append(work)
                weight += work.weight
        if works:
            self._busy = True
            self._executor.submit(lambda: self._run(works), lambda _, error: self._done(works, error))

    def _run(self, works: list[Work]) -> None:
        with self._batch():
            for work in works:
                work.run()

    def _done(self, works: list[Work], error: BaseException | None) -> None:
        self._busy = False
        if error is not None:
            self._store_lost(error)
            return
        for work in works:
            self._finish(work)
            if work.group.apply_queue or work.group.asked_snapshot:
                self.blocking[work.group] = None
        self._submit()  # the others are fed at the pass's end

    def _next_work(self, group: Group) -> Work | None:
        """Take the group's queue up to the next configuration change; None: nothing to do."""
        if group.failed is not None or group.restoring:
            return None
        queue = group.apply_queue
        configured: list[Run] = []
        refused: dict[Index, str] = {}
        runs: list[Run] = []
        weight = 0
        for run in queue:
            if run.kind:
                if runs:
                    break
                reason = self._configure(group, run)
                if reason is not None:
                    refused[run.last] = reason
                configured.append(run)
            else:
                runs.append(run)
            weight += len(run.blob)
        taken = len(configured) + len(runs)
        if taken == len(queue):
            group.apply_queue = []
        else:
            del queue[:taken]
        capture: Snapshot | None = None
        last = (runs or configured)[-1].last if taken else group.applied
        if group.asked_snapshot and self._may_capture(group, last):
            # The state is captured where the queue was cut, before the next configuration
            # change, so that this is the configuration at the captured index.
            group.asked_snapshot = False
            assert taken or not group.applying, "what was applied last is known"
            capture = Snapshot(
                last, group.raft.log.term(last), group.raft.conf_state(), group.membership.encode()
            )
        elif not taken:
            return None
        group.applying = True
        return Work(group, configured, runs, last, weight, capture, refused=refused)

    @staticmethod
    def _may_capture(group: Group, index: Index) -> bool:
        """Whether the machine's state will be that of `index`, and of use to anybody.

        After a restart a durable machine may be ahead of what was handed out again: not before
        that has caught up. While a received snapshot is on its way in, ours would be outdated;
        `install` asks again.
        """
        return group.machine_at <= index and group.raft.log.unstable.snapshot is None

    def _finish(self, work: Work) -> None:
        group = work.group
        group.applying = False
        if group.failed is not None:
            return
        if work.error is not None:
            failure = StateMachineFailed(f"group {group.id}: {work.error!r}")
            failure.__cause__ = work.error
            self._failed(group, failure)
            return
        self._applied(work)
        if group.on_drained is not None:
            self._drained(group)

    @staticmethod
    def _drained(group: Group) -> None:
        if group.on_drained is not None and not group.apply_queue:
            drained, group.on_drained = group.on_drained, None
            drained()


def _is_plain(group: Group) -> bool:
    """Whether all there is to do is to feed one run of proposals: by far the most common."""
    queue = group.apply_queue
    if len(queue) != 1 or group.asked_snapshot or group.failed is not None or group.restoring:
        return False
    run = queue[0]
    return not run.kind and run.first > group.machine_at


def _feed(group: Group, run: Run) -> Sequence[object]:
    """Apply one run; one result for each entry, none if raft made it for itself."""
    results: Sequence[object] = ()
    if run.origin:
        payloads, first = run.payloads, run.first
        if len(payloads) == 1:
            entries = [Entry(first, run.term, payloads[0])]
        else:
            entries = [*map(Entry, range(first, run.last + 1), repeat(run.term), payloads)]
        results = group.machine.apply(entries)
        if len(results) != len(entries):
            raise ValueError(f"apply returned {len(results)} results for {len(entries)} entries")
    group.machine_at = run.last
    return results


def _chunks(captured: object) -> Iterable[bytes]:
    """What `snapshot` returned, to be iterated by whoever writes the file."""
    if isinstance(captured, (bytes, str)) or not isinstance(captured, Iterable):
        raise TypeError(f"snapshot returned {type(captured).__name__}, not an iterable of bytes")
    return _guarded(captured)


def _guarded(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """`chunks`, whose own trouble must not pass for trouble with the file: that stops the host."""
    try:
        yield from chunks
    except Exception as error:
        raise StateMachineFailed(f"reading the captured state failed: {error!r}") from error


def _as_storage_failure(error: BaseException) -> StorageFailed:
    failure = StorageFailed(f"the state machines' store failed: {error!r}")
    failure.__cause__ = error
    return failure
