"""Members that leave, or come, when something is lost on the way; on a scheduler moved by hand."""

from __future__ import annotations

import attrs

from multiraft.departures import LINGER_TIMEOUTS
from multiraft.errors import MemberRemoved, MembershipRejected, OutcomeUnknown
from multiraft.group import Group
from multiraft.membership import Change, Membership, Step, Verb
from multiraft.messages import (
    EntryKind,
    Hello,
    JoinAnswer,
    JoinRequest,
    Lane,
    Message,
    MessageType,
    Removal,
    Run,
)
from multiraft.proposals import QueuedChange
from multiraft.referee import UNDER_WAY
from multiraft.types import Role
from tests.engine.bench_host import Answer, BenchHost


def change(*steps: Step) -> bytes:
    return Change(steps).conf_change().encode()


def test_a_configuration_that_was_in_force_is_in_force_after_a_restart() -> None:
    """Commit indexes are not durable, but for these: who left does not vote for who forgot that."""
    host = BenchHost()
    group = host.create(7)
    answer = Answer()
    group.proposals.changes.append(QueuedChange(change(Step(Verb.ADD, 9, "h9:1", Role.LEARNER)), answer))
    host.scheduler.mark_dirty(group)
    host.settle()
    assert answer.error is None
    assert host.store.groups()[7].hard_state.commit == group.membership.version > 1


def removed_here() -> tuple[BenchHost, Group]:
    """Member 2 leads at term 2, and has removed member 1, which is here."""
    host = BenchHost()
    group = host.create(7, hosts=2)
    run = Run.of([change(Step(Verb.REMOVE, 1))], EntryKind.CONF_CHANGE_V2, first=2, term=2)
    host.hear(group, 2, MessageType.APP, term=2, log_term=1, index=1, commit=1, runs=[run])
    host.settle()
    host.hear(group, 2, MessageType.COMMIT, term=2, commit=2)
    host.settle()
    assert isinstance(group.removed, MemberRemoved)
    return host, group


def test_a_removed_member_votes_until_it_is_deleted() -> None:
    """Its leader may have lost with the power that the removal is committed."""
    host, _ = removed_here()
    again = BenchHost(files=host.power_cut())
    group = again.scheduler.groups[7]
    assert isinstance(group.removed, MemberRemoved)
    assert "removed" in str(group.status().failed)
    again.settle()
    again.tick((LINGER_TIMEOUTS + 1) * again.config.election_ticks)
    assert group.failed is None
    assert group.routes == {}
    again.hear(group, 2, MessageType.VOTE, term=9, log_term=2, index=2, context=b"CampaignTransfer")
    again.settle()
    (vote,) = again.wires.messages(MessageType.VOTE_RESP)
    assert not vote.reject
    again.tick(100)
    assert group.raft.term == 9, "it never stands itself"
    assert not again.wires.messages(MessageType.PRE_VOTE)


def test_a_member_that_was_only_told_of_its_removal_stops() -> None:
    """By the configuration it knows it may stand for election."""
    host = BenchHost()
    group = host.create(7, hosts=2)
    hello = Hello("c", 2, 1, "h2:1")
    host.scheduler.receive(hello, Lane.BULK, [(7, group.generation, Removal(1))])
    host.settle()
    assert isinstance(group.removed, MemberRemoved)
    assert group.failed is None
    host.tick(LINGER_TIMEOUTS * host.config.election_ticks)
    assert isinstance(group.failed, MemberRemoved)


