"""The short way of an append: for groups in the steady case, without messages and Readys.

What steady.py does to one core is carried here between cores: the leader's run goes into the
batch and, as a row, into the frame of each follower's host; a follower's into its batch; what is
on disk becomes a row of acknowledgement; and what is committed goes to the applier. The rules are
those of scheduler.py, and so is the order: a row of appends promises nothing and leaves with the
pass, an acknowledgement waits for the sync of the batch that holds what it promises.

Whatever is not steady becomes a message and takes the long way, which knows all the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from multiraft.apply import Applier
from multiraft.catchup import CatchUp
from multiraft.group import Group
from multiraft.messages import APPEND_ACK_FIELDS, AppendRow, Hello, Message, MessageType, Run
from multiraft.post import Post
from multiraft.raft.steady import acknowledge, follow, lead, stored, take_committed
from multiraft.routes import FRAME_BYTES_MAX, FRAME_MESSAGES_MAX, Peer
from multiraft.types import GroupId, Index, MemberId, Term
from multiraft.writes import Stored, Writes


class Express:
    """The appends of a host's groups, as long as they are plain."""

    def __init__(
        self,
        groups: Mapping[GroupId, Group],
        post: Post,
        writes: Writes,
        applier: Applier,
        catch_up: CatchUp,
        *,
        step: Callable[[Hello, Group, Message], None],
        step_core: Callable[[Group, Message], None],
        foreign: Callable[[Hello, Group, int, Message], None],
        mark_dirty: Callable[[Group], None],
        wake: Callable[[Group], None],
        heard: Callable[[Group], None],
    ) -> None:
        self._groups = groups
        self._post = post
        self._writes = writes
        self._applier = applier
        self._catch_up = catch_up
        self._step = step
        self._step_core = step_core
        self._foreign = foreign
        self._mark_dirty = mark_dirty
        self._wake = wake
        self._heard = heard

    def lead(self, group: Group, run: Run) -> bool:
        """Append a run of proposals that is placed behind our log. False: nothing was done."""
        raft = group.raft
        anchor_term, commit = raft.log.last_term, raft.log.committed
        members = lead(raft, run)
        if members is None:
            return False
        group_id, generation, own, term, anchor = (
            group.id,
            group.generation,
            group.member_id,
            run.term,
            run.first - 1,
        )
        routes = group.routes
        for member in members:
            peer: Peer | None = routes.get(member)
            if peer is None:
                continue  # a member that left; nobody there to tell
            rows = peer.appends
            if rows is None:
                rows = peer.open_appends()
            rows.append((group_id, generation, member, own, term, anchor_term, anchor, commit, run))
            peer.bulk_bytes += len(run.blob)
            if peer.bulk_bytes > FRAME_BYTES_MAX or len(rows) >= FRAME_MESSAGES_MAX:
                self._post.flush_bulk(peer)
            if not peer.queued:
                self._post.queue(peer)
        self._writes.append(group, run, own)
        return True

    def hear_appends(self, host: Hello, rows: list[AppendRow]) -> None:
        """Appends from another host's leaders."""
        groups, host_id, append = self._groups, host.host_id, self._writes.append
        for group_id, generation, to, sender, term, anchor_term, anchor, commit, run in rows:
            group = groups.get(group_id)
            if group is None or group.failed is not None:
                continue
            if generation != group.generation:
                self._foreign(host, group, generation, Message(MessageType.APP, to, sender, term))
                continue
            if not group.awake:
                # One at rest need not hear of it: going by the last beat, it has heard its leader less than
                # two ticks before it did, and the append is no question of time.
                bond = group.bond
                if bond is None or bond.over or bond.silent > 1 or term != group.bond_term:
                    self._wake(group)
            raft = group.raft
            if (
                to == group.member_id
                and sender in group.routes
                and group.hosts.get(sender) == host_id
                and follow(raft, sender, term, anchor_term, anchor, commit, run)
            ):
                append(group, run, sender)
                if group.bond_term != term:
                    self._heard(group)
                log = raft.log
                if log.committed > log.applying:
                    self.take(group)
            else:
                message = Message(MessageType.APP, to, sender, term, anchor_term, anchor, commit, (run,))
                self._step(host, group, message)

    def written(self, done: Iterable[Stored]) -> None:
        """A batch is on disk: acknowledge what `Writes.append` put into it."""
        for group, term, index, leader in done:
            group.unsynced -= 1
            if group.failed is not None:
                continue
            raft = group.raft
            if not stored(raft, term, index):
                continue
            if leader == group.member_id:
                self._acknowledged(group, leader, term, index)
                continue
            peer: Peer | None = group.routes.get(leader)
            if peer is not None:
                acks = peer.acks
                if acks is None:
                    acks = peer.open_acks()
                acks += (group.id, group.generation, leader, group.member_id, term, index)
                if len(acks) >= APPEND_ACK_FIELDS * FRAME_MESSAGES_MAX:
                    peer.acks = None
                if not peer.queued:
                    self._post.queue(peer)
            log = raft.log
            if log.committed > log.applying:
                self.take(group)

    def hear_acks(self, host: Hello, rows: list[int]) -> None:
        """Another host's answers to our appends."""
        groups, host_id = self._groups, host.host_id
        for group_id, generation, to, sender, term, index in zip(
            *[iter(rows)] * APPEND_ACK_FIELDS, strict=True
        ):
            group = groups.get(group_id)
            if group is None or group.failed is not None or generation != group.generation:
                continue
            if not group.awake:
                self._wake(group)
            if to == group.member_id and sender in group.routes and group.hosts.get(sender) == host_id:
                self._acknowledged(group, sender, term, index)
            else:
                self._step(host, group, Message(MessageType.APP_RESP, to, sender, term, 0, index))

    def _acknowledged(self, group: Group, member: MemberId, term: Term, index: Index) -> None:
        raft = group.raft
        if acknowledge(raft, member, term, index) is None:
            self._step_core(group, Message(MessageType.APP_RESP, group.member_id, member, term, 0, index))
            if not group.dirty:
                self._mark_dirty(group)
            return
        log = raft.log
        if log.committed > log.applying:
            self.take(group)
        if raft.notices_due and not group.dirty:
            self._mark_dirty(group)

    def take(self, group: Group) -> None:
        """Of what the group's core knows to be committed: have applied what may be, if anything."""
        runs = take_committed(group.raft)
        if runs:
            self._applier.add(group, runs)
        elif group.replay_to:
            self._catch_up.want(group)
