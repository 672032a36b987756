"""The calls of a group that change its members."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable

import attrs

from multiraft.errors import ConfigError, MemberRemoved, MembershipRejected
from multiraft.membership import MEMBER_ID_MAX, Change, Step, Verb, dialable, is_member_id
from multiraft.types import Index, Member, MemberId, Role

STEPS_MAX = 64
"""Members in one change."""


class MembershipCalls(ABC):
    """Membership changes, on any member; see `Group`.

    All of them return once the change is in force and applied on this host; of a joint change
    (several members at once, thesis §4.3), once the joint configuration is left. They are forwarded to
    the leader and wait for one as `Group.propose` does. A removed or demoted leader hands over first.

    All take `expected`, a `GroupStatus.version`: the change is refused if the members were changed
    since. Default: None, whatever the version is.

    Cancelled while there is no leader, nothing is changed; cancelled later, it may be all the same.

    Raises, all of them:
        MembershipRejected: It was refused, and says why: an unknown id, one that was removed, an id or
            address that is taken, promoting a voter, demoting a learner, removing the last voter, another
            version than `expected`, or a change while another is under way. Nothing was changed.
        ProposalDropped: Certainly not done. OutcomeUnknown: It may have been done, or may yet be.
        NoLeader: There was no leader for `leader_wait_s`; nothing was changed.
        ConfigError: An id or address makes no sense.
        MemberRemoved, and others: The group is stopped here.
    """

    __slots__ = ()

    member_id: MemberId

    @abstractmethod
    def check_running(self) -> None:
        """Raises: Why the group stopped here."""

    @abstractmethod
    async def _propose_change(self, change: Change) -> None:
        """Have `change` carried out."""

    async def add_member(self, member: Member, *, expected: Index | None = None) -> Member:
        """Add a voter, learner or staging member.

        A staging member is a learner that its leader makes a voter once it has caught up. Most hosts
        add themselves, with `Host.join_group`.

        Args:
            member: Its id must never have been used in the group; None (or 0) picks one at random.
            expected: See above.

        Returns:
            The member with its id.
        """
        member = _checked(member)
        await self._change([_addition(member)], expected)
        return member

    async def remove_member(self, member: MemberId, *, expected: Index | None = None) -> None:
        """Remove a member, which may be dead, or this one. Its id is never used again."""
        await self._change([Step(Verb.REMOVE, _checked_id(member))], expected)

    async def update_member(self, member: MemberId, *, address: str, expected: Index | None = None) -> None:
        """Say that a member's host is at another address now. The same address succeeds as well."""
        step = Step(Verb.UPDATE, _checked_id(member), dialable(address, "address"))
        await self._change([step], expected)

    async def promote_member(self, member: MemberId, *, expected: Index | None = None) -> None:
        """Make a learner or staging member a voter, at once, caught up or not."""
        await self._change([Step(Verb.PROMOTE, _checked_id(member))], expected)

    async def demote_member(self, member: MemberId, *, expected: Index | None = None) -> None:
        """Make a voter or staging member a learner."""
        await self._change([Step(Verb.DEMOTE, _checked_id(member))], expected)

    async def change_membership(
        self,
        *,
        add: Iterable[Member] = (),
        remove: Iterable[MemberId] = (),
        promote: Iterable[MemberId] = (),
        demote: Iterable[MemberId] = (),
        expected: Index | None = None,
    ) -> list[Member]:
        """Several changes as one: at no moment is only a part of them in force.

        Returns:
            The members added, with their ids.
        """
        added = [_checked(member) for member in add]
        steps = [_addition(member) for member in added]
        for verb, ids in ((Verb.REMOVE, remove), (Verb.PROMOTE, promote), (Verb.DEMOTE, demote)):
            steps += [Step(verb, _checked_id(member)) for member in ids]
        await self._change(steps, expected)
        return added

    async def leave(self) -> None:
        """Remove this host's member. The group stays in `Host.groups`, stopped, until `remove_group`."""
        await self.remove_member(self.member_id)

    async def _change(self, steps: list[Step], expected: Index | None) -> None:
        if expected is not None and (isinstance(expected, bool) or not isinstance(expected, int)):
            raise ConfigError("expected", f"{expected!r} is not a version")
        if len(steps) > STEPS_MAX:
            raise MembershipRejected(f"{len(steps)} members in one change; allowed are {STEPS_MAX}")
        self.check_running()  # one that left long ago is told so
        try:
            await self._propose_change(Change(tuple(steps), expected))
        except MemberRemoved:
            # Our own removal, of which we were told before we could apply it.
            if not any(s.verb is Verb.REMOVE and s.id == self.member_id for s in steps):
                raise


def _checked(member: Member) -> Member:
    if not isinstance(member, Member):
        raise ConfigError("member", f"{member!r} is not a Member")
    if not isinstance(member.role, Role):
        raise ConfigError("member", f"{member.role!r} is not a Role")
    id_ = member.id or random.SystemRandom().randrange(1, MEMBER_ID_MAX + 1)
    return attrs.evolve(member, id=_checked_id(id_), address=dialable(member.address, "member"))


def _checked_id(member: MemberId) -> MemberId:
    if not is_member_id(member):
        raise ConfigError("member", f"member id {member!r} is not an integer in [1, 2**63)")
    return member


def _addition(member: Member) -> Step:
    return Step(Verb.ADD, member.id, member.address, member.role)
