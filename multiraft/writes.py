"""What a pass writes to the log, for all groups in one batch, and what waits for that.

Whoever promises something here hands in the write and the promise together; the promise is kept
back until the batch is on disk, and with it everything of that group before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import attrs

from multiraft.errors import StorageFailed
from multiraft.group import Group
from multiraft.interfaces import LogStore, WriteBatch
from multiraft.messages import Message, Run, Snapshot
from multiraft.types import Index, MemberId, Term

Stored = tuple[Group, Term, Index, MemberId]
"""Entries up to an index, appended at a term by `express.py`, and the leader to tell once they are
on disk."""

HELD_PIECE: Final = 64
STORED_PIECE: Final = 256
"""How much of a batch that is on disk is looked after at once: a millisecond or two of work."""


@attrs.define(eq=False)
class Held:
    """Responses of one group that wait for a batch, and a snapshot to install before them."""

    group: Group
    responses: list[Message]
    snapshot: Snapshot | None


class Writes:
    """The batch that is being gathered, and those under way.

    `call_soon` has something called at the start of the next pass, `call_next` there before anything
    that waits for that already.
    """

    def __init__(
        self,
        store: LogStore,
        *,
        written: Callable[[Iterable[Held], Iterable[Stored]], None],
        call_soon: Callable[[Callable[[], None]], None],
        call_next: Callable[[Sequence[Callable[[], None]]], None],
        failed: Callable[[StorageFailed], None],
    ) -> None:
        self._store = store
        self._written = written
        self._call_soon = call_soon
        self._call_next = call_next
        self._failed = failed
        self.batch: WriteBatch = store.batch()
        self.held: list[Held] = []
        self.stored: list[Stored] = []
        self.calls: list[Callable[[], None]] = []
        """Of those who wrote to the batch that is being gathered and want to know when it is on disk."""
        self._last_held: list[Held] = []
        """What waits for the batch submitted last."""
        self.under_way = 0
        self.pass_bytes = 0
        """Payload that this pass has for the log."""

    def hold(self, group: Group, responses: list[Message], snapshot: Snapshot | None) -> None:
        """Keep `responses` until the batch that is being gathered is on disk."""
        group.unsynced += 1
        self.held.append(Held(group, responses, snapshot))

    def append(self, group: Group, run: Run, leader: MemberId) -> None:
        """Write `run`, which the core has appended already; `leader` is told once it is on disk."""
        self.batch.append(group.id, (run,))
        self.pass_bytes += run.size
        self.stored.append((group, run.term, run.last, leader))
        group.unsynced += 1

    def flush(self) -> None:
        """The end of a pass: submit what was gathered."""
        if self.batch:
            self.submit_batch()
        elif self.held:
            # Only answers that wait for earlier batches of their groups: behind the last of them.
            self._last_held.extend(self.held)
            self.held = []

    def submit_batch(self, then: Callable[[], None] | None = None) -> None:
        """Submit what was gathered, if only for the sake of its order; `then` comes last."""
        batch, self.batch = self.batch, self._store.batch()
        held, self.held = self.held, []
        stored, self.stored = self.stored, []
        calls, self.calls = self.calls, []
        self._last_held = held
        self.under_way += 1
        if then is not None:
            calls.append(then)

        def done() -> None:
            self.under_way -= 1
            # In pieces, as this may be about thousands of groups: between any two a pass may end.
            parts = [
                partial(self._written, (), stored[at : at + STORED_PIECE])
                for at in range(0, len(stored), STORED_PIECE)
            ]
            parts += [
                partial(self._written, held[at : at + HELD_PIECE], ())
                for at in range(0, len(held), HELD_PIECE)
            ]
            self._call_next([*(parts or [partial(self._written, (), ())]), *calls])

        self.submit(batch, done)

    def submit(self, batch: WriteBatch, done: Callable[[], None]) -> None:
        """Submit a batch of somebody's own; `done` is called between two passes."""
        try:
            self._store.submit(batch, lambda: self._call_soon(done))
        except StorageFailed as error:
            self._failed(error)
