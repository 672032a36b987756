"""Server processes of other systems: started, watched, their CPU counted, ended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from bench.measure import RunFailed


@attrs.frozen
class Servers:
    """A cluster that answers over HTTP/1.1."""

    addresses: Sequence[str]
    """host:port of each."""
    processes: Sequence[trio.Process]

    def cpu_s(self) -> float:
        """User and system time of all servers so far (proc(5) stat)."""
        ticks = 0
        for process in self.processes:
            with open(f"/proc/{process.pid}/stat", encoding="utf-8") as file:
                # The name, in parentheses, may hold spaces.
                fields = file.read().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def started(commands: Mapping[str, Sequence[str]]) -> AsyncIterator[list[trio.Process]]:
    """Run commands, each with its output in the file that is its key, until the block ends."""
    processes: list[trio.Process] = []
    try:
        for log, command in commands.items():
            with open(log, "wb") as output:  # noqa: ASYNC230 - a local file, and nothing is measured yet
                process = await trio.lowlevel.open_process(
                    list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            processes.append(process)
        yield processes
    finally:
        with trio.CancelScope(shield=True):
            for process in processes:
                process.kill()
                await process.wait()


async def wait_ready(probes: Mapping[str, bytes], logs: Sequence[str], patience_s: float) -> None:
    """Until every address has answered its request with a success. Raises: RunFailed."""
    with trio.move_on_after(patience_s):
        for address, request in probes.items():
            while not await _succeeds(address, request):  # noqa: ASYNC110 - in another process
                await trio.sleep(0.1)
        return
    tails = []
    for log in logs:
        with open(log, "rb") as file:  # noqa: ASYNC230 - nothing is under way any more
            tails.append(file.read()[-300:].decode(errors="replace"))
    raise RunFailed(f"the servers did not answer within {patience_s:.0f} s: {tails}")


async def _succeeds(address: str, request: bytes) -> bool:
    host, _, port = address.rpartition(":")
    try:
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            await stream.send_all(request)
            with trio.move_on_after(2):
                return (await stream.receive_some())[9:10] == b"2"
    except OSError:
        pass
    return False
