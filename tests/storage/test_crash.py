"""The power fails at any operation, and the disk keeps any part of what was not synced.

After each crash the log must open, and hold exactly what some number of whole batches wrote, in
order: at least all that were acknowledged.
"""

from __future__ import annotations

import random

import pytest

from multiraft.storage.memory import MemoryFiles
from multiraft.storage.store import Store
from multiraft.storage.writer import InlineWriter, Work
from tests.storage.helpers import SEGMENT, HeldWriter, Model, Workload, observed, reopen


class PowerFailed(BaseException):
    """Not an Exception: nothing in the store may catch it and go on."""


class Power:
    """Fails at the n-th operation from when it was armed."""

    def __init__(self, files: MemoryFiles) -> None:
        self.count = 0
        self.limit: int | None = None
        files.fault = self._operation

    def _operation(self, _: str, __: str) -> OSError | None:
        self.count += 1
        if self.count == self.limit:
            raise PowerFailed
        return None


class Machine:
    """A disk, a store on it, and the states that the store may be in after a crash."""

    def __init__(self, seed: int, *, held: bool) -> None:
        self.random = random.Random(seed)
        self.workload = Workload(seed)
        self.files = MemoryFiles()
        self.power = Power(self.files)
        self.held = held
        self.writer: HeldWriter | None = None
        self.states: list[Model] = [{}]
        """After each batch, from the last one that was acknowledged on."""

    def start(self) -> Store:
        return reopen(
            self.files,
            writer=self._writer,
            seed=self.random.randrange(1 << 30),
            total_bytes=4 * SEGMENT,
            cache_bytes=2000,
        )

    def _writer(self, work: Work) -> InlineWriter | HeldWriter:
        if not self.held:
            return InlineWriter(work)
        self.writer = HeldWriter(work)
        return self.writer

    def steps(self, store: Store, count: int) -> None:
        for _ in range(count):
            batch = store.batch()
            self.states.append(self.workload.batch(self.states[-1], self.states[0], batch))
            store.submit(batch, self._acknowledged)
            if self.writer is not None and self.random.random() < 0.4:
                self.writer.release(self.random.randint(1, 4))
            if self.random.random() < 0.5:
                store.collect(max_bytes=1000, max_groups=3)
        if self.writer is not None:
            self.writer.release()

    def _acknowledged(self) -> None:
        self.states.pop(0)

    def crash(self) -> None:
        """Half of the time only the process dies: what it wrote is seen, and may be lost later."""
        if self.random.randrange(2):
            self.files.crash(self.random.randrange)
        else:
            self.files.process_died()
        self.writer = None

    def check(self, store: Store) -> None:
        """The store is in one of the states it may be in; that one is the only one from now on."""
        found = observed(store.groups())
        assert found in self.states
        self.states = [found]


def run_until_crash(machine: Machine, limit: int | None, steps: int) -> bool:
    """Start, check, work, close; False when the power failed at operation `limit` on the way."""
    machine.power.count, machine.power.limit = 0, limit
    try:
        store = machine.start()
        machine.check(store)
        machine.steps(store, steps)
        store.close()
    except PowerFailed:
        machine.power.limit = None
        machine.crash()
        return False
    return True


def operations_of(seed: int, steps: int, *, held: bool) -> int:
    machine = Machine(seed, held=held)
    assert run_until_crash(machine, None, steps)
    return machine.power.count


@pytest.mark.slow
@pytest.mark.parametrize("held", [False, True], ids=["inline", "held"])
@pytest.mark.parametrize("seed", range(3))
def test_whole_batches_survive_a_crash_at_every_operation(seed: int, held: bool) -> None:
    steps = 120
    total = operations_of(seed, steps, held=held)
    for limit in range(1, total + 1, 1 + seed * 2):
        machine = Machine(seed, held=held)
        assert not run_until_crash(machine, limit, steps)
        # The second life crashes too, often while it recovers; the third one runs to its end.
        run_until_crash(machine, machine.random.randint(1, 60), 10)
        assert run_until_crash(machine, None, 10)
        assert run_until_crash(machine, None, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 60))
def test_whole_batches_survive_many_crashes_in_a_row(seed: int) -> None:
    machine = Machine(seed, held=seed % 2 == 0)
    for _ in range(12):
        run_until_crash(machine, machine.random.randint(1, 1200), 120)
    assert run_until_crash(machine, None, 0)


def test_the_work_of_these_tests_covers_the_collector() -> None:
    """Segments are copied and collected, so the crashes above hit every step of that."""
    machine = Machine(1, held=False)
    store = machine.start()
    machine.steps(store, 120)
    statistics = store.statistics()
    assert statistics.segments_collected > 2
    assert statistics.bytes_copied > 0
    store.close()
