"""Liveness between hosts: who gave whose leader its word, and what the beats of a host then mean.

A follower *attaches* its group to its leader's host, once per term and session; from then on one beat
and one acknowledgement per pair of hosts are worth a heartbeat and its answer of every attached group,
with proof for each. docs/liveness.md has the rules, why they suffice, and what each of them prevents.

Everything here happens within a pass, or is asked to; pulses are made at its very end, from what
the cores are then. So an acknowledgement never leaves before a detachment that was due before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final, cast

from multiraft.config import HostConfig
from multiraft.group import Group
from multiraft.messages import PULSE_FIELDS, Hello, Lane, Message, MessageType, Pulse, Row
from multiraft.partings import Partings
from multiraft.post import Post
from multiraft.raft.core import RaftRole
from multiraft.rest import Rest
from multiraft.routes import Peer
from multiraft.sessions import Follower, Question, Session
from multiraft.types import GroupId, Index, MemberId, Term

EPOCH_SHIFT: Final = 32
"""Halves of one start of a host: more than it can begin in a lifetime at one per tick."""


class Liveness:
    """The sessions of a host, and their books."""

    def __init__(
        self,
        config: HostConfig,
        own: Hello,
        groups: Mapping[GroupId, Group],
        post: Post,
        rest: Rest,
        *,
        step: Callable[[Group, Message], None],
        admit: Callable[[Hello, Group, Message], bool],
        mark_dirty: Callable[[Group], None],
        call_soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._config = config
        self._groups = groups
        self._post = post
        self._rest = rest
        self._step = step
        self._admit = admit
        self._mark_dirty = mark_dirty
        self._call_soon = call_soon
        self.take: Callable[[Group], None] = lambda _group: None
        """Have applied what a core has just learned to be committed (express.py)."""
        self._halves = itertools.count((own.epoch << EPOCH_SHIFT) + 1)
        self._queued: list[Session] = []
        self._host_id = own.host_id
        self._pacemaker: Session | None = None
        self.paced = False
        """The pacemaker's beat was heard, and the scheduler has not seen to it yet."""
        self.partings = Partings(config.election_ticks, groups, rest, self._ask_each)

    def _session(self, peer: Peer) -> Session:
        if peer.session is None:
            peer.session = Session(peer, self._halves.__next__)
        return peer.session

    def _sessions(self) -> Iterator[Session]:
        return (peer.session for peer in self._post.peers.values() if peer.session is not None)

    def queue(self, session: Session) -> None:
        """It may have something to say at the end of the pass."""
        if not session.queued:
            session.queued = True
            self._queued.append(session)

    # --- what the network tells ----------------------------------------------------------------------

    def peer_up(self, peer: Hello, lane: Lane) -> None:
        """Our stream is open. The other side need not know that the one before it broke."""
        if lane is Lane.LIVENESS:
            self._call_soon(partial(self._lane_changed, peer.address, True))

    def peer_down(self, address: str, lane: Lane) -> None:
        if lane is Lane.LIVENESS:
            self._call_soon(partial(self._lane_changed, address, False))

    def _lane_changed(self, address: str, up: bool) -> None:
        peer = self._post.peers.get(address)
        if peer is not None:
            self._renew(self._session(peer)).lane_up = up

    def lost(self, peer: Peer) -> None:
        """The transport would not take something of the lane, in which nothing may be missing."""
        if peer.session is not None and peer.session.is_open:
            self._call_soon(partial(self._renew_lost, peer))

    def _renew_lost(self, peer: Peer) -> None:
        if peer.session is not None:
            self._renew(peer.session)

    def released(self, peer: Peer) -> None:
        """The link to it is closed, as no group needs it."""
        if peer.session is not None:
            self._end(peer.session)

    def hear(self, host: Hello, pulse: Pulse) -> None:
        """One frame of the other side, of whatever session."""
        # It has a group with a member here, though we may not know that yet (as one that joins does not
        # know its leader): nothing will be told us without a session.
        peer = self._post.peer(host.address)
        peer.idle = False
        session = self._session(peer)
        if host.host_id != session.host_id:
            session = self._end(session)
            session.met_stranger(host.host_id)
        if pulse.half < session.other:
            return
        if pulse.half > session.other:
            session = self._end(session)
            session.met(pulse.half)
            self.queue(session)
        if pulse.other != session.half:
            return  # of a session that we have left, or a first word to us
        if not session.is_open:
            self._open(session)
        if pulse.number == 0:
            return
        next_one = session.follows(pulse)
        if next_one is None:
            return
        if not next_one:
            self._renew(session)
            return
        rows = pulse.rows
        for row in zip(*[iter(rows)] * PULSE_FIELDS, strict=True):
            self._hear_row(host, session, *row)
        if pulse.ack:
            self._answered(session.hear_ack(pulse.ack))
            if session.has_questions:
                self.queue(session)
        if pulse.beat:
            session.hear_beat(pulse.beat, pulse.urgent)
            if pulse.urgent:
                self.queue(session)
            elif session is self._pacemaker:
                self.paced = True

    def _hear_row(
        self,
        host: Hello,
        session: Session,
        what: int,
        group_id: GroupId,
        generation: int,
        term: Term,
        leader: MemberId,
        last: int,
    ) -> None:
        if what == Row.ATTACH:
            self._attached(host, session, group_id, generation, term, leader, last)
        elif what == Row.LEFT:
            self._left(session, group_id, generation, term)
        elif what == Row.RELEASED:
            self._released(session, group_id, generation, term)
        elif what == Row.COMMITTED:
            self._committed(session, group_id, generation, term, last)
        # What a later version says beside these is no concern of ours.

    # --- sessions begin and end ----------------------------------------------------------------------

    def _open(self, session: Session) -> None:
        session.opened()
        self.queue(session)
        self.partings.opened(session)

    def _renew(self, session: Session, *, silent: bool = False) -> Session:
        """The session is over; try for another one, which is returned."""
        after = self._end(session, silent=silent)
        after.begin()
        self.queue(after)
        return after

    def _end(self, session: Session, *, silent: bool = False) -> Session:
        """From now on nothing of this session is said or believed. Returns the one that has its place.

        Its groups are told later, in turn. Till then they may still have it for their `bond`, or in what
        vouches for them: whoever looks there goes by `over`. It may be the same one, if its books are empty.
        """
        left = session.close()
        if not (session.led or session.followed or left):
            return session
        after = session.peer.session = session.successor()
        self.partings.ended(session, silent, left)
        return after

    def beat(self) -> None:
        """A heartbeat interval is over by the clock: beats and answers are due with this pass.

        They do not wait for the tick: on a host with much to do that is late, and if they were too, the
        others would end their sessions with it, which makes still more to do. All that an early one
        can do is to vouch from an earlier tick than it might (docs/liveness.md).
        """
        first = leading = None
        for peer in self._post.peers.values():
            if peer.groups:  # else nothing keeps the link: it is closed in a while
                session = self._session(peer)
                session.interval_over()
                self.queue(session)
                if session.led:
                    leading = session
                if session.followed and (first is None or session.host_id < first.host_id):
                    first = session
        # Beat with the host of the smallest id that beats us, if that is not this one. So of those that
        # beat each follows one with a smaller id, and nobody, in a ring, itself (docs/liveness.md).
        if first is not None and leading is not None and first.host_id > self._host_id:
            first = None
        self._pacemaker = first

    def tick(self) -> None:
        """A tick interval is over. After all that has arrived, and after the groups' own ticks."""
        for peer in self._post.peers.values():
            session = peer.session
            if session is not None and session.is_open and session.tick() >= self._config.election_ticks:
                self._renew(session, silent=True)
        self.partings.tick()

    @property
    def attached(self) -> int:
        """Followers here that have given their word."""
        return sum(len(session.followed) for session in self._sessions()) + self.partings.attached

    # --- attachments, as a follower ------------------------------------------------------------------

    def heard(self, group: Group) -> None:
        """The core, as a follower, had its timer reset by its leader, to which it is not attached."""
        self.check(group)
        raft = group.raft
        peer: Peer | None = group.routes.get(raft.leader)
        session = None if peer is None else peer.session
        if session is None or not session.is_open:
            return
        group.bond, group.bond_term, group.bond_leader = session, raft.term, raft.leader
        session.followed[group.id] = group
        session.say(Row.ATTACH, group.id, group.generation, raft.term, raft.leader, group.member_id)
        self.queue(session)

    def _released(self, session: Session, group_id: GroupId, generation: int, term: Term) -> None:
        """That leader does not lead any more: the word is given back, and the promise with it."""
        group = session.followed.get(group_id)
        if group is None or group.generation != generation or group.bond_term != term:
            return
        self._rest.wake(group)
        self._rest.fold(group)
        del session.followed[group_id]
        group.bond = None
        group.bond_term = 0
        group.raft.leader_gone(group.bond_leader, term)
        self._mark_dirty(group)

    def _committed(
        self, session: Session, group_id: GroupId, generation: int, term: Term, commit: Index
    ) -> None:
        group = session.followed.get(group_id)
        if group is None or group.generation != generation or group.bond_term != term:
            return
        raft = group.raft
        before = raft.committed
        if not raft.hear_beat(group.bond_leader, term, commit):
            message = Message(MessageType.HEARTBEAT, group.member_id, group.bond_leader, term, commit=commit)
            self._step(group, message)
            self._mark_dirty(group)
        elif raft.committed != before:
            self.take(group)  # without waking it: it is as much at rest as before

    # --- attachments, as a leader --------------------------------------------------------------------

    def _attached(
        self,
        host: Hello,
        session: Session,
        group_id: GroupId,
        generation: int,
        term: Term,
        leader: MemberId,
        member: MemberId,
    ) -> None:
        group = self._groups.get(group_id)
        if (
            group is None
            or group.failed is not None
            or group.generation != generation
            or group.member_id != leader
            or group.raft.role is not RaftRole.LEADER
            or group.raft.term != term
        ):
            # Or that member would be loyal for ever.
            session.say(Row.RELEASED, group_id, generation, term, leader, member)
            self.queue(session)
            return
        self.check(group)  # its own word to an earlier leader, if any, is over
        before = session.led.get(group_id)
        if before is not None:
            self._unvouch(before)
        progress = group.raft.progress.get(member)
        if group.hosts.get(member) != host.host_id:
            # Nobody may vouch for it before it is known to be at home there (acquaintances.py). Its word
            # counts for nothing till then, but is noted: it is to have it back in the end.
            progress = None
            self._admit(host, group, Message(MessageType.HEARTBEAT_RESP, leader, member, term))
        follower = session.led[group_id] = Follower(session, group, term, member, progress)
        if progress is not None:
            progress.vouch = follower
            progress.recent_active = True
        group.bond_term, group.bond_leader = term, leader
        self._rest.wake(group)

    def _left(self, session: Session, group_id: GroupId, generation: int, term: Term) -> None:
        follower = session.led.get(group_id)
        if follower is None or follower.term != term or follower.group.generation != generation:
            return  # of an attachment that is over
        del session.led[group_id]
        self._unvouch(follower)
        self._rest.wake(follower.group)

    @staticmethod
    def _unvouch(follower: Follower) -> None:
        progress = follower.progress
        if progress is not None and progress.vouch is follower:
            progress.vouch = None

    # --- both ----------------------------------------------------------------------------------------

    def check(self, group: Group) -> None:
        """A core has moved: take back what is not true any more.

        Called for every group whose core did anything, before the pass says anything to anybody.
        """
        raft = group.raft
        if not group.bond_term or (
            raft.term == group.bond_term and raft.leader == group.bond_leader and group.failed is None
        ):
            return
        session = group.bond
        if session is not None:
            if session.followed.get(group.id) is group:
                del session.followed[group.id]
            if not session.over:
                session.say(
                    Row.LEFT, group.id, group.generation, group.bond_term, group.bond_leader, group.member_id
                )
                self.queue(session)
            group.bond = None
        else:
            self._release(group)
        group.bond_term = 0
        self._rest.wake(group)

    def _release(self, group: Group) -> None:
        """A leader's end: every member that gave its word has it back."""
        for session in self._sessions():
            follower = session.led.get(group.id)
            if follower is not None and follower.group is group:
                del session.led[group.id]
                self._unvouch(follower)
                session.say(
                    Row.RELEASED, group.id, group.generation, follower.term, group.member_id, follower.member
                )
                self.queue(session)

    # --- questions that beats ask --------------------------------------------------------------------

    def carry(self, group: Group, message: Message) -> bool:
        """Whether a heartbeat with a context goes along with a beat: its member's host vouches for it."""
        progress = group.raft.progress.get(message.to)
        follower = None if progress is None else cast("Follower | None", progress.vouch)
        if follower is None or follower.term != message.term or follower.session.over:
            return False
        session = follower.session
        if message.commit > follower.told:
            follower.told = message.commit
            session.say(
                Row.COMMITTED, group.id, group.generation, message.term, group.member_id, message.commit
            )
        session.ask(follower, message.context)
        self.queue(session)
        return True

    def _answered(self, questions: list[Question]) -> None:
        """Beats were acknowledged that asked these: each member still attached has answered."""
        for question in questions:
            follower = question.follower
            group = follower.group
            # Perhaps it left and came back; what counts is that its word stood when the answer left.
            present = follower.session.led.get(group.id)
            if present is None or present.term != follower.term or present.member != follower.member:
                self._ask_each([question])
            elif group.failed is None:
                self._step(
                    group,
                    Message(
                        MessageType.HEARTBEAT_RESP,
                        group.member_id,
                        follower.member,
                        follower.term,
                        context=question.context,
                    ),
                )
                self._mark_dirty(group)

    def _ask_each(self, questions: list[Question]) -> None:
        """Beats will not answer these: ask by ordinary heartbeats."""
        for question in questions:
            follower = question.follower
            group, raft = follower.group, follower.group.raft
            progress = raft.progress.get(follower.member)
            if (
                group.failed is None
                and raft.role is RaftRole.LEADER
                and raft.term == follower.term
                and progress
            ):
                self._post.route(
                    group,
                    Message(
                        MessageType.HEARTBEAT,
                        follower.member,
                        group.member_id,
                        raft.term,
                        commit=min(progress.match, raft.committed),
                        context=question.context,
                    ),
                )

    def flush(self) -> None:
        """The end of a pass: make the pulses, first in line of what goes to each host."""
        queued, self._queued = self._queued, []
        tick = self._rest.ticks
        for session in queued:
            session.queued = False
            pulses = session.pulses(tick)
            if pulses:
                peer = session.peer
                peer.liveness[:0] = [(0, 0, pulse) for pulse in pulses]
                self._post.queue(peer)
