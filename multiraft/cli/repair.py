"""`multiraft wal repair`: make a damaged log open again, saying exactly what that costs."""

from __future__ import annotations

import os
import random

import attrs
import click

from multiraft.cli.admin import json_option
from multiraft.cli.output import print_json, print_table
from multiraft.errors import ConfigError
from multiraft.storage.files import OsFiles
from multiraft.storage.repair import Repair
from multiraft.storage.salvage import DamagedGroup
from multiraft.storage.store import repair_store, wal_folder


@click.command("repair")
@click.argument("data_dir", metavar="DATA_DIR")
@click.option("--yes", is_flag=True, help="Do it. Without this, only say what would be done.")
@json_option
def repair(data_dir: str, yes: bool, as_json: bool) -> int:
    """Make a damaged log open again; groups that may have lost something stay stopped.

    For a host that is not running. Everything is copied to wal/backup-<n> before anything is
    changed, which needs as much room again. Exit status 1 if the log is damaged and was not repaired.
    """
    folder = os.path.abspath(data_dir)
    if not os.path.isdir(wal_folder(folder)):
        raise ConfigError("DATA_DIR", f"{data_dir} is no data folder of a host: it has no log")
    done = repair_store(OsFiles(), folder, random.SystemRandom().randrange, dry_run=not yes)
    if as_json:
        print_json({"ok": not done.damages, "repaired": done.backup is not None} | attrs.asdict(done))
    else:
        _print(data_dir, done)
    return 1 if done.damages and done.backup is None else 0


def _print(data_dir: str, done: Repair) -> None:
    if not done.damages:
        print(f"{data_dir}: the log is whole, nothing was changed")
        return
    for damage in done.damages:
        print(f"{damage} ({damage.bytes} bytes cannot be read)")
        for seen in damage.seen:
            print(f"  entries in it: group {seen.group}, {seen.first} to {seen.last}")
    columns = ("group", "commit", "entries kept", "entries dropped that can be read")
    print_table("damaged groups", columns, map(_row, done.damaged))
    print(f"{len(done.whole)} groups are whole, {len(done.damaged)} may have lost something")
    if done.backup is None:
        print("nothing was changed; run it again with --yes to repair the log")
    else:
        print(f"repaired; the log as it was is in {done.backup}")
        print("damaged groups open stopped: remove each here, and bring its member back under a new id")


def _row(each: DamagedGroup) -> tuple[object, ...]:
    kept = "none" if each.kept is None else _range(each.kept)
    return each.group, each.commit, kept, ", ".join(map(_range, each.dropped)) or "none"


def _range(indexes: tuple[int, int]) -> str:
    return f"{indexes[0]} to {indexes[1]}"
