"""State machines for tests of the engine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from multiraft import Entry, StateMachine


class Journal(StateMachine):
    """Remembers every entry in order; its result is how many there were, with the data."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, bytes]] = []

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        results = []
        for entry in entries:
            if entry.data == b"poison":
                raise ValueError("this entry is poison")
            self.entries.append((entry.index, entry.data))
            results.append((len(self.entries), entry.data))
        return results

    def query(self, request: object) -> object:
        if request == "fail":
            raise KeyError(request)
        return [data for _, data in self.entries]

    def snapshot(self) -> Iterable[bytes]:
        return [json.dumps([[index, data.decode()] for index, data in self.entries]).encode()]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.entries = [(index, data.encode()) for index, data in json.loads(b"".join(chunks))]


class Counter(StateMachine):
    """Keeps nothing but how many entries there were: its state does not grow with the log."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        before, self.count = self.count, self.count + len(entries)
        return list(range(before + 1, self.count + 1))

    def query(self, request: object) -> object:  # noqa: ARG002 - there is one question only
        return self.count

    def snapshot(self) -> Iterable[bytes]:
        return [b"%d" % self.count]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.count = int(b"".join(chunks))


class BlockingJournal(Journal):
    blocking = True
