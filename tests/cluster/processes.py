"""Host processes for tests, with calls to them: killed, stopped and started again at will."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import trio

from multiraft.cli.children import Child, ChildFailed, start_child
from multiraft.cli.ports import free_ports

TICK_S = 0.02
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
        self._program = program
        self._name = f"host {number}"
        self.data_dir = folder / f"host{number}"
        self._log = str(folder / f"host{number}.log")
        self._nursery = nursery
        self._ids = count(1)
        self._waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._child: Child | None = None

    @property
    def up(self) -> bool:
        return self._child is not None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.process.pid

    @property
    def log(self) -> str:
        """What it wrote to standard error, over all its lives."""
        return Path(self._log).read_text()

    async def start(self, **settings: Any) -> None:
        """Start it, and return when it has opened its host."""
        assert self._child is None
        child = await start_child(self._name, self._program, [], self._log)
        try:
            config = {
                "data_dir": str(self.data_dir),
                "listen": self.listen,
                "advertise": self.address,
                "tick_interval_s": TICK_S,
            }
            await child.send({**config, **settings})
            first = await child.receive()
        except BaseException:
            await child.kill()
            raise
        assert first == {"id": 0, "result": self.address}
        self._child = child
        self._nursery.start_soon(self._listen, child)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL."""
        child, self._child = self._child, None
        if child is not None:
            await child.kill()

    async def stop(self) -> int:
        """Have it close its host; its exit status."""
        child, self._child = self._child, None
        assert child is not None
        await child.stop(patience_s=20)
        assert child.process.returncode is not None
        return child.process.returncode

    async def call(self, do: str, **arguments: Any) -> Any:
        """Raises: HostGone, HostError."""
        child = self._child
        if child is None:
            raise HostGone(self._name)
        number = next(self._ids)
        sender, receiver = trio.open_memory_channel[dict[str, Any]](1)
        self._waiting[number] = sender
        try:
            await child.send({"id": number, "do": do, **arguments})
            answer = await receiver.receive()
        except (ChildFailed, trio.EndOfChannel):
            raise HostGone(self._name) from None
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            raise HostError(answer["error"], answer["reason"])
        return answer["result"]

    async def _listen(self, child: Child) -> None:
        """Hand out answers until the process ends; then nobody needs to wait any more."""
        try:
            while True:
                answer = await child.receive()
                if (sender := self._waiting.get(answer["id"])) is not None:
                    sender.send_nowait(answer)
        except (ChildFailed, trio.ClosedResourceError):
            for sender in self._waiting.values():
                sender.close()


@asynccontextmanager
async def host_processes(
    folder: Path, *, program: str = JOURNAL_HOST, **settings: Any
) -> AsyncIterator[list[HostProcess]]:
    """Three hosts that run; killed at the end."""
    async with trio.open_nursery() as nursery:
        hosts = [
            HostProcess(number, folder, port, nursery, program=program)
            for number, port in enumerate(free_ports(3), 1)
        ]
        try:
            async with trio.open_nursery() as starting:
                for host in hosts:
                    starting.start_soon(_start, host, settings)
            yield hosts
        finally:
            with trio.CancelScope(shield=True):
                for host in hosts:
                    await host.kill()
            nursery.cancel_scope.cancel()


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
