"""What members of a group say to each other, and the entries they say it about.

Everything here is a value: made once, never changed after it was handed out (bugs of that
kind are why etcd copies slices so carefully). The classes are mutable attrs classes only
because frozen ones cost three times as much to make.

Entries travel and rest in *runs*. A run is a stretch of consecutive entries of one term and
one kind whose payloads were encoded together, once, on the leader; the append to each
follower, the record in every log and the entry cache all refer to those same bytes. Work on
a follower is therefore per run, not per entry.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Final, cast

import attrs
import cbor2

from multiraft.types import GroupId, Index, MemberId, Term

NO_MEMBER: Final = 0
APPEND_THREAD: Final = (1 << 64) - 1
APPLY_THREAD: Final = (1 << 64) - 2
TRANSFER_CONTEXT: Final = b"CampaignTransfer"
"""Context of a vote request whose campaign was ordered by the leader: it overrides leases."""


class EntryKind(enum.IntEnum):
    NORMAL = 0
    CONF_CHANGE = 1
    CONF_CHANGE_V2 = 2


@attrs.define(eq=False)
class Run:
    """Consecutive entries of one term and kind, encoded once.

    `size` counts payload bytes only; `weight` is what the run costs on the wire and on disk.
    A run that was proposed but not appended yet is *unplaced*: `term` 0, `first` 0.
    A conf change is always a run of its own with one entry.

    `origin` and `sequence` name the proposer of a forwarded run: its member id, and the number
    of the run's first entry in a count that no two proposals of that member share; 0 and 0 for
    anything else. They are kept in the log, so that the proposer recognizes its entries when it
    applies them.
    """

    first: Index
    last: Index
    term: Term
    kind: EntryKind
    size: int
    blob: bytes
    """A CBOR array with one byte string per entry."""
    origin: MemberId = NO_MEMBER
    sequence: int = 0
    _payloads: list[bytes] | None = attrs.field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        payloads: Sequence[bytes],
        kind: EntryKind = EntryKind.NORMAL,
        *,
        first: Index = 0,
        term: Term = 0,
        origin: MemberId = NO_MEMBER,
        sequence: int = 0,
    ) -> Run:
        """Encode `payloads` (at least one). A list is kept as it is, and must not be changed any more."""
        held = payloads if type(payloads) is list else list(payloads)
        assert held, "a run has at least one entry"
        size = sum(map(len, held))
        return cls(first, first + len(held) - 1, term, kind, size, cbor2.dumps(held), origin, sequence, held)

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    @property
    def weight(self) -> int:
        return len(self.blob)

    @property
    def payloads(self) -> list[bytes]:
        """The entries' payloads; decoded on first use. Do not change the list."""
        if self._payloads is None:
            decoded = cbor2.loads(self.blob)
            assert len(decoded) == self.last - self.first + 1, "a run's blob holds one payload per entry"
            self._payloads = cast("list[bytes]", decoded)
        return self._payloads

    def placed(self, first: Index, term: Term) -> Run:
        """The same entries at their place in the log; the bytes are shared."""
        return Run(
            first,
            first + self.last - self.first,
            term,
            self.kind,
            self.size,
            self.blob,
            self.origin,
            self.sequence,
            self._payloads,
        )

    def cut(self, first: Index, last: Index) -> Run:
        """The part from `first` to `last`, both included. Re-encodes unless it is the whole."""
        assert self.first <= first <= last <= self.last
        if first == self.first and last == self.last:
            return self
        part = self.payloads[first - self.first : last - self.first + 1]
        # Each forwarded entry has a number of its own; `sequence` is the first one's.
        sequence = self.sequence + (first - self.first) if self.origin else 0
        return Run.of(part, self.kind, first=first, term=self.term, origin=self.origin, sequence=sequence)


def head_bytes(number: int) -> int:
    """Bytes in front of a CBOR byte string of that length, or array of that count (RFC 8949 §3)."""
    return 1 if number < 24 else 2 if number < 1 << 8 else 3 if number < 1 << 16 else 5


@attrs.frozen
class HardState:
    """What must be on disk before a promise leaves (thesis, Figure 3.1). All zero: nothing yet."""

    term: Term = 0
    vote: MemberId = NO_MEMBER
    commit: Index = 0


