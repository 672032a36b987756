"""What each operation does: a call of the public API, its arguments checked and its answer plain.

An operation gets a `Call` and returns what its route's `answer` describes. It raises what the API
raises; who serves it makes statuses of that (failures.py), and sees to timeouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from multiraft.admin.kinds import BadRequest
from multiraft.admin.status import group_page, group_status, host_status, member_row, members_status
from multiraft.engine import Host
from multiraft.group import Group
from multiraft.types import GroupId, Member, Role


@attrs.frozen
class Call:
    """One request that was understood. `group_id` is 0 where the path names no group."""

    host: Host
    group_id: GroupId
    values: Mapping[str, Any]
    """The arguments: of the query, or of the body."""

    @property
    def group(self) -> Group:
        """Raises: GroupNotFound."""
        return self.host.group(self.group_id)


# --- looking ---------------------------------------------------------------------------------------


async def get_status(call: Call) -> object:
    return await host_status(call.host, after=call.values["after"], limit=call.values["limit"])


async def list_groups(call: Call) -> object:
    return await group_page(call.host, after=call.values["after"], limit=call.values["limit"])


async def get_group(call: Call) -> object:
    return group_status(call.group)


async def list_members(call: Call) -> object:
    return members_status(call.group)


# --- groups of this host -----------------------------------------------------------------------------


async def create_group(call: Call) -> object:
    values = call.values
    members = values["members"]
    listed = None if members is None else [new_member(each) for each in members]
    return group_status(await call.host.create_group(values["id"], listed, **_limits(values)))


async def create_groups(call: Call) -> object:
    wanted: dict[GroupId, list[Member]] = {}
    for place, each in enumerate(call.values["groups"]):
        if each["id"] in wanted:
            raise BadRequest(f"groups[{place}].id", f"group {each['id']} is there twice")
        wanted[each["id"]] = [new_member(member) for member in each["members"]]
    return {"groups": sorted(await call.host.create_groups(wanted, **_limits(call.values)))}


async def join_group(call: Call) -> object:
    role = Role(call.values["role"])
    return group_status(await call.host.join_group(call.group_id, call.values["via"], role=role))


async def remove_group(call: Call) -> object:
    await call.host.remove_group(call.group_id)
    return {"removed": call.group_id}


async def restore_group(call: Call) -> object:
    values = call.values
    group = await call.host.restore_group(call.group_id, snapshot=values["snapshot"], **_limits(values))
    return group_status(group)


async def force_new_group(call: Call) -> object:
    return group_status(await call.host.force_new_group(call.group_id))


def _limits(values: Mapping[str, Any]) -> dict[str, int]:
    return {name: value for name, value in (values["limits"] or {}).items() if value is not None}


# --- members -------------------------------------------------------------------------------------------


def new_member(values: Mapping[str, Any]) -> Member:
    """The API takes 0 for an id that it is to pick."""
    return Member(values["id"] or 0, values["address"], Role(values["role"]))


async def add_member(call: Call) -> object:
    member = await call.group.add_member(new_member(call.values), expected=call.values["expected"])
    return _changed(call.group, [member])


async def remove_member(call: Call) -> object:
    await call.group.remove_member(call.values["member"], expected=call.values["expected"])
    return _changed(call.group)


async def update_member(call: Call) -> object:
    values = call.values
    await call.group.update_member(values["member"], address=values["address"], expected=values["expected"])
    return _changed(call.group)


async def promote_member(call: Call) -> object:
    await call.group.promote_member(call.values["member"], expected=call.values["expected"])
    return _changed(call.group)


async def demote_member(call: Call) -> object:
    await call.group.demote_member(call.values["member"], expected=call.values["expected"])
    return _changed(call.group)


async def change_members(call: Call) -> object:
    values = call.values
    added = await call.group.change_membership(
        add=[new_member(each) for each in values["add"]],
        remove=values["remove"],
        promote=values["promote"],
        demote=values["demote"],
        expected=values["expected"],
    )
    return _changed(call.group, added)


async def leave(call: Call) -> object:
    await call.group.leave()
    return _changed(call.group)


def _changed(group: Group, added: list[Member] | None = None) -> object:
    return {"added": [member_row(each) for each in added or []], **members_status(group)}


# --- leadership and snapshots ----------------------------------------------------------------------------


async def transfer_leadership(call: Call) -> object:
    await call.group.transfer_leadership(call.values["to"])
    return _led(call.group)


async def step_down(call: Call) -> object:
    await call.group.step_down()
    return _led(call.group)


async def take_snapshot(call: Call) -> object:
    return attrs.asdict(await call.group.snapshot())


def _led(group: Group) -> object:
    status = group_status(group)
    return {"leader": status["leader"], "term": status["term"]}
