"""What commands print: results on standard output, progress on standard error if it is a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol


class Progress(Protocol):
    """Where long work says how far it is."""

    live: bool
    """False: nobody is watching, so do not spend anything on details."""

    def say(self, text: str) -> None:
        """Replace what is shown."""


class _Silent:
    live = False

    def say(self, text: str) -> None:
        """In a pipe there is no progress."""


class _OnTerminal:
    live = True

    def __init__(self, update: Any) -> None:
        self._update = update

    def say(self, text: str) -> None:
        self._update(text)


@contextmanager
def progress(wanted: bool = True) -> Iterator[Progress]:
    """A live line on the terminal; nothing at all where standard error is none."""
    if not (wanted and sys.stderr.isatty()):
        yield _Silent()
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield _OnTerminal(status.update)


def print_json(value: object) -> None:
    """One object on one line."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Names and values, aligned."""
    width = max(map(len, facts))
    print(title)
    for name, value in facts.items():
        print(f"  {name:<{width}}  {value}")
    sys.stdout.flush()


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table: fitted to a terminal, as wide as it needs to be in a pipe."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, highlight=False, markup=False).print(table)
