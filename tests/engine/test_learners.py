"""Learners that hear no leader: they never stand for election, so nothing comes of that by itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from multiraft.elections import LEARNER_TIMEOUTS
from multiraft.group import Group
from multiraft.membership import Change, GroupMeta, Step, Verb, predefined
from multiraft.messages import Message, MessageType
from multiraft.proposals import QueuedChange
from multiraft.raft.core import RaftRole
from multiraft.types import Member, Role
from tests.engine.bench_host import Answer
from tests.engine.many import Hosts


def create(hosts: Hosts, places: Sequence[int] = (1, 2, 3), third: Role = Role.LEARNER) -> None:
    """Group 7 on those hosts, with voters on the first two."""
    members = [Member(1, "127.0.0.1:1"), Member(2, "127.0.0.1:2"), Member(3, "127.0.0.1:3", third)]
    for number in places:
        made = {7: (predefined(members), GroupMeta(number))}
        hosts.schedulers[number - 1].catalog.create_groups(made, Answer())


def run(hosts: Hosts, seconds: float) -> None:
    for _ in range(round(seconds / 0.05)):
        hosts.turn(0.05)


def leader(hosts: Hosts) -> Group:
    groups = [scheduler.groups[7] for scheduler in hosts.schedulers if 7 in scheduler.groups]
    return next(group for group in groups if group.raft.role is RaftRole.LEADER)


def propose(group: Group) -> Answer:
    answer = Answer()
    group.proposals.queue(b"x", answer)
    group.host.mark_dirty(group)
    return answer


def test_one_that_is_made_late_is_found() -> None:
    """Its host is there all the time, so nothing but its own word tells the leader, which rests by then."""
    hosts = Hosts()
    create(hosts, (1, 2))
    run(hosts, 5)
    assert leader(hosts).at_rest
    create(hosts, (3,))
    run(hosts, 10)
    assert hosts.schedulers[2].groups[7].applied == leader(hosts).applied


@pytest.mark.parametrize("role", [Role.VOTER, Role.LEARNER])
def test_calls_of_one_that_is_cut_off_end(role: Role) -> None:
    """It does not believe for ever in a leader that it does not hear."""
    hosts = Hosts()
    create(hosts, third=role)
    run(hosts, 5)
    hosts.isolate_last()
    group = hosts.schedulers[2].groups[7]
    before = propose(group)
    run(hosts, 5)
    after, read = propose(group), Answer()
    group.reads.queued.append(read)
    run(hosts, 2 * group.host.config.leader_wait_s)
    assert [call.told for call in (before, after, read)] == [True] * 3


def test_one_that_is_removed_while_it_is_away_hears_of_it() -> None:
    hosts = Hosts(connect_s=0.01)
    create(hosts)
    run(hosts, 5)
    hosts.isolate_last()
    group = hosts.schedulers[2].groups[7]
    call, removal = propose(group), Answer()
    change = Change((Step(Verb.REMOVE, 3),)).conf_change().encode()
    leader(hosts).proposals.changes.append(QueuedChange(change, removal))
    leader(hosts).host.mark_dirty(leader(hosts))
    run(hosts, 60)
    assert removal.told
    assert removal.error is None
    assert group.removed is None
    hosts.isolate_last(False)
    run(hosts, 60)
    assert call.told
    assert group.removed is not None


def test_the_words_of_one_that_has_no_leader_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be thousands, and nobody who leads any of them."""
    hosts = Hosts()
    create(hosts, (3,))
    scheduler = hosts.schedulers[2]
    said: list[Message] = []
    monkeypatch.setattr(scheduler._post, "route", lambda _group, message: said.append(message))
    election_s = scheduler.config.election_ticks * scheduler.config.tick_interval_s
    run(hosts, 80 * election_s)
    assert {message.type for message in said} == {MessageType.HEARTBEAT_RESP}
    # Each timeout is between one and two of the usual ones, four times over; one word for each member.
    assert 2 * 80 // 8 <= len(said) <= 2 * (80 // LEARNER_TIMEOUTS + 2)
    assert scheduler._rest.awake == 0
