"""The replicated state machines: a chain of digests over everything that was ever proposed.

Two machines that took the same entries in the same order have equal digests; one that took an
entry twice, or missed one, has a digest that nobody else ever has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b

import attrs
import cbor2

from multiraft.interfaces import StateMachine
from multiraft.types import Entry, GroupId, Index

ID_BYTES = 8


@attrs.frozen
class State:
    """After `count` proposals, the last of them at `index`."""

    index: Index = 0
    count: int = 0
    digest: bytes = b""

    def after(self, entry: Entry) -> State:
        link = self.digest + entry.index.to_bytes(8, "big") + entry.data
        return State(entry.index, self.count + 1, blake2b(link, digest_size=12).digest())


Applied = Callable[["Chain", Entry, State], None]
Restored = Callable[["Chain", State], None]


class Drive:
    """Where the durable machines of one host keep their states; it outlives the host."""

    def __init__(self) -> None:
        self.saved: dict[GroupId, list[tuple[Index, State]]] = {}
        """By group: the newest state that is durable, then those that are not, in order."""

    def crash(self, random: Callable[[int], int]) -> None:
        """Of what was not synced some prefix survives."""
        for states in self.saved.values():
            del states[random(len(states)) + 1 :]

    def sync(self, group: GroupId) -> None:
        states = self.saved.get(group)
        if states:
            del states[:-1]


class Chain(StateMachine):
    """One machine of one host's incarnation."""

    def __init__(
        self,
        group: GroupId,
        drive: Drive | None,
        blocking: bool,
        padding: int,
        on_applied: Applied,
        on_restored: Restored,
    ) -> None:
        self.group = group
        self.state = State()
        self.blocking = blocking
        self.fed_to: Index = 0
        self.touched: list[GroupId] = []
        self._padding = padding
        self._drive = drive
        self._on_applied = on_applied
        self._on_restored = on_restored
        if drive is not None and drive.saved.get(group):
            self.applied_index, self.state = drive.saved[group][-1]
            self.fed_to = self.applied_index

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        results: list[object] = []
        for entry in entries:
            after = self.state.after(entry)
            self._on_applied(self, entry, after)
            self.state = after
            self.fed_to = entry.index
            results.append((entry.index, entry.data[:ID_BYTES]))
        self._save(entries[-1].index)
        return results

    def query(self, request: object) -> object:  # noqa: ARG002 - there is one question
        return self.state

    def snapshot(self) -> Iterable[bytes]:
        state = self.state
        return [
            cbor2.dumps([self.fed_to, state.index, state.count, state.digest]),
            *([b"." * self._padding] if self._padding else []),
        ]

    def restore(self, chunks: Iterable[bytes]) -> None:
        first, *_ = list(chunks)
        fed_to, index, count, digest = cbor2.loads(first)
        self.state = State(index, count, digest)
        self.fed_to = fed_to
        self._on_restored(self, self.state)
        self._save(fed_to)

    def sync(self) -> None:
        if self._drive is not None:
            self._drive.sync(self.group)

    def discard(self) -> None:
        if self._drive is not None:
            self._drive.saved.pop(self.group, None)

    def _save(self, index: Index) -> None:
        if self._drive is not None:
            self.applied_index = index
            self._drive.saved.setdefault(self.group, [(0, State())]).append((index, self.state))
            self.touched.append(self.group)


class SharedDrive:
    """A factory of machines that commit together: what `Machines.batch` is for."""

    def __init__(self, drive: Drive, make: Callable[[GroupId], Chain]) -> None:
        self._drive = drive
        self._make = make
        self._made: list[Chain] = []

    def __call__(self, group_id: GroupId, /) -> Chain:
        machine = self._make(group_id)
        self._made.append(machine)
        return machine

    @contextmanager
    def batch(self) -> Iterator[None]:
        yield
        for machine in self._made:
            for group in machine.touched:
                self._drive.sync(group)
            machine.touched.clear()
