"""What has arrived from other hosts, each kind on its way to those who know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from multiraft.acquaintances import Acquaintances
from multiraft.beats import Beater
from multiraft.departures import Departures
from multiraft.elections import Elections
from multiraft.express import Express
from multiraft.group import Group
from multiraft.inbox import Inbox
from multiraft.interfaces import Clock
from multiraft.joining import Joining
from multiraft.liveness import Liveness
from multiraft.messages import (
    AppendAcks,
    Appends,
    BeatAcks,
    Beats,
    Disowned,
    Hello,
    HostMessage,
    JoinAnswer,
    JoinRequest,
    Message,
    OtherGeneration,
    ProposalRefused,
    Pulse,
    Removal,
)
from multiraft.post import Post
from multiraft.types import GroupId


class Arrivals:
    """The other end of the inbox."""

    def __init__(
        self,
        groups: Mapping[GroupId, Group],
        inbox: Inbox,
        clock: Clock,
        post: Post,
        *,
        acquaintances: Acquaintances,
        beater: Beater,
        departures: Departures,
        elections: Elections,
        express: Express,
        joining: Joining,
        liveness: Liveness,
        step: Callable[[Hello, Group, Message], None],
        mark_dirty: Callable[[Group], None],
    ) -> None:
        self._groups = groups
        self._inbox = inbox
        self._clock = clock
        self._post = post
        self._acquaintances = acquaintances
        self._beater = beater
        self._departures = departures
        self._elections = elections
        self._express = express
        self._joining = joining
        self._liveness = liveness
        self._step = step
        self._mark_dirty = mark_dirty

    def drain(self, deadline: float) -> None:
        """Handle what waits in the inbox, piece by piece, until `deadline`; one piece at least."""
        inbox, groups = self._inbox, self._groups
        while inbox.weight:
            peer, items, _ = inbox.take()
            for group_id, generation, message in items:
                if type(message) is Appends:
                    self._express.hear_appends(peer, message.rows)
                    continue
                if type(message) is AppendAcks:
                    self._express.hear_acks(peer, message.rows)
                    continue
                if type(message) is Beats:
                    self._beater.hear(peer, message.rows)
                    continue
                if type(message) is BeatAcks:
                    self._beater.hear_acks(peer, message.rows)
                    continue
                if type(message) is Pulse:
                    self._liveness.hear(peer, message)
                    continue
                if type(message) is JoinRequest:
                    self._joining.requested(peer, group_id, message)
                    continue
                if type(message) is JoinAnswer:
                    self._joining.answered(generation, message)
                    continue
                group = groups.get(group_id)
                if group is None or group.failed is not None or generation != group.generation:
                    self._post.refuse_stray(peer, group_id, generation, message)
                    if group is None:
                        self._elections.stray(peer, group_id, generation, message)
                    elif generation != group.generation:
                        self._hear_foreign(peer, group, generation, message)
                elif type(message) is Message:
                    self._step(peer, group, message)
                elif type(message) is Disowned:
                    self._acquaintances.disowned(peer, group, message)
                elif type(message) is Removal:
                    if message.to == group.member_id:
                        self._departures.removed(group)
                elif (
                    type(message) is ProposalRefused
                    # Or it is for who was at this address before: a new folder begins with the same numbers.
                    and message.to == group.member_id
                    and group.proposals.refused(message.sequence, message.reason)
                ):
                    self._mark_dirty(group)
            if self._clock.now() > deadline:
                break

    def _hear_foreign(self, peer: Hello, group: Group, generation: int, message: HostMessage) -> None:
        if type(message) is Message:
            self._acquaintances.foreign(peer, group, generation, message)
        elif type(message) is OtherGeneration:
            self._acquaintances.told_foreign(peer, group, generation, message)
