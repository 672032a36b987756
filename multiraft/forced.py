"""The entry that begins a new generation: this member alone goes on, without anybody's consent.

It stands behind everything the host's log had when `force_new_group` was called, and is written
together with the commit index and the generation, in one batch: either all of it is on the disk or
nothing. Applied like any configuration change, at its place and again after a restart, it makes
one member the only voter and keeps all others as removed, so that no id comes back.

No leader takes one: it is no `Change` (referee.py), and who joins later starts from a snapshot
behind it.
"""

from __future__ import annotations

from typing import Any, Final, cast

import attrs
import cbor2

from multiraft.errors import SnapshotInvalid
from multiraft.membership import Membership
from multiraft.messages import ConfChange, Snapshot
from multiraft.types import Index, Member, MemberId, Role

_MARK: Final = cbor2.dumps(["forced", 0, ""])[:8]
"""How the context begins: an array of three, and the word."""


@attrs.frozen
class Forced:
    """Who goes on, and where it lives."""

    member: MemberId
    address: str

    def conf_change(self) -> ConfChange:
        return ConfChange(context=cbor2.dumps(["forced", self.member, self.address]))

    @classmethod
    def of(cls, change: ConfChange) -> Forced | None:
        """What `change` carries, if it is of this kind."""
        if not change.context.startswith(_MARK):
            return None
        _, member, address = cast("list[Any]", cbor2.loads(change.context))
        return cls(int(member), str(address))

    def after(self, before: Membership, index: Index) -> Membership:
        """The members once it is in force at `index`."""
        members = {id_: attrs.evolve(each, role=Role.REMOVED) for id_, each in before.members.items()}
        members[self.member] = Member(self.member, self.address)
        return Membership(members, index)


def point_of(source: Snapshot, path: str, member: MemberId, address: str) -> Snapshot:
    """Where a group begins that is restored from a file at `source`: one member, all others removed.

    Raises:
        SnapshotInvalid: The file's members cannot be read, or the new member is one of them.
    """
    try:
        before = Membership.decode(source.data)
    except ValueError as error:
        raise SnapshotInvalid(f"{path}: {error}") from None
    if member in before.members:
        raise SnapshotInvalid(f"{path}: member {member} was in that group")
    after = Forced(member, address).after(before, source.index)
    return Snapshot(source.index, source.term, after.conf_state(), after.encode())
