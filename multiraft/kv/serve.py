"""A host of the key-value store: `multiraft serve`.

The division of keys over groups is part of every host's configuration, and hosts that divide
them differently would look for a key in different groups. So the first group remembers the
division it was used with first, and a host whose own differs does not serve.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import structlog
import trio

from multiraft.admin.guard import OPEN_ADDRESS
from multiraft.admin.serve import Door, open_door, serving
from multiraft.config import HostConfig
from multiraft.engine import Host, open_host
from multiraft.errors import ConfigError, HostClosed, MembershipRejected, MultiraftError
from multiraft.kv.commands import GetClaim, encode_claim
from multiraft.kv.config import DEFAULT_GROUPS
from multiraft.kv.http import make_app
from multiraft.kv.machine import SqliteMachines
from multiraft.kv.ranges import FIRST_GROUP, Ranges
from multiraft.types import GroupId, Member

FILE_NAME = "kv.sqlite3"
CLAIM_RETRY_S = 1.0
log = structlog.get_logger("multiraft.kv")


@attrs.frozen
class Served:
    """A host of the store that is up."""

    host: Host
    http: str
    """`host:port` of the HTTP API, with the real port."""


async def serve_kv(
    config: HostConfig,
    *,
    groups: int = DEFAULT_GROUPS,
    members: Sequence[Member] = (),
    ranges: Ranges | None = None,
    join: bool = False,
    task_status: trio.TaskStatus[Served] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until SIGTERM or SIGINT, then stop cleanly.

    Needs the main thread, as signals arrive there; `open_kv` does not.

    Args:
        config: `http` must be set.
        groups: Number of groups when `ranges` is not given: they divide the space of bytes
            evenly. Default: 16.
        members: Members of every group, the same on every host; `members_of` makes them from
            addresses. Default: this host alone.
        ranges: How keys are divided, the same on every host.
        join: Make no groups here: this host joins those of others. Default: make what is missing.
        task_status: Started with `Served` when the HTTP API is up.

    Raises:
        As `open_kv`.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_kv(config, groups=groups, members=members, ranges=ranges, join=join) as served:
            log.info("serving", http=served.http, hosts=served.host.address)
            task_status.started(served)
            async for number in signals:
                log.info("stopping", signal=signal.Signals(number).name)
                return


@asynccontextmanager
async def open_kv(
    config: HostConfig,
    *,
    groups: int = DEFAULT_GROUPS,
    members: Sequence[Member] = (),
    ranges: Ranges | None = None,
    join: bool = False,
) -> AsyncIterator[Served]:
    """A host of the store that serves as long as the block runs. Arguments as for `serve_kv`.

    Raises:
        ConfigError: `http` is not set, or the cluster's keys are divided in another way.
        AddressInUse: `http` or `listen` cannot be bound.
        NotMember: This host's address is not among the members'.
        MultiraftError: What `open_host` raises, or what stopped the host later.
    """
    if config.http is None:
        raise ConfigError("http", "is required: the store is served there")
    division = Ranges.even(groups) if ranges is None else ranges
    machines = SqliteMachines(os.path.join(config.data_dir, FILE_NAME))
    try:
        # open_host lets exceptions out bare, those of the nurseries below included.
        async with open_door(config) as door, open_host(config, machines) as host:
            _check_division(host, division)
            if not join:
                await _create_missing(host, division, members)
            async with _serving(host, division, door) as served:
                yield served
    finally:
        machines.close()


@asynccontextmanager
async def _serving(host: Host, ranges: Ranges, door: Door) -> AsyncIterator[Served]:
    claim = _Claim(host, ranges)
    app = make_app(host, ranges, door.guard, not_ready=claim.not_ready)
    if door.guard.closed:
        log.warning("the admin API is closed", http=door.address, reason=OPEN_ADDRESS)
    async with serving(host, app, door), trio.open_nursery() as nursery:
        nursery.start_soon(claim.check)
        yield Served(host, door.address)
        nursery.cancel_scope.cancel()


def _check_division(host: Host, ranges: Ranges) -> None:
    """Before anything is made: a division that is known to be wrong must not make groups."""
    first = host.groups.get(FIRST_GROUP)
    standing = None if first is None or first.status().failed else first.stale_query(GetClaim())
    if standing not in {None, ranges.fingerprint()}:
        raise _other_division()


async def _create_missing(host: Host, ranges: Ranges, members: Sequence[Member]) -> None:
    everyone = list(members) or [Member(1, host.address)]
    missing = [group for group in ranges.groups if group not in host.groups]
    if missing:
        log.info("creating groups", count=len(missing))
        try:
            await host.create_groups(dict.fromkeys(missing, everyone))
        except MembershipRejected:  # of one of them, before any was made
            await _create_what_is_ours(host, missing, everyone)


async def _create_what_is_ours(host: Host, missing: Sequence[GroupId], everyone: Sequence[Member]) -> None:
    """Leave out the groups that this host's member was taken out of: it can only join those again."""
    for group in missing:
        try:
            await host.create_group(group, everyone)
        except MembershipRejected as error:
            log.warning("a group is not carried here any more", group=group, reason=str(error))


class _Claim:
    """Has the cluster confirm that this host divides the keys as all others do."""

    def __init__(self, host: Host, ranges: Ranges) -> None:
        self._host = host
        self._mine = ranges.fingerprint()
        self._confirmed = False

    def not_ready(self) -> str | None:
        if self._confirmed:
            return None
        if FIRST_GROUP not in self._host.groups:
            return f"group {FIRST_GROUP} is not on this host, which has to join it first (multiraft join)"
        return "the cluster has not confirmed yet how keys are divided; it needs a quorum for that"

    async def check(self) -> None:
        """Raises: ConfigError when the cluster divides them in another way."""
        standing: object = None
        while standing is None:
            try:
                # It may not be here just now: its member can be moved like that of any group.
                group = self._host.group(FIRST_GROUP)
                standing = group.stale_query(GetClaim())
                if standing is None:
                    standing = await group.propose(encode_claim(self._mine))
            except HostClosed:
                return
            except MultiraftError as error:
                log.warning("still starting", reason=str(error))
                await trio.sleep(CLAIM_RETRY_S)
        if standing != self._mine:
            raise _other_division()
        self._confirmed = True


def _other_division() -> ConfigError:
    return ConfigError(
        "ranges",
        "this cluster divides its keys over groups in another way; give this host the groups and "
        "boundaries that the others have, and that it was first started with",
    )
