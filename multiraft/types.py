"""Plain values that programs see: members, roles, entries."""

from __future__ import annotations

import enum

import attrs

__all__ = ["Entry", "GroupId", "Index", "Member", "MemberId", "ReadMode", "Role", "Term"]

GroupId = int
MemberId = int
Index = int
Term = int


class Role(enum.Enum):
    """What a member may do in its group (thesis §4.1, §4.2.1)."""

    VOTER = "voter"
    LEARNER = "learner"
    STAGING = "staging"
    """A learner that the leader promotes by itself once it has caught up."""
    REMOVED = "removed"


class ReadMode(enum.Enum):
    """How a linearizable read is confirmed (thesis §6.4)."""

    QUORUM = "quorum"
    LEASE = "lease"


class RecoveryMode(enum.Enum):
    """What a host does when its log ends in a torn tail, or is damaged."""

    STRICT = "strict"
    """Refuse both."""
    TORN_TAIL = "torn_tail"
    """Cut a torn tail, which was never acknowledged; refuse damage."""
    SALVAGE = "salvage"
    """Cut a torn tail; of a damaged log go on with the groups that are provably whole, the
    others stopped."""


def _id_or_zero(given: MemberId | None) -> MemberId:
    return 0 if given is None else given


@attrs.frozen(order=False)
class Member:
    """One replica of a group.

    Attributes:
        id: Positive, below 2**63, never used twice in its group. 0, also written None, is no id yet:
            where a member is added, one is picked.
        address: `host:port` of the host that carries it.
        role: Default: `Role.VOTER`.
    """

    id: MemberId = attrs.field(converter=_id_or_zero)
    address: str
    role: Role = Role.VOTER


@attrs.define
class Entry:
    """One proposal as `StateMachine.apply` gets it. Treat it as immutable.

    Not frozen because a frozen attrs object costs three times as much to make, and one is
    made for every entry applied.
    """

    index: Index
    term: Term
    data: bytes
