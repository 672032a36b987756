"""A model of the log, random work for it, and ways to open a store on a disk in memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from multiraft.errors import StorageFailed
from multiraft.interfaces import Files, GroupLog, WriteBatch
from multiraft.messages import ConfState, EntryKind, HardState, Run, Snapshot
from multiraft.storage.files import storage_error
from multiraft.storage.store import Store, open_store
from multiraft.storage.writer import InlineWriter, Work, WriterFactory

DATA = "/data"
WAL = "/data/wal"
SEGMENT = 4096


def no_failure(error: StorageFailed) -> None:
    raise AssertionError(f"the store failed: {error}")


def ignore() -> None:
    """A `done` that nobody waits for."""


def reopen(
    files: Files,
    *,
    writer: WriterFactory = InlineWriter,
    on_failure: Callable[[StorageFailed], None] = no_failure,
    seed: int = 0,
    **settings: Any,
) -> Store:
    settings.setdefault("segment_bytes", SEGMENT)
    source = random.Random(seed)
    return open_store(files, DATA, writer=writer, random=source.randrange, on_failure=on_failure, **settings)


def point(index: int, term: int = 1, data: bytes = b"") -> Snapshot:
    return Snapshot(index, term, ConfState((1, 2, 3)), data)


def run_of(first: int, payloads: Sequence[bytes], term: int = 1) -> Run:
    return Run.of(payloads, EntryKind.NORMAL, first=first, term=term)


def write(store: Store, fill: Callable[[WriteBatch], None]) -> bool:
    """Submit one batch; whether it was done at once."""
    batch = store.batch()
    fill(batch)
    done: list[bool] = []
    store.submit(batch, lambda: done.append(True))
    return bool(done)


def created(store: Store, group: int = 1, index: int = 0, term: int = 0) -> GroupLog:
    write(store, lambda b: b.create(group, b"meta", HardState(), point(index, term)))
    return store.groups()[group]


class HeldWriter:
    """A writer as a simulator has it: jobs wait until the test lets some of them go, together."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.jobs: list[Any] = []
        self.failed = False

    def submit(self, job: Any) -> None:
        self.jobs.append(job)

    def release(self, count: int | None = None) -> None:
        """Perform the oldest `count` jobs, by default all, as one write and sync."""
        count = len(self.jobs) if count is None else count
        jobs, self.jobs = self.jobs[:count], self.jobs[count:]
        if self.failed or not jobs:
            return
        error: StorageFailed | None = None
        try:
            self.work.perform(jobs)
        except Exception as raised:  # as any writer has to
            error = storage_error(raised, "writing")
            self.failed = True
        self.work.finished(jobs, error)

    def close(self) -> None:
        while self.jobs:
            self.release()


def held_store(files: Files, **settings: Any) -> tuple[Store, HeldWriter]:
    """A store that writes when the test says so."""
    made: list[HeldWriter] = []

    def factory(work: Work) -> HeldWriter:
        made.append(HeldWriter(work))
        return made[0]

    store = reopen(files, writer=factory, **settings)
    return store, made[0]


