"""Who belongs to a group and where they live: the engine's side of a configuration.

The core knows members by id alone (`ConfState`); addresses and roles are kept here, encoded
into `Snapshot.data` so that whoever gets a snapshot also learns where the members are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import attrs
import cbor2

from multiraft.config import normalize_address
from multiraft.errors import ConfigError
from multiraft.messages import ConfState
from multiraft.types import Member, MemberId, Role

MEMBER_ID_MAX = (1 << 63) - 1


@attrs.frozen
class Membership:
    """The members of one group at one index. `Role.REMOVED` members stay listed for ever."""

    members: Mapping[MemberId, Member]

    def conf_state(self) -> ConfState:
        """The configuration these members make when no joint change is under way."""
        voters = sorted(m.id for m in self.members.values() if m.role is Role.VOTER)
        learners = sorted(m.id for m in self.members.values() if m.role in (Role.LEARNER, Role.STAGING))
        return ConfState(voters=tuple(voters), learners=tuple(learners))

    def encode(self) -> bytes:
        rows = [[m.id, m.address, m.role.value] for _, m in sorted(self.members.items())]
        return cbor2.dumps(rows)

    @classmethod
    def decode(cls, data: bytes) -> Membership:
        """Raises: ValueError when `data` is not what `encode` made."""
        try:
            rows = cast("list[Any]", cbor2.loads(data))
            members = [Member(int(i), str(address), Role(role)) for i, address, role in rows]
        except (cbor2.CBORDecodeError, TypeError, ValueError) as error:
            raise ValueError(f"not a membership: {error}") from None
        return cls({member.id: member for member in members})


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


@attrs.frozen
class GroupMeta:
    """What a host remembers of a group beside its log; written when the group is made."""

    member_id: MemberId
    generation: int = 0
    limits: Mapping[str, int] = attrs.field(factory=dict)
    """Per-group limits that differ from the host's, by the names of `HostConfig`."""

    def encode(self) -> bytes:
        return cbor2.dumps([self.member_id, self.generation, dict(self.limits)])

    @classmethod
    def decode(cls, data: bytes) -> GroupMeta:
        """Raises: ValueError when `data` is not what `encode` made."""
        try:
            member_id, generation, limits = cast("list[Any]", cbor2.loads(data))
            return cls(int(member_id), int(generation), {str(k): int(v) for k, v in limits.items()})
        except (cbor2.CBORDecodeError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"not a group's metadata: {error}") from None
