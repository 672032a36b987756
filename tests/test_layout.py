"""The set-up under which wheel, sdist, editable install, pytest and mypy all find the same code.

The folders `transport/` and `storage/` are installed as `multiraft.transport` and
`multiraft.storage`: packages of those bare names in site-packages would collide with users' own
code. setuptools does it with a table; checkers and an uninstalled checkout with two links.
"""

from __future__ import annotations

import ast
import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOVED = {"multiraft.storage": "storage", "multiraft.transport": "transport"}


def setuptools_table() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)["tool"]["setuptools"]
    return table


def folder_of(package: str) -> Path:
    """Where the sources of `package` really are."""
    for moved, folder in MOVED.items():
        if package == moved or package.startswith(moved + "."):
            return ROOT / folder / package.removeprefix(moved).replace(".", "/").lstrip("/")
    return ROOT / package.replace(".", "/")


def packages_on_disk() -> set[str]:
    """Every folder that holds Python files, as the package it is imported as."""
    roots = {"multiraft": ROOT / "multiraft"} | {name: ROOT / folder for name, folder in MOVED.items()}
    found: set[str] = set()
    for name, root in roots.items():
        for file in root.rglob("*.py"):  # does not descend into links
            inside = file.parent.relative_to(root).parts
            if name == "multiraft" and inside[:1] in (("storage",), ("transport",)):
                continue  # newer Pythons do descend; those files are counted at their own root
            found.add(".".join((name, *inside)))
    return found


def python_files() -> Iterator[Path]:
    for folder in ("multiraft", "transport", "storage", "tests", "bench"):
        yield from (ROOT / folder).rglob("*.py")


def imported_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def test_every_package_is_installed() -> None:
    """A folder with Python files that setuptools does not list would be missing from the wheel."""
    assert packages_on_disk() == set(setuptools_table()["packages"])


def test_every_package_is_a_regular_package() -> None:
    """Without its `__init__.py` a folder is a namespace package, which others can add to."""
    missing = [p for p in packages_on_disk() if not (folder_of(p) / "__init__.py").is_file()]
    assert not missing


def test_moved_packages_are_mapped() -> None:
    assert setuptools_table()["package-dir"] == {"multiraft": "multiraft", **MOVED}


@pytest.mark.parametrize("folder", MOVED.values())
def test_links_point_at_the_moved_packages(folder: str) -> None:
    """Checkers, editors and an uninstalled checkout find the moved packages through these."""
    link = ROOT / "multiraft" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder


@pytest.mark.parametrize("package", sorted({"multiraft", *MOVED}))
def test_packages_import_from_this_checkout(package: str) -> None:
    file = importlib.import_module(package).__file__
    assert file is not None
    assert Path(file).resolve() == folder_of(package) / "__init__.py"


def test_imports_are_written_in_full() -> None:
    """`import transport` works in this checkout alone, and there it loads a second copy."""
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in python_files()
        for name in imported_names(ast.parse(path.read_bytes()))
        if name.startswith(".") or name.split(".")[0] in MOVED.values()
    ]
    assert not wrong