@attrs.define
class ModelGroup:
    """What a group's log must say."""

    meta: bytes
    state: HardState
    snapshot: Snapshot
    base: tuple[int, int]
    entries: list[tuple[int, int, bytes]] = attrs.Factory(list)
    """(index, term, payload)"""

    @property
    def last(self) -> int:
        return self.entries[-1][0] if self.entries else self.base[0]

    def append(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self.entries = [entry for entry in self.entries if entry[0] < run.first]
            self.entries += [(run.first + i, run.term, data) for i, data in enumerate(run.payloads)]

    def compact(self, snapshot: Snapshot, index: int) -> None:
        self.snapshot = snapshot
        if index > self.base[0]:
            term = next((t for i, t, _ in self.entries if i == index), snapshot.term)
            self.base = (index, term)
            self.entries = [entry for entry in self.entries if entry[0] > index]

    def restart(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.base = (snapshot.index, snapshot.term)
        self.entries = []


Model = dict[int, ModelGroup]


def copied(model: Model) -> Model:
    return {group: attrs.evolve(g, entries=list(g.entries)) for group, g in model.items()}


def observed(groups: Mapping[int, GroupLog]) -> Model:
    """The store's state in the model's form, read through the interface alone."""
    found: Model = {}
    for group, log in groups.items():
        entries: list[tuple[int, int, bytes]] = []
        first, last = log.first_index(), log.last_index()
        while first <= last:
            for run in log.runs(first, last, 300):
                assert run.first == first
                assert log.term(run.last) == run.term
                entries += [(run.first + i, run.term, data) for i, data in enumerate(run.payloads)]
                first = run.last + 1
        base = log.first_index() - 1
        found[group] = ModelGroup(
            log.meta, log.hard_state, log.snapshot_point, (base, log.term(base)), entries
        )
    return found


class Workload:
    """Random batches, the same for the store and the model."""

    def __init__(self, seed: int, groups: int = 4) -> None:
        self.random = random.Random(seed)
        self.groups = groups
        self.terms: dict[int, int] = {}

    def batch(self, newest: Model, durable: Model, batch: WriteBatch) -> Model:
        """Add a few writes to `batch` and return the model after them.

        `newest` is the state after all that was submitted, `durable` the one that is visible.
        """
        after = copied(newest)
        for _ in range(self.random.randint(1, 4)):
            self._write(after, batch, self.random.randint(1, self.groups), durable)
        return after

    def _write(self, model: Model, batch: WriteBatch, group: int, durable: Model) -> None:
        rng = self.random
        known = model.get(group)
        if known is None:
            index = rng.choice([0, 0, 1, 50])
            snapshot = point(index, min(index, 1))
            batch.create(group, b"new", HardState(1, group, 0), snapshot)
            model[group] = ModelGroup(b"new", HardState(1, group, 0), snapshot, (index, min(index, 1)))
            return
        choice = rng.random()
        if choice < 0.6:
            runs = self._runs(group, known)
            batch.append(group, runs)
            known.append(runs)
        elif choice < 0.75:
            known.state = HardState(known.state.term + 1, rng.randint(1, 3), known.last)
            batch.hard_state(group, known.state)
        elif choice < 0.8:
            known.meta = rng.randbytes(rng.randint(0, 60))
            batch.meta(group, known.meta)
        elif choice < 0.95:
            self._compact(group, known, batch, durable.get(group))
        elif choice < 0.97:
            snapshot = point(known.last + rng.randint(0, 5), self.terms.get(group, 1), b"received")
            batch.snapshot(group, snapshot)
            known.restart(snapshot)
        else:
            batch.remove(group)
            del model[group]

    def _runs(self, group: int, known: ModelGroup) -> list[Run]:
        rng = self.random
        back = rng.choice([0, 0, 0, 0, 3]) if known.entries else 0
        first = max(known.base[0] + 1, known.last + 1 - back)
        if back:
            self.terms[group] = self.terms.get(group, 1) + 1
        runs = []
        for _ in range(rng.randint(1, 3)):
            payloads = [rng.randbytes(rng.randint(0, 90)) for _ in range(rng.randint(1, 4))]
            runs.append(run_of(first, payloads, self.terms.get(group, 1)))
            first = runs[-1].last + 1
        return runs

    def _compact(self, group: int, known: ModelGroup, batch: WriteBatch, durable: ModelGroup | None) -> None:
        """Only up to what is durable and was not replaced since, as the engine does."""
        if durable is None or not durable.entries or durable.entries[0] not in known.entries:
            return
        same = [entry for entry in durable.entries if entry in known.entries]
        index, term, _ = self.random.choice(same)
        if index <= known.base[0]:
            return
        snapshot = point(index, term, b"taken")
        lower = self.random.randint(max(known.base[0], durable.base[0]), index)
        batch.compact(group, snapshot, lower)
        known.compact(snapshot, lower)
