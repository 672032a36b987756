"""Host processes for tests, with calls to them: killed, stopped and started again at will."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import trio

from multiraft.cli.bench_host import read_lines
from multiraft.cli.ports import free_ports
from tests.cluster.forked import Program
from tests.cluster.proxy import Proxy, open_proxy

TICK_S = 0.02
POLL_S = 0.005
STOPPING_S = 20.0
JOURNAL_HOST = "tests.cluster.journal_host"


class HostGone(Exception):
    """The process ended before it answered: whatever was asked may have been done, or not."""


class HostError(Exception):
    """The host answered with an error."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name


class HostProcess:
    """One host at a fixed address with a fixed folder, whether or not it runs."""

    def __init__(
        self,
        number: int,
        folder: Path,
        port: int,
        nursery: trio.Nursery,
        *,
        advertise: str | None = None,
        program: str = JOURNAL_HOST,
    ) -> None:
        self.listen = f"127.0.0.1:{port}"
        self.address = advertise or self.listen
        self.number = number
        """Its place in the lists of members that `create_groups` makes: the id of its members."""
        self._module = program
        self._name = f"host {number}"
        self.data_dir = folder / f"host{number}"
        self._log = folder / f"host{number}.log"
        self._nursery = nursery
        self._ids = itertools.count(1)
        self._waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._sending = trio.Lock()
        self._process: Program | None = None

    @property
    def up(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def log(self) -> str:
        """What it wrote to standard error, over all its lives."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def _running(self) -> Program:
        assert self._process is not None, f"{self._name} does not run"
        return self._process

    async def start(self, **settings: Any) -> None:
        """Start it, and return when it has opened its host."""
        assert self._process is None
        process = Program(self._module, str(self._log))
        config = {
            "data_dir": str(self.data_dir),
            "listen": self.listen,
            "advertise": self.address,
            "tick_interval_s": TICK_S,
        }
        answers = read_lines(process.stdout)
        try:
            await process.stdin.send_all(json.dumps({**config, **settings}).encode() + b"\n")
            first = await anext(answers, None)
            assert first == {"id": 0, "result": self.address}, self.log
        except BaseException:
            process.kill()
            process.stdout.close()
            raise
        self._process, self._waiting = process, {}
        self._nursery.start_soon(_hand_out, process, answers, self._waiting)

    def signal(self, number: int) -> None:
        self._running.signal(number)

    async def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    async def stop(self) -> int:
        """Have it close its host; its exit status."""
        process, self._process = self._running, None
        try:
            await process.stdin.aclose()
            with trio.fail_after(STOPPING_S):
                return await process.ended()
        finally:
            process.kill()

    async def call(self, do: str, **arguments: Any) -> Any:
        """Raises: HostGone, HostError."""
        process = self._process
        if process is None:
            raise HostGone(self._name)
        number = next(self._ids)
        sender, receiver = trio.open_memory_channel[dict[str, Any]](1)
        waiting = self._waiting
        waiting[number] = sender
        request = json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n"
        try:
            async with self._sending:
                await process.stdin.send_all(request)
            answer = await receiver.receive()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel):
            raise HostGone(self._name) from None
        finally:
            waiting.pop(number, None)
        if "error" in answer:
            raise HostError(answer["error"], answer["reason"])
        return answer["result"]


async def _hand_out(
    process: Program,
    answers: AsyncIterator[dict[str, Any]],
    waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]],
) -> None:
    """Until the process ends; then nobody needs to wait any more."""
    async with process.stdout:
        async for answer in answers:
            if (sender := waiting.get(answer["id"])) is not None:
                sender.send_nowait(answer)
    for sender in waiting.values():
        sender.close()


@asynccontextmanager
async def host_processes(
    folder: Path,
    *,
    count: int = 3,
    program: str = JOURNAL_HOST,
    first: Mapping[str, Any] = MappingProxyType({}),
    ports: Sequence[int] = (),
    advertise: Sequence[str | None] = (),
    **settings: Any,
) -> AsyncIterator[list[HostProcess]]:
    """Hosts that run; killed at the end.

    Args:
        folder: For their folders and logs.
        count: How many.
        program: The module that each of them runs.
        first: Settings of the first of them alone.
        ports: Where they listen. Default: free ones.
        advertise: What they dial each other by. Default: where they listen.
        settings: Of all of them.
    """
    async with trio.open_nursery() as nursery:
        hosts = [
            HostProcess(number, folder, port, nursery, advertise=address, program=program)
            for number, (port, address) in enumerate(
                zip(ports or free_ports(count), advertise or [None] * count, strict=True), 1
            )
        ]
        try:
            async with trio.open_nursery() as starting:
                for host in hosts:
                    own = first if host is hosts[0] else {}
                    starting.start_soon(_start, host, {**settings, **own})
            yield hosts
        finally:
            with trio.CancelScope(shield=True):
                for host in hosts:
                    await host.kill()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def proxied_processes(
    folder: Path, *, delay_s: float = 0.0, **settings: Any
) -> AsyncIterator[tuple[list[HostProcess], list[Proxy]]]:
    """Three hosts as of `host_processes`, each behind a proxy."""
    async with AsyncExitStack() as stack:
        ports = free_ports(3)
        proxies = [
            await stack.enter_async_context(open_proxy(f"127.0.0.1:{port}", delay_s)) for port in ports
        ]
        advertise = [proxy.address for proxy in proxies]
        running = host_processes(folder, ports=ports, advertise=advertise, **settings)
        yield await stack.enter_async_context(running), proxies


async def _start(host: HostProcess, settings: dict[str, Any]) -> None:
    await host.start(**settings)


async def create_groups(hosts: Sequence[HostProcess], groups: Sequence[int]) -> None:
    """Make the groups on all hosts, and wait until each has a leader everywhere."""
    members = [host.address for host in hosts]
    for host in hosts:
        await host.call("create", groups=list(groups), members=members)
    with trio.fail_after(30):
        for host in hosts:
            while None in (await host.call("leaders")).values():  # noqa: ASYNC110 - in another process
                await trio.sleep(TICK_S)


async def leader_first(hosts: Sequence[HostProcess], group: int) -> list[HostProcess]:
    """`hosts`, the one that leads the group, as the first one says, before the others."""
    address = (await hosts[0].call("leaders"))[str(group)]
    leader = next(host for host in hosts if host.address == address)
    return [leader, *(host for host in hosts if host is not leader)]


async def lead(host: HostProcess, hosts: Sequence[HostProcess], group: int) -> None:
    """Have `host` lead, and all of `hosts` know. A transfer may fail, and is asked for again."""

    async def leads() -> bool:
        with suppress(HostError):
            await host.call("lead", group=group)
        return {(await each.call("leaders"))[str(group)] for each in hosts} == {host.address}

    await until(leads)


async def until(check: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Poll the processes for a state; fails when it does not come."""
    with trio.fail_after(seconds):
        while not await check():  # noqa: ASYNC110 - states of other processes
            await trio.sleep(POLL_S)
