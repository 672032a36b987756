"""A member is at home on one host: another one that speaks for it is refused, and told."""

from __future__ import annotations

import pytest

from multiraft.acquaintances import HELD_MAX
from multiraft.errors import MemberForgotten, NotMember
from multiraft.group import Group
from multiraft.interfaces import SnapshotOffer
from multiraft.membership import Change, Step, Verb
from multiraft.messages import (
    BeatAcks,
    Beats,
    Disowned,
    EntryKind,
    Hello,
    Lane,
    Message,
    MessageType,
    Run,
    Snapshot,
)
from tests.engine.bench_host import BenchHost

WIPED = 99
"""The host id of a data folder made anew."""


def refused(host: BenchHost) -> list[tuple[str, int, int]]:
    found = [(to, item[2]) for to, _, item in host.wires.sent if type(item[2]) is Disowned]
    return [(to, each.to, each.host_id) for to, each in found]


def met(host: BenchHost) -> Group:
    """A group of three that has heard its leader, member 2."""
    group = host.create(7, hosts=3)
    host.hear(group, 2, MessageType.HEARTBEAT, term=2, commit=1)
    host.settle()
    assert group.hosts == {2: 2}
    return group


def test_the_first_word_counts_when_its_host_is_on_disk() -> None:
    host = BenchHost()
    group = host.create(7, hosts=3)
    host.hear(group, 2, MessageType.VOTE, term=5, log_term=1, index=1)
    host.hear(group, 2, MessageType.HEARTBEAT, term=6, commit=1)
    host.passes()
    assert group.raft.term == 1, "a power cut now forgets the host, so nothing may come of its words"
    host.settle()
    assert group.raft.term == 6
    assert group.raft.leader == 2
    assert [m.term for m in host.wires.messages(MessageType.VOTE_RESP)] == [5]


def test_proposals_are_not_lost_for_all_that_waits_for_the_disk() -> None:
    """While the link stays nobody sends them again, so their proposer would wait for ever."""
    host = BenchHost()
    group = host.create(7, hosts=3)
    host.elect(group)
    last, term = group.raft.last_index, group.raft.term
    for _ in range(HELD_MAX + 1):
        host.hear(group, 3, MessageType.HEARTBEAT_RESP, term=term)
    for number in range(3):
        run = Run.of([b"%d" % number], origin=3, sequence=number)
        host.hear(group, 3, MessageType.PROP, term=term, runs=[run])
    host.passes()
    assert group.raft.last_index == last
    host.settle()
    assert group.raft.last_index == last + 3


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        MessageType.VOTE,
        MessageType.PRE_VOTE,
        MessageType.APP,
        MessageType.APP_RESP,
        MessageType.VOTE_RESP,
        MessageType.HEARTBEAT,
        MessageType.HEARTBEAT_RESP,
    ],
)
def test_another_host_cannot_speak_for_a_member(restarted: bool, kind: MessageType) -> None:
    host = BenchHost()
    group = met(host)
    if restarted:
        host = BenchHost(host.power_cut())
        group = host.scheduler.groups[7]
    for _ in range(3):
        host.hear(group, 2, kind, host_id=WIPED, term=9, log_term=9, index=9)
        host.settle()
    assert group.raft.term == 2
    assert refused(host) == [("h2:1", 2, WIPED)], "told, and not at every word"
    assert "h2:1 speaks as member 2" in group.status().warnings[0]
    host.hear(group, 2, MessageType.HEARTBEAT, term=3, commit=1)
    host.settle()
    assert group.raft.term == 3, "the member itself is heard"


def test_nor_by_beats_and_their_answers() -> None:
    host = BenchHost()
    group = met(host)
    stranger = Hello("c", WIPED, 1, "h2:1")
    host.scheduler.receive(stranger, Lane.LIVENESS, [(0, 0, Beats([7, 0, 1, 2, 9, 1]))])
    host.scheduler.receive(stranger, Lane.LIVENESS, [(0, 0, BeatAcks([7, 0, 1, 2, 9]))])
    host.settle()
    assert group.raft.term == 2
    assert refused(host) == [("h2:1", 2, WIPED)]


def test_nor_by_a_snapshot() -> None:
    host = BenchHost()
    group = met(host)
    point = group.log.snapshot_point
    snapshot = Snapshot(100, 9, point.conf_state, point.data)
    with pytest.raises(NotMember, match="at home on another host"):
        host.scheduler.snapshot_sink(
            Hello("c", WIPED, 1, "h2:1"), SnapshotOffer(7, 0, 2, 1, 9, snapshot, 10, b"d")
        )


