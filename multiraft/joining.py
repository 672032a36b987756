"""How a host becomes a member of a group it knows nothing of: it asks any member's host.

The new member exists before it is asked for: blank, durable, under an id made up at random. So
whatever is lost or crashes on the way, it can be asked for again under the same id, and a host that
lost its data can never pass for a member it once carried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from multiraft.errors import ConfigError, MembershipRejected, MultiraftError
from multiraft.group import Group
from multiraft.membership import Change, Step, Verb, already_there, dialable
from multiraft.messages import Hello, JoinAnswer, JoinRequest
from multiraft.post import Post
from multiraft.proposals import QueuedChange, Waiter
from multiraft.referee import UNDER_WAY
from multiraft.types import GroupId, MemberId, Role

UNCERTAIN_MAX = 1024
"""Additions remembered whose outcome is not known; beyond it all are forgotten."""


class Joining:
    """Both sides of joining: what this host asks, and what it is asked."""

    def __init__(
        self,
        groups: Mapping[GroupId, Group],
        post: Post,
        epoch: int,
        address: str,
        *,
        mark_dirty: Callable[[Group], None],
        call_soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._groups = groups
        self._post = post
        self._mark_dirty = mark_dirty
        self._call_soon = call_soon
        self._address = address
        self._number = epoch << 24
        self._asked: dict[int, Waiter] = {}
        self._adding: set[tuple[Group, MemberId]] = set()
        """Members that are being added on behalf of others: they ask more than once."""
        self._uncertain: set[tuple[Group, MemberId]] = set()
        """Members whose addition may be the very change that is under way when they ask again."""

    def ask(self, via: str, group: GroupId, request: JoinRequest, waiter: Waiter) -> int:
        """Send one request; `waiter` gets the group's generation. May be lost: ask again.

        `request.number` is filled in here; `forget` takes it.
        """
        self._number += 1
        request.number = self._number
        self._asked[request.number] = waiter
        self._call_soon(lambda: self._post.send(via, (group, 0, request)))
        return request.number

    def forget(self, number: int) -> None:
        self._asked.pop(number, None)

    def answered(self, generation: int, answer: JoinAnswer) -> None:
        waiter = self._asked.pop(answer.number, None)
        if waiter is None:
            return
        if answer.refused:
            waiter.fail(MembershipRejected(answer.refused))
        else:
            waiter.resolve(generation)

    def requested(self, peer: Hello, group_id: GroupId, request: JoinRequest) -> None:
        """Another host asks. What is not answered, it asks again."""
        group = self._groups.get(group_id)
        if group is None or group.failed is not None or group.removed is not None:
            self._answer(peer.address, (group_id, 0), request, f"{self._address} carries no group {group_id}")
            return
        place = (group_id, group.generation)
        known = group.membership.members.get(request.member)
        if known is not None and known.role is Role.REMOVED:
            self._answer(peer.address, place, request, f"member {known.id} was removed")
        elif not request.add or (known is not None and known.address == request.address):
            self._answer(peer.address, place, request, "")
        elif (group, request.member) not in self._adding:
            self._add(peer.address, group, request)

    def stop(self, error: MultiraftError) -> None:
        """Nothing more will be done: tell those who wait."""
        asked, self._asked = self._asked, {}
        for waiter in asked.values():
            waiter.fail(error)

    def _add(self, asker: str, group: Group, request: JoinRequest) -> None:
        try:
            address = dialable(request.address, "address")
        except ConfigError as error:
            self._answer(asker, (group.id, group.generation), request, str(error))
            return
        role = Role.STAGING if request.staging else Role.VOTER if request.voter else Role.LEARNER
        change = Change((Step(Verb.ADD, request.member, address, role),))
        self._adding.add((group, request.member))
        waiter = _Adding(self, asker, group, request)
        group.proposals.changes.append(QueuedChange(change.conf_change().encode(), waiter))
        self._mark_dirty(group)

    def added(self, asker: str, group: Group, request: JoinRequest, error: Exception | None) -> None:
        """An addition on behalf of `asker` came to an end."""
        place = (group, request.member)
        self._adding.discard(place)
        if error is not None and str(error) == already_there(request.member):
            return  # an earlier request did it, and this host will have seen it when it is asked again
        if error is not None and str(error) == UNDER_WAY and place in self._uncertain:
            # Perhaps its own. Refused, it would delete what it is, and the group have a dead member.
            return
        if error is None or isinstance(error, MembershipRejected):
            self._uncertain.discard(place)
        else:
            if len(self._uncertain) >= UNCERTAIN_MAX:
                self._uncertain.clear()
            self._uncertain.add(place)
        if error is None or isinstance(error, MembershipRejected):
            self._answer(asker, (group.id, group.generation), request, "" if error is None else str(error))

    def _answer(self, to: str, place: tuple[GroupId, int], request: JoinRequest, refused: str) -> None:
        self._post.send(to, (*place, JoinAnswer(request.number, refused)))


class _Adding:
    """Waits for a change that another host asked for."""

    __slots__ = ("_asker", "_group", "_joining", "_request")

    def __init__(self, joining: Joining, asker: str, group: Group, request: JoinRequest) -> None:
        self._joining = joining
        self._asker = asker
        self._group = group
        self._request = request

    def resolve(self, _: object) -> None:
        self._joining.added(self._asker, self._group, self._request, None)

    def fail(self, error: Exception) -> None:
        self._joining.added(self._asker, self._group, self._request, error)
