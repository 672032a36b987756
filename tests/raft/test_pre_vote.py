"""Pre-vote (thesis §9.6)."""

from __future__ import annotations

import pytest

from multiraft.errors import ProposalDropped
from multiraft.messages import HardState, Message, MessageType, Run
from multiraft.raft.core import RaftRole
from tests.raft.helpers import ELECTION_TICKS, Network, append, make_member, only, role_of


def test_a_rejected_pre_vote_leaves_everything_undisturbed() -> None:
    network = Network.of(3, pre_vote=True)
    network.campaign(1)
    network.isolate(3)
    network.propose(1, b"x")
    network.heal()
    before = [(core.term, core.vote, core.leader) for core in map(network.core, (1, 2))]
    network.campaign(3)
    assert network.leaders == [1]
    assert [(core.term, core.vote, core.leader) for core in map(network.core, (1, 2))] == before
    assert network.core(3).term == before[0][0]


def test_the_request_names_the_next_term_but_does_not_enter_it() -> None:
    member = make_member(pre_vote=True, terms=[1], state=HardState(4, 2, 1))
    member.core.campaign()
    ready = member.take()
    assert {(m.type, m.term) for m in ready.messages} == {(MessageType.PRE_VOTE, 5)}
    assert (member.core.term, member.core.vote) == (4, 2)
    assert ready.hard_state is None
    assert not ready.must_sync


def test_a_pre_candidate_forgets_its_leader() -> None:
    """Else all of them go on refusing each other on behalf of a leader that is dead."""
    member = make_member(pre_vote=True)
    append(member.core, term=1)
    for _ in range(2 * ELECTION_TICKS):
        member.core.tick()
    assert role_of(member.core) is RaftRole.PRE_CANDIDATE
    assert member.core.leader == 0


def test_pre_vote_with_check_quorum_elects_after_the_leader_died() -> None:
    network = Network.of(3, pre_vote=True, check_quorum=True)
    network.campaign(1)
    network.isolate(1)
    for _ in range(6 * ELECTION_TICKS):
        for member in (2, 3):
            network.core(member).tick()
        network.settle()
    assert [leader for leader in network.leaders if leader != 1]


def test_a_lower_term_pre_vote_is_answered_with_our_term() -> None:
    """Who is behind has to learn it, or a group of mixed settings gets stuck."""
    member = make_member(terms=[1], state=HardState(5, 0, 1))
    member.core.step(Message(MessageType.PRE_VOTE, 1, 2, 3, 1, 1))
    answers = member.process()
    assert [(m.type, m.to, m.term, m.reject) for m in answers] == [(MessageType.PRE_VOTE_RESP, 2, 5, True)]


def test_a_pre_candidate_catches_up_with_the_term_of_a_refusal() -> None:
    member = make_member(pre_vote=True)
    member.core.campaign()
    member.core.step(Message(MessageType.PRE_VOTE_RESP, 1, 2, 5, reject=True))
    assert (member.core.role, member.core.term) == (RaftRole.FOLLOWER, 5)


def test_a_granted_pre_vote_of_a_higher_term_does_not_move_the_term() -> None:
    member = make_member(pre_vote=True)
    member.core.campaign()
    member.core.step(Message(MessageType.PRE_VOTE_RESP, 1, 2, 1))
    assert (member.core.role, member.core.term) == (RaftRole.PRE_CANDIDATE, 0)
    member.process()
    assert (member.core.role, member.core.term) == (RaftRole.CANDIDATE, 1)


def test_a_partitioned_member_does_not_raise_its_term() -> None:
    network = Network.of(3, pre_vote=True)
    network.campaign(1)
    network.isolate(3)
    network.tick(3, 20 * ELECTION_TICKS)
    assert network.core(3).term == network.core(1).term
    network.heal()
    network.tick(1)
    assert network.leaders == [1]
    assert network.core(3).leader == 1


def test_a_split_vote_after_pre_votes_is_resolved_in_the_next_round() -> None:
    network = Network.of(3, pre_vote=True)
    network.campaign(1)
    network.isolate(1)
    for member in (2, 3):
        network.core(member).become_follower(network.core(member).term, 0)
        network.core(member).campaign()
    network.settle()
    assert role_of(network.core(2)) is RaftRole.CANDIDATE
    assert role_of(network.core(3)) is RaftRole.CANDIDATE
    network.core(2).campaign()
    network.settle()
    assert 2 in network.leaders
    assert network.core(3).leader == 2


def _migrating_network() -> Network:
    """1 leads at term 2; 3 stood on its own without pre-vote, so has a higher term, but lacks entries."""
    network = Network.of(3)
    for member in (1, 2):
        network.core(member).config.pre_vote = True
    network.campaign(1)
    network.isolate(3)
    network.propose(1, b"x")
    network.campaign(3)
    network.campaign(3)
    network.heal()
    network.core(3).config.pre_vote = True
    return network


def test_a_group_with_mixed_settings_elects_a_leader_and_frees_a_stuck_member() -> None:
    network = _migrating_network()
    assert network.core(3).term > network.core(1).term
    network.campaign(3)
    network.campaign(2)
    for _ in range(4 * ELECTION_TICKS):
        network.tick_all()
    assert len(network.leaders) == 1
    assert len({member.core.term for member in network.members.values()}) == 1
    assert network[3].payloads == [b"x"]


def test_a_candidate_stuck_at_a_higher_term_is_heard_through_its_answer() -> None:
    network = _migrating_network()
    term = network.core(3).term
    network.core(1).tick()
    network.settle()
    assert network.core(1).term == term, "the answer to a heartbeat carried the higher term"
    assert network.leaders == []


def test_a_member_behind_in_term_takes_part_while_the_leader_is_away() -> None:
    network = Network.of(3, pre_vote=True, check_quorum=True)
    network.campaign(1)
    network.isolate(3)
    for _ in range(3):
        network.campaign(1)
    network.tick_all(ELECTION_TICKS)
    network.core(2).become_follower(network.core(2).term + 3, 0)
    network.heal()
    network.isolate(1)
    for _ in range(8 * ELECTION_TICKS):
        for member in (2, 3):
            network.core(member).tick()
        network.settle()
    assert [leader for leader in network.leaders if leader != 1]
    assert network.core(3).term == network.core(2).term


def test_a_vote_answer_echoes_the_term_of_the_request() -> None:
    """A member with an older term would ignore a grant that names the voter's own term."""
    member = make_member()
    member.core.step(Message(MessageType.PRE_VOTE, 1, 2, 9, 0, 0))
    (answer,) = only(member.process(), MessageType.PRE_VOTE_RESP)
    assert (answer.term, answer.reject) == (9, False)


def test_losing_a_pre_vote_makes_a_follower_of_the_own_term() -> None:
    member = make_member(pre_vote=True, terms=[1], state=HardState(3, 0, 1))
    member.core.campaign()
    for voter in (2, 3):
        member.core.step(Message(MessageType.PRE_VOTE_RESP, 1, voter, 3, reject=True))
    assert (member.core.role, member.core.term) == (RaftRole.FOLLOWER, 3)


def test_a_pre_candidate_drops_proposals() -> None:
    member = make_member(pre_vote=True)
    member.core.campaign()
    with pytest.raises(ProposalDropped, match="no leader"):
        member.core.propose(Run.of([b"x"]))
