"""What a host says about itself and its groups, as plain values, and the kinds that describe them."""

from __future__ import annotations

import enum
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

import attrs
import trio

from multiraft.admin.kinds import (
    COUNT,
    ID,
    Address,
    Choice,
    Field,
    Flag,
    Integer,
    Many,
    Maybe,
    Number,
    Open,
    Record,
    Table,
    Text,
)
from multiraft.engine import Host
from multiraft.group import Group
from multiraft.status import GroupStatus
from multiraft.types import GroupId, Member, Role

PAGE_GROUPS: Final = 1_000
PAGE_GROUPS_MAX: Final = 10_000
MEMBERS_MAX: Final = 10_000
ROWS_AT_ONCE: Final = 200
"""A row takes some 10 µs, in the thread that the groups run in."""

# --- kinds ---------------------------------------------------------------------------------------

LEADER: Final = Record(
    "Leader", (Field("id", ID, "Of the member."), Field("address", Address(), "Of its host."))
)
MEMBER: Final = Record(
    "Member",
    (
        Field("id", ID, "Never used twice in its group."),
        Field("address", Address(), "Of the host that carries it."),
        Field("role", Choice(tuple(r.value for r in Role if r is not Role.REMOVED)), "What it may do."),
    ),
)
_MEMBERS: Final = (
    Field("members", Many(MEMBER, MEMBERS_MAX), "In the order of their ids, as of what is applied here."),
    Field("removed", Many(ID, MEMBERS_MAX), "Ids that were removed, and are never used again."),
    Field("version", COUNT, "Of the members: what `expected` is compared with."),
)
MEMBERS: Final = Record("Members", _MEMBERS)
_LOG: Final = (
    Field("commit", COUNT, "The last index known to be committed."),
    Field("applied", COUNT, "The last index applied here."),
    Field("first_index", COUNT, "The first index in the log here."),
    Field("last_index", COUNT, "The last one."),
)
_HEAD: Final = (
    Field("id", ID, "Of the group."),
    Field("member_id", ID, "Of this host's member."),
    Field("leader", Maybe(LEADER), "Null: none is known here."),
    Field("role", Choice(("follower", "pre_candidate", "candidate", "leader")), "This member's part."),
    Field("term", COUNT, "The present term."),
    *_LOG,
)
_STATE: Final = (
    Field("at_rest", Flag(), "It has no business, and costs nothing."),
    Field("failed", Maybe(Text(1 << 16, empty=True)), "Why it is stopped here. Null: it runs."),
)
GROUP_ROW: Final = Record(
    "GroupRow", (*_HEAD, Field("members", COUNT, "How many; removed ones left out."), *_STATE)
)
PROGRESS: Final = Record(
    "Progress",
    (
        Field("match", COUNT, "The last index the member is known to have on disk."),
        Field("next", COUNT, "What it is sent next."),
        Field("state", Choice(("probe", "replicate", "snapshot")), "How it is sent entries."),
        Field("active", Flag(), "It was heard from lately."),
    ),
)
STAGING: Final = Record(
    "Staging",
    (
        Field("match", COUNT, "The last index the member is known to have on disk."),
        Field("needed", COUNT, "What it needs to have now to count as caught up."),
        Field("caught_up_for_s", Number(math.inf, zero=True), "For how long it has been, without a break."),
        Field("reason", Text(1 << 16, empty=True), "What it, or the leader, is waiting for."),
    ),
)
GROUP: Final = Record(
    "Group",
    (
        *_HEAD,
        Field("snapshot_index", COUNT, "Where the newest snapshot stands."),
        *_MEMBERS,
        Field("progress", Table(PROGRESS), "By member id. Empty where this host does not lead."),
        Field("staging", Table(STAGING), "Why members are staging still, by id. Empty as `progress`."),
        *_STATE,
        Field("generation", COUNT, "0, or a random number since the group was recovered by force."),
        Field("warnings", Many(Text(1 << 16), 1000), "What somebody should look after, newest last."),
    ),
)
_PAGE: Final = (
    Field("groups_total", COUNT, "Of this host."),
    Field("groups", Many(GROUP_ROW, PAGE_GROUPS_MAX), "In the order of their ids."),
    Field("next", Maybe(ID), "`after` for the next page. Null: there is none."),
)
GROUP_PAGE: Final = Record("GroupPage", _PAGE)
STATISTICS: Final = Record(  # more counters come with every version, so none is promised by name
    "Statistics",
    (
        Field("scheduler", Open(), "Groups here, led and stopped; passes; entries applied."),
        Field("log", Open(), "Segments, bytes, syncs, cache."),
        Field("transport", Many(Open(), 1 << 20), "Each lane to each other host."),
        Field("collections", COUNT, "Looks of Python's collector of garbage at young objects."),
        Field("collection_ms_max", Number(math.inf, zero=True), "The longest of them, in ms."),
    ),
)
STATUS: Final = Record(
    "Status",
    (
        Field("address", Address(), "What other hosts dial."),
        Field("cluster_id", Text(), "Hosts with another one are refused."),
        Field("statistics", STATISTICS, "Counters since the host was opened."),
        *_PAGE,
    ),
)
PAGE_ARGUMENTS: Final = (
    Field("after", Integer(), "Groups with ids above it.", default=0),
    Field("limit", Integer(0, PAGE_GROUPS_MAX), "Groups at most.", default=PAGE_GROUPS),
)

