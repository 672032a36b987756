"""`multiraft events`: what happens on a running host, as it happens."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import click

from multiraft.cli.admin import Api, asks_host
from multiraft.cli.output import print_json

SILENT = {"Listening", "KeepAlive"}
"""For people, who see anyway that it listens."""


@click.command("events")
@asks_host
def command(api: Api, as_json: bool) -> int:
    """Show what happens on a host, in all of its groups, until Ctrl-C.

    With --json one object a line, as they come. Exit status 1: the host closed.
    """
    for event in api.lines("events"):
        if as_json:
            print_json(event)
        elif event["event"] not in SILENT:
            told = ", ".join(f"{name} {_shown(value)}" for name, value in event["about"].items())
            print(f"{datetime.now():%H:%M:%S}  {event['event']}  {told}", flush=True)
    return 1


def _shown(value: object) -> object:
    """A value as it reads in one line."""
    if value is None:
        return "none"
    if isinstance(value, Mapping) and {"id", "address"} <= value.keys():
        role = "" if value.get("role") in (None, "voter") else f" ({value['role']})"
        return f"{value['id']} at {value['address']}{role}"
    if isinstance(value, Mapping):
        return "; ".join(str(_shown(each)) for each in value.values())
    return value
