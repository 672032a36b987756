"""Members that are removed: how the host of one sees it off, and how its leader tells it.

For programs a group stops at once when its member here is removed. The member itself lives on: the
others learn that the removal is committed with the next append, or by some beat soon; if the leader
dies before, they may still need this one's vote to elect another, by the configuration they know. That
may be after a long while, and for ever if this was one of two. So a member that has its removal in its
own log goes on answering until the group is deleted here; it never stands for election, says nothing
by itself, and after some election timeouts gives its links up. One that was only told may stand, so it
stops then.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from multiraft.config import HostConfig
from multiraft.errors import MemberRemoved
from multiraft.events import Events, OwnMemberRemoved
from multiraft.group import Group
from multiraft.membership import GroupMeta
from multiraft.post import Post
from multiraft.types import MemberId

LINGER_TIMEOUTS = 10
"""Election timeouts for which a removed member keeps its links, or stands for election."""


class Departures:
    """The removed members of this host, and those that groups led here have removed."""

    def __init__(
        self,
        config: HostConfig,
        post: Post,
        events: Events,
        *,
        record: Callable[[Group, GroupMeta], None],
    ) -> None:
        self._post = post
        self._events = events
        self._record = record
        self._election_ticks = config.election_ticks
        self._ticks = 0
        self._leaving: dict[Group, int] = {}
        """Groups whose member here was removed, and the tick at which they fall silent."""
        self._to_tell: list[tuple[int, Group, MemberId, str]] = []
        """Members that this host, as leader, removed: tick, id and address to tell them at."""

    def removed(self, group: Group) -> None:
        """This host's member was removed: for programs the group stops at once."""
        if group.removed is not None or group.failed is not None:
            return
        error = MemberRemoved(f"member {group.member_id} was removed from group {group.id}")
        group.meta = attrs.evolve(group.meta, removed=True)
        self._record(group, group.meta)
        group.set_removed(error)
        if self._events.on:
            self._events.emit(OwnMemberRemoved(group.id, group.member_id))
        self.linger(group)

    def linger(self, group: Group) -> None:
        """The removed member lives on, from its removal, or from a restart after it."""
        self._leaving[group] = self._ticks + LINGER_TIMEOUTS * self._election_ticks

    def tell_later(self, group: Group, member: MemberId, address: str) -> None:
        """Tell a member, in a while, that it was removed.

        It may never hear it otherwise: nobody sends it the log any more. But it may be needed for
        a while, see above.
        """
        self._to_tell.append((self._ticks + self._election_ticks, group, member, address))

    def tick(self) -> None:
        """Silence removed members whose time is over, and tell those that may not know."""
        self._ticks += 1
        if not self._leaving and not self._to_tell:
            return
        for group in [group for group, due in self._leaving.items() if due <= self._ticks]:
            del self._leaving[group]
            if group.failed is None and group.removed is not None:
                self._post.disconnect(group)
                if group.member_id in group.raft.progress:
                    group.stop(group.removed)
        due, self._to_tell = self._to_tell, []
        for told in due:
            tick, group, id_, address = told
            if tick > self._ticks:
                self._to_tell.append(told)
            elif group.failed is None:
                self._post.tell_removal(group, id_, address)
