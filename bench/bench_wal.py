"""What the log costs: building records, group commit with fdatasync, and reading it all back.

    python bench/bench_wal.py [--seconds 2] [--runs 3] [--folder DIR] [--record]

Nothing but the storage layer: no core, no network. Seeds are fixed.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.measure import Bench, Figures, arguments
from multiraft.cli.scratch import scratch_folder
from multiraft.errors import StorageFailed
from multiraft.messages import ConfState, HardState, Run, Snapshot
from multiraft.storage.files import OsFiles
from multiraft.storage.memory import MemoryFiles
from multiraft.storage.store import Store, open_store
from multiraft.storage.writer import InlineWriter, ThreadWriter, WriterFactory

DATA = "data"
UNDER_WAY_MAX = 2
"""Batches on their way to the disk at a time, as the scheduler has it."""


def failed(error: StorageFailed) -> None:
    raise error


def opened(files: OsFiles | MemoryFiles, data_dir: str, writer: WriterFactory) -> Store:
    source = random.Random(1)
    return open_store(files, data_dir, writer=writer, random=source.randrange, on_failure=failed)


def create_groups(store: Store, groups: int, wait: Callable[[], None]) -> None:
    batch = store.batch()
    for group in range(groups):
        batch.create(group, b"meta" * 8, HardState(1, 1, 0), Snapshot(0, 0, ConfState((1, 2, 3))))
    store.submit(batch, lambda: None)
    wait()


class Rounds:
    """Batches of one run and one hard state for each of some groups, over and over."""

    def __init__(self, store: Store, groups: int, entries: int, payload: int) -> None:
        self.store = store
        self.groups = groups
        self.entries = entries
        self.model = Run.of([b"x" * payload] * entries, term=1)
        self.next = 1

    def batch(self) -> object:
        batch = self.store.batch()
        first, self.next = self.next, self.next + self.entries
        state = HardState(1, 1, first)
        for group in range(self.groups):
            batch.append(group, [self.model.placed(first, 1)])
            batch.hard_state(group, state)
        return batch


def cpu_per_record(seconds: float) -> Figures:
    """Host-thread cost without a disk: µs to build a record, and to apply it when it is done."""
    held: list[tuple[object, list[object]]] = []

    class Free:
        """Says that everything is done without writing it."""

        def __init__(self, work: object) -> None:
            self.work = work

        def submit(self, job: object) -> None:
            held.append((self.work, [job]))

        def close(self) -> None:
            pass

    store = opened(MemoryFiles(), f"/{DATA}", Free)

    def flush() -> None:
        for work, jobs in held:
            work.finished(jobs, None)  # type: ignore[attr-defined]
        held.clear()

    create_groups(store, 1000, flush)
    runs = [Run.of([b"x" * 100], first=1, term=1) for _ in range(1000)]
    build = apply = 0.0
    records = first = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        first += 1
        placed = [run.placed(first, 1) for run in runs]
        state = HardState(1, 1, first)
        begin = time.perf_counter()
        batch = store.batch()
        for group, run in enumerate(placed):
            batch.append(group, (run,))
            batch.hard_state(group, state)
        store.submit(batch, lambda: None)
        middle = time.perf_counter()
        flush()
        apply += time.perf_counter() - middle
        build += middle - begin
        records += 2000
    return {"build_us_per_record": build / records * 1e6, "apply_us_per_record": apply / records * 1e6}


def group_commit(folder: str, seconds: float, groups: int, entries: int, payload: int) -> Figures:
    calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
    data_dir = os.path.join(folder, DATA)
    store = opened(OsFiles(), data_dir, ThreadWriter.factory(calls.put))
    create_groups(store, groups, lambda: calls.get()())
    rounds = Rounds(store, groups, entries, payload)
    under_way = batches = 0

    def done() -> None:
        nonlocal under_way
        under_way -= 1

    before = store.statistics()
    begin = time.perf_counter()
    cpu = time.process_time()
    while time.perf_counter() - begin < seconds:
        while under_way < UNDER_WAY_MAX:
            batch = rounds.batch()
            under_way += 1
            batches += 1
            store.submit(batch, done)  # type: ignore[arg-type]
        calls.get()()
    while under_way:
        calls.get()()
    took = time.perf_counter() - begin
    cpu = time.process_time() - cpu
    after = store.statistics()
    store.close()
    records = 2 * groups * batches
    return {
        "batches_per_s": batches / took,
        "records_per_s": records / took,
        "entries_per_s": groups * entries * batches / took,
        "syncs_per_s": (after.syncs - before.syncs) / took,
        "mib_per_s": (after.bytes_written - before.bytes_written) / took / (1 << 20),
        "cpu_us_per_record": cpu / records * 1e6,
    }


def recovery(folder: str, mib: int, payload: int) -> Figures:
    """Write a log of `mib` MiB, then open it from the page cache."""
    data_dir = os.path.join(folder, DATA)
    store = opened(OsFiles(), data_dir, InlineWriter)
    create_groups(store, 1000, lambda: None)
    rounds = Rounds(store, 1000, 1, payload)
    while store.statistics().bytes_written < mib << 20:
        store.submit(rounds.batch(), lambda: None)  # type: ignore[arg-type]
    store.close()
    begin = time.perf_counter()
    store = opened(OsFiles(), data_dir, InlineWriter)
    took = time.perf_counter() - begin
    report = store.recovery
    store.close()
    return {"mib_per_s": mib / took, "records_per_s": report.records / took}


def in_folder(measure: Callable[[str], Figures], folder: str | None) -> Figures:
    with scratch_folder("wal", folder) as place:
        return measure(place)


def main() -> None:
    parser = arguments(__doc__, seconds=2)
    parser.add_argument("--folder", default=None, help="where to write; default: somewhere on a disk")
    options = parser.parse_args()
    seconds = options.seconds
    questions: dict[str, Callable[[str], Figures]] = {
        "host thread, 1,000 groups a batch, 100 B": lambda _: cpu_per_record(seconds),
        "1 group, 1 entry of 16 B": lambda place: group_commit(place, seconds, 1, 1, 16),
        "100 groups, 1 entry of 100 B": lambda place: group_commit(place, seconds, 100, 1, 100),
        "1,000 groups, 1 entry of 100 B": lambda place: group_commit(place, seconds, 1000, 1, 100),
        "100 groups, 100 entries of 100 B": lambda place: group_commit(place, seconds, 100, 100, 100),
        "recovery, 100 B": lambda place: recovery(place, 100, 100),
        "recovery, 10 kB": lambda place: recovery(place, 400, 10_000),
    }
    rows = [({"log": name}, partial(in_folder, each, options.folder)) for name, each in questions.items()]
    Bench("wal", options).measure(rows)


if __name__ == "__main__":
    main()
