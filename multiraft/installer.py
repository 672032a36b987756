"""Snapshots that arrive: their file, what raft says to it, the log's record, the machine, the answer.

The order: the file is whole and on disk; raft takes the snapshot, or does not want it; the log
records it; the machine is restored; only then raft hears that it is done, and the leader of it.
What the group has written behind the snapshot waits as well: raft must hear of the snapshot
before it hears that entries after it are on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from multiraft.errors import GroupNotFound, NotMember
from multiraft.events import Events, SnapshotInstalled
from multiraft.group import Group
from multiraft.interfaces import SnapshotFile, SnapshotOffer, SnapshotSink, SnapshotStore
from multiraft.membership import Membership
from multiraft.messages import Hello, Message, MessageType
from multiraft.post import Post
from multiraft.snapshots import Snapshots
from multiraft.types import GroupId, Index, MemberId, Term
from multiraft.writes import Held


class Installer:
    """Received snapshots of a host's groups, until they are the groups' state."""

    def __init__(
        self,
        groups: Mapping[GroupId, Group],
        store: SnapshotStore,
        snapshots: Snapshots,
        post: Post,
        events: Events,
        *,
        is_stranger: Callable[[Hello, Group, MemberId], bool],
        step: Callable[[Group, Message], None],
        release: Callable[[Group, list[Message]], None],
        members_changed: Callable[[Group, Membership, bool], None],
        mark_dirty: Callable[[Group], None],
        call_soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._groups = groups
        self._store = store
        self._snapshots = snapshots
        self._post = post
        self._events = events
        self._is_stranger = is_stranger
        self._step = step
        self._release = release
        self._members_changed = members_changed
        self._mark_dirty = mark_dirty
        self._call_soon = call_soon
        self._received: dict[tuple[GroupId, Index, Term], tuple[SnapshotFile, str]] = {}
        """Files of snapshots that raft took and the log has not recorded yet, and who sent them."""
        self.installing: dict[Group, list[Held]] = {}
        """Groups whose machine is being restored, and what waits behind that."""

    def deliver(self, group: Group, held: Held) -> None:
        """What `held` waited for is on disk; only a snapshot before it may still be in the way."""
        waiting = self.installing.get(group)
        if waiting is not None:
            waiting.append(held)
        elif held.snapshot is None:
            self._release(group, held.responses)
        else:
            self._install(group, held)

    def snapshot_sink(self, peer: Hello, offer: SnapshotOffer) -> SnapshotSink:
        """Where the transport puts a snapshot it is offered."""
        group = self._groups.get(offer.group)
        if group is None or group.failed is not None:
            raise GroupNotFound(offer.group)
        if offer.generation != group.generation:
            raise NotMember(
                f"group {offer.group} is at generation {group.generation:x} here, not {offer.generation:x}"
            )
        if self._is_stranger(peer, group, offer.sender):
            raise NotMember(f"group {offer.group}: member {offer.sender} is at home on another host")
        if offer.to != group.member_id or (
            offer.sender not in group.routes and self._post.learn(group, offer.sender, peer) is None
        ):
            raise NotMember(f"group {offer.group}: member {offer.to} is not here")
        return self._store.sink(offer)

    def snapshot_received(self, peer: Hello, offer: SnapshotOffer, sink: SnapshotSink) -> None:
        """A snapshot file is whole and on disk: let raft decide what it is worth."""
        group, file = self._groups.get(offer.group), sink.file
        assert file is not None, "a finished sink knows its file"
        if group is None or group.failed is not None or offer.generation != group.generation:
            return
        self._snapshots.pin(group, file)
        self._call_soon(lambda: self._step_snapshot(group, offer, file, peer.address))

    def _step_snapshot(self, group: Group, offer: SnapshotOffer, file: SnapshotFile, sender: str) -> None:
        if group.failed is not None:
            return
        before = group.raft.log.unstable.snapshot
        self._step(
            group,
            Message(
                MessageType.SNAP,
                to=offer.to,
                sender=offer.sender,
                term=offer.term,
                snapshot=offer.snapshot,
            ),
        )
        taken = group.raft.log.unstable.snapshot
        if taken is None or taken is before:
            self._snapshots.unpin(group, file)
        else:
            self._received[group.id, taken.index, taken.term] = (file, sender)
        self._mark_dirty(group)

    def _install(self, group: Group, held: Held) -> None:
        """The log has recorded a received snapshot: the machine next, and only then the answer."""
        snapshot = held.snapshot
        assert snapshot is not None
        file, sender = self._received.pop((group.id, snapshot.index, snapshot.term))
        group.proposals.skipped()
        self.installing[group] = []

        def done() -> None:
            waiting = self.installing.pop(group)
            if self._events.on:
                self._events.emit(SnapshotInstalled(group.id, snapshot.index, file.file_bytes, sender))
            complete = not snapshot.conf_state.voters_outgoing
            self._members_changed(group, Membership.decode(snapshot.data), complete)
            if not group.raft.joint:
                group.proposals.completed()
            self._release(group, held.responses)
            group.reads.applied(group.applied)
            for later in waiting:
                self.deliver(group, later)
            self._mark_dirty(group)

        self._snapshots.install(group, file, done)

    def forget(self, group: Group) -> None:
        """The group failed: nothing is installed in it any more."""
        self.installing.pop(group, None)
