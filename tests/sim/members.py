"""Members come and go: hosts join groups, and programs change who belongs to them.

Like clients, these programs ask whatever host they happen to talk to, for changes that make sense from
what that host knows; it may be out of date, and then the change is refused or waits. Hosts join as they do
in the engine: a blank member first, durable, then a request that is repeated until it is answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from multiraft.errors import (
    GroupExists,
    GroupNotFound,
    MemberRemoved,
    MembershipRejected,
    OutcomeUnknown,
)
from multiraft.group import Group
from multiraft.membership import Change, GroupMeta, Step, Verb
from multiraft.messages import JoinRequest
from multiraft.proposals import QueuedChange
from multiraft.types import GroupId, Member, MemberId, Role
from tests.sim.clients import CERTAIN
from tests.sim.world import Violation, between

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.host import SimHost

TRIES_MAX = 4
ASKS_MAX = 10
ASK_AGAIN_S = 0.6
JOIN_ROLES = (Role.VOTER, Role.VOTER, Role.LEARNER, Role.STAGING, Role.STAGING)
LEAVERS = (GroupNotFound, MemberRemoved)
"""What calls end with on a host whose member was removed."""


class ChangeCall:
    """A waiter for one membership change."""

    def __init__(self, members: Members, host: SimHost, group: Group, change: Change) -> None:
        self._members = members
        self.host = host
        self.group = group
        self._change = change

    def resolve(self, value: object) -> None:  # noqa: ARG002 - a change has no result
        """§4.1, §4.3: a change that is done is applied here, and its joint configuration is left."""
        self._members.ended(self, "changed")
        for step in self._change.steps:
            if step.id not in self.group.membership.members:
                raise Violation(f"{self.host.name}: {step} is done, but nobody here knows the member")
        if self.group.raft.joint:
            raise Violation(f"{self.host.name}: {self._change} is done, in a joint configuration")

    def fail(self, error: Exception) -> None:
        if isinstance(error, (OutcomeUnknown, *LEAVERS)) or self.host.disk_failing:
            self._members.ended(self, "change unknown")
        elif isinstance(error, (MembershipRejected, *CERTAIN)):
            self._members.ended(self, "change refused")
        else:
            raise Violation(f"a membership change failed with {error!r}") from error


class Members:
    """All programs of a cluster that change members."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.pending: set[ChangeCall] = set()
        self.outcomes: Counter[str] = Counter()
        self._random = self.world.random("members")
        self._count = 0
        self._actions: tuple[Callable[[], bool], ...] = (
            self._join,
            self._join,
            self._join,
            self._remove,
            self._remove,
            self._promote,
            self._demote,
            self._several,
            self._update,
            self._forget,
            self._forget,
        )

    def start(self) -> None:
        if self.cluster.plan.change_every_s:
            self.world.after(self._pause_s(), self._act)

    def host_down(self, host: SimHost) -> None:
        self.pending = {call for call in self.pending if call.host is not host}

    def ended(self, call: ChangeCall, outcome: str) -> None:
        if call not in self.pending:
            raise Violation(f"a change on {call.host.name} ended twice")
        self.pending.discard(call)
        self.outcomes[outcome] += 1
        self.world.log(call.host.name, outcome)

    def _pause_s(self) -> float:
        return self.cluster.plan.change_every_s * between(self._random, 0.1, 1.9)

    def _act(self) -> None:
        if self.cluster.calm:
            return
        # Some make no sense for who is drawn: a removed member can be deleted only where there is one.
        for _ in range(TRIES_MAX):
            if self._random.choice(self._actions)():
                break
        self.world.after(self._pause_s(), self._act)

    # --- changes ---------------------------------------------------------------------------------

    def _group(self) -> tuple[SimHost, Group] | None:
        """A group on a host that has a member of it, as far as it knows."""
        host = self._random.choice(self.cluster.hosts)
        group_id = self._random.choice(self.cluster.group_ids)
        if host.scheduler is None or host.paused or host.scheduler.failure is not None:
            return None
        group = host.scheduler.groups.get(group_id)
        if group is None or group.failed is not None or group.removed is not None:
            return None
        return (host, group) if group.membership.members else None

    def _with_role(self, group: Group, *roles: Role) -> list[MemberId]:
        return [id_ for id_, member in sorted(group.membership.members.items()) if member.role in roles]

    def _change(self, host: SimHost, group: Group, steps: list[Step]) -> None:
        expected = group.membership.version if self._random.random() < 0.2 else None
        change = Change(tuple(steps), expected)
        call = ChangeCall(self, host, group, change)
        self.pending.add(call)
        shown = ", ".join(f"{step.verb.name.lower()} {step.id}" for step in steps)
        self.world.log(host.name, f"group {group.id} asked to {shown}")
        group.proposals.changes.append(QueuedChange(change.conf_change().encode(), call))
        group.host.mark_dirty(group)

    def _one(self, verb: Verb, *roles: Role) -> bool:
        found = self._group()
        if found is None or not (ids := self._with_role(found[1], *roles)):
            return False
        id_ = self._random.choice(ids)
        member = found[1].membership.members[id_]
        self._change(*found, [Step(verb, id_, member.address if verb is Verb.UPDATE else "")])
        return True

    def _remove(self) -> bool:
        return self._one(Verb.REMOVE, Role.VOTER, Role.LEARNER, Role.STAGING)

    def _promote(self) -> bool:
        return self._one(Verb.PROMOTE, Role.LEARNER, Role.STAGING)

    def _demote(self) -> bool:
        return self._one(Verb.DEMOTE, Role.VOTER, Role.STAGING)

    def _update(self) -> bool:
        """Hosts of a simulation do not move; to say once more where they are is a change all the same."""
        return self._one(Verb.UPDATE, Role.VOTER, Role.LEARNER)

    def _several(self) -> bool:
        """A joint change of two or three members, some of whom may be blank ones on other hosts."""
        found = self._group()
        if found is None:
            return False
        host, group = found
        steps = [
            Step(Verb.ADD, member.id, member.address, self._random.choice((Role.VOTER, Role.LEARNER)))
            for member in self._blank(group)
        ]
        verbs = {Role.VOTER: (Verb.REMOVE, Verb.DEMOTE), Role.LEARNER: (Verb.PROMOTE, Verb.REMOVE)}
        steps += [
            Step(self._random.choice(verbs[group.membership.members[id_].role]), id_)
            for id_ in self._with_role(group, Role.VOTER, Role.LEARNER)
        ]
        self._change(host, group, self._random.sample(steps, min(len(steps), 2 + self._random.randrange(2))))
        return True

    def _blank(self, group: Group) -> list[Member]:
        """Members of the group that exist on their hosts and that it does not know."""
        found = []
        for host in self.cluster.hosts:
            other = host.scheduler.groups.get(group.id) if host.scheduler is not None else None
            if other is None or other.membership.members:
                continue
            if other.member_id not in group.membership.members:
                found.append(Member(other.member_id, host.address))
        return found

    # --- joining and leaving -----------------------------------------------------------------------

    def _join(self) -> bool:
        host = self._random.choice(self.cluster.hosts)
        group_id = self._random.choice(self.cluster.group_ids)
        scheduler = host.scheduler
        if scheduler is None or host.paused or scheduler.failure is not None:
            return False
        role = self._random.choice(JOIN_ROLES)
        group = scheduler.groups.get(group_id)
        if group is not None:
            if group.failed is not None or group.removed is not None or group.membership.members:
                return False
            self._ask(host, group, role, ASKS_MAX)
            return True
        self._count += 1
        own = 1000 * group_id + self._count
        self.world.log(host.name, f"group {group_id} to be joined as {own}, {role.value}")
        waiter = _Made(self, host, group_id, role)
        try:
            scheduler.catalog.create_groups({group_id: (None, GroupMeta(own))}, waiter)
        except GroupExists:
            return False  # it is being made, or removed
        self.cluster.invariants.place(host, group_id, own)
        return True

    def made(self, host: SimHost, group_id: GroupId, role: Role) -> None:
        assert host.scheduler is not None
        self._ask(host, host.scheduler.groups[group_id], role, ASKS_MAX)

    def _ask(self, host: SimHost, group: Group, role: Role, tries: int) -> None:
        """Ask some other host to be added; ask again in a while if that brought nothing."""
        scheduler, incarnation = host.scheduler, host.incarnation
        if scheduler is None or self.cluster.calm or not tries:
            return
        if group.membership.members or scheduler.groups.get(group.id) is not group:
            return
        via = self._random.choice([other for other in self.cluster.hosts if other is not host])
        voter, staging = role is Role.VOTER, role is Role.STAGING
        request = JoinRequest(0, group.member_id, host.address, voter, add=True, staging=staging)
        number = scheduler.joining.ask(via.address, group.id, request, _Asked())

        def again() -> None:
            if host.incarnation == incarnation:
                scheduler.joining.forget(number)
                host.when_running(lambda: self._ask(host, group, role, tries - 1))

        self.world.after(ASK_AGAIN_S, again)

    def _forget(self) -> bool:
        """`Host.remove_group`, where a member was removed and the others know it for good.

        Who is left may need its vote until then.
        """
        host = self._random.choice(self.cluster.hosts)
        if host.scheduler is None or host.paused or host.scheduler.failure is not None:
            return False
        for group in list(host.scheduler.groups.values()):
            if group.removed is not None and self._others_know(group):
                self.world.log(host.name, f"group {group.id} to be deleted")
                self.cluster.invariants.forget(host, group.id)
                host.scheduler.catalog.remove_group(group.id, _Asked())
                return True
        return False

    def _others_know(self, group: Group) -> bool:
        history = self.cluster.invariants.groups[group.id]
        versions = [
            version
            for version, found in history.configurations.items()
            if (member := found.members.get(group.member_id)) is not None
            and member.role is Role.REMOVED
            and not found.outgoing
        ]
        if not versions:
            return False
        newest = history.configurations[max(history.configurations)]
        knowing = set()
        for id_ in newest.voters | newest.outgoing:
            log = history.places[id_].journal.durable.get(group.id)
            if log is not None and max(log.hard.commit, log.point[0]) >= min(versions):
                knowing.add(id_)
        return knowing == newest.voters | newest.outgoing


class _Made:
    """Waits until a blank member is durable."""

    def __init__(self, members: Members, host: SimHost, group: GroupId, role: Role) -> None:
        self._members = members
        self._host = host
        self._group = group
        self._role = role

    def resolve(self, value: object) -> None:  # noqa: ARG002 - the scheduler has it
        self._members.made(self._host, self._group, self._role)

    def fail(self, error: Exception) -> None:
        if not self._host.disk_failing:
            raise Violation(f"a blank member could not be made: {error!r}")


class _Asked:
    """A waiter of which nothing follows: who was not added asks again."""

    def resolve(self, value: object) -> None:
        """The group will tell."""

    def fail(self, error: Exception) -> None:
        """Refused, or the host stopped."""
