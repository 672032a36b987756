"""What does it cost to wake somebody: a parked trio task, or the writer's thread and back?

    python bench/bench_wakeup.py [--runs 5] [--record]

A proposal parks its task once and has it woken once; a batch goes to the writer's thread and comes
back through `run_sync_soon` once. Both bound what one operation at a time can reach, and the first
is paid for each of a thousand operations outstanding, so each is measured both ways: alone, where the
event loop goes to sleep in between, and a thousand at once, where it does not. `to_thread` is what
trio offers for the second, for comparison.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import SimpleQueue

import outcome
import trio
import trio.testing

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.measure import Bench, Figures, arguments
from multiraft.process import tuned

AT_ONCE = 1000


class Parked:
    """A task that can be woken once, as proposals and the scheduler's task wait."""

    def __init__(self) -> None:
        self.task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        self.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def wake(self) -> None:
        assert self.task is not None
        trio.lowlevel.reschedule(self.task, outcome.Value(None))
        self.task = None

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


class Echo(threading.Thread):
    """The writer's thread without a disk: what it takes it hands back to the event loop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._deliver = trio.lowlevel.current_trio_token().run_sync_soon

    def run(self) -> None:
        while (call := self.queue.get()) is not None:
            self._deliver(call)


async def tasks(count: int) -> Figures:
    """Wake one task that wakes another, `count` of such pairs side by side."""
    rounds = 200_000 // count
    async with trio.open_nursery() as nursery:
        here, there = [Parked() for _ in range(count)], [Parked() for _ in range(count)]

        async def answer(number: int) -> None:
            for _ in range(rounds):
                await there[number].wait()
                here[number].wake()

        async def ask(number: int) -> None:
            for _ in range(rounds):
                there[number].wake()
                await here[number].wait()

        for number in range(count):
            nursery.start_soon(answer, number)
        await trio.testing.wait_all_tasks_blocked()
        before, cpu = time.perf_counter(), time.process_time()
        for number in range(count):
            nursery.start_soon(ask, number)
    wakes = 2 * rounds * count
    took, spent = time.perf_counter() - before, time.process_time() - cpu
    return {"us": took / wakes * 1e6, "cpu_us": spent / wakes * 1e6}


async def events() -> Figures:
    """The same with `trio.Event`, a new one for each time."""
    rounds = 50_000
    events = [trio.Event() for _ in range(2 * rounds)]

    async def answer() -> None:
        for number in range(0, 2 * rounds, 2):
            await events[number].wait()
            events[number + 1].set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        before, cpu = time.perf_counter(), time.process_time()
        for number in range(0, 2 * rounds, 2):
            events[number].set()
            await events[number + 1].wait()
        took, spent = time.perf_counter() - before, time.process_time() - cpu
    return {"us": took / rounds / 2 * 1e6, "cpu_us": spent / rounds / 2 * 1e6}


async def hops(count: int) -> Figures:
    """To the thread and back into a parked task; `count` of them outstanding."""
    rounds = 20_000 // count
    echo = Echo()
    echo.start()

    async def one() -> None:
        parked = Parked()
        for _ in range(rounds):
            echo.queue.put(parked.wake)
            await parked.wait()

    before, cpu = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    took, spent = time.perf_counter() - before, time.process_time() - cpu
    echo.queue.put(None)
    hops = rounds * count
    return {"us": took / hops * 1e6, "cpu_us": spent / hops * 1e6}


async def to_thread() -> Figures:
    rounds = 5_000
    before, cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        await trio.to_thread.run_sync(int)
    took, spent = time.perf_counter() - before, time.process_time() - cpu
    return {"us": took / rounds * 1e6, "cpu_us": spent / rounds * 1e6}


def run(question: Callable[[], Awaitable[Figures]]) -> Figures:
    with tuned():  # as in a host
        figures: Figures = trio.run(question)
        return figures


def main() -> None:
    options = arguments(__doc__, runs=5).parse_args()
    questions: dict[str, Callable[[], Awaitable[Figures]]] = {
        "a parked task": lambda: tasks(1),
        f"{AT_ONCE:,} parked tasks": lambda: tasks(AT_ONCE),
        "a task waiting for trio.Event": events,
        "the writer's thread and back": lambda: hops(1),
        f"the same, {AT_ONCE:,} outstanding": lambda: hops(AT_ONCE),
        "trio.to_thread.run_sync and back": to_thread,
    }
    rows = [({"wake": name}, lambda each=each: run(each)) for name, each in questions.items()]
    Bench("wakeup", options).measure(rows)


if __name__ == "__main__":
    main()
