"""One of the three hosts of bench_many.py: it gives every group that it leads one write."""

from __future__ import annotations

import itertools
import resource
from time import perf_counter
from typing import Any

import trio

from bench.measure import percentile
from multiraft.cli.bench_host import Worker, main, resident_bytes

PAYLOAD = bytes(16)


class ManyWorker(Worker):
    """A benchmark's host that goes round its groups once."""

    async def each(self, request: dict[str, Any]) -> dict[str, Any]:
        """One write to each group led here, so many at a time. An error ends the benchmark."""
        groups = self.led()
        left = iter(groups)
        took: list[float] = []

        async def loop() -> None:
            for group in left:
                started = perf_counter()
                await group.propose(PAYLOAD)
                took.append((perf_counter() - started) * 1e3)

        async with trio.open_nursery() as nursery:
            for _ in itertools.repeat(None, request["outstanding"]):
                nursery.start_soon(loop)
        took.sort()
        return {"written": len(took), "p50_ms": percentile(took, 0.5), "p99_ms": percentile(took, 0.99)}

    async def used(self, _: dict[str, Any]) -> dict[str, Any]:
        """What this process has taken so far, and the longest pass."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        counted = self._host.statistics().scheduler
        return {
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "rss_bytes": resident_bytes(),
            "pass_ms_max": counted.pass_ms_max,
            "pass_cpu_ms_max": counted.pass_cpu_ms_max,
        }

    async def counted(self, _: dict[str, Any]) -> dict[str, Any]:
        """Entries applied here by all groups, whoever leads them."""
        return {"applied": sum(group.stale_query(None) for group in self._host.groups.values())}


if __name__ == "__main__":
    main(ManyWorker)
