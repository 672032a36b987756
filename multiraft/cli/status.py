"""`multiraft status`, `groups` and `group`: what a running host says about itself."""

from __future__ import annotations

from typing import Any

import click

from multiraft.cli.admin import fetch_group, fetch_status, host_option, json_option
from multiraft.cli.output import print_facts, print_json, print_table

COLUMNS = ("group", "role", "leader", "term", "commit", "applied", "log", "members", "state")


@click.command("status")
@host_option
@json_option
def status(address: str, as_json: bool) -> None:
    """Show how a host is doing: its groups in numbers, its log, its links."""
    body = fetch_status(address)
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
@host_option
@json_option
def groups(address: str, as_json: bool) -> None:
    """List the groups of a host."""
    rows = fetch_status(address)["groups"]
    if as_json:
        print_json({"groups": rows})
    else:
        print_table(f"{len(rows)} groups on {address}", COLUMNS, map(_group_row, rows))


@click.command("group")
@click.argument("group_id", metavar="ID", type=click.IntRange(1))
@host_option
@json_option
def group(group_id: int, address: str, as_json: bool) -> None:
    """Show one group as a host sees it."""
    row = fetch_group(address, group_id)
    if as_json:
        print_json(row)
    else:
        print_facts(
            f"group {group_id} on {address}", dict(zip(COLUMNS[1:], _group_row(row)[1:], strict=True))
        )


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
    lane = str(link["lane"]).lower()
    return link["address"], lane, state, f"{link['frames']:,}", _mib(link["bytes"]), link["dropped"]


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
