"""What a pass has to say to other hosts: gathered per peer, then handed to the transport.

Messages are lost here as anywhere on the way; raft repairs that. But what the transport refuses
at once is known to be lost, so the cores are told and need not wait to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from multiraft.events import INFO, Events, PeerDown, PeerUp, SnapshotNotSent, SnapshotSent
from multiraft.group import Group
from multiraft.interfaces import SnapshotOffer, SnapshotStore, Transport
from multiraft.membership import MEMBER_ID_MAX
from multiraft.messages import (
    NO_MEMBER,
    Appends,
    Envelope,
    Hello,
    HostMessage,
    Lane,
    Message,
    MessageType,
    ProposalRefused,
    Removal,
)
from multiraft.proposals import LEADERSHIP_CHANGED
from multiraft.raft.core import RaftRole
from multiraft.routes import (
    APPEND,
    FRAME_BYTES_MAX,
    FRAME_MESSAGES_MAX,
    LIVENESS,
    PROPOSAL,
    SNAPSHOT,
    WAYS,
    Peer,
)
from multiraft.types import GroupId, MemberId, Role

PIECE_GROUPS: Final = 128
"""Groups that are told at once that a link broke, or is back: a millisecond of work."""


class Post:
    """The outgoing side of a host's scheduler."""

    def __init__(
        self,
        transport: Transport,
        snapshots: SnapshotStore,
        groups: Mapping[GroupId, Group],
        events: Events,
        *,
        call_soon: Callable[[Callable[[], None]], None],
        call_next: Callable[[Sequence[Callable[[], None]]], None],
        mark_dirty: Callable[[Group], None],
    ) -> None:
        self._transport = transport
        self._snapshots = snapshots
        self._groups = groups
        self._events = events
        self._call_soon = call_soon
        self._call_next = call_next
        self._mark_dirty = mark_dirty
        self.peers: dict[str, Peer] = {}
        """Other hosts by address."""
        self._sending: list[Peer] = []
        self.lost_messages = 0
        # What liveness.py does here; set once, as each of the two needs the other.
        self.carry: Callable[[Group, Message], bool] = lambda *_: False
        """Whether a beat says what this heartbeat, which has a context, would."""
        self.lane_lost: Callable[[Peer], None] = lambda _: None
        """Something of the liveness lane was not taken."""
        self.released: Callable[[Peer], None] = lambda _: None
        """The link to it is closed."""

    def route(self, group: Group, message: Message) -> None:
        """Queue one message for the end of the pass. Takes the message over."""
        peer: Peer | None = group.routes.get(message.to)
        if peer is None:
            return  # a member that left; nobody there to tell
        way = WAYS[message.type]
        if way == LIVENESS:
            if message.context and message.type is MessageType.HEARTBEAT and self.carry(group, message):
                return
            peer.liveness.append((group.id, group.generation, message))
        else:
            if way == APPEND:
                for run in message.runs:
                    peer.bulk_bytes += len(run.blob)
            elif way == PROPOSAL:
                # The term it is proposed for; the leader refuses it at any other (proposals.py).
                message.term = group.raft.term
            elif way == SNAPSHOT:
                self._send_snapshot(group, peer, message)
                return
            peer.add_bulk((group.id, group.generation, message))
            if peer.bulk_bytes > FRAME_BYTES_MAX or len(peer.bulk) >= FRAME_MESSAGES_MAX:
                peer.flush_bulk(self._transport)
        if not peer.queued:
            peer.queued = True
            self._sending.append(peer)

    def queue(self, peer: Peer) -> None:
        """Something for `peer` is to leave at the end of the pass."""
        if not peer.queued:
            peer.queued = True
            self._sending.append(peer)

    def flush_bulk(self, peer: Peer) -> None:
        """A frame for `peer` is full."""
        peer.flush_bulk(self._transport)

    def flush(self) -> None:
        sending, self._sending = self._sending, []
        for peer in sending:
            peer.flush(self._transport)
            if peer.lost:
                lost, peer.lost = peer.lost, []
                self._lost(peer, lost)
            if peer.liveness_lost:
                peer.liveness_lost = False
                self.lane_lost(peer)

    def _lost(self, peer: Peer, items: list[Envelope]) -> None:
        """The transport would not take these: the cores must not count on them."""
        self.lost_messages += len(items)
        for item in items:
            group_id, _, message = item
            if type(message) is Appends:
                for row in message.rows:
                    self._report_lost(row[0], row[2])
                continue
            if type(message) is ProposalRefused and peer.connected:
                peer.add_bulk(item)  # with the next pass
                self.queue(peer)
            group = self._groups.get(group_id)
            if group is None or group.failed is not None or type(message) is not Message:
                continue
            if message.type is MessageType.PROP:
                # Without a connection it stays, in order, for `_resend`. With one it must fail:
                # a later run may get through, and then the leader would not take this one.
                if peer.connected:
                    group.proposals.lost(message.runs[0].sequence)
            elif message.type is MessageType.APP:
                self._report_lost(group_id, message.to)

    def _report_lost(self, group_id: GroupId, to: MemberId) -> None:
        """An append was lost. One report for each is cheap: only the first changes anything."""
        group = self._groups.get(group_id)
        if group is not None and group.failed is None:
            group.raft.report_unreachable(to)

    def _send_snapshot(self, group: Group, peer: Peer, message: Message) -> None:
        file = group.snapshot_file
        to = message.to
        if file is None or message.snapshot is None or file.snapshot.index < message.snapshot.index:
            group.raft.report_snapshot(to, False)
            return
        offer = SnapshotOffer(
            group=group.id,
            generation=group.generation,
            sender=group.member_id,
            to=to,
            term=message.term,
            snapshot=file.snapshot,
            file_bytes=file.file_bytes,
            digest=file.digest,
        )

        def done(error: BaseException | None) -> None:
            place = (group.id, file.snapshot.index, file.file_bytes, peer.address, to)
            if error is not None:
                self._events.emit(SnapshotNotSent(*place, str(error)))
            elif self._events.on:
                self._events.emit(SnapshotSent(*place))
            if group.failed is None:
                group.raft.report_snapshot(to, error is None)
                self._mark_dirty(group)

        self._transport.send_snapshot(
            peer.address,
            offer,
            lambda offset: self._snapshots.raw(file, offset),
            lambda error: self._call_soon(lambda: done(error)),
        )

    def peer(self, address: str) -> Peer:
        """The host at `address`, dialed if it is not yet."""
        peer = self.peers.get(address)
        if peer is None:
            peer = self.peers[address] = Peer(address)
            # At once: an election must not wait for a link, nor an append for the election.
            self._transport.connect(address)
        return peer

    def peer_up(self, peer: Hello, lane: Lane) -> None:
        """Our stream is open (again): what was asked of leaders there and may be lost goes once more."""
        if (host := self.peers.get(peer.address)) is not None and host.lane_up(lane) and self._events.on:
            self._events.emit(PeerUp(host.address))
        if lane is Lane.BULK and (route := self.peers.get(peer.address)) is not None:
            route.connected = True
            # Before the next pass forwards anything new: the leader wants runs in order.
            self._call_soon(lambda: self._resend(route))

    def peer_down(self, address: str, lane: Lane, reason: str) -> None:
        """Our stream broke: appends in it may be lost, so probe before sending more."""
        if (host := self.peers.get(address)) is not None:
            lost = host.up
            if host.lane_down(lane):
                # Hosts that start together are not there at once, which is nothing to worry about.
                self._events.emit(PeerDown(address, reason), None if lost else INFO)
        if lane is Lane.BULK and (route := self.peers.get(address)) is not None:
            route.connected = False
            self._call_soon(lambda: self._in_pieces(route, self._unreachable_from))

    def _resend(self, peer: Peer) -> None:
        if peer.refusals:
            # They may have been lost with the last stream, of which the proposers know nothing.
            # Told twice, they do no harm.
            for refusal in peer.refusals:
                peer.add_bulk(refusal)
            self.queue(peer)
        self._in_pieces(peer, self._resend_to)

    def _resend_to(self, peer: Peer, group_id: GroupId) -> None:
        group = self._groups.get(group_id)
        if group is None or group.routes.get(group.raft.leader) is not peer:
            return
        self.resend(group)
        if group.reads.ask_again(float("inf")):
            self._mark_dirty(group)

    def resend(self, group: Group) -> None:
        """Forward once more what the leader may have lost, or was never told."""
        raft = group.raft
        if group.failed is not None or raft.leader in (NO_MEMBER, group.member_id):
            return
        for run in group.proposals.to_resend(raft.term):
            self.route(group, Message(MessageType.PROP, to=raft.leader, sender=group.member_id, runs=(run,)))

    def _unreachable_from(self, peer: Peer, group_id: GroupId) -> None:
        group = self._groups.get(group_id)
        if group is None or group.failed is not None or group.raft.role is not RaftRole.LEADER:
            return
        for member, route in group.routes.items():
            if route is peer:
                group.raft.report_unreachable(member)
                self._mark_dirty(group)  # a leader at rest does not rest on

    def _in_pieces(self, peer: Peer, each: Callable[[Peer, GroupId], None]) -> None:
        """Have `each` called for every group that has a member there, before anything else that waits.

        A pass may end between two pieces: two hosts may share a hundred thousand groups.
        """
        groups = list(peer.groups)

        def call(part: list[GroupId]) -> None:
            for group_id in part:
                each(peer, group_id)

        starts = range(0, len(groups), PIECE_GROUPS)
        self._call_next([partial(call, groups[start : start + PIECE_GROUPS]) for start in starts])

    def refuse(self, group: Group, to: MemberId, sequence: int, reason: str) -> None:
        peer: Peer | None = group.routes.get(to)
        if peer is not None:  # else it was removed while its proposal waited, and is told that
            self._refuse(peer, (group.id, group.generation, ProposalRefused(to, sequence, reason)))

    def _refuse(self, peer: Peer, refusal: Envelope) -> None:
        peer.keep_refusal(refusal)
        peer.add_bulk(refusal)
        self.queue(peer)

    def refuse_stray(self, peer: Hello, group_id: GroupId, generation: int, message: HostMessage) -> None:
        """A message for a group that is not here: only a forwarded proposal has somebody waiting."""
        if type(message) is Message and message.type is MessageType.PROP and message.runs:
            route = self.peer(peer.address)
            refusal = ProposalRefused(message.sender, message.runs[0].sequence, LEADERSHIP_CHANGED)
            self._refuse(route, (group_id, generation, refusal))

    def connect(self, group: Group) -> None:
        """Point the group's routes at the hosts of all members of its present configuration.

        That is the core's: who is removed by a joint change still votes until it is left.
        """
        leader = group.raft.leader
        before = group.routes.get(leader)
        self.disconnect(group)
        members = group.membership.members
        for id_ in group.raft.progress:
            if id_ != group.member_id and (member := members.get(id_)) is not None:
                self._point(group, id_, self.peer(member.address))
        if group.routes.get(leader) is not before:
            self._found(group, leader)

    def learn(self, group: Group, sender: MemberId, host: Hello) -> Peer | None:
        """A route to a member that we do not know (yet): back where its message came from.

        Configurations count from when they are applied, so a member that is behind, or new, may
        not know its own leader, nor a candidate. Raft lets everybody be heard (thesis §4.2.2).
        None: it was removed, and is told so.
        """
        if self.tell_if_removed(group, sender, host):
            return None
        if sender in (NO_MEMBER, group.member_id) or sender > MEMBER_ID_MAX:
            return None
        peer = self.peer(host.address)
        self._point(group, sender, peer)
        if sender == group.raft.leader:
            self._found(group, sender)
        return peer

    def _found(self, group: Group, leader: MemberId) -> None:
        """There is another route to the leader than before, or one again.

        What was forwarded by the one before may be lost, or had none. At once, as the leader wants
        runs in order. Without a link it waits for that: see `peer_up`.
        """
        peer: Peer | None = group.routes.get(leader)
        if peer is not None and peer.connected:
            self._resend_to(peer, group.id)

    @staticmethod
    def _point(group: Group, member: MemberId, peer: Peer) -> None:
        peer.groups.add(group.id)
        peer.idle = False
        group.routes[member] = peer

    def tell_if_removed(self, group: Group, sender: MemberId, host: Hello) -> bool:
        """Whether whoever speaks was removed; it is told so."""
        member = group.membership.members.get(sender)
        if member is None or member.role is not Role.REMOVED:
            return False
        self.tell_removal(group, sender, host.address)
        return True

    def tell_removal(self, group: Group, member: MemberId, address: str) -> None:
        """Let a member know that it was removed: it may hear it from nobody else."""
        self.send(address, (group.id, group.generation, Removal(member)))

    def send(self, address: str, item: Envelope) -> None:
        """One message to a host that need not have a member of anything, at the end of the pass.

        Lost while there is no link yet; that is made, and whoever matters says it again.
        """
        peer = self.peer(address)
        peer.idle = False
        peer.add_bulk(item)
        self.queue(peer)

    def notify(self, address: str, item: Envelope) -> None:
        """As `send`, for what nobody may ask for again: told once more whenever a link is made.

        The members of a group at rest say nothing, so what got lost would never be found out.
        """
        peer = self.peer(address)
        peer.idle = False
        self._refuse(peer, item)

    def disconnect(self, group: Group) -> None:
        """Take the group's routes away. Links that nobody needs any more go later: see `sweep`."""
        routes, group.routes = group.routes, {}
        for peer in routes.values():
            peer.groups.discard(group.id)

    def sweep(self) -> None:
        """Close links to hosts that no group needs. Called now and then.

        Not before a whole interval without any: what was said last has to get there, and a
        member that leaves is often followed by another at the same place.
        """
        for peer in [peer for peer in self.peers.values() if not peer.groups]:
            if peer.idle and not peer.queued:
                del self.peers[peer.address]
                self._transport.release(peer.address)
                self.released(peer)
            peer.idle = True
