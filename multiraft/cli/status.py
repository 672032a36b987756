"""`multiraft status`, `groups` and `group`: what a running host says about itself."""

from __future__ import annotations

from typing import Any

import click

from multiraft.cli.admin import Api, asks_host
from multiraft.cli.output import print_facts, print_json, print_table

COLUMNS = ("group", "role", "leader", "term", "commit", "applied", "log", "members", "state")


@click.command("status")
@asks_host
def status(api: Api, as_json: bool) -> None:
    """Show how a host is doing: its groups in numbers, its log, its links."""
    body = api.status()
    if as_json:
        print_json(body)
        return
    counted, rows = body["statistics"], body["groups"]
    scheduler, log = counted["scheduler"], counted["log"]
    print_facts(
        f"host {body['address']} of cluster {body['cluster_id']}",
        {
            "groups": f"{len(rows):,}, {scheduler['leading']:,} led here",
            "without a leader": sum(row["leader"] is None for row in rows),
            "at rest": sum(row["at_rest"] for row in rows),
            "stopped": scheduler["stopped"],
            "passes": f"{scheduler['passes']:,}, longest {scheduler['pass_ms_max']:.1f} ms",
            "applied": f"{scheduler['applied_entries']:,} entries",
            "log": f"{log['segments']} segments of {_mib(log['bytes'])}, {_mib(log['live_bytes'])} needed",
            "syncs": f"{log['syncs']:,}",
        },
    )
    if counted["transport"]:
        print_table(
            "links to other hosts",
            ("peer", "lane", "state", "frames", "sent", "dropped"),
            [_link_row(link) for link in counted["transport"]],
        )


@click.command("groups")
@asks_host
def groups(api: Api, as_json: bool) -> None:
    """List the groups of a host."""
    rows = api.groups()
    if as_json:
        print_json({"groups": rows})
    else:
        print_table(f"{len(rows)} groups on {api.place}", COLUMNS, map(_group_row, rows))


@click.command("group")
@click.argument("group_id", metavar="ID", type=click.IntRange(1))
@asks_host
def group(group_id: int, api: Api, as_json: bool) -> None:
    """Show one group as a host sees it, with its members."""
    found = api.group(group_id)
    if as_json:
        print_json(found)
    else:
        print_group(found, api.place)


def print_group(found: dict[str, Any], place: str) -> None:
    """All of a group, for people."""
    row = {**found, "members": len(found["members"])}
    facts = dict(zip(COLUMNS[1:], _group_row(row)[1:], strict=True))
    print_facts(f"group {found['id']} on {place}", {"own member": found["member_id"], **facts})
    print_members(found)
    for warning in found.get("warnings", ()):
        print(f"warning: {warning}")


def print_members(found: dict[str, Any]) -> None:
    """The members of a group, and how far the leader knows them to be, if this is it."""
    leader = found.get("leader") or {"id": None}
    progress = found.get("progress") or {}
    staging = found.get("staging") or {}
    print_table(
        f"members, version {found['version']}" + _removed(found["removed"]),
        ("id", "address", "role", "", *(("on disk", "state") if progress else ())),
        [
            (
                member["id"],
                member["address"],
                _role(member["role"], staging.get(str(member["id"]))),
                "leader" if member["id"] == leader["id"] else "",
                *(_progress(progress.get(str(member["id"]))) if progress else ()),
            )
            for member in found["members"]
        ],
    )


def _role(role: str, staging: dict[str, Any] | None) -> str:
    return role if staging is None else f"{role}: {staging['reason']}"


def _progress(known: dict[str, Any] | None) -> tuple[object, ...]:
    if known is None:
        return "", ""
    return f"to {known['match']}", known["state"] if known["active"] else f"{known['state']}, not heard from"


def _removed(ids: list[int]) -> str:
    return f"; removed: {', '.join(map(str, ids))}" if ids else ""


def _group_row(row: dict[str, Any]) -> tuple[object, ...]:
    leader = row["leader"]
    return (
        row["id"],
        row["role"],
        "none" if leader is None else f"{leader['address']} (member {leader['id']})",
        row["term"],
        row["commit"],
        row["applied"],
        f"{row['first_index']} to {row['last_index']}",
        row["members"],
        row["failed"] or ("at rest" if row["at_rest"] else "running"),
    )


def _link_row(link: dict[str, Any]) -> tuple[object, ...]:
    state = "up" if link["up"] else f"down: {link['reason'] or 'not opened yet'}"
    return link["address"], link["lane"], state, f"{link['frames']:,}", _mib(link["bytes"]), link["dropped"]


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