def test_a_host_that_joins_is_not_turned_away_by_its_own_addition() -> None:
    """It would delete its blank member, and the group would have a dead one."""
    host = BenchHost()
    group = host.create(7)
    joining, request = host.scheduler.joining, JoinRequest(1, 9, "h9:1", voter=True, add=True)

    def told(error: Exception | None) -> list[str]:
        host.wires.sent.clear()
        joining.added("h9:1", group, request, error)
        host.settle()
        return [item[2].refused for _, _, item in host.wires.sent if type(item[2]) is JoinAnswer]

    assert told(MembershipRejected(UNDER_WAY)) == [UNDER_WAY]
    assert told(OutcomeUnknown("the leader was lost")) == []
    assert told(MembershipRejected(UNDER_WAY)) == []
    assert told(MembershipRejected("member 5 is at h9:1")) == ["member 5 is at h9:1"]
    assert told(None) == [""]
    assert told(MembershipRejected(UNDER_WAY)) == [UNDER_WAY]


def test_who_writes_to_a_member_that_is_gone_hears_that_it_is_gone_itself() -> None:
    """A learner never stands for election, so it would wait for that leader for ever."""
    host = BenchHost()
    group = host.create(7)
    for step in (Step(Verb.ADD, 9, "h9:1", Role.LEARNER), Step(Verb.REMOVE, 9)):
        group.proposals.changes.append(QueuedChange(change(step), Answer()))
        host.scheduler.mark_dirty(group)
        host.settle()
    host.wires.sent.clear()
    hello = Hello("c", 9, 1, "h9:1")
    lost = Message(MessageType.READ_INDEX, to=5, sender=9, context=b"c")
    host.scheduler.receive(hello, Lane.BULK, [(7, group.generation, lost)])
    host.settle()
    assert [(a, item[2].to) for a, _, item in host.wires.sent if type(item[2]) is Removal] == [("h9:1", 9)]


def forwarded(host: BenchHost) -> list[tuple[str, list[bytes]]]:
    """What was forwarded since this was asked last, and where to."""
    sent, host.wires.sent = host.wires.sent, []
    found = [(address, item[2]) for address, _, item in sent if type(item[2]) is Message]
    return [(address, each.runs[0].payloads) for address, each in found if each.type is MessageType.PROP]


def link(host: BenchHost, member: int, address: str) -> None:
    host.scheduler._post.peer(address)
    host.scheduler.peer_up(Hello("c", member, 1, address), Lane.BULK)
    host.settle()


def test_what_a_leader_outside_of_the_known_members_was_to_get_goes_when_it_is_heard_again() -> None:
    """Each configuration that is applied on the way to its own cuts the route that was learned."""
    host = BenchHost()
    group = host.create(7, hosts=3)
    host.hear(group, 9, MessageType.HEARTBEAT, term=2, commit=1)
    host.settle()
    link(host, 9, "h9:1")
    host.propose(group, b"may be lost")
    host.settle()
    assert forwarded(host) == [("h9:1", [b"may be lost"])]
    host.scheduler._members_changed(group, group.membership, complete=True)
    host.propose(group, b"nowhere to go")
    host.settle()
    assert forwarded(host) == []
    host.hear(group, 9, MessageType.HEARTBEAT, term=2, commit=1)
    host.propose(group, b"after them")
    host.settle()
    order = [b"may be lost", b"nowhere to go", b"after them"]
    assert forwarded(host) == [("h9:1", [each]) for each in order]


def test_what_was_forwarded_goes_to_where_the_leader_is_now() -> None:
    host = BenchHost()
    group = host.create(7, hosts=3)
    host.hear(group, 2, MessageType.HEARTBEAT, term=2, commit=1)
    host.settle()
    link(host, 2, "h2:1")
    link(host, 2, "moved:1")
    host.propose(group, b"x")
    host.settle()
    assert forwarded(host) == [("h2:1", [b"x"])]
    members = group.membership.members
    host.scheduler._members_changed(group, Membership(members), complete=True)
    host.settle()
    assert forwarded(host) == [], "nothing became of that"
    moved = {**members, 2: attrs.evolve(members[2], address="moved:1")}
    host.scheduler._members_changed(group, Membership(moved), complete=True)
    host.settle()
    assert forwarded(host) == [("moved:1", [b"x"])]
