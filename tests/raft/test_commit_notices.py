"""The commit index in a message of its own, in place of an empty append."""

from __future__ import annotations

import pytest

from multiraft.messages import ConfChange, ConfChangeType, Message, MessageType, Run
from multiraft.raft.core import RaftRole
from multiraft.raft.replication import SILENT_BEATS
from tests.raft.helpers import (
    Member,
    Network,
    acknowledge,
    append,
    entries,
    make_leader,
    make_member,
    only,
    role_of,
)


def notices(messages: list[Message]) -> dict[int, int]:
    return {message.to: message.commit for message in only(messages, MessageType.COMMIT)}


def leader_with_a_commit() -> Member:
    leader = make_leader(commit_notices=True)
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 2)
    return leader


def test_a_new_commit_is_told_in_place_of_an_empty_append() -> None:
    leader = make_leader(commit_notices=True)
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 2)
    acknowledge(leader, 3)
    messages = leader.process()
    assert notices(messages) == {2: 2, 3: 2}
    assert not only(messages, MessageType.APP)


def test_a_notice_is_capped_at_what_the_follower_has() -> None:
    leader = leader_with_a_commit()
    assert notices(leader.process()) == {2: 2}
    acknowledge(leader, 3)
    assert notices(leader.process()) == {3: 2}, "a later acknowledgement lets more be told"


def test_an_append_that_goes_out_anyway_carries_the_commit_for_free() -> None:
    leader = leader_with_a_commit()
    leader.core.propose(Run.of([b"y"]))
    messages = leader.process()
    assert notices(messages) == {}
    assert {m.to: m.commit for m in only(messages, MessageType.APP)} == {2: 2, 3: 2}


def test_nothing_is_told_twice() -> None:
    leader = leader_with_a_commit()
    leader.process()
    assert not leader.core.has_ready()
    assert not leader.core.notices_due
    acknowledge(leader, 2)
    assert not leader.process()


def test_a_follower_that_is_probed_is_told_by_its_heartbeat() -> None:
    leader = make_leader(commit_notices=True)
    leader.core.report_unreachable(3)
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 2)
    assert notices(leader.process()) == {2: 2}
    leader.core.tick()
    assert {m.to: m.commit for m in only(leader.process(), MessageType.HEARTBEAT)} == {2: 2, 3: 1}


def test_a_lost_notice_is_repaired_by_a_heartbeat() -> None:
    network = Network.of(3, commit_notices=True)
    network.campaign(1)
    network.lost = lambda message: message.type is MessageType.COMMIT
    network.propose(1, b"x")
    assert network.core(2).committed == 0 + network.core(1).committed - 1
    network.heal()
    network.tick(1)
    assert network[2].payloads == network[3].payloads == [b"x"]


def test_a_heartbeats_answer_is_no_reason_to_append_while_entries_are_in_flight() -> None:
    leader = make_leader(commit_notices=True)
    acknowledge(leader, 2)
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    answer = Message(MessageType.HEARTBEAT_RESP, to=1, sender=2, term=leader.core.term)
    sent = []
    for _ in range(2 * SILENT_BEATS):
        leader.core.step(answer)
        sent.append(len(only(leader.process(), MessageType.APP)))
    assert sent == ([0] * (SILENT_BEATS - 1) + [1]) * 2, "but a lost append is found out in the end"


def test_a_probe_under_way_is_followed_by_empty_ones_not_by_copies() -> None:
    """Else a link on which a probe takes longer than a beat is filled with the same entries."""
    leader = make_leader(commit_notices=True)
    leader.core.report_unreachable(2)
    leader.core.propose(Run.of([b"x"]))
    assert [bool(m.runs) for m in only(leader.process(), MessageType.APP) if m.to == 2] == [True]
    answer = Message(MessageType.HEARTBEAT_RESP, to=1, sender=2, term=leader.core.term)
    for _ in range(3):
        leader.core.step(answer)
        (again,) = only(leader.process(), MessageType.APP)
        assert (again.index, again.runs) == (1, ())
    acknowledge(leader, 2, 1)
    (first,) = only(leader.process(), MessageType.APP)
    assert first.runs, "the answer to an empty one ends the probing as well"


def test_a_probe_that_is_known_to_be_lost_is_sent_again() -> None:
    leader = make_leader(commit_notices=True)
    leader.core.report_unreachable(2)
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    leader.core.report_unreachable(2)
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, to=1, sender=2, term=leader.core.term))
    (again,) = only(leader.process(), MessageType.APP)
    assert again.runs


@pytest.mark.parametrize("count", [1, 3, 5])
def test_everybody_applies_everything(count: int) -> None:
    network = Network.of(count, commit_notices=True)
    network.campaign(1)
    for number in range(5):
        network.propose(1, b"%d" % number)
    assert {tuple(member.payloads) for member in network.members.values()} == {(b"0", b"1", b"2", b"3", b"4")}


def test_a_notice_is_not_answered() -> None:
    member = make_member(terms=[1, 1])
    append(member.core, term=1, index=2, log_term=1)
    member.process()
    member.core.step(Message(MessageType.COMMIT, 1, 2, 1, commit=2))
    assert not member.process()
    assert [index for index, _term, _data in member.applied] == [1, 2]


def test_a_notice_that_overtakes_its_entries_commits_what_is_there() -> None:
    member = make_member(terms=[1])
    append(member.core, term=1, index=1, log_term=1)
    member.core.step(Message(MessageType.COMMIT, 1, 2, 1, commit=5))
    assert member.core.committed == 1


def test_a_notice_never_lowers_the_commit_index() -> None:
    member = make_member()
    append(member.core, term=1, commit=2, runs=entries([1, 1]))
    member.core.step(Message(MessageType.COMMIT, 1, 2, 1, commit=1))
    assert member.core.committed == 2


def test_a_notice_restarts_the_election_timer() -> None:
    member = make_member()
    append(member.core, term=1)
    member.core.tick()
    member.core.step(Message(MessageType.COMMIT, 1, 2, 1, commit=0))
    assert member.core.election_elapsed == 0


def test_a_notice_of_a_higher_term_names_the_leader() -> None:
    leader = make_leader()
    leader.core.step(Message(MessageType.COMMIT, 1, 2, 5, commit=0))
    assert (role_of(leader.core), leader.core.term, leader.core.leader) == (RaftRole.FOLLOWER, 5, 2)


def test_taking_a_ready_with_nothing_new_looks_at_no_follower() -> None:
    leader = leader_with_a_commit()
    leader.process()
    leader.core.tracker.others = []  # any notice would now be lost, so none may be due
    leader.core.tick()
    assert not leader.core.notices_due


def test_without_the_option_nobody_is_sent_a_notice() -> None:
    network = Network.of(3)
    network.campaign(1)
    network.core(1).propose(Run.of([b"x"]))
    leader = network[1]
    leader.process()
    acknowledge(leader, 2)
    assert {message.type for message in leader.process()} == {MessageType.APP}


def test_a_change_of_configuration_that_commits_tells_the_old_and_probes_the_new() -> None:
    leader = make_leader(voters=(1, 2, 3, 4), commit_notices=True)
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 2)
    change = ConfChange(((ConfChangeType.REMOVE_NODE, 4),))
    leader.core.apply_conf_change(change)
    assert leader.core.committed == 2
    assert notices(leader.process()) == {2: 2}