@attrs.frozen
class ConfState:
    """A group's configuration by member id. Tuples are ascending when made by the core."""

    voters: tuple[MemberId, ...] = ()
    learners: tuple[MemberId, ...] = ()
    voters_outgoing: tuple[MemberId, ...] = ()
    learners_next: tuple[MemberId, ...] = ()
    auto_leave: bool = False


@attrs.frozen
class Snapshot:
    """Where a snapshot stands and the configuration there. index 0: no snapshot.

    `data` is opaque to the core. In the engine it is the group's encoded membership; the state
    machine's own bytes travel and rest in snapshot files, never in this object.
    """

    index: Index = 0
    term: Term = 0
    conf_state: ConfState = ConfState()
    data: bytes = b""


class ConfChangeType(enum.IntEnum):
    ADD_NODE = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER_NODE = 3


class ConfChangeTransition(enum.IntEnum):
    AUTO = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2


@attrs.frozen
class ConfChange:
    """One or more membership changes proposed as one entry (thesis §4.3).

    The empty change (no changes, transition AUTO, no context) leaves a joint configuration and
    encodes to no bytes at all, so that it is never refused for its size.
    """

    changes: tuple[tuple[ConfChangeType, MemberId], ...] = ()
    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    context: bytes = b""

    def encode(self) -> bytes:
        if self == ConfChange():
            return b""
        return cbor2.dumps([[[int(t), n] for t, n in self.changes], int(self.transition), self.context])

    @classmethod
    def decode(cls, data: bytes) -> ConfChange:
        """Raises: ValueError when `data` is no conf change."""
        if not data:
            return cls()
        try:
            changes, transition, context = cast("list[Any]", cbor2.loads(data))
            return cls(
                tuple((ConfChangeType(t), int(n)) for t, n in changes),
                ConfChangeTransition(transition),
                bytes(context),
            )
        except (cbor2.CBORDecodeError, TypeError, ValueError) as error:
            raise ValueError(f"not a configuration change: {error}") from None


class MessageType(enum.IntEnum):
    """etcd's message types, with etcd's meanings. The numbers are ours and go on the wire."""

    HUP = 0
    BEAT = 1
    PROP = 2
    APP = 3
    APP_RESP = 4
    VOTE = 5
    VOTE_RESP = 6
    SNAP = 7
    HEARTBEAT = 8
    HEARTBEAT_RESP = 9
    UNREACHABLE = 10
    SNAP_STATUS = 11
    CHECK_QUORUM = 12
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESP = 16
    PRE_VOTE = 17
    PRE_VOTE_RESP = 18
    STORAGE_APPEND = 19
    STORAGE_APPEND_RESP = 20
    STORAGE_APPLY = 21
    STORAGE_APPLY_RESP = 22
    FORGET_LEADER = 23
    COMMIT = 24
    """Ours: the commit index alone, capped at the follower's match; never answered.
    Sent instead of an empty append when `CoreConfig.commit_notices` is on."""


@attrs.define(eq=False)
class Message:
    """One raft message. Which fields mean something depends on `type`, as in etcd."""

    type: MessageType
    to: MemberId = NO_MEMBER
    sender: MemberId = NO_MEMBER
    term: Term = 0
    log_term: Term = 0
    index: Index = 0
    commit: Index = 0
    runs: Sequence[Run] = ()
    reject: bool = False
    reject_hint: Index = 0
    vote: MemberId = NO_MEMBER
    snapshot: Snapshot | None = None
    context: bytes = b""
    responses: Sequence[Message] = ()


# --- between hosts, beside raft's own messages ---------------------------------------------


@attrs.define
class ProposalRefused:
    """A leader's answer to a forwarded run that it did not append: it never will be applied.

    Sent to the host of member `to`; `sequence` is the forwarded run's, all of it was refused.
    """

    to: MemberId
    sequence: int
    reason: str


BEAT_FIELDS: Final = 6
BEAT_ACK_FIELDS: Final = 5


@attrs.define
class Beats:
    """Heartbeats of any number of groups to one host, as one message.

    `rows` is flat: group, generation, to, sender, term, commit; and again. Each row means what a
    HEARTBEAT of that group would mean, no more and no less: it vouches for a group, at a term, to
    a member. Flat, because a list of numbers costs next to nothing to encode and decode.
    """

    rows: list[int]


@attrs.define
class BeatAcks:
    """Answers to `Beats`. `rows` is flat: group, generation, to, sender, term; and again.

    Only those groups are named whose member followed that leader at that term when it heard the
    beat; nothing is ever answered for a group that was not asked.
    """

    rows: list[int]


