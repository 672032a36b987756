"""Who belongs to a group and where they live: the engine's side of a configuration.

The core knows members by id alone (`ConfState`); addresses and roles are kept here, encoded
into `Snapshot.data` so that whoever gets a snapshot also learns where the members are.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, cast

import attrs
import cbor2

from multiraft.config import normalize_address
from multiraft.errors import ConfigError, MembershipRejected
from multiraft.messages import ConfChange, ConfChangeType, ConfState
from multiraft.types import Index, Member, MemberId, Role

MEMBER_ID_MAX = (1 << 63) - 1

_SHARED_MAX: Final = 1024
"""Decoded values that are kept, so that groups with equal ones share them."""


class Verb(enum.IntEnum):
    """What is done to one member. The numbers are in logs."""

    ADD = 0
    REMOVE = 1
    UPDATE = 2
    PROMOTE = 3
    DEMOTE = 4


_RAFT_CHANGES = {
    Verb.REMOVE: ConfChangeType.REMOVE_NODE,
    Verb.UPDATE: ConfChangeType.UPDATE_NODE,
    Verb.PROMOTE: ConfChangeType.ADD_NODE,
    Verb.DEMOTE: ConfChangeType.ADD_LEARNER_NODE,
}


@attrs.frozen
class Step:
    """One member's part in a change. `address` for ADD and UPDATE, `role` for ADD."""

    verb: Verb
    id: MemberId
    address: str = ""
    role: Role = Role.VOTER

    def raft_change(self) -> tuple[ConfChangeType, MemberId]:
        if self.verb is Verb.ADD:
            voter = self.role is Role.VOTER
            return ConfChangeType.ADD_NODE if voter else ConfChangeType.ADD_LEARNER_NODE, self.id
        return _RAFT_CHANGES[self.verb], self.id


@attrs.frozen
class Change:
    """What a program asked for: travels in `ConfChange.context`, which the core does not read.

    `expected` is the version that the membership must have; None: any.
    """

    steps: tuple[Step, ...]
    expected: Index | None = None

    def conf_change(self) -> ConfChange:
        """As raft wants it: several steps make it joint, and it leaves that by itself (thesis §4.3)."""
        return ConfChange(tuple(step.raft_change() for step in self.steps), context=self.encode())

    def resigns(self, member: MemberId) -> bool:
        """Whether `member` may not lead any more after it."""
        return any(s.id == member and s.verb in (Verb.REMOVE, Verb.DEMOTE) for s in self.steps)

    def encode(self) -> bytes:
        rows = [[int(step.verb), step.id, step.address, step.role.value] for step in self.steps]
        return cbor2.dumps([self.expected, rows])

    @classmethod
    def of(cls, proposed: ConfChange) -> Change:
        """The change that `proposed` carries.

        Raises:
            MembershipRejected: It carries none, or another one than it has for raft.
        """
        try:
            expected, rows = cast("list[Any]", cbor2.loads(proposed.context))
            steps = tuple(Step(Verb(v), int(i), str(address), Role(role)) for v, i, address, role in rows)
            change = cls(steps, None if expected is None else int(expected))
        except (cbor2.CBORDecodeError, TypeError, ValueError) as error:
            raise MembershipRejected(f"not a change of members: {error}") from None
        if change.conf_change() != proposed:
            raise MembershipRejected("not a change of members: it contradicts itself")
        return change


