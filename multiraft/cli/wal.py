"""`multiraft wal`: what a data folder's log holds, and whether it is whole. Only `repair` changes it."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import Any

import attrs
import click

from multiraft.cli.admin import json_option
from multiraft.cli.output import print_facts, print_json, print_table
from multiraft.cli.repair import repair
from multiraft.errors import ConfigError
from multiraft.storage.files import OsFiles
from multiraft.storage.inspect import SEGMENT_ITEM, TORN_ITEM, Item, Problem, inspect_log
from multiraft.storage.store import wal_folder

MEASURED = (SEGMENT_ITEM, TORN_ITEM)
"""Items that are no records."""

folder_argument = click.argument("data_dir", metavar="DATA_DIR")


@click.group("wal", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> int:
    """Look into the log of a host that is not running, or repair it."""
    if ctx.invoked_subcommand is not None:
        return 0
    print(ctx.get_help(), file=sys.stderr)
    return 2


command.add_command(repair)


@command.command("inspect")
@folder_argument
@click.option("--records", is_flag=True, help="List every record.")
@json_option
def inspect(data_dir: str, records: bool, as_json: bool) -> int:
    """Show what the log holds. Exit status 1 if some of it is damaged."""
    found = _walk(data_dir)
    items = [each for each in found if isinstance(each, Item)]
    problems = [each for each in found if isinstance(each, Problem)]
    summary = _summary(items, problems)
    if as_json:
        listed = {"records": [attrs.asdict(item) for item in items]} if records else {}
        print_json(summary | listed)
        return 1 if problems else 0
    if records:
        columns = ("segment", "offset", "bytes", "kind", "group", "first", "last", "term")
        print_table("records", columns, map(_record_row, items))
    print_table(
        "segments",
        ("segment", "bytes", "records"),
        [(each["segment"], each["bytes"], each["records"]) for each in summary["segments"]],
    )
    print_facts(
        data_dir,
        {"groups": summary["groups"], "entries written": summary["entries"]}
        | {f"{kind} records": number for kind, number in sorted(summary["records_by_kind"].items())}
        | {"torn tail": f"{summary['torn_tail_bytes']} bytes", "problems": len(problems)},
    )
    _print_problems(problems)
    return 1 if problems else 0


@command.command("verify")
@folder_argument
@json_option
def verify(data_dir: str, as_json: bool) -> int:
    """Check that the log can be opened with everything that was acknowledged.

    Exit status 1 if not. A torn tail is no problem: it was never acknowledged.
    """
    found = _walk(data_dir)
    problems = [each for each in found if isinstance(each, Problem)]
    if as_json:
        print_json({"ok": not problems, "problems": [attrs.asdict(each) for each in problems]})
    else:
        _print_problems(problems)
        records = sum(isinstance(each, Item) and each.kind not in MEASURED for each in found)
        print(
            f"{data_dir}: " + (f"{len(problems)} problems" if problems else f"{records} records, all whole")
        )
    return 1 if problems else 0


def _walk(data_dir: str) -> list[Item | Problem]:
    """Raises: ConfigError when there is no log."""
    folder = os.path.abspath(data_dir)
    if not os.path.isdir(wal_folder(folder)):
        raise ConfigError("DATA_DIR", f"{data_dir} is no data folder of a host: it has no log")
    return list(inspect_log(OsFiles(), folder))


def _summary(items: list[Item], problems: list[Problem]) -> dict[str, Any]:
    kinds = Counter(item.kind for item in items if item.kind not in MEASURED)
    records = Counter(item.segment for item in items if item.kind not in MEASURED)
    return {
        "segments": [
            {"segment": item.segment, "bytes": item.bytes, "records": records[item.segment]}
            for item in items
            if item.kind == SEGMENT_ITEM
        ],
        "groups": len({item.group for item in items if item.group is not None}),
        "entries": sum(item.last - item.first + 1 for item in items if item.last),
        "records_by_kind": dict(kinds),
        "torn_tail_bytes": sum(item.bytes for item in items if item.kind == TORN_ITEM),
        "problems": [attrs.asdict(each) for each in problems],
    }


def _record_row(item: Item) -> tuple[object, ...]:
    entries = (item.first, item.last, item.term) if item.last else ("", "", "")
    group = "" if item.group is None else item.group
    return item.segment, item.offset, item.bytes, item.kind, group, *entries


def _print_problems(problems: list[Problem]) -> None:
    for each in problems:
        print(f"{each.segment}: byte {each.offset}: {each.reason}")
