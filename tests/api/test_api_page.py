"""docs/api.md and what `multiraft` exports name the same things."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType

import attrs
import pytest

import multiraft
from multiraft import EventReader, Group, Host, MultiraftError, StateMachine, errors

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
CODE = re.findall(r"`([^`\n]+)`", PAGE)
"""Everything on the page that is set as code."""
WORDS = {word for code in CODE for word in re.findall(r"\w+", code)}

EXPORTED = {
    name: value
    for name, value in vars(multiraft).items()
    if not name.startswith("_") and not isinstance(value, ModuleType)
}

NOT_FOR_PROGRAMS = {
    Group: {
        "awaited",
        "check_running",
        "leader_changed",
        "limit",
        "members_changed",
        "set_removed",
        "stop",
        "warn",
        "watch_leader",
    },  # the scheduler's: see its docstring
    EventReader: {"put", "wake"},
    errors: {"LogCompacted", "LogUnavailable"},  # between the core and its log
}


def public_of(kind: type) -> list[str]:
    """Methods, properties and attrs fields of a class; slots are the engine's business."""
    members = [
        name
        for name, value in inspect.getmembers_static(kind)
        if inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)
    ]
    fields = [field.name for field in attrs.fields(kind)] if attrs.has(kind) else []
    hidden = NOT_FOR_PROGRAMS.get(kind, set())
    return sorted({name for name in members + fields if not name.startswith("_")} - hidden)


def test_every_exported_name_is_on_the_page() -> None:
    assert {name for name in EXPORTED if name not in WORDS} == set()
    assert len(EXPORTED) >= 38, "what is looked at is really the package's namespace"


@pytest.mark.parametrize(
    "kind", [kind for kind in EXPORTED.values() if inspect.isclass(kind)], ids=lambda kind: kind.__name__
)
def test_every_public_name_of_a_class_is_on_the_page(kind: type) -> None:
    assert [name for name in public_of(kind) if name not in WORDS] == []


def test_the_classes_have_the_names_that_this_test_looks_for() -> None:
    assert {"propose", "leader", "status", "transfer_leadership"} <= set(public_of(Group))
    assert {"address", "create_groups", "statistics"} <= set(public_of(Host))
    assert {"apply", "discard"} <= set(public_of(StateMachine))
    assert {"data_dir", "tls"} <= set(public_of(multiraft.HostConfig))


def test_every_error_is_exported_and_in_the_table_of_errors() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, MultiraftError) and not name.startswith("_")
    }
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE.partition("## Errors")[2], re.MULTILINE))
    assert classes - NOT_FOR_PROGRAMS[errors] <= set(EXPORTED)
    assert rows | {"MultiraftError"} == classes - NOT_FOR_PROGRAMS[errors]


def test_the_page_promises_no_call_that_does_not_exist() -> None:
    """Headings and table rows like `group.propose(data)` name what is really there."""
    calls = [code for code in CODE if re.match(r"(await )?(host|group)\.\w+", code)]
    assert len(calls) > 15
    kinds = {"host": Host, "group": Group}
    for code in calls:
        owner, name = re.findall(r"(host|group)\.(\w+)", code)[0]
        kind = kinds[owner]
        assert hasattr(kind, name) or name == "config", code
        if code.startswith("await "):
            assert inspect.iscoroutinefunction(getattr(kind, name)), code


def test_defaults_on_the_page_are_the_defaults() -> None:
    table = PAGE.partition("## HostConfig")[2].partition("## Errors")[0]
    shown = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", table, re.MULTILINE))
    fields = {field.name: field.default for field in attrs.fields(multiraft.HostConfig)}
    assert list(shown) == list(fields), "all of them, in the same order"
    sizes = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    for name, default in fields.items():
        text = shown[name].strip("` ")
        if isinstance(default, bool) or default is None:
            expected = {str(default)} | ({"listen"} if name == "advertise" else set())
            assert text in expected, name
        elif isinstance(default, int | float):
            number, _, unit = text.replace(",", "").partition(" ")
            assert float(number) * sizes.get(unit, 1) == default, name
        elif default is attrs.NOTHING:
            assert text == "", name