class Row(enum.IntEnum):
    """What a row of a `Pulse` says. The numbers go on the wire."""

    ATTACH = 1
    """From a follower's host: the member follows that leader at that term, and says so before it stops."""
    LEFT = 2
    """From a follower's host: it does not any more."""
    RELEASED = 3
    """From a leader's host: it does not lead at that term (any more), and never will again."""
    COMMITTED = 4
    """From a leader's host: the commit index, which is within what the follower has acknowledged."""


PULSE_FIELDS: Final = 6


@attrs.define
class Pulse:
    """One frame of a session between two hosts (docs/liveness.md): what is said about groups, then
    an acknowledgement, then a beat.

    Attributes:
        half: The sender's half of the session's name; it only ever grows.
        other: The half of the receiver that the sender knows; 0: none yet.
        number: Counts the pulses of a session from 1, so that one that is missing shows; 0: this
            one only introduces the sender.
        beat: The newest beat sent in this session, this one included; 0: none.
        ack: The newest beat of the receiver that the sender has handled in this session; 0: none.
        urgent: A read waits for this beat: acknowledge it at once rather than with the next one.
        rows: Flat: what (`Row`), group, generation, term, leader, and the follower or, in
            COMMITTED, the commit index; and again.
    """

    half: int
    other: int
    number: int
    beat: int
    ack: int
    urgent: bool
    rows: list[int]


AppendRow = tuple[GroupId, int, MemberId, MemberId, Term, Term, Index, Index, Run]
"""group, generation, to, sender, term, log_term, index, commit, run"""


@attrs.define
class Appends:
    """Appends of any number of groups to one host, as one message.

    Each row means what an APP of its group with that one run would mean. The run holds proposals
    made at the leader's own term, and begins right behind `index`.
    """

    rows: list[AppendRow]


APPEND_ACK_FIELDS: Final = 6


@attrs.define
class AppendAcks:
    """Answers to `Appends`: each row is an APP_RESP that rejects nothing.

    `rows` is flat: group, generation, to, sender, term, index; and again.
    """

    rows: list[int]


@attrs.define
class Removal:
    """What a host answers to a member whose removal it has applied. `to` is that member."""

    to: MemberId


@attrs.define
class OtherGeneration:
    """What a host answers to a message of another generation of a group, which it drops.

    The envelope carries its own generation. `to` is the member that spoke, `heard` the generation
    that it spoke at.
    """

    to: MemberId
    heard: int


@attrs.define
class Disowned:
    """What a host answers to a member that it knows to be at home in another data folder.

    `to` is that member, `host_id` the host that it spoke from.
    """

    to: MemberId
    host_id: int


@attrs.define
class JoinRequest:
    """A host asks another one, of whose groups it knows nothing, to be added as `member`.

    `add` unset: only whether the group is there, and its generation. The envelope's own
    generation is 0.
    """

    number: int
    """Given back with the answer; never used twice by a host."""
    member: MemberId
    address: str
    voter: bool
    add: bool
    staging: bool = False
    """Not a voter yet, but to become one."""


@attrs.define
class JoinAnswer:
    """The answer to a `JoinRequest`. The envelope carries the group's generation.

    `refused` is empty if it was done: with `add` set, `member` belongs to the group now.
    """

    number: int
    refused: str


@attrs.frozen
class Hello:
    """How hosts introduce themselves; exchanged before anything else on every connection.

    `host_id` is made at random when a data folder is first used and kept in it. `epoch` is one
    higher at every start, on disk before the first dial.
    """

    cluster_id: str
    host_id: int
    epoch: int
    address: str
    version: int = 1


class Lane(enum.IntEnum):
    """Streams between two hosts. Liveness never waits behind bulk."""

    LIVENESS = 0
    BULK = 1


HostMessage = (
    Message
    | ProposalRefused
    | Beats
    | BeatAcks
    | Pulse
    | Appends
    | AppendAcks
    | Removal
    | JoinRequest
    | JoinAnswer
    | OtherGeneration
    | Disowned
)

Envelope = tuple[GroupId, int, HostMessage]
"""(group, the group's generation, message). A message of another generation is dropped.

`Beats`, `BeatAcks`, `Pulse`, `Appends` and `AppendAcks` are about many groups and name them inside;
theirs are 0 and 0."""
