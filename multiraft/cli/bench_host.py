"""One host of a benchmark: `python -m multiraft.cli.bench_host`, started by `multiraft bench`.

Its parent tells it what to do in lines of JSON on standard input, one at a time, and reads one
line for each on standard output. It ends when its standard input does. The load comes from
inside this process through the public API: `inflight` tasks, each with one operation under way.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

import attrs
import structlog
import trio

from multiraft.cli.logs import log_to_stderr
from multiraft.config import HostConfig, config_from
from multiraft.engine import Host, open_host
from multiraft.errors import MultiraftError, NoLeader, OutcomeUnknown, ProposalDropped
from multiraft.group import Group
from multiraft.interfaces import MachineFactory, StateMachine
from multiraft.types import Entry, Member, ReadMode

SAMPLE_EVERY = 16
"""Operations of a task between two whose latency is taken: two clock readings for each."""

TRANSFERS_AT_ONCE = 64
QUERIES_AT_ONCE = 256


class Counter(StateMachine):
    """The least that still looks at every entry: how many there were, and the last one."""

    def __init__(self) -> None:
        self.count = 0
        self.last = b""

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        results = []
        count = self.count
        for entry in entries:
            count += 1
            self.last = entry.data
            results.append(count)
        self.count = count
        return results

    def query(self, request: object) -> object:  # noqa: ARG002 - there is only one thing to ask
        return self.count

    def snapshot(self) -> Iterable[bytes]:
        return [self.count.to_bytes(8, "big") + self.last]

    def restore(self, chunks: Iterable[bytes]) -> None:
        data = b"".join(chunks)
        self.count, self.last = int.from_bytes(data[:8], "big"), data[8:]


@attrs.define
class Marks:
    """The counters when the measured window began."""

    at: float
    operations: int
    cpu_s: float
    syncs: int
    counters: dict[str, int]


class Load:
    """Closed loops: each task waits for its operation, then starts the next on the next group."""

    def __init__(self, groups: Sequence[Group], write_every: int, payload: int) -> None:
        self.operations = 0
        self.writes = 0
        """Acknowledged ones."""
        self.failures = 0
        self.samples: list[float] = []
        self._turn: Iterator[Group] = itertools.cycle(groups)
        self._write_every = write_every
        self._data = os.urandom(payload)

    async def one(self, number: int) -> None:
        """One outstanding operation, for ever; task `number` takes its first sample that much later."""
        mixed = itertools.cycle([True] + [False] * (self._write_every - 1)) if self._write_every else None
        for _ in range(number % SAMPLE_EVERY):
            await self._step(mixed)
        while True:
            started = perf_counter()
            await self._step(mixed)
            self.samples.append(perf_counter() - started)
            for _ in range(SAMPLE_EVERY - 1):
                await self._step(mixed)

    async def _step(self, mixed: Iterator[bool] | None) -> None:
        group = next(self._turn)
        try:
            if mixed is not None and next(mixed):
                await group.propose(self._data)
                self.writes += 1
            else:
                await group.query(None)
        except (NoLeader, OutcomeUnknown, ProposalDropped):
            self.failures += 1
            await trio.sleep(0.01)
        else:
            self.operations += 1


WRITE_EVERY = {"write": 1, "mixed": 2, "read": 0, "lease-read": 0, "idle": 0}
"""Of how many operations of a task one is a write; 0: none."""


class Worker:
    """Carries out what the parent asks for."""

    def __init__(self, host: Host, mode: str, payload: int, nursery: trio.Nursery) -> None:
        self._host = host
        self._mode = mode
        self._payload = payload
        self._nursery = nursery
        self._load: Load | None = None
        self._loading = trio.CancelScope()
        self._marks: Marks | None = None

    def led(self) -> list[Group]:
        return [g for g in self._host.groups.values() if (m := g.leader) and m.id == g.member_id]

    async def create(self, request: dict[str, Any]) -> dict[str, Any]:
        members = [Member(number, address) for number, address in enumerate(request["members"], 1)]
        wanted = range(request["first"], request["last"] + 1)
        await self._host.create_groups(dict.fromkeys(wanted, members))
        return {"created": len(self._host.groups)}

    async def leaders(self, _: dict[str, Any]) -> dict[str, Any]:
        """Wait until this host knows a leader of every group; which of them it leads itself."""
        for group in self._host.groups.values():
            await group.wait_leader()
        return {"led": [group.id for group in self.led()]}

    async def leading(self, _: dict[str, Any]) -> dict[str, Any]:
        """How many groups this host leads at this moment; waits for nobody."""
        return {"leading": self._host.statistics().scheduler.leading}

    async def transfer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Hand some groups over. One that does not move in time stays: the parent counts again."""
        limit = trio.CapacityLimiter(TRANSFERS_AT_ONCE)

        async def move(group_id: int, to: int) -> None:
            async with limit:
                try:
                    await self._host.group(group_id).transfer_leadership(to)
                except MultiraftError as error:
                    structlog.get_logger().warning("not handed over", group=group_id, reason=str(error))

        async with trio.open_nursery() as nursery:
            for group_id, to in request["moves"]:
                nursery.start_soon(move, group_id, to)
        return {}

    async def load(self, request: dict[str, Any]) -> dict[str, Any]:
        inflight = request["inflight"]
        self._load = load = Load(self.led(), WRITE_EVERY[self._mode], self._payload)

        async def run() -> None:
            with self._loading:
                async with trio.open_nursery() as nursery:
                    for number in range(inflight):
                        nursery.start_soon(load.one, number)

        self._nursery.start_soon(run)
        return {}

    async def count(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"operations": 0 if self._load is None else self._load.operations}

    async def mark(self, _: dict[str, Any]) -> dict[str, Any]:
        """The measured window begins."""
        if self._load is not None:
            self._load.samples.clear()
        self._marks = self._now()
        return {}

    async def stop(self, _: dict[str, Any]) -> dict[str, Any]:
        """The measured window ends, and with it the load; what was measured."""
        start, end = self._marks, self._now()
        assert start is not None, "the parent marks the beginning first"
        samples = [] if self._load is None else list(self._load.samples)
        self._loading.cancel()
        return {
            "seconds": end.at - start.at,
            "operations": end.operations - start.operations,
            "failures": 0 if self._load is None else self._load.failures,
            "latencies_us": [round(sample * 1e6) for sample in samples],
            "cpu_s": end.cpu_s - start.cpu_s,
            "syncs": end.syncs - start.syncs,
            "rss_bytes": resident_bytes(),
            "counters": {name: value - start.counters[name] for name, value in end.counters.items()},
        }

    async def applied(self, request: dict[str, Any]) -> dict[str, Any]:
        """What this host's share of all groups has applied, and what was acknowledged here.

        Any member can be asked, behind a barrier. Leaders could not: a group that is just then
        electing one would be counted by nobody.
        """
        hosts, part = request["hosts"], request["part"]
        mine = [group for group in self._host.groups.values() if group.id % hosts == part]
        counts: list[int] = []
        limit = trio.CapacityLimiter(QUERIES_AT_ONCE)

        async def ask(group: Group) -> None:
            async with limit:
                while True:
                    try:
                        count = await group.query(None)
                    except NoLeader:
                        continue  # it waited; the parent's patience ends this
                    assert isinstance(count, int)
                    counts.append(count)
                    return

        async with trio.open_nursery() as nursery:
            for group in mine:
                nursery.start_soon(ask, group)
        return {"applied": sum(counts), "acknowledged": 0 if self._load is None else self._load.writes}

    async def settled(self, _: dict[str, Any]) -> dict[str, Any]:
        """How many groups still have business, and how many need no attention at all."""
        waiting = resting = 0
        for group in self._host.groups.values():
            status = group.status()
            waiting += status.leader is None or status.applied < status.last_index
            resting += status.at_rest
        return {"waiting": waiting, "at_rest": resting}

    def _now(self) -> Marks:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        counted = self._host.statistics()
        return Marks(
            at=perf_counter(),
            operations=0 if self._load is None else self._load.operations,
            cpu_s=usage.ru_utime + usage.ru_stime,
            syncs=counted.log.syncs,
            counters={
                "passes": counted.scheduler.passes,
                "passes_above_20_ms": _above_20(counted.scheduler.pass_histogram_ms),
                "passes_above_20_cpu_ms": _above_20(counted.scheduler.pass_cpu_histogram_ms),
                "proposed_runs": counted.scheduler.proposed_runs,
                "applied_entries": counted.scheduler.applied_entries,
                "lost_messages": counted.scheduler.lost_messages,
                "snapshots_taken": counted.scheduler.snapshots_taken,
                "frames_sent": sum(link.frames for link in counted.transport),
                "bytes_sent": sum(link.bytes for link in counted.transport),
                "log_batches": counted.log.batches,
                "log_records": counted.log.records,
                "log_bytes": counted.log.bytes_written,
            },
        )