@attrs.frozen
class Membership:
    """The members of one group at one index. `Role.REMOVED` members stay listed for ever.

    `version` is the index of the last configuration entry in it; 0: as the group was made. While
    a joint change is under way, the members are already listed as they will be.
    """

    members: Mapping[MemberId, Member]
    version: Index = 0

    def after(self, applied: ConfChange, index: Index) -> Membership:
        """The members once the entry at `index` is applied.

        Every member applies the same entries in the same order, so all of them come to the same.

        Raises:
            MembershipRejected: It does not fit; nothing changes.
        """
        if applied == ConfChange():  # raft leaves a joint configuration
            return attrs.evolve(self, version=index)
        return self.changed(Change.of(applied), index)

    def changed(self, change: Change, index: Index = 0) -> Membership:
        """The members after `change`. Raises: MembershipRejected, saying why."""
        if change.expected is not None and change.expected != self.version:
            raise MembershipRejected(f"the membership is at version {self.version}, not {change.expected}")
        if not change.steps:
            raise MembershipRejected("nothing to change")
        if len({step.id for step in change.steps}) < len(change.steps):
            raise MembershipRejected("a member is named twice")
        members = dict(self.members)
        # Removals first: an address that they free may be used in the same change.
        for step in sorted(change.steps, key=lambda step: step.verb is not Verb.REMOVE):
            members[step.id] = _stepped(members, step)
        if not any(member.role is Role.VOTER for member in members.values()):
            raise MembershipRejected("it would leave the group without a voter")
        return Membership(members, index)

    def conf_state(self) -> ConfState:
        """The configuration these members make when no joint change is under way."""
        voters = sorted(m.id for m in self.members.values() if m.role is Role.VOTER)
        learners = sorted(m.id for m in self.members.values() if m.role in (Role.LEARNER, Role.STAGING))
        return ConfState(voters=tuple(voters), learners=tuple(learners))

    def encode(self) -> bytes:
        rows = [[m.id, m.address, m.role.value] for _, m in sorted(self.members.items())]
        return cbor2.dumps([self.version, rows])

    @staticmethod
    def decode(data: bytes) -> Membership:
        """Groups with equal members share what this returns.

        Raises: ValueError when `data` is not what `encode` made.
        """
        return _membership(data)


@lru_cache(_SHARED_MAX)
def _membership(data: bytes) -> Membership:
    try:
        version, rows = cast("list[Any]", cbor2.loads(data))
        members = [Member(int(i), str(address), Role(role)) for i, address, role in rows]
        return Membership({member.id: member for member in members}, int(version))
    except (cbor2.CBORDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"not a membership: {error}") from None


def _stepped(members: Mapping[MemberId, Member], step: Step) -> Member:
    """What one step makes of its member. Raises: MembershipRejected."""
    present = members.get(step.id)
    if present is not None and present.role is Role.REMOVED:
        raise MembershipRejected(f"member {step.id} was removed; ids are never used twice")
    if step.verb is Verb.ADD:
        if present is not None:
            raise MembershipRejected(already_there(step.id))
        if not is_member_id(step.id):
            raise MembershipRejected(f"member id {step.id} is not an integer in [1, 2**63)")
        if step.role is Role.REMOVED:
            raise MembershipRejected(f"a member cannot be added as {step.role.value}")
        _check_free(members, step)
        return Member(step.id, step.address, step.role)
    if present is None:
        raise MembershipRejected(f"there is no member {step.id}")
    if step.verb is Verb.UPDATE:
        _check_free(members, step)
        return attrs.evolve(present, address=step.address)
    if step.verb is Verb.PROMOTE and present.role is Role.VOTER:
        raise MembershipRejected(f"member {step.id} is a voter already")
    if step.verb is Verb.DEMOTE and present.role is Role.LEARNER:
        raise MembershipRejected(f"member {step.id} is no voter")
    return attrs.evolve(present, role=_ROLES[step.verb])


def already_there(member: MemberId) -> str:
    """Why an addition is refused that has been carried out before."""
    return f"member {member} is there already"


_ROLES = {Verb.REMOVE: Role.REMOVED, Verb.PROMOTE: Role.VOTER, Verb.DEMOTE: Role.LEARNER}


def _check_free(members: Mapping[MemberId, Member], step: Step) -> None:
    for other in members.values():
        if other.address == step.address and other.id != step.id and other.role is not Role.REMOVED:
            raise MembershipRejected(f"member {other.id} is at {step.address}")


