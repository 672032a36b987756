"""Which host carries which member: learned from the first word, and held against any other host.

A member that lost its data folder forgot its vote and what it acknowledged. Under its old id it
could vote twice in one term, or help to elect a leader without what it once acknowledged (the
amnesia of PITFALLS, "a wiped host rejoins under its old id"). A data folder has a random host id
(identity.py), which every connection names. So:

- The first word of a member binds it to the host id that it came from. The binding is on this
  disk before the word counts for anything: else a power cut could take the binding and leave what
  came of the word. So first words wait for the sync of their pass.
- Whatever comes later in the name of that member from another host id counts for nothing. The
  sender is told, and its group stops there with `MemberForgotten`.

A host that moves keeps its folder, and so its id; an address may get another host, which speaks
for members with other ids. What this cannot see is in docs/invariants.md.

Bounds: a binding for each listed member of a group, `HELD_MAX` messages for each that is being
bound and what proposals it may have under way, and `TOLD_MAX` senders that are not told again
before the next `TELL_AGAIN_TICKS`.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import structlog

from multiraft.errors import MemberForgotten, MultiraftError
from multiraft.group import Group
from multiraft.membership import GroupMeta
from multiraft.messages import Disowned, Hello, Message, MessageType, OtherGeneration
from multiraft.post import Post
from multiraft.types import MemberId, Role

logger = structlog.get_logger("multiraft")

HELD_MAX = 64
"""Messages of one member that wait for its binding; those above are lost, as on the way. Not so its
proposals, which are sent once more only when the link broke: these have the bound that their
proposer puts on them."""

_PASSED_ON = (MessageType.READ_INDEX, MessageType.TRANSFER_LEADER)
"""Passed on from member to member in the name of whom it is about, so the host it comes from proves
nothing. It promises nothing either: anybody may ask."""

TOLD_MAX = 1 << 16
TELL_AGAIN_TICKS = 50


@attrs.define(eq=False)
class _Meeting:
    """A binding on its way to the disk."""

    host_id: int
    held: list[tuple[Hello, Message]]


class Acquaintances:
    """Says whose words count in the groups of this host."""

    def __init__(
        self,
        post: Post,
        host_id: int,
        *,
        record: Callable[[Group, GroupMeta, Callable[[], None]], None],
        again: Callable[[Hello, Group, Message], None],
        failed: Callable[[Group, MultiraftError], None],
    ) -> None:
        self._post = post
        self._host_id = host_id
        self._record = record
        self._again = again
        self._failed = failed
        self._meetings: dict[tuple[Group, MemberId], _Meeting] = {}
        self._told: set[tuple[Group, int, int]] = set()
        self._ticks = 0

    def tick(self) -> None:
        self._ticks += 1
        if self._ticks % TELL_AGAIN_TICKS == 0:
            self._told.clear()

    # --- members and hosts ---------------------------------------------------------------------

    def admit(self, peer: Hello, group: Group, message: Message) -> bool:
        """Whether to step `message` now. Asked when `group.hosts` does not know its sender by `peer`.

        False: it is refused; or it is kept, and comes again by `again` when its sender is bound.
        """
        sender = message.sender
        member = group.membership.members.get(sender)
        if member is None or member.role is Role.REMOVED or sender == group.member_id:
            return True  # not one that counts here; what becomes of it others decide
        if message.type in _PASSED_ON:
            return True
        known = group.hosts.get(sender)
        if known is None:
            meeting = self._meetings.get((group, sender))
            if meeting is None:
                meeting = self._meet(peer, group, sender)
            known = meeting.host_id
            if known == peer.host_id:
                if len(meeting.held) < HELD_MAX or message.type is MessageType.PROP:
                    meeting.held.append((peer, message))
                return False
        if known == peer.host_id:
            return True
        self._refuse(peer, group, sender)
        return False

    def is_stranger(self, peer: Hello, group: Group, sender: MemberId) -> bool:
        """Whether `sender` is bound to another host than `peer`; that is told, if so."""
        known = group.hosts.get(sender)
        if known is None or known == peer.host_id:
            return False
        self._refuse(peer, group, sender)
        return True

    def disowned(self, peer: Hello, group: Group, told: Disowned) -> None:
        """Another host knows our member by another host id."""
        if told.to != group.member_id or told.host_id != self._host_id:
            return  # for whoever was here before
        self._post.disconnect(group)
        self._failed(
            group, self.forgotten(group, f"the host at {peer.address} knows it by another data folder")
        )

    def forgotten(self, group: Group, proof: str) -> MemberForgotten:
        """Why a group stops whose member is not what it was."""
        error = MemberForgotten(
            f"member {group.member_id} of group {group.id} forgot here what it promised the others "
            f"({proof}): its data folder was lost, or this is an old copy. Bring the right folder back; if "
            "it is lost, remove the member from the group, remove the group from this host, and join again"
        )
        logger.error("member has forgotten", group=group.id, member=group.member_id, reason=proof)
        return error

    def _meet(self, peer: Hello, group: Group, sender: MemberId) -> _Meeting:
        meeting = self._meetings[group, sender] = _Meeting(peer.host_id, [])
        members = group.membership.members
        hosts = {
            id_: host_id
            for id_, host_id in group.meta.hosts.items()
            if (listed := members.get(id_)) is not None and listed.role is not Role.REMOVED
        }
        meta = attrs.evolve(group.meta, hosts={**hosts, sender: peer.host_id})
        group.meta = GroupMeta.decode(meta.encode())  # one for all groups that know the same hosts
        self._record(group, group.meta, lambda: self._met(group, sender))
        return meeting

    def _met(self, group: Group, sender: MemberId) -> None:
        """The binding is on disk."""
        meeting = self._meetings.pop((group, sender))
        if group.failed is not None:
            return
        hosts = group.meta.hosts
        if any((group, id_) in self._meetings for id_ in hosts):
            hosts = {id_: each for id_, each in hosts.items() if (group, id_) not in self._meetings}
        group.hosts = hosts
        for peer, message in meeting.held:
            if group.failed is None:
                self._again(peer, group, message)

    def _refuse(self, peer: Hello, group: Group, sender: MemberId) -> None:
        if not self._may_tell(group, peer.host_id, -1):
            return
        if group.warn(
            ("refused", sender, peer.host_id),
            f"the host at {peer.address} speaks as member {sender}, which is at home in another data folder: "
            f"it lost its data, or is a copy. Remove member {sender}, and let that host join under a new id",
        ):
            logger.warning(
                "refused a member from another host", group=group.id, member=sender, peer=peer.address
            )
        self._post.notify(peer.address, (group.id, group.generation, Disowned(sender, peer.host_id)))

    # --- generations -----------------------------------------------------------------------------

    def foreign(self, peer: Hello, group: Group, generation: int, message: Message) -> None:
        """A message of another generation of the group came, and was dropped."""
        if group.failed is not None or not self._may_tell(group, peer.host_id, generation):
            return
        if generation in group.meta.former:
            text = (
                f"the host at {peer.address} still carries member {message.sender} from before this group "
                "was forced to go on alone. It is shut out; remove the group there, and let that host join"
            )
        else:
            text = self._other(peer, group, generation)
        if group.warn(("generation", peer.host_id, generation), text):
            logger.warning(
                "dropped messages of another generation",
                group=group.id,
                peer=peer.address,
                generation=generation,
                own=group.generation,
            )
        notice = OtherGeneration(message.sender, generation)
        self._post.notify(peer.address, (group.id, group.generation, notice))

    def told_foreign(self, peer: Hello, group: Group, generation: int, told: OtherGeneration) -> None:
        """Another host has the group at `generation`, and dropped what we said to it.

        Nobody can tell from here which of the two is to stay, so this group goes on: if it has no
        majority left it can do nothing anyway.
        """
        if group.failed is not None or told.to != group.member_id or told.heard != group.generation:
            return
        if generation == group.generation or generation in group.meta.former:
            return
        if group.warn(("generation", peer.host_id, generation), self._other(peer, group, generation)):
            logger.error(
                "another host has this group at another generation",
                group=group.id,
                peer=peer.address,
                generation=generation,
                own=group.generation,
            )

    @staticmethod
    def _other(peer: Hello, group: Group, generation: int) -> str:
        return (
            f"the host at {peer.address} carries group {group.id} at generation {generation:x}, this one at "
            f"{group.generation:x}: it was forced to go on alone, or restored, on one side. If the other is "
            "the one that is to stay, remove the group from this host and join again"
        )

    def _may_tell(self, group: Group, host_id: int, generation: int) -> bool:
        """Whether that was not told lately. Whoever is shut out speaks several times a second."""
        key = (group, host_id, generation)
        if key in self._told or len(self._told) >= TOLD_MAX:
            return False
        self._told.add(key)
        return True
