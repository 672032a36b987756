"""Coalesced heartbeats: one message per peer and interval, whatever the number of groups.

What travels is still per group: a row vouches for one group at one term to one member, and an
answer names the groups whose members said so. Only the envelopes, the message objects and the
Readys are saved, which cost ten times what the rows do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from multiraft.group import Group
from multiraft.messages import BEAT_ACK_FIELDS, BEAT_FIELDS, Hello, Message, MessageType
from multiraft.post import Post
from multiraft.raft.replication import take_beats
from multiraft.routes import Peer
from multiraft.types import GroupId


class Beater:
    """Gathers the beats of a tick, and takes those of others."""

    def __init__(
        self,
        groups: Mapping[GroupId, Group],
        post: Post,
        *,
        step: Callable[[Group, Message], None],
        admit: Callable[[Hello, Group, Message], bool],
        foreign: Callable[[Hello, Group, int, Message], None],
        mark_dirty: Callable[[Group], None],
        wake: Callable[[Group], None],
        heard: Callable[[Group], None],
    ) -> None:
        self.take: Callable[[Group], None] = lambda _group: None
        """Have applied what a core has just learned to be committed (express.py)."""
        self._groups = groups
        self._post = post
        self._step = step
        self._admit = admit
        self._foreign = foreign
        self._mark_dirty = mark_dirty
        self._wake = wake
        self._heard = heard

    def gather(self, group: Group) -> None:
        """Plain heartbeats of a group that leads are due."""
        routes, own, term = group.routes, group.member_id, group.raft.term
        for member, commit in take_beats(group.raft):
            peer = routes.get(member)
            if peer is not None:
                peer.beats += (group.id, group.generation, member, own, term, commit)
                if not peer.queued:
                    self._post.queue(peer)

    def hear(self, host: Hello, rows: list[int]) -> None:
        """Beats of another host's groups."""
        groups, host_id = self._groups, host.host_id
        for group_id, generation, to, sender, term, commit in zip(*[iter(rows)] * BEAT_FIELDS, strict=True):
            group = groups.get(group_id)
            if group is None or group.failed is not None:
                continue
            if generation != group.generation:
                self._foreign(host, group, generation, Message(MessageType.HEARTBEAT, to, sender, term))
                continue
            if to != group.member_id:
                continue
            if group.hosts.get(sender) != host_id:
                beat = Message(MessageType.HEARTBEAT, to, sender, term, commit=commit)
                if not self._admit(host, group, beat):
                    continue
            peer: Peer | None = group.routes.get(sender)
            if peer is None:
                peer = self._post.learn(group, sender, host)
                if peer is None:
                    continue
            raft = group.raft
            before = raft.committed
            if not group.awake:
                self._wake(group)
            if raft.hear_beat(sender, term, commit):
                peer.beat_acks += (group_id, generation, sender, to, term)
                if not peer.queued:
                    self._post.queue(peer)
                if raft.committed != before:
                    self.take(group)
                if group.bond_term != term:
                    self._heard(group)
            else:
                # Not from the leader we follow: the full rules decide what that means.
                self._step(group, Message(MessageType.HEARTBEAT, to, sender, term, commit=commit))
                self._mark_dirty(group)

    def hear_acks(self, host: Hello, rows: list[int]) -> None:
        """Another host's answers to our beats."""
        groups, host_id = self._groups, host.host_id
        for group_id, generation, to, sender, term in zip(*[iter(rows)] * BEAT_ACK_FIELDS, strict=True):
            group = groups.get(group_id)
            if group is None or group.failed is not None or generation != group.generation:
                continue
            if to != group.member_id or sender not in group.routes:
                continue
            if group.hosts.get(sender) != host_id:
                ack = Message(MessageType.HEARTBEAT_RESP, to, sender, term)
                if not self._admit(host, group, ack):
                    continue
            if not group.raft.hear_beat_ack(sender, term):
                self._step(group, Message(MessageType.HEARTBEAT_RESP, to, sender, term))
                self._mark_dirty(group)
