"""Everything a scheduler needs from outside. The engine fills it in, and so does the simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from multiraft.errors import MultiraftError
from multiraft.interfaces import Clock, Executor, LogStore, MachineFactory, Random, SnapshotStore, Transport
from multiraft.messages import Hello


@attrs.define(kw_only=True)
class Environment:
    """Everything a scheduler needs from outside; the simulator brings its own."""

    clock: Clock
    random: Random
    store: LogStore
    snapshots: SnapshotStore
    transport: Transport
    apply_executor: Executor
    snapshot_executor: Executor
    machines: MachineFactory
    hello: Hello
    wake: Callable[[], None]
    """Have `run_pass` called soon. May be called at any time in the host's thread."""
    failed: Callable[[MultiraftError], None]
    """The host cannot go on. Called once."""
    tidy: Callable[[], None] = lambda: None
    """Do for the process what it wants done now and then, in a few ms: called at the end of a pass or, if
    that was long, at the beginning of the next one, and counted as a part of it."""


class Recalled:
    """An executor whose `done` comes at the start of a pass instead of in between."""

    __slots__ = ("_call_soon", "_executor")

    def __init__(self, executor: Executor, call_soon: Callable[[Callable[[], None]], None]) -> None:
        self._executor = executor
        self._call_soon = call_soon

    def submit(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self._executor.submit(job, lambda result, error: self._call_soon(lambda: done(result, error)))