def test_two_that_speak_first_at_once_are_told_apart() -> None:
    host = BenchHost()
    group = host.create(7, hosts=3)
    host.hear(group, 2, MessageType.HEARTBEAT, term=2, commit=1)
    host.hear(group, 2, MessageType.HEARTBEAT, host_id=WIPED, term=9, commit=1)
    host.settle()
    assert group.raft.term == 2
    assert refused(host) == [("h2:1", 2, WIPED)]


def test_a_member_that_moves_takes_its_home_along() -> None:
    host = BenchHost()
    group = met(host)
    hello = Hello("c", 2, 4, "elsewhere:1")
    host.scheduler.receive(hello, Lane.LIVENESS, [(0, 0, Beats([7, 0, 1, 2, 3, 1]))])
    host.settle()
    assert group.raft.term == 3
    assert not refused(host)


def test_a_new_member_at_an_old_address_is_heard() -> None:
    host = BenchHost()
    group = met(host)
    steps = (Step(Verb.REMOVE, 3), Step(Verb.ADD, 4, "h3:1"))
    run = Run.of(
        [Change(steps).conf_change().encode()],
        EntryKind.CONF_CHANGE_V2,
        first=2,
        term=2,
        origin=2,
        sequence=1,
    )
    host.hear(group, 3, MessageType.PRE_VOTE, term=3, log_term=1, index=1)
    host.hear(group, 2, MessageType.APP, term=2, log_term=1, index=1, commit=2, runs=[run])
    host.settle()
    host.hear(group, 4, MessageType.VOTE, host_id=WIPED, term=8, log_term=8, index=8)
    host.tick(20)
    host.hear(group, 4, MessageType.VOTE, host_id=WIPED, term=9, log_term=9, index=9)
    host.settle()
    assert group.raft.term >= 9
    assert group.hosts == {2: 2, 4: WIPED}, "who is removed is not kept"
    assert not refused(host)


def test_whoever_is_disowned_stops_and_says_what_to_do() -> None:
    host = BenchHost()
    group = met(host)
    later = host.create(8, hosts=3)
    peer = Hello("c", 2, 1, "h2:1")
    host.scheduler.receive(peer, Lane.BULK, [(7, 0, Disowned(1, WIPED))])  # whoever was here before
    host.scheduler.receive(peer, Lane.BULK, [(7, 0, Disowned(2, 1))])
    host.settle()
    assert group.status().failed is None
    (waiting,) = host.propose(group, b"x")
    host.scheduler.receive(peer, Lane.BULK, [(7, 0, Disowned(1, 1))])
    host.settle()
    assert isinstance(group.failed, MemberForgotten)
    assert isinstance(waiting.error, MemberForgotten)
    assert "the host at h2:1 knows it by another data folder" in str(group.failed)
    assert "remove the member" in str(group.failed)
    assert later.status().failed is None


def test_what_waits_for_a_home_is_bounded() -> None:
    host = BenchHost()
    group = host.create(7, hosts=3)
    for _ in range(500):
        host.hear(group, 2, MessageType.HEARTBEAT, term=2, commit=1)
    host.passes()
    meetings = host.scheduler._acquaintances._meetings
    assert [len(meeting.held) for meeting in meetings.values()] == [64]
    host.settle()
    assert not meetings


def test_a_read_that_another_member_passed_on_binds_nobody() -> None:
    """A former leader passes reads on in the name of whoever asked; that member is not at home there."""
    host = BenchHost()
    group = host.create(7, hosts=3)
    asked = Message(MessageType.READ_INDEX, group.member_id, 3, 1, context=b"read")
    host.scheduler.receive(Hello("multiraft", 2, 1, "h2:1"), Lane.BULK, [(7, group.generation, asked)])
    host.settle()
    host.hear(group, 3, MessageType.HEARTBEAT, term=2, commit=1)
    host.settle()
    assert group.hosts == {3: 3}
    assert refused(host) == []


def test_whoever_is_refused_hears_it_when_there_is_a_link() -> None:
    """It may never say another word that could be answered: at rest it is silent."""
    host = BenchHost()
    group = met(host)
    host.scheduler.receive(
        Hello("multiraft", WIPED, 1, "h2:1"),
        Lane.BULK,
        [(7, group.generation, Message(MessageType.VOTE, group.member_id, 2, 3))],
    )
    host.settle()
    assert refused(host) == [("h2:1", 2, WIPED)]
    host.scheduler.peer_up(Hello("multiraft", WIPED, 1, "h2:1"), Lane.BULK)
    host.settle()
    assert refused(host) == [("h2:1", 2, WIPED)] * 2
