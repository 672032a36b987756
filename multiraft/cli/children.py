"""Host processes that this process starts: they end with it, whatever happens to it.

Each has a pipe on its standard input. It never carries an end of file while this process lives,
and the kernel closes it if this process is killed, so a child that watches it never stays behind.
(A parent-death signal would not do: it follows the thread that forked, not the process.)
Children have a process group of their own: Ctrl-C reaches this process, which ends them in order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import trio

from multiraft.errors import MultiraftError

STDERR_TAIL_BYTES = 4000


class ChildFailed(MultiraftError):
    """A host process ended, or said something that was not asked for."""


class Child:
    """A host process, its log file, and the two ends of the pipes to it."""

    def __init__(self, name: str, process: trio.Process, log: str) -> None:
        self.name = name
        self.process = process
        self._log = log
        self._buffer = bytearray()
        self._sending = trio.Lock()

    async def send(self, message: dict[str, Any]) -> None:
        """Write one line of JSON. Several tasks may; their lines do not mix.

        Raises:
            ChildFailed: It has ended.
        """
        assert self.process.stdin is not None
        try:
            async with self._sending:
                await self.process.stdin.send_all(json.dumps(message).encode() + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._failure() from None

    async def receive(self) -> dict[str, Any]:
        """Read one line of JSON.

        Raises:
            ChildFailed: It has ended, says that it `failed`, or this is no line of JSON.
        """
        assert self.process.stdout is not None
        while (end := self._buffer.find(b"\n")) < 0:
            chunk = await self.process.stdout.receive_some()
            if not chunk:
                with trio.move_on_after(2):
                    await self.process.wait()
                raise self._failure()
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except ValueError:
            raise ChildFailed(f"{self.name} said {line[:200]!r}") from None
        if not isinstance(message, dict):
            raise ChildFailed(f"{self.name} said {line[:200]!r}")
        if "failed" in message:
            raise ChildFailed(f"{self.name}: {message['failed']}")
        return message

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        await self.send(message)
        return await self.receive()

    def check_running(self) -> None:
        """Raises: ChildFailed when its process has ended."""
        if self.process.poll() is not None:
            raise self._failure()

    def _failure(self) -> ChildFailed:
        status = self.process.returncode
        how = "closed its pipe" if status is None else f"ended with status {status}"
        last = next((line for line in reversed(self.log_tail().splitlines()) if line.strip()), "")
        last = last.removeprefix("multiraft: error: ")
        return ChildFailed(f"{self.name} {how}: {last}" if last else f"{self.name} {how}")

    def log_tail(self) -> str:
        """The end of what it wrote to standard error."""
        try:
            with open(self._log, "rb") as file:
                file.seek(max(0, os.path.getsize(self._log) - STDERR_TAIL_BYTES))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone: nothing of it runs or holds a port afterwards."""
        with trio.CancelScope(shield=True):
            self.process.kill()
            await self.process.wait()
            await self._close_pipes()

    async def stop(self, patience_s: float = 5.0) -> None:
        """Close its standard input, which asks it to end; kill it if it does not. Shielded."""
        with trio.CancelScope(shield=True):
            if self.process.stdin is not None:
                await self.process.stdin.aclose()
            with trio.move_on_after(patience_s):
                await self.process.wait()
            await self.kill()

    async def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                await pipe.aclose()


async def start_child(name: str, module: str, arguments: Sequence[str], log: str) -> Child:
    """Start `python -m module`, with its standard error going to the file `log`."""
    with open(log, "ab") as stderr:  # noqa: ASYNC230 - a local file, and nothing else is under way
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            process_group=0,
        )
    return Child(name, process, log)


async def ask_all(children: Sequence[Child], message: dict[str, Any]) -> list[dict[str, Any]]:
    """The same to all of them at once; their answers in order."""
    for child in children:
        await child.send(message)
    return [await child.receive() for child in children]


async def stop_all(children: Sequence[Child], patience_s: float = 5.0) -> None:
    """End all of them, together."""
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            for child in children:
                nursery.start_soon(child.stop, patience_s)
