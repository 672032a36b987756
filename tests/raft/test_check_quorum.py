"""Check-quorum and the lease that protects a leader (thesis §6.2, §4.2.3)."""

from __future__ import annotations

import pytest

from multiraft.messages import TRANSFER_CONTEXT, ConfChange, ConfChangeType, Message, MessageType
from multiraft.raft.core import RaftRole
from tests.raft.helpers import (
    ELECTION_TICKS,
    Member,
    Network,
    append,
    elect,
    make_leader,
    make_member,
    only,
    role_of,
)


def answer_heartbeat(leader: Member, follower: int) -> None:
    """`follower` answers the leader's heartbeat."""
    core = leader.core
    core.step(Message(MessageType.HEARTBEAT_RESP, core.id, follower, core.term))


def test_a_leader_with_an_active_quorum_stays() -> None:
    leader = make_leader(voters=(1, 2, 3, 4, 5), check_quorum=True)
    for _ in range(5 * ELECTION_TICKS):
        leader.core.tick()
        for follower in (2, 3):
            answer_heartbeat(leader, follower)
    assert role_of(leader.core) is RaftRole.LEADER


def test_a_leader_without_a_quorum_steps_down_in_its_own_term() -> None:
    """Thesis §6.2: "a leader steps down if an election timeout elapses without a successful
    round of heartbeats to a majority of its cluster"."""
    leader = make_leader(voters=(1, 2, 3, 4, 5), check_quorum=True)
    term = leader.core.term
    for _ in range(2 * ELECTION_TICKS):
        leader.core.tick()
        answer_heartbeat(leader, 2)
    assert (leader.core.role, leader.core.term, leader.core.leader) == (RaftRole.FOLLOWER, term, 0)


def test_activity_is_forgotten_at_each_check_but_the_leaders_own() -> None:
    leader = make_leader(check_quorum=True)
    assert all(progress.recent_active for progress in leader.core.progress.values())
    for _ in range(ELECTION_TICKS):
        leader.core.tick()
    active = {member: progress.recent_active for member, progress in leader.core.progress.items()}
    assert active == {1: True, 2: False, 3: False}


def test_learners_do_not_make_a_quorum() -> None:
    leader = make_leader(voters=(1, 2), learners=(3, 4, 5), check_quorum=True)
    for _ in range(2 * ELECTION_TICKS):
        leader.core.tick()
        for learner in (3, 4, 5):
            leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, learner, leader.core.term))
    assert role_of(leader.core) is RaftRole.FOLLOWER


def test_in_a_joint_configuration_both_halves_have_to_be_active() -> None:
    leader = make_leader(voters=(1, 2, 3), check_quorum=True)
    change = ConfChange(
        (
            (ConfChangeType.ADD_NODE, 4),
            (ConfChangeType.ADD_NODE, 5),
            (ConfChangeType.REMOVE_NODE, 2),
            (ConfChangeType.REMOVE_NODE, 3),
        )
    )
    leader.core.apply_conf_change(change)
    assert leader.core.conf_state().voters_outgoing == (1, 2, 3)
    for _ in range(2 * ELECTION_TICKS):
        leader.core.tick()
        for follower in (4, 5):
            leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, follower, leader.core.term))
    assert role_of(leader.core) is RaftRole.FOLLOWER


@pytest.mark.parametrize("kind", [MessageType.VOTE, MessageType.PRE_VOTE])
def test_a_follower_that_hears_its_leader_ignores_requests_for_votes(kind: MessageType) -> None:
    """Thesis §4.2.3: "if a server receives a RequestVote request within the minimum election
    timeout of hearing from a current leader, it does not update its term or grant its vote"."""
    member = make_member(check_quorum=True)
    append(member.core, term=1)
    member.process()
    for elapsed in range(ELECTION_TICKS):
        assert member.core.election_elapsed == elapsed
        member.core.step(Message(kind, 1, 3, 2, 1, 9))
        assert not member.process()
        assert (member.core.term, member.core.leader) == (1, 2)
        member.core.election_timeout = 2 * ELECTION_TICKS
        member.core.tick()
    member.core.step(Message(kind, 1, 3, 2, 1, 9))
    (answer,) = member.process()
    assert not answer.reject


