"""Transcripts: files of commands, each with the text that must come out.

    <command> [arg ...]
    <input lines>
    ----
    <expected lines>
    <blank line>

or, where the expected text contains blank lines, between two pairs of `----` lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

__all__ = ["Argument", "Directive", "Mismatch", "TranscriptError", "parse", "parse_arguments", "replay"]

SEPARATOR = "----"


class TranscriptError(Exception):
    """The file is no transcript."""


class Mismatch(AssertionError):
    """What came out is not what the transcript says. The text shows where and how."""


@attrs.frozen
class Argument:
    """`key`, `key=value` or `key=(value, ...)`."""

    key: str
    values: tuple[str, ...] = ()

    @property
    def value(self) -> str:
        """The only value."""
        if len(self.values) != 1:
            raise TranscriptError(f"argument {self.key} has {len(self.values)} values instead of one")
        return self.values[0]

    @property
    def integer(self) -> int:
        return int(self.value)

    @property
    def integers(self) -> tuple[int, ...]:
        return tuple(int(value) for value in self.values)

    @property
    def boolean(self) -> bool:
        if self.value in ("1", "t", "T", "TRUE", "true", "True"):
            return True
        if self.value in ("0", "f", "F", "FALSE", "false", "False"):
            return False
        raise TranscriptError(f"argument {self.key} is no boolean: {self.value}")


@attrs.frozen
class Directive:
    """One command with its input and the output expected of it, as lines with their newlines.

    `line` is the command's in the file called `name`, `expected_line` that of its first output.
    """

    name: str
    line: int
    expected_line: int
    command: str
    arguments: tuple[Argument, ...]
    input: str
    expected: str

    @property
    def first(self) -> str:
        return self.arguments[0].key

    @property
    def numbers(self) -> tuple[int, ...]:
        """Arguments without values, as integers."""
        return tuple(int(argument.key) for argument in self.arguments if not argument.values)

    def option(self, key: str) -> Argument | None:
        for argument in self.arguments:
            if argument.key == key:
                return argument
        return None


def replay(path: Path, handle: Callable[[Directive], str]) -> None:
    """Run a file through `handle`. Stops at the first difference, as later state depends on it.

    Raises: Mismatch, TranscriptError.
    """
    for directive in parse(path.read_text(encoding="utf-8"), str(path)):
        actual = handle(directive)
        if actual and not actual.endswith("\n"):
            actual += "\n"
        if actual != directive.expected:
            raise Mismatch(difference(directive, actual))


def difference(directive: Directive, actual: str) -> str:
    """A unified diff under the places of the directive and of the first difference."""
    expected, found = directive.expected.splitlines(), actual.splitlines()
    same = 0
    while same < min(len(expected), len(found)) and expected[same] == found[same]:
        same += 1
    lines = difflib.unified_diff(expected, found, "expected", "actual", lineterm="")
    return (
        f"{directive.name}:{directive.expected_line + same}: first difference, in the output of "
        f"{directive.name}:{directive.line}: {directive.command}\n" + "\n".join(lines)
    )


def parse(text: str, name: str) -> Iterator[Directive]:
    """The directives of a file called `name`. Raises: TranscriptError."""
    lines = _Lines(text)
    while (line := lines.take()) is not None:
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        number = lines.number
        while stripped.endswith("\\"):
            stripped = stripped[:-1] + " " + (lines.take() or "").strip()
        position = f"{name}:{number}"
        given, separated = _input(lines)
        expected_line, expected = _expected(lines, position) if separated else (lines.number, "")
        command, _, rest = stripped.partition(" ")
        arguments = parse_arguments(rest, position)
        yield Directive(name, number, expected_line, command, arguments, given, expected)


class _Lines:
    def __init__(self, text: str) -> None:
        # Not splitlines: form feeds and the like are part of a line.
        self._lines = text.removesuffix("\n").split("\n") if text else []
        self.number = 0

    def take(self) -> str | None:
        if self.number == len(self._lines):
            return None
        self.number += 1
        return self._lines[self.number - 1]


def _input(lines: _Lines) -> tuple[str, bool]:
    taken: list[str] = []
    while (line := lines.take()) is not None:
        if line == SEPARATOR:
            return "\n".join(taken).strip(), True
        taken.append(line)
    return "\n".join(taken).strip(), False


def _expected(lines: _Lines, position: str) -> tuple[int, str]:
    """The number of the first expected line, and all of them."""
    line = lines.take()
    first = lines.number
    if line == SEPARATOR:
        return first + 1, _double_expected(lines, position)
    taken: list[str] = []
    while line is not None and line.strip():
        taken.append(line + "\n")
        line = lines.take()
    return first, "".join(taken)


def _double_expected(lines: _Lines, position: str) -> str:
    taken: list[str] = []
    while True:
        line = lines.take()
        if line is None:
            raise TranscriptError(f"{position}: no closing pair of {SEPARATOR} lines")
        if line == SEPARATOR:
            following = lines.take()
            if following == SEPARATOR:
                break
            taken.append(line + "\n")
            if following is None:
                continue
            line = following
        taken.append(line + "\n")
    after = lines.take()
    if after is not None and after.strip():
        raise TranscriptError(f"{position}: a blank line has to follow the closing pair")
    return "".join(taken)


def parse_arguments(text: str, position: str = "") -> tuple[Argument, ...]:
    """The arguments behind a command. Raises: TranscriptError."""
    found: list[Argument] = []
    text = text.strip()
    while text:
        end = next((at for at, letter in enumerate(text) if letter in " ="), len(text))
        key, text = text[:end], text[end:]
        values: Sequence[str] = ()
        if text.startswith("=("):
            values, text = _list(text[2:], position)
        elif text.startswith("="):
            value, _, text = text[1:].partition(" ")
            values = (value,)
        found.append(Argument(key, tuple(values)))
        text = text.lstrip(" ")
    return tuple(found)


def _list(text: str, position: str) -> tuple[list[str], str]:
    """The values up to the `)` that closes the list, and what follows it."""
    values: list[str] = []
    value = ""
    depth = 1
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            if value or values:
                values.append(value)
            return values, text[at + 1 :]
        if letter == "," and depth == 1:
            values.append(value)
            value = ""
        elif letter != " " or value:
            value += letter
    raise TranscriptError(f"{position}: a list without its closing parenthesis")