def predefined(members: Iterable[Member]) -> Membership:
    """Check and normalize the member list of a new group; its order does not matter.

    Raises:
        ConfigError: No voter, an id or address twice, an id out of range, or a bad address.
    """
    found: dict[MemberId, Member] = {}
    addresses: dict[str, MemberId] = {}
    if not isinstance(members, Iterable):
        raise ConfigError("members", f"{members!r} is not a list of Members")
    for member in members:
        if not isinstance(member, Member):
            raise ConfigError("members", f"{member!r} is not a Member")
        if not is_member_id(member.id):
            raise ConfigError("members", f"member id {member.id!r} is not an integer in [1, 2**63)")
        if member.id in found:
            raise ConfigError("members", f"member id {member.id} is there twice")
        address = dialable(member.address, "members")
        if address in addresses:
            raise ConfigError("members", f"{address} is there twice: {addresses[address]} and {member.id}")
        if not isinstance(member.role, Role):
            raise ConfigError("members", f"member {member.id}: {member.role!r} is not a Role")
        if member.role is Role.REMOVED:
            raise ConfigError("members", f"member {member.id} cannot start as removed")
        found[member.id] = attrs.evolve(member, address=address)
        addresses[address] = member.id
    if not any(member.role is Role.VOTER for member in found.values()):
        raise ConfigError("members", "a group needs at least one voter")
    return Membership(found)


def is_member_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MEMBER_ID_MAX


def dialable(text: str, field: str) -> str:
    """As `normalize_address`, for an address that hosts are to dial: port 0 is none."""
    address = normalize_address(text, field)
    if address.endswith(":0"):
        raise ConfigError(field, f"{text!r}: nobody can dial port 0; host.address has the real one")
    return address


FORMER_MAX = 64
"""Earlier generations of a group that its hosts remember."""


@attrs.frozen
class GroupMeta:
    """What a host remembers of a group beside its log."""

    member_id: MemberId
    generation: int = 0
    limits: Mapping[str, int] = attrs.field(factory=dict)
    """Per-group limits that differ from the host's, by the names of `HostConfig`."""
    removed: bool = False
    """The member was removed from its group."""
    former: Mapping[int, Index] = attrs.field(factory=dict)
    """Earlier generations, oldest first, and the last entry that counts of each."""
    hosts: Mapping[MemberId, int] = attrs.field(factory=dict)
    """The host ids of other members, since the first word from each; see acquaintances.py."""

    def counts(self, generation: int, index: Index) -> bool:
        """Whether a snapshot of `generation` at `index` is of this group's history."""
        return generation == self.generation or index <= self.former.get(generation, -1)

    @property
    def forced_at(self) -> Index:
        """Where the present generation began by `force_new_group`; 0: it did not."""
        return max(self.former.values(), default=-1) + 1

    def forced(self, member_id: MemberId, generation: int, last: Index) -> GroupMeta:
        """As a new generation begins behind entry `last`. Whoever was a member is a stranger now."""
        former = dict([*self.former.items(), (self.generation, last)][-FORMER_MAX:])
        return GroupMeta(member_id, generation, self.limits, former=former)

    def encode(self) -> bytes:
        former, hosts = list(self.former.items()), dict(self.hosts)
        return cbor2.dumps([self.member_id, self.generation, dict(self.limits), self.removed, former, hosts])

    @staticmethod
    def decode(data: bytes) -> GroupMeta:
        """Groups with equal metas share what this returns.

        Raises: ValueError when `data` is not what `encode` made.
        """
        return _meta(data)


@lru_cache(_SHARED_MAX)
def _meta(data: bytes) -> GroupMeta:
    try:
        member_id, generation, limits, removed, *more = cast("list[Any]", cbor2.loads(data))
        former, hosts = more or ([], {})  # absent where an earlier version wrote it
        own = {str(name): int(value) for name, value in limits.items()}
        return GroupMeta(
            int(member_id),
            int(generation),
            own,
            bool(removed),
            {int(each): int(last) for each, last in former},
            {int(member): int(host) for member, host in hosts.items()},
        )
    except (cbor2.CBORDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"not a group's metadata: {error}") from None
