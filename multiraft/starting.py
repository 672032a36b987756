"""The calls of a host that get groups going which are not simply made: fallback start, and recovery."""

from __future__ import annotations

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import structlog
import trio

from multiraft.errors import ConfigError, GroupFailed, GroupNotFound, NotMember, StateMachineFailed
from multiraft.forced import point_of
from multiraft.group import Group
from multiraft.interfaces import SnapshotFile
from multiraft.membership import GroupMeta
from multiraft.messages import Snapshot
from multiraft.types import GroupId, Member, Role
from multiraft.waiters import TaskWaiter

if TYPE_CHECKING:
    from multiraft.scheduler import Scheduler

log = structlog.get_logger("multiraft")


class Importer(Protocol):
    """Takes snapshot files over as files of a new group."""

    def write(
        self, path: str, group: GroupId, generation: int, point: Callable[[Snapshot], Snapshot]
    ) -> SnapshotFile:
        """Verify the file at `path`, and copy its state under a head that `point` says. Blocks.

        Raises: SnapshotInvalid, StorageFailed.
        """


class RecoveryCalls(ABC):
    """Starting and recovering groups; see `Host`."""

    _scheduler: Scheduler
    _importer: Importer

    @property
    @abstractmethod
    def address(self) -> str: ...

    @property
    @abstractmethod
    def groups(self) -> Mapping[GroupId, Group]: ...

    @abstractmethod
    def group(self, group_id: GroupId) -> Group: ...

    @abstractmethod
    async def create_group(
        self, group_id: GroupId, members: Sequence[Member] | None = None, **limits: int
    ) -> Group: ...

    @abstractmethod
    async def join_group(self, group_id: GroupId, via: str, *, role: Role = Role.VOTER) -> Group: ...

    @abstractmethod
    async def remove_group(self, group_id: GroupId) -> None: ...

    @abstractmethod
    def _check_limits(self, limits: Mapping[str, int]) -> None: ...

    async def start_group(
        self,
        group_id: GroupId,
        members: Sequence[Member] | None = None,
        *,
        via: str | None = None,
        role: Role = Role.VOTER,
        **limits: int,
    ) -> Group:
        """Get a group going, whatever is here of it: the one call for every start of a program.

        A group that is here, since an earlier call or from before a restart, is what counts: it is
        returned, and the other arguments are not looked at. Where joining it was interrupted, `via`
        goes on with that. A group that is not here is joined with `via`, as `join_group` does, or
        made with `members`, as `create_group` does.

        Args:
            group_id: The group.
            members: The list of a predefined cluster.
            via: The address of any host with a member of the group.
            role: For `via`: `Role.VOTER` or `Role.LEARNER`.
            **limits: For `members`, as `create_group` takes them.

        Raises:
            GroupNotFound: It is not here, and neither `members` nor `via` is given.
            ConfigError: Both are given; or as `create_group` and `join_group`.
            MemberRemoved, GroupFailed, StateMachineFailed: It is here, and stopped.
            MultiraftError: What else `create_group` and `join_group` raise.
        """
        if members is not None and via is not None:
            raise ConfigError(
                "members", "a group is made from a list of members or joined via a host, not both"
            )
        self._scheduler.check_open()
        group = self.groups.get(check_group_id(group_id))
        if group is not None:
            group.check_running()
            if group.membership.members or via is None:
                await trio.lowlevel.checkpoint()
                return group
        if via is not None:
            return await self.join_group(group_id, via, role=role)
        if members is None:
            raise GroupNotFound(group_id)
        return await self.create_group(group_id, members, **limits)

    async def restore_group(
        self, group_id: GroupId, *, snapshot: str | os.PathLike[str], **limits: int
    ) -> Group:
        """Make a new group from a snapshot file; this host is its only member.

        The file may be of any group of any cluster, and is only read. The new group has a new
        generation, this host under a random member id, and keeps all members that the file knows as
        removed, so that their ids never come back.

        Args:
            group_id: Not in use on this host. If other hosts carry a group of this id, the two never
                mix; but programs that ask those hosts see the other one.
            snapshot: A path.
            **limits: As `create_group` takes them.

        Returns:
            The group, leading itself.

        Raises:
            GroupExists: The id is in use here.
            SnapshotInvalid: The file is missing, damaged or no snapshot; nothing was made.
            StateMachineFailed: The machine raised, or has state of a former group of that id; no group
                was made.
            ConfigError: The id, the path or a limit makes no sense.
            StorageFailed, HostClosed: The host cannot take it.
        """
        path = _path_of(snapshot)
        self._scheduler.check_open()
        check_group_id(group_id)
        self._check_limits(limits)
        own, generation = random_id(), random_id()
        meta = GroupMeta(own, generation, dict(limits))
        waiter = TaskWaiter()
        self._scheduler.recovery.restore(
            group_id,
            meta,
            lambda: self._importer.write(
                path, group_id, generation, lambda source: point_of(source, path, own, self.address)
            ),
            waiter,
        )
        try:
            group = cast("Group", await waiter.wait())
        except StateMachineFailed:
            if group_id in self.groups:
                await self.remove_group(group_id)
            raise
        log.warning("restored a group from a snapshot", group=group_id, path=path, generation=generation)
        return await _leading(group)

    async def force_new_group(self, group_id: GroupId) -> Group:
        """Have a group that lost its quorum for good go on alone, from what this host's disk has of it.

        All that this host's log has becomes committed, whether it was or not; what it lacks is lost.
        The group has a new generation: its other members are removed, and whatever they say or are
        told at the old one is dropped. The group may be running here, or be stopped; it is opened
        anew, as after a restart, and `machines` is called for a new state machine.

        Proposals that wait fail with `GroupFailed`, certainly not applied; of those under way the
        outcome is unknown. Cancelled, it is carried out all the same.

        Only where a majority is lost: any that is left goes on as well, and knows nothing of this.

        Returns:
            The group, leading itself: a new object. The old one stays stopped.

        Raises:
            GroupNotFound: It is not here.
            NotMember: This host never got anything of the group: it was about to join it.
            GroupFailed: This host's log was damaged and lost something of the group.
            SnapshotInvalid, StateMachineFailed: Its state cannot be brought back. Nothing was changed,
                and the group is stopped.
            StorageFailed, HostClosed: The host cannot do it.
        """
        self._scheduler.check_open()
        group = self.group(group_id)
        if group.log.damage:
            raise GroupFailed(
                f"group {group_id}: {group.log.damage}: what is left is not enough to go on from. Remove the "
                "group here, and restore it from a snapshot file with restore_group"
            )
        if not group.log.snapshot_point.data:
            raise NotMember(f"this host was about to join group {group_id} and has nothing of it yet")
        # A removed member's id stays removed.
        own = random_id() if group.meta.removed else group.member_id
        waiter = TaskWaiter()
        self._scheduler.recovery.force(group, own, random_id(), waiter)
        new = cast("Group", await waiter.wait())
        log.warning(
            "a group was forced to go on alone",
            group=group_id,
            generation=new.generation,
            member=own,
            last_index=new.meta.forced_at - 1,
        )
        return await _leading(new)


def check_group_id(group_id: GroupId) -> GroupId:
    """Raises: ConfigError."""
    if isinstance(group_id, bool) or not isinstance(group_id, int) or not 0 < group_id < 1 << 63:
        raise ConfigError("group_id", f"{group_id!r} is not an integer in [1, 2**63)")
    return group_id


def _path_of(snapshot: object) -> str:
    if not isinstance(snapshot, (str, os.PathLike)) or not isinstance(path := os.fspath(snapshot), str):
        raise ConfigError("snapshot", f"{snapshot!r} is not a path")
    return os.path.abspath(path)


def random_id() -> int:
    """For members and generations: no two hosts, and no two calls, make the same."""
    return random.SystemRandom().randrange(1, 1 << 63)


async def _leading(group: Group) -> Group:
    """`group` once it leads itself."""
    while group.status().role != "leader":
        await group.watch_leader()
    await trio.lowlevel.checkpoint()
    return group
