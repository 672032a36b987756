"""The command line in a process of its own, without a second of imports for each.

A server process imports everything once, and every host is a fork of it: as much a process as any,
killed, paused and ended by itself. Nothing of the tests is in it, and no event loop ever ran there.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import trio

from multiraft.cli import main

PR_SET_PDEATHSIG = 1
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__, "multiraft.cli.serve", "multiraft.kv.serve"])


class Forked:
    """A running command; its standard input ends with this process, whatever ends that."""

    def __init__(self, arguments: Sequence[object], log: str) -> None:
        """Run `multiraft <arguments>`; what it writes is added to the file `log`."""
        theirs, self._ours = _CONTEXT.Pipe(duplex=False)
        given = [str(each) for each in arguments]
        self._process: BaseProcess = _CONTEXT.Process(target=_run, args=(given, theirs, log), daemon=True)
        self._process.start()
        theirs.close()

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
        self._ours.close()

    async def ended(self) -> int:
        """Wait until it has ended by itself; its exit status."""
        while (status := self.status) is None:  # noqa: ASYNC110 - another process
            await trio.sleep(0.02)
        self._ours.close()
        return status


def _run(arguments: Sequence[str], stdin: Connection, log: str) -> None:
    os.dup2(stdin.fileno(), 0)
    stdin.close()
    end = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(end, 1)
    os.dup2(end, 2)
    os.close(end)
    os.setpgid(0, 0)  # Ctrl-C is for the test run
    if sys.platform == "linux":
        # The server ends with the test run, and a paused host sees no end of its standard input.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.exit(main.run(arguments))
