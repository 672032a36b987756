"""The parser of transcripts, on snippets of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.datadriven import (
    Argument,
    Directive,
    Mismatch,
    TranscriptError,
    parse,
    parse_arguments,
    replay,
)


def parsed(text: str) -> list[Directive]:
    return list(parse(text, "file"))


def test_a_directive_with_input_and_output() -> None:
    (directive,) = parsed("\n# why\n\ncmd a b=1\none\n# part of it\n\ntwo\n\n----\n  out\nmore\n")
    assert (directive.command, [argument.key for argument in directive.arguments]) == ("cmd", ["a", "b"])
    assert directive.input == "one\n# part of it\n\ntwo"
    assert directive.expected == "  out\nmore\n"
    assert (directive.line, directive.expected_line) == (4, 11)


def test_output_ends_at_a_blank_line_or_at_the_end() -> None:
    first, second = parsed("a\n----\nok\n   \n# between\nb\n----\nyes")
    assert (first.expected, second.expected) == ("ok\n", "yes\n")


def test_no_output_and_no_separator() -> None:
    assert [d.expected for d in parsed("a\n----\n\nb\n----\n")] == ["", ""]
    (directive,) = parsed("a\ninput")
    assert (directive.input, directive.expected) == ("input", "")


def test_the_double_form_holds_blank_lines_and_single_separators() -> None:
    first, second = parsed("a\n----\n----\none\n\n----\ntwo\n----\n----\n\nb\n----\nok\n")
    assert first.expected == "one\n\n----\ntwo\n"
    assert first.expected_line == 4
    assert second.command == "b"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a\n----\n----\none\n", "no closing pair"),
        ("a\n----\n----\none\n----\n", "no closing pair"),
        ("a\n----\n----\none\n----\n----\ntwo\n", "blank line"),
        ("a b=(1,2\n----\n", "parenthesis"),
    ],
)
def test_what_is_no_transcript(text: str, reason: str) -> None:
    with pytest.raises(TranscriptError, match=reason):
        parsed(text)


def test_three_separators_in_the_double_form() -> None:
    (directive,) = parsed("a\n----\n----\none\n----\n\n----\n----\n")
    assert directive.expected == "one\n----\n\n"


def test_a_line_continues_after_a_backslash() -> None:
    (directive,) = parsed("cmd a \\\n   b\\\n c\n----\nok\n")
    assert [argument.key for argument in directive.arguments] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", []),
        ("key", [Argument("key")]),
        ("key=value", [Argument("key", ("value",))]),
        ("key=", [Argument("key", ("",))]),
        ("key=a=b", [Argument("key", ("a=b",))]),
        ("a=(1,2, 3) b", [Argument("a", ("1", "2", "3")), Argument("b")]),
        ("a=(1 2 3)", [Argument("a", ("1 2 3",))]),
        ("a=(f(x,y),g(z))", [Argument("a", ("f(x,y)", "g(z)"))]),
        ("a=()", [Argument("a")]),
        ("a=(,)", [Argument("a", ("", ""))]),
        ('1 "foo"', [Argument("1"), Argument('"foo"')]),
        ("a  b", [Argument("a"), Argument("b")]),
    ],
)
def test_arguments(text: str, arguments: list[Argument]) -> None:
    assert list(parse_arguments(text)) == arguments


def test_values_are_scanned() -> None:
    assert Argument("a", ("-5",)).integer == -5
    assert Argument("a", ("1", "2")).integers == (1, 2)
    assert [Argument("a", (text,)).boolean for text in ("1", "t", "True", "0", "F", "false")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    for wrong in (("maybe",), ("true", "true"), ()):
        with pytest.raises(TranscriptError):
            _ = Argument("a", wrong).boolean


def test_numbers_are_the_arguments_without_values() -> None:
    (directive,) = parsed("deliver 3 drop=(2) 1\n----\nok\n")
    assert directive.numbers == (3, 1)
    assert directive.first == "3"
    assert directive.option("drop") == Argument("drop", ("2",))
    assert directive.option("type") is None


# --- replaying -----------------------------------------------------------------------------------


def test_output_without_a_final_newline_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("a\n----\nok\n\nb\n----\n")
    replay(path, lambda directive: "ok" if directive.command == "a" else "")


def test_the_first_difference_is_shown_with_its_place_and_ends_the_replay(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("# head\na\n----\none\ntwo\nthree\n\nb\n----\nok\n")
    seen: list[str] = []

    def handle(directive: Directive) -> str:
        seen.append(directive.command)
        return "one\n2\nthree\n"

    with pytest.raises(Mismatch) as raised:
        replay(path, handle)
    assert seen == ["a"]
    text = str(raised.value)
    assert f"{path}:5: first difference, in the output of {path}:2: a" in text
    assert "-two" in text
    assert "+2" in text


@pytest.mark.parametrize("actual", ["one\n", "one\ntwo\nthree\n", "one\n two\n", ""])
def test_less_more_and_moved_output_are_differences(tmp_path: Path, actual: str) -> None:
    path = tmp_path / "file.txt"
    path.write_text("a\n----\none\ntwo\n")
    with pytest.raises(Mismatch):
        replay(path, lambda _directive: actual)
