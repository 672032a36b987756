"""One of the three hosts of bench_fairness.py, with its two kinds of load."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import trio

from multiraft.cli.bench_host import Load, Worker, main
from multiraft.group import Group

HOT = 1
"""The id of the busy group."""
PAYLOAD = bytes(16)


class FairWorker(Worker):
    """A benchmark's host with the two kinds of load."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._quiet_us: list[float] = []
        self._hot: Load | None = None
        self._heat = trio.CancelScope()
        self._hot_before = 0

    async def quiet(self, request: dict[str, Any]) -> dict[str, Any]:
        groups = [group for group in self.led() if group.id != HOT]
        for number, group in enumerate(groups):
            # Not all at the same moment, or they would wait for each other.
            delay_s = request["pause_s"] * number / len(groups)
            self._nursery.start_soon(self._one_quiet, group, request["pause_s"], delay_s)
        return {}

    async def _one_quiet(self, group: Group, pause_s: float, delay_s: float) -> None:
        due = trio.current_time() + delay_s
        while True:
            await trio.sleep_until(due)
            due += pause_s
            started = perf_counter()
            await group.propose(PAYLOAD)
            self._quiet_us.append((perf_counter() - started) * 1e6)

    async def hot(self, request: dict[str, Any]) -> dict[str, Any]:
        own = [group for group in self.led() if group.id == HOT]
        if own:
            self._hot = Load(own, 1, len(PAYLOAD))
            self._heat = trio.CancelScope()
            self._nursery.start_soon(self._saturate, self._hot, request["outstanding"])
        return {}

    async def _saturate(self, load: Load, outstanding: int) -> None:
        with self._heat:
            async with trio.open_nursery() as nursery:
                for number in range(outstanding):
                    nursery.start_soon(load.one, number)

    async def cool(self, _: dict[str, Any]) -> dict[str, Any]:
        """The end of what `hot` began."""
        self._heat.cancel()
        self._hot = None
        return {}

    async def begin(self, _: dict[str, Any]) -> dict[str, Any]:
        self._quiet_us.clear()
        self._hot_before = 0 if self._hot is None else self._hot.operations
        return {}

    async def end(self, _: dict[str, Any]) -> dict[str, Any]:
        hot = 0 if self._hot is None else self._hot.operations - self._hot_before
        return {"quiet_us": [round(each) for each in self._quiet_us], "hot": hot}


if __name__ == "__main__":
    main(FairWorker)