def _above_20(histogram: Mapping[float, int]) -> int:
    """Of passes by the upper bound of their bucket, in ms: how many took longer than that."""
    return sum(count for bound, count in histogram.items() if bound > 20)


def resident_bytes() -> int:
    """Memory of this process that is in RAM now (not the peak that getrusage tells)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


async def read_lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[dict[str, Any]]:
    buffer = bytearray()
    async for chunk in stream:
        buffer += chunk
        *lines, rest = bytes(buffer).split(b"\n")
        buffer = bytearray(rest)
        for line in lines:
            yield json.loads(line)


def host_config(data_dir: str, mode: str, settings: Mapping[str, Any]) -> HostConfig:
    """The configuration of a benchmark's host. Raises: ConfigError."""
    values = {
        "data_dir": data_dir,
        "listen": "127.0.0.1:0",
        "cluster_id": "bench",
        "read_mode": ReadMode.LEASE if mode == "lease-read" else ReadMode.QUORUM,
        "drain_s": 1.0,
    }
    return config_from({**values, **settings})


async def serve(
    requests: trio.abc.ReceiveStream,
    reply: Callable[[dict[str, Any]], None],
    worker_type: type[Worker] = Worker,
    machines: MachineFactory = lambda _: Counter(),
) -> None:
    """Open the host that the first line describes, then do what the other lines say.

    Until the lines end. What is being done then, as waiting for a leader that is gone, is not waited for.
    """
    lines = read_lines(requests)
    first = await anext(lines, None)
    if first is None:
        return
    mode = first["mode"]
    config = host_config(first["data_dir"], mode, first["settings"])
    async with open_host(config, machines) as host, trio.open_nursery() as nursery:
        worker = worker_type(host, mode, first["payload"], nursery)
        said, heard = trio.open_memory_channel[dict[str, Any]](1)  # one is done, another may be read

        async def listen() -> None:
            async for request in lines:
                await said.send(request)
            nursery.cancel_scope.cancel()

        nursery.start_soon(listen)
        reply({"address": host.address})
        async for request in heard:
            command: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]] = getattr(worker, request["do"])
            reply(await command(request))


def main(worker_type: type[Worker] = Worker, machines: MachineFactory = lambda _: Counter()) -> None:
    """Take over the pipes for the conversation; whatever else is printed goes to standard error.

    Args:
        worker_type: Carries out the commands; one with more of them for other benchmarks.
        machines: Makes the state machines. Default: those that count.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    log_to_stderr(logging.WARNING)

    def reply(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")

    async def run() -> None:
        async with trio.lowlevel.FdStream(os.dup(0)) as requests:
            await serve(requests, reply, worker_type, machines)

    try:
        trio.run(run)
    except (MultiraftError, OSError) as error:
        reply({"failed": str(error)})
        sys.exit(1)


if __name__ == "__main__":
    main()
