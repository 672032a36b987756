"""The cores, disks and threads of work behind an interaction transcript.

Commands stand in commands.py; here is what they act on. Nothing is ever delivered or written
unless a command says so.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs

from multiraft.errors import MultiraftError, ProposalDropped
from multiraft.messages import (
    APPEND_THREAD,
    APPLY_THREAD,
    ConfChange,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Run,
    Snapshot,
)
from multiraft.raft.core import CoreConfig, Level, Raft
from multiraft.raft.memory import MemoryLog
from multiraft.raft.ready import Ready
from multiraft.types import MemberId
from tests.conformance import describe

__all__ = ["CommandError", "Environment", "Node", "Threshold", "error_text"]


class CommandError(Exception):
    """A command failed in a way that its transcript shows."""


class Threshold(enum.IntEnum):
    """From which level on lines are written. NONE silences the commands, too."""

    DEBUG = 0
    INFO = 1
    WARN = 2
    ERROR = 3
    FATAL = 4
    NONE = 5


def error_text(error: MultiraftError) -> str:
    return "raft proposal dropped" if isinstance(error, ProposalDropped) else str(error)


class HistoryLog(MemoryLog):
    """Answers with the snapshot of what was applied last, rather than with a stored one."""

    __slots__ = ("history",)

    def __init__(self, snapshot: Snapshot | None) -> None:
        super().__init__(snapshot)
        self.history = [snapshot or Snapshot()]

    def snapshot(self) -> Snapshot:
        return self.history[-1]


@attrs.define
class Node:
    """One member: its core, its disk, and work that waits for its storage threads."""

    core: Raft
    log: HistoryLog
    config: CoreConfig
    append_work: list[Message] = attrs.Factory(list)
    apply_work: list[Message] = attrs.Factory(list)

    def persist(self, state: HardState | None, runs: Sequence[Run], snapshot: Snapshot | None) -> None:
        if state is not None:
            self.log.set_hard_state(state)
        if snapshot is not None and snapshot.index:
            self.log.apply_snapshot(snapshot)
        elif runs:
            self.log.append(runs)

    def apply(self, runs: Sequence[Run]) -> None:
        """Append what was applied to a state machine that remembers all."""
        for run in runs:
            for offset, payload in enumerate(run.payloads):
                last = self.log.history[-1]
                state = last.conf_state
                data = payload
                if run.kind is not EntryKind.NORMAL:
                    change = ConfChange.decode(payload)
                    data = change.context
                    state = self.core.apply_conf_change(change)
                self.log.history.append(Snapshot(run.first + offset, run.term, state, last.data + data))


class Environment:
    """All nodes of a transcript, the messages between them, and the output of a command."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.messages: list[Message] = []
        self.threshold = Threshold.DEBUG
        self._output: list[str] = []

    def node(self, member: MemberId) -> Node:
        return self.nodes[member - 1]

    # --- output ------------------------------------------------------------------------------

    def start_output(self) -> None:
        self._output = []

    @property
    def output(self) -> str:
        return "".join(self._output)

    def write(self, text: str) -> None:
        if self.threshold is not Threshold.NONE:
            self._output.append(text)

    def log_line(self, level: Level, text: str) -> None:
        if self.threshold <= level:
            self._output.append(f"{level.name} {text}\n")

    @contextmanager
    def indented(self) -> Iterator[None]:
        outer, self._output = self._output, []
        try:
            yield
        finally:
            inner, self._output = self.output, outer
            self._output += [f"  {line}\n" for line in inner.splitlines()]

    # --- nodes -------------------------------------------------------------------------------

    def add_node(self, config: CoreConfig, snapshot: Snapshot | None) -> None:
        log = HistoryLog(snapshot)
        draws = random.Random(config.id)
        core = Raft(config, log, draws.randrange, self.log_line)
        self.nodes.append(Node(core, log, config))

    def deliver(self, member: MemberId, kind: MessageType | None, *, drop: bool) -> bool:
        """Take the messages for `member` out of flight. False: there were none."""
        taken: list[Message] = []
        rest: list[Message] = []
        for message in self.messages:
            mine = message.to == member and kind in (None, message.type)
            (taken if mine and not (drop and _is_local(message)) else rest).append(message)
        self.messages = rest
        for message in taken:
            self.write(("dropped: " if drop else "") + describe.message(message) + "\n")
            if not drop:
                self._step(member, message)
        return bool(taken)

    def _step(self, member: MemberId, message: Message) -> None:
        try:
            self.node(member).core.step(message)
        except MultiraftError as error:
            self.write(error_text(error) + "\n")

    def has_messages(self, member: MemberId) -> bool:
        return any(message.to == member for message in self.messages)

    # --- the steps of a node's loop ----------------------------------------------------------

    def process_ready(self, member: MemberId) -> None:
        node = self.node(member)
        ready = node.core.ready()
        outgoing = [*ready.messages, *_storage_work(node, ready)]
        self.write(describe.ready(ready, outgoing))
        in_async = node.config.async_storage_writes
        if not in_async:
            node.persist(ready.hard_state, ready.runs, ready.snapshot)
            node.apply(ready.committed)
        for message in outgoing:
            queue = {APPEND_THREAD: node.append_work, APPLY_THREAD: node.apply_work}
            queue.get(message.to, self.messages).append(message)
        if not in_async:
            node.core.advance()

    def process_append(self, member: MemberId) -> None:
        node = self.node(member)
        if not node.append_work:
            self.write("no append work to perform")
            return
        work = node.append_work.pop(0)
        self._announce(work)
        state = HardState(work.term, work.vote, work.commit)
        node.persist(None if state == HardState() else state, work.runs, work.snapshot)
        self._respond(work)

    def process_apply(self, member: MemberId) -> None:
        node = self.node(member)
        if not node.apply_work:
            self.write("no apply work to perform")
            return
        work = node.apply_work.pop(0)
        self._announce(work)
        node.apply(work.runs)
        self._respond(work)

    def _announce(self, work: Message) -> None:
        self.write("Processing:\n" + describe.message(attrs.evolve(work, responses=())) + "\n")

    def _respond(self, work: Message) -> None:
        self.write("Responses:\n")
        for response in work.responses:
            self.write(describe.message(response) + "\n")
        self.messages += work.responses


def _is_local(message: Message) -> bool:
    threads = (APPEND_THREAD, APPLY_THREAD)
    return message.sender == message.to or message.sender in threads or message.to in threads


def _storage_work(node: Node, ready: Ready) -> list[Message]:
    """What a Ready with asynchronous writes asks of the storage threads."""
    if not node.config.async_storage_writes:
        return []
    work: list[Message] = []
    own = node.core.id
    state = ready.hard_state
    if ready.runs or ready.snapshot or ready.responses or state:
        append = Message(MessageType.STORAGE_APPEND, APPEND_THREAD, own, runs=ready.runs)
        append.snapshot = ready.snapshot
        append.responses = ready.responses
        if state is not None:
            append.term, append.vote, append.commit = state.term, state.vote, state.commit
        work.append(append)
    if ready.committed:
        done = Message(MessageType.STORAGE_APPLY_RESP, own, APPLY_THREAD, runs=ready.committed)
        apply = Message(MessageType.STORAGE_APPLY, APPLY_THREAD, own, runs=ready.committed)
        apply.responses = [done]
        work.append(apply)
    return work