def test_a_leader_ignores_requests_within_its_own_lease() -> None:
    leader = make_leader(check_quorum=True)
    leader.core.step(Message(MessageType.VOTE, 1, 3, 9, 9, 9))
    assert role_of(leader.core) is RaftRole.LEADER
    assert not leader.process()


@pytest.mark.parametrize("kind", [MessageType.VOTE, MessageType.PRE_VOTE])
def test_a_transfer_overrides_the_lease(kind: MessageType) -> None:
    member = make_member(check_quorum=True)
    append(member.core, term=1)
    member.process()
    member.core.step(Message(kind, 1, 3, 2, 1, 9, context=TRANSFER_CONTEXT))
    (answer,) = member.process()
    assert not answer.reject


def test_without_check_quorum_there_is_no_lease() -> None:
    member = make_member()
    append(member.core, term=1)
    member.process()
    member.core.step(Message(MessageType.VOTE, 1, 3, 2, 1, 9))
    (answer,) = member.process()
    assert not answer.reject


@pytest.mark.parametrize("option", ["check_quorum", "pre_vote"])
@pytest.mark.parametrize("kind", [MessageType.APP, MessageType.HEARTBEAT, MessageType.COMMIT])
def test_an_outdated_leader_is_answered(option: str, kind: MessageType) -> None:
    """Nobody answers the votes of a member that stands alone at a higher term; its answer to
    the leader is what brings the two together again."""
    member = make_member(pre_vote=option == "pre_vote", check_quorum=option == "check_quorum")
    member.core.become_follower(5, 0)
    member.process()
    member.core.step(Message(kind, 1, 2, 3, 0, 0, 0))
    (answer,) = member.process()
    assert (answer.type, answer.to, answer.term, answer.index, answer.reject) == (
        MessageType.APP_RESP,
        2,
        5,
        0,
        False,
    )
    assert member.core.leader == 0


def test_a_candidate_stuck_at_a_higher_term_frees_itself() -> None:
    network = Network.of(3, check_quorum=True)
    network.campaign(1)
    network.isolate(3)
    network.core(3).become_follower(network.core(3).term, 0)
    for _ in range(3):
        network.campaign(3)
    network.heal()
    assert role_of(network.core(3)) is RaftRole.CANDIDATE
    network.campaign(3)
    assert network.leaders == [1], "votes are ignored while the leader is heard"
    network.tick(1)
    assert network.leaders == [], "its answer to the heartbeat made the leader step down"
    network.campaign(3)
    assert network.leaders == [3]


def test_with_pre_vote_nobody_is_disturbed() -> None:
    network = Network.of(3, check_quorum=True, pre_vote=True)
    network.campaign(1)
    network.isolate(3)
    network.tick(3, 5 * ELECTION_TICKS)
    network.heal()
    network.tick(1, 3)
    assert network.leaders == [1]
    assert network.core(3).leader == 1


def test_a_member_outside_of_its_own_configuration_still_follows() -> None:
    """It may have been added without knowing it yet."""
    member = make_member(1, voters=(2, 3), check_quorum=True)
    append(member.core, term=1)
    assert member.core.leader == 2
    assert only(member.process(), MessageType.APP_RESP)


def test_adding_a_voter_does_not_cost_the_leader_its_quorum() -> None:
    leader = make_leader(voters=(1,), check_quorum=True)
    leader.core.apply_conf_change(ConfChange(((ConfChangeType.ADD_NODE, 2),)))
    assert leader.core.progress[2].recent_active
    for _ in range(ELECTION_TICKS):
        leader.core.tick()
    assert role_of(leader.core) is RaftRole.LEADER
    for _ in range(ELECTION_TICKS):
        leader.core.tick()
    assert role_of(leader.core) is RaftRole.FOLLOWER


def test_a_single_voter_never_steps_down() -> None:
    leader = make_leader(voters=(1,), check_quorum=True)
    for _ in range(5 * ELECTION_TICKS):
        leader.core.tick()
    assert role_of(leader.core) is RaftRole.LEADER


def test_elected_under_check_quorum() -> None:
    member = make_member(check_quorum=True, pre_vote=True)
    elect(member)
    assert role_of(member.core) is RaftRole.LEADER
