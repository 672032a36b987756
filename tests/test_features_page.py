"""docs/features.md: every row names tests that exist, or says plainly that there are none yet."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
NOT_YET = "not yet"
ROWS_PER_SECTION = {"A": 36, "B": 9, "C": 19}

TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows_of(page: str) -> dict[str, str]:
    """What each row is shown by: the last of its cells, by the row's name."""
    rows: dict[str, str] = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and re.fullmatch(r"[A-Z]\d+", cells[0]):
            assert len(cells) == 4, line
            assert all(cells), line
            assert cells[0] not in rows, cells[0]
            rows[cells[0]] = cells[3]
    return rows


ROWS = rows_of(PAGE)


@cache
def functions_of(path: str) -> frozenset[str]:
    """The test functions of a file, by their names; none if there is no such file."""
    if not (ROOT / path).is_file():
        return frozenset()
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def fault_of(shown_by: str) -> str | None:
    """What is wrong with a row's last cell."""
    if shown_by == NOT_YET:
        return None
    named = TEST.findall(shown_by)
    if not named:
        return "no test, and not 'not yet'"
    rest = TEST.sub("", shown_by).strip()
    if rest:
        return f"neither a test nor 'not yet': {rest}"
    missing = [f"{path}::{name}" for path, name in named if name not in functions_of(path)]
    return f"no such test: {', '.join(missing)}" if missing else None


def test_every_row_is_there_in_order() -> None:
    expected = [f"{section}{n}" for section, last in ROWS_PER_SECTION.items() for n in range(1, last + 1)]
    assert list(ROWS) == expected


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_tests_that_exist(row: str) -> None:
    assert fault_of(ROWS[row]) is None


def test_nothing_on_the_page_looks_like_a_test_and_is_none() -> None:
    """A path that is misspelt so that it does not even look like one of the above."""
    assert PAGE.count("::test_") == len(TEST.findall(PAGE)) + 1, "one is in the text above the tables"


@pytest.mark.parametrize(
    ("shown_by", "fault"),
    [
        ("", "no test"),
        ("soon", "no test"),
        ("not yet `tests/test_features_page.py::test_every_row_is_there_in_order`", "neither"),
        ("`tests/test_features_page.py::test_no_such_test`", "no such test"),
        ("`tests/no_such_file.py::test_every_row_is_there_in_order`", "no such test"),
        ("`tests/test_features_page.py::functions_of`", "no such test"),
    ],
)
def test_faults_are_found(shown_by: str, fault: str) -> None:
    found = fault_of(shown_by)
    assert found is not None
    assert fault in found
