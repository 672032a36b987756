"""`multiraft recover …`: groups that have lost their members, or their majority, for good."""

from __future__ import annotations

import sys

import click

from multiraft.cli.admin import Api, asks_host, group_argument, timeout_option
from multiraft.cli.output import print_json
from multiraft.cli.status import print_group


@click.group("recover", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> int:
    """Bring back a group that has lost its members, or a majority of them, for good.

    docs/operations.md says which of the two fits, and what has to be sure before.
    """
    if ctx.invoked_subcommand is not None:
        return 0
    print(ctx.get_help(), file=sys.stderr)
    return 2


@command.command("force-new")
@group_argument
@click.option("--yes", is_flag=True, help="Really do it.")
@timeout_option
@asks_host
def force_new(group_id: int, yes: bool, timeout_s: float, api: Api, as_json: bool) -> None:
    """Have a group go on alone, from what ONE host has of it.

    What that host lacks is lost, and all other members are removed. Never while a majority of them may
    still be running somewhere: it would go on as well, as another group.
    """
    if not yes:
        raise click.UsageError(
            f"group {group_id} goes on alone on {api.place}, and what it lacks is lost: say --yes"
        )
    _print(api, api.post(f"groups/{group_id}/force-new", {}, timeout_s), as_json)


@command.command("restore")
@group_argument
@click.option("--snapshot", required=True, metavar="PATH", help="The file, on the host that is asked.")
@timeout_option
@asks_host
def restore(group_id: int, snapshot: str, timeout_s: float, api: Api, as_json: bool) -> None:
    """Make a new group from a snapshot file of any group, on one host; others join it then."""
    body = {"snapshot": snapshot}
    _print(api, api.post(f"groups/{group_id}/restore", body, timeout_s), as_json)


def _print(api: Api, found: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        print_group(found, api.place)