# --- values --------------------------------------------------------------------------------------


async def host_status(host: Host, *, after: GroupId, limit: int) -> dict[str, object]:
    """The host, and up to `limit` of its groups with ids above `after`."""
    return {
        "address": host.address,
        "cluster_id": host.config.cluster_id,
        "statistics": plain(host.statistics()),
        **await group_page(host, after=after, limit=limit),
    }


async def group_page(host: Host, *, after: GroupId, limit: int) -> dict[str, object]:
    """`next` is what to pass as `after` for the groups that follow; None: there are none.

    A long page lets others run on the way, so its groups are not all as of one moment.
    """
    ids = sorted(host.groups)
    start = bisect_right(ids, after)
    page = ids[start : start + limit]
    rows: list[dict[str, object]] = []
    for place, group_id in enumerate(page):
        if place % ROWS_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        group = host.groups.get(group_id)
        if group is not None:  # it may be gone by now
            rows.append(group_row(group))
    return {
        "groups_total": len(ids),
        "groups": rows,
        "next": page[-1] if page and len(ids) > start + len(page) else None,
    }


def group_row(group: Group) -> dict[str, object]:
    """One of many: its members are only counted."""
    status = group.status()
    present = sum(member.role is not Role.REMOVED for member in status.members.values())
    return {**_head(status), "members": present, "at_rest": status.at_rest, "failed": status.failed}


def group_status(group: Group) -> dict[str, object]:
    """All that the host knows of a group."""
    status = group.status()
    return {
        **_head(status),
        "snapshot_index": status.snapshot_index,
        **_members(status.members, status.version),
        "progress": plain(status.progress),
        "staging": plain(status.staging),
        "generation": status.generation,
        "warnings": list(status.warnings),
        "at_rest": status.at_rest,
        "failed": status.failed,
    }


def _head(status: GroupStatus) -> dict[str, object]:
    leader = status.leader
    return {
        "id": status.id,
        "member_id": status.member_id,
        "leader": None if leader is None else {"id": leader.id, "address": leader.address},
        "role": status.role,
        "term": status.term,
        "commit": status.commit,
        "applied": status.applied,
        "first_index": status.first_index,
        "last_index": status.last_index,
    }


def members_status(group: Group) -> dict[str, object]:
    """The members of a group and their version, which belong together."""
    status = group.status()
    return _members(status.members, status.version)


def member_row(member: Member) -> dict[str, object]:
    return {"id": member.id, "address": member.address, "role": member.role.value}


def _members(members: Mapping[int, Member], version: int) -> dict[str, object]:
    listed = sorted(members.values(), key=lambda member: member.id)
    return {
        "members": [member_row(member) for member in listed if member.role is not Role.REMOVED],
        "removed": [member.id for member in listed if member.role is Role.REMOVED],
        "version": version,
    }


def plain(value: object) -> object:
    """`value` with attrs classes as objects and nothing that JSON does not have."""
    kind = type(value)
    if attrs.has(kind):
        return {field.name: plain(getattr(value, field.name)) for field in attrs.fields(kind)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value.value, str) else value.name.lower()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, Iterable):
        return [plain(each) for each in islice(value, 10_000)]
    return str(value)
