"""`multiraft members …`: who belongs to a group."""

from __future__ import annotations

from typing import Any

import click

from multiraft.cli.admin import Api, asks_host, group_argument, timeout_option
from multiraft.cli.output import print_json
from multiraft.cli.status import print_members

ROLES = click.Choice(["voter", "learner", "staging"])
member_argument = click.argument("member", metavar="MEMBER", type=click.IntRange(1))
address_argument = click.argument("address_of", metavar="ADDRESS")
expected_option = click.option(
    "--expected",
    type=click.IntRange(0),
    metavar="VERSION",
    help="Refuse the change if the members were changed since they had this version.",
)


@click.group("members", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> int:
    """Show and change the members of a group, through any host that carries it."""
    if ctx.invoked_subcommand is not None:
        return 0
    click.echo(ctx.get_help(), err=True)
    return 2


@command.command("list")
@group_argument
@asks_host
def list_members(group_id: int, api: Api, as_json: bool) -> None:
    """Show the members. On the leader's host also how far each of them is."""
    if as_json:
        print_json(api.get(f"groups/{group_id}/members", "members", "version"))
    else:
        print_members(api.group(group_id))


@command.command("add")
@group_argument
@address_argument
@click.option("--id", "member", type=click.IntRange(1), help="The new member's id.  [default: a random one]")
@click.option("--role", type=ROLES, default="voter", show_default=True, help="What it may do.")
@expected_option
@timeout_option
@asks_host
def add(
    group_id: int,
    address_of: str,
    member: int | None,
    role: str,
    expected: int | None,
    timeout_s: float,
    api: Api,
    as_json: bool,
) -> None:
    """Add a member at ADDRESS, where other hosts reach its host.

    `multiraft join` on that host does both, and is what you want as a rule.
    """
    body = {"id": member, "address": address_of, "role": role, "expected": expected}
    _change(api, group_id, "add", body, timeout_s, as_json)


@command.command("remove")
@group_argument
@member_argument
@expected_option
@timeout_option
@asks_host
def remove(
    group_id: int, member: int, expected: int | None, timeout_s: float, api: Api, as_json: bool
) -> None:
    """Remove a member, dead or alive. Its id is never used again."""
    _change(api, group_id, "remove", {"member": member, "expected": expected}, timeout_s, as_json)


@command.command("update")
@group_argument
@member_argument
@address_argument
@expected_option
@timeout_option
@asks_host
def update(
    group_id: int,
    member: int,
    address_of: str,
    expected: int | None,
    timeout_s: float,
    api: Api,
    as_json: bool,
) -> None:
    """Say that a member's host is at ADDRESS now."""
    body = {"member": member, "address": address_of, "expected": expected}
    _change(api, group_id, "update", body, timeout_s, as_json)


@command.command("promote")
@group_argument
@member_argument
@expected_option
@timeout_option
@asks_host
def promote(
    group_id: int, member: int, expected: int | None, timeout_s: float, api: Api, as_json: bool
) -> None:
    """Make a learner a voter."""
    _change(api, group_id, "promote", {"member": member, "expected": expected}, timeout_s, as_json)


@command.command("demote")
@group_argument
@member_argument
@expected_option
@timeout_option
@asks_host
def demote(
    group_id: int, member: int, expected: int | None, timeout_s: float, api: Api, as_json: bool
) -> None:
    """Make a voter a learner."""
    _change(api, group_id, "demote", {"member": member, "expected": expected}, timeout_s, as_json)


@command.command("change")
@group_argument
@click.option("--add", "voters", multiple=True, metavar="ADDRESS", help="Add a voter there.")
@click.option("--add-learner", "learners", multiple=True, metavar="ADDRESS", help="Add a learner there.")
@click.option("--remove", multiple=True, type=click.IntRange(1), metavar="MEMBER", help="Remove it.")
@click.option("--promote", multiple=True, type=click.IntRange(1), metavar="MEMBER", help="Make it a voter.")
@click.option("--demote", multiple=True, type=click.IntRange(1), metavar="MEMBER", help="Make it a learner.")
@expected_option
@timeout_option
@asks_host
def change(
    group_id: int,
    voters: tuple[str, ...],
    learners: tuple[str, ...],
    remove: tuple[int, ...],
    promote: tuple[int, ...],
    demote: tuple[int, ...],
    expected: int | None,
    timeout_s: float,
    api: Api,
    as_json: bool,
) -> None:
    """Several changes as one. Each option may be given several times.

    At no moment is only a part of them in force.
    """
    added = [(each, "voter") for each in voters] + [(each, "learner") for each in learners]
    body = {
        "add": [{"address": address, "role": role} for address, role in added],
        "remove": remove,
        "promote": promote,
        "demote": demote,
        "expected": expected,
    }
    if not any((added, remove, promote, demote)):
        raise click.UsageError(
            "nothing to change: give --add, --add-learner, --remove, --promote or --demote"
        )
    _change(api, group_id, "change", body, timeout_s, as_json)


def _change(
    api: Api, group_id: int, what: str, body: dict[str, Any], timeout_s: float, as_json: bool
) -> None:
    changed = api.post(f"groups/{group_id}/members/{what}", body, timeout_s)
    if as_json:
        print_json(changed)
        return
    for member in changed["added"]:
        print(f"added member {member['id']} at {member['address']} as {member['role']}")
    print_members(changed)
