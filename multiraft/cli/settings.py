"""`--set FIELD=VALUE`: any field of `HostConfig` from the command line."""

from __future__ import annotations

import tomllib
from typing import Any

import click


def _read(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise click.BadParameter(f"{pair!r} is not FIELD=VALUE")
        try:
            settings[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[name.strip()] = value  # a string needs no quotes here
    return settings


settings_option = click.option(
    "--set",
    "settings",
    multiple=True,
    callback=_read,
    metavar="FIELD=VALUE",
    help="A field of the host's configuration, the value as in TOML. May be given several times.",
)
"""Adds a parameter `settings`, a dictionary."""
