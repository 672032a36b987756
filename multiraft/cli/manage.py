"""`multiraft create`, `join`, `leave`, `remove`, `transfer`, `step-down` and `snapshot`."""

from __future__ import annotations

from typing import Any

import click

from multiraft.cli.admin import Api, asks_host, group_argument, timeout_option
from multiraft.cli.output import print_json
from multiraft.cli.status import print_group, print_members


def _members(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> list[dict[str, Any]] | None:
    members = []
    for pair in pairs:
        id_, separator, address = pair.partition("=")
        if not (separator and id_.isascii() and id_.isdecimal()):
            raise click.BadParameter(f"{pair!r} is not ID=HOST:PORT")
        members.append({"id": int(id_), "address": address})
    return members or None


@click.command("create")
@group_argument
@click.option(
    "--member",
    "members",
    multiple=True,
    callback=_members,
    metavar="ID=HOST:PORT",
    help="A member of a predefined group; all of them, on every host.  [default: this host alone]",
)
@timeout_option
@asks_host
def create(
    group_id: int, members: list[dict[str, Any]] | None, timeout_s: float, api: Api, as_json: bool
) -> None:
    """Make a group on a host."""
    _print_group(api, api.post("groups", {"id": group_id, "members": members}, timeout_s), as_json)


@click.command("join")
@group_argument
@click.option("--via", required=True, metavar="HOST:PORT", help="Where hosts reach one that has the group.")
@click.option(
    "--role",
    type=click.Choice(["voter", "learner", "staging"]),
    default="voter",
    show_default=True,
    help="What the new member may do.",
)
@timeout_option
@asks_host
def join(group_id: int, via: str, role: str, timeout_s: float, api: Api, as_json: bool) -> None:
    """Make a host a member of a group that other hosts carry. Joining twice is harmless."""
    joined = api.post(f"groups/{group_id}/join", {"via": via, "role": role}, timeout_s)
    _print_group(api, joined, as_json)


@click.command("leave")
@group_argument
@timeout_option
@asks_host
def leave(group_id: int, timeout_s: float, api: Api, as_json: bool) -> None:
    """Remove a host's own member from a group. Its data stays until `multiraft remove`."""
    left = api.post(f"groups/{group_id}/leave", {}, timeout_s)
    if as_json:
        print_json(left)
    else:
        print_members(left)


@click.command("remove")
@group_argument
@click.option("--yes", is_flag=True, help="Really do it.")
@timeout_option
@asks_host
def remove(group_id: int, yes: bool, timeout_s: float, api: Api, as_json: bool) -> None:
    """Stop a group on a host and DELETE its data there. Its other members are not told.

    A member leaves with `multiraft leave` or `members remove` first.
    """
    if not yes:
        raise click.UsageError(f"this deletes what {api.place} has of group {group_id}: say --yes")
    done = api.post(f"groups/{group_id}/remove", {}, timeout_s)
    if as_json:
        print_json(done)
    else:
        print(f"group {group_id} is gone from {api.place}")


@click.command("transfer")
@group_argument
@click.argument("member", metavar="MEMBER", type=click.IntRange(1))
@timeout_option
@asks_host
def transfer(group_id: int, member: int, timeout_s: float, api: Api, as_json: bool) -> None:
    """Hand the leadership of a group to a voter, through any host that carries the group."""
    _print_leader(group_id, api.post(f"groups/{group_id}/transfer", {"to": member}, timeout_s), as_json)


@click.command("step-down")
@group_argument
@timeout_option
@asks_host
def step_down(group_id: int, timeout_s: float, api: Api, as_json: bool) -> None:
    """Have a host give up the leadership of a group, if it has it, to the voter furthest ahead."""
    _print_leader(group_id, api.post(f"groups/{group_id}/step-down", {}, timeout_s), as_json)


@click.command("snapshot")
@group_argument
@timeout_option
@asks_host
def snapshot(group_id: int, timeout_s: float, api: Api, as_json: bool) -> None:
    """Take a snapshot of a group on a host, without stopping the group."""
    taken = api.post(f"groups/{group_id}/snapshot", {}, timeout_s)
    if as_json:
        print_json(taken)
    else:
        print(f"group {group_id} up to index {taken['index']}: {taken['bytes']:,} bytes in {taken['path']}")


def _print_group(api: Api, found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        print_group(found, api.place)


def _print_leader(group_id: int, found: dict[str, Any], as_json: bool) -> None:
    leader = found["leader"]
    if as_json:
        print_json(found)
    elif leader is None:
        print(f"group {group_id} has no leader that this host knows of (term {found['term']})")
    else:
        print(
            f"group {group_id} is led by member {leader['id']} at {leader['address']} (term {found['term']})"
        )
