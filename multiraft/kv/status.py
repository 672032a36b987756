"""A host's statistics and groups as plain values, for `/admin/status`."""

from __future__ import annotations

import enum
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import islice

import attrs

from multiraft.engine import Host
from multiraft.group import Group
from multiraft.types import GroupId


def host_status(host: Host, *, after: GroupId, limit: int) -> dict[str, object]:
    """The host, and up to `limit` of its groups with ids above `after`.

    `next` is what to pass as `after` for the groups that follow; None: there are none.
    """
    ids = sorted(host.groups)
    rest = ids[bisect_right(ids, after) :]
    page = rest[:limit]
    return {
        "address": host.address,
        "cluster_id": host.config.cluster_id,
        "statistics": plain(host.statistics()),
        "groups_total": len(ids),
        "groups": [group_row(host.group(group_id)) for group_id in page],
        "next": page[-1] if page and len(rest) > len(page) else None,
    }


def group_row(group: Group) -> dict[str, object]:
    status = group.status()
    leader = group.leader
    return {
        "id": group.id,
        "member_id": group.member_id,
        "leader": None if leader is None else {"id": leader.id, "address": leader.address},
        "role": status.role,
        "term": status.term,
        "commit": status.commit,
        "applied": status.applied,
        "first_index": status.first_index,
        "last_index": status.last_index,
        "members": len(status.members),
        "at_rest": status.at_rest,
        "failed": status.failed,
    }


def plain(value: object) -> object:
    """`value` with attrs classes as objects and nothing that JSON does not have."""
    kind = type(value)
    if attrs.has(kind):
        return {field.name: plain(getattr(value, field.name)) for field in attrs.fields(kind)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, Iterable):
        return [plain(each) for each in islice(value, 10_000)]
    return str(value)
