"""The command line, or a program of the tests, in a process of its own, without a second of imports.

A server process imports everything once, and every host is a fork of it: as much a process as any,
killed, paused and ended by itself. Nothing of the tests is in it, and no event loop ever ran there.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import trio

from multiraft.cli import main

PR_SET_PDEATHSIG = 1
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [__name__, "multiraft.cli.serve", "multiraft.kv.serve", "multiraft.cli.bench_host"]
)


class Forked:
    """A process of which this one can tell whether it runs; it ends with this one, whatever ends that."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None: it runs."""
        return self._process.exitcode

    def signal(self, number: int) -> None:
        if self.status is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self._process.join()

    async def ended(self) -> int:
        """Wait until it has ended by itself; its exit status."""
        while (status := self.status) is None:  # noqa: ASYNC110 - another process
            await trio.sleep(0.02)
        return status


class Command(Forked):
    """A running command; its standard input ends with this process."""

    def __init__(self, arguments: Sequence[object], log: str) -> None:
        """Run `multiraft <arguments>`; what it writes is added to the file `log`."""
        theirs, self._ours = _CONTEXT.Pipe(duplex=False)
        given = [str(each) for each in arguments]
        super().__init__(_CONTEXT.Process(target=_run_command, args=(given, theirs, log), daemon=True))
        theirs.close()

    def kill(self) -> None:
        super().kill()
        self._ours.close()

    async def ended(self) -> int:
        status = await super().ended()
        self._ours.close()
        return status


class Program(Forked):
    """A running program of the tests, with pipes to its standard input and from its output.

    Attributes:
        stdin: What it reads. Closing it asks the programs of the tests to end.
        stdout: What it writes.
    """

    def __init__(self, module: str, log: str) -> None:
        """Run `python -m <module>`; its standard error is added to the file `log`."""
        their_stdin, stdin = _CONTEXT.Pipe(duplex=False)
        stdout, their_stdout = _CONTEXT.Pipe(duplex=False)
        given = (module, their_stdin, their_stdout, log)
        super().__init__(_CONTEXT.Process(target=_run_program, args=given, daemon=True))
        self.stdin, self.stdout = _stream(stdin), _stream(stdout)
        for each in (their_stdin, stdin, their_stdout, stdout):
            each.close()

    def kill(self) -> None:
        super().kill()
        self.stdin.close()


def _stream(end: Connection) -> trio.lowlevel.FdStream:
    return trio.lowlevel.FdStream(os.dup(end.fileno()))


def _run_command(arguments: Sequence[str], stdin: Connection, log: str) -> None:
    _take_over(stdin, log)
    os.dup2(2, 1)
    sys.exit(main.run(arguments))


def _run_program(module: str, stdin: Connection, stdout: Connection, log: str) -> None:
    _take_over(stdin, log)
    os.dup2(stdout.fileno(), 1)
    stdout.close()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _take_over(stdin: Connection, log: str) -> None:
    """Make this fork a process with a standard input, an error file and signals of its own."""
    os.dup2(stdin.fileno(), 0)
    stdin.close()
    end = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(end, 2)
    os.close(end)
    os.setpgid(0, 0)  # Ctrl-C is for the test run
    if sys.platform == "linux":
        # The server ends with the test run, and a paused host sees no end of its standard input.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
