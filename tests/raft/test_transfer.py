"""Handing leadership over, and forgetting a leader (thesis §3.10)."""

from __future__ import annotations

import pytest

from multiraft.errors import ProposalDropped
from multiraft.messages import ConfChange, ConfChangeTransition, ConfChangeType, Message, MessageType, Run
from multiraft.raft.core import RaftRole
from multiraft.types import ReadMode
from tests.raft.helpers import (
    ELECTION_TICKS,
    Network,
    acknowledge,
    append,
    make_leader,
    make_member,
    only,
    role_of,
)

OPTIONS = [{}, {"check_quorum": True}, {"check_quorum": True, "pre_vote": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "check quorum", "pre-vote"])
@pytest.mark.parametrize("asked", [1, 2, 3])
def test_to_an_up_to_date_peer_and_back_again(options: dict[str, bool], asked: int) -> None:
    network = Network.of(3, **options)
    network.campaign(1)
    network.core(asked).transfer_leadership(2)
    network.settle()
    assert network.leaders == [2]
    network.core(2).transfer_leadership(1)
    network.settle()
    assert network.leaders == [1]
    network.propose(1, b"x")
    assert network[3].payloads == [b"x"]


def test_to_a_slow_follower_after_it_has_caught_up() -> None:
    network = Network.of(3)
    network.campaign(1)
    network.isolate(3)
    network.propose(1, b"x")
    network.heal()
    network.core(1).transfer_leadership(3)
    assert not only(network[1].process(), MessageType.TIMEOUT_NOW)
    network.core(1).report_unreachable(3)
    network.tick(1)
    assert network.leaders == [3]
    assert network[3].payloads == [b"x"]


@pytest.mark.parametrize("to", [1, 9, 4], ids=["itself", "a stranger", "a learner"])
def test_to_somebody_who_cannot_lead_is_a_no_op(to: int) -> None:
    leader = make_leader(learners=(4,))
    leader.core.transfer_leadership(to)
    assert leader.core.lead_transferee == 0
    assert not only(leader.process(), MessageType.TIMEOUT_NOW)
    leader.core.propose(Run.of([b"x"]))


def test_aborted_after_an_election_timeout() -> None:
    leader = make_leader()
    for _ in range(ELECTION_TICKS - 1):
        leader.core.tick()
    leader.core.transfer_leadership(2)
    for _ in range(ELECTION_TICKS - 1):
        leader.core.tick()
    assert leader.core.lead_transferee == 2, "the request started the time anew"
    with pytest.raises(ProposalDropped):
        leader.core.propose(Run.of([b"x"]))
    leader.core.tick()
    assert leader.core.lead_transferee == 0
    leader.core.propose(Run.of([b"x"]))


def test_the_target_is_forgotten_when_the_leader_steps_down() -> None:
    leader = make_leader()
    leader.core.transfer_leadership(2)
    leader.core.step(Message(MessageType.HEARTBEAT, 1, 3, 5))
    assert leader.core.lead_transferee == 0


def test_a_vote_of_a_higher_term_works_during_a_transfer() -> None:
    leader = make_leader()
    leader.core.transfer_leadership(2)
    leader.process()
    leader.core.step(Message(MessageType.VOTE, 1, 3, 2, 1, 1))
    assert (role_of(leader.core), leader.core.vote) == (RaftRole.FOLLOWER, 3)


def test_the_same_target_again_is_ignored_and_does_not_extend_the_time() -> None:
    leader = make_leader()
    leader.core.transfer_leadership(2)
    leader.process()
    for _ in range(ELECTION_TICKS // 2):
        leader.core.tick()
    leader.process()
    leader.core.transfer_leadership(2)
    assert not leader.process()
    for _ in range(ELECTION_TICKS - ELECTION_TICKS // 2):
        leader.core.tick()
    assert leader.core.lead_transferee == 0


def test_another_target_replaces_and_itself_aborts() -> None:
    leader = make_leader()
    leader.core.transfer_leadership(2)
    leader.process()
    leader.core.transfer_leadership(3)
    assert leader.core.lead_transferee == 3
    assert [m.to for m in only(leader.process(), MessageType.TIMEOUT_NOW)] == [3]
    leader.core.transfer_leadership(1)
    assert leader.core.lead_transferee == 0


@pytest.mark.parametrize("kind", [ConfChangeType.REMOVE_NODE, ConfChangeType.ADD_LEARNER_NODE])
def test_a_target_that_is_removed_or_demoted_is_forgotten(kind: ConfChangeType) -> None:
    """Else the leader would drop proposals for nobody's sake."""
    leader = make_leader()
    leader.core.transfer_leadership(2)
    leader.core.apply_conf_change(ConfChange(((kind, 2),)))
    assert leader.core.lead_transferee == 0
    leader.core.propose(Run.of([b"x"]))


def test_a_target_that_still_votes_in_the_outgoing_half_is_kept() -> None:
    leader = make_leader()
    leader.core.transfer_leadership(2)
    change = ConfChange(((ConfChangeType.REMOVE_NODE, 2),), ConfChangeTransition.JOINT_EXPLICIT)
    leader.core.apply_conf_change(change)
    assert leader.core.lead_transferee == 2


def test_timeout_now_is_sent_once_the_target_has_everything() -> None:
    leader = make_leader()
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    leader.core.transfer_leadership(2)
    assert not only(leader.process(), MessageType.TIMEOUT_NOW)
    acknowledge(leader, 3)
    assert not only(leader.process(), MessageType.TIMEOUT_NOW)
    acknowledge(leader, 2)
    assert [m.to for m in only(leader.process(), MessageType.TIMEOUT_NOW)] == [2]


def test_a_follower_without_a_leader_drops_the_request() -> None:
    member = make_member()
    member.core.transfer_leadership(2)
    assert not member.process()


def test_a_follower_forwards_the_request_in_the_targets_name() -> None:
    member = make_member(2)
    append(member.core, sender=1, term=1)
    member.process()
    member.core.transfer_leadership(3)
    (message,) = member.process()
    assert (message.type, message.to, message.sender) == (MessageType.TRANSFER_LEADER, 1, 3)


def test_a_leader_on_the_way_out_can_leave_a_joint_configuration_later() -> None:
    """The automatic proposal is dropped during a transfer, and made again with the next entry."""
    leader = make_leader()
    change = ConfChange(((ConfChangeType.ADD_NODE, 4),), ConfChangeTransition.JOINT_IMPLICIT)
    leader.core.propose_conf_change(change)
    leader.process()
    for follower in (2, 3):
        acknowledge(leader, follower)
    leader.core.transfer_leadership(2)
    leader.process()
    assert leader.core.conf_state().auto_leave
    assert leader.core.last_index == 2
    leader.core.transfer_leadership(1)
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    for follower in (2, 3, 4):
        acknowledge(leader, follower)
    leader.process()
    assert leader.core.last_index == 4


# --- forgetting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", [False, True])
@pytest.mark.parametrize("kind", [MessageType.VOTE, MessageType.PRE_VOTE])
def test_who_forgets_its_leader_may_vote_for_another(learner: bool, kind: MessageType) -> None:
    member = make_member(
        voters=(2, 3) if learner else (1, 2, 3), learners=(1,) if learner else (), check_quorum=True
    )
    append(member.core, term=1)
    member.core.tick()
    member.process()
    member.core.forget_leader()
    assert member.core.leader == 0
    assert member.core.election_elapsed == 1, "the timer goes on"
    member.core.step(Message(kind, 1, 3, 2, 1, 9))
    (answer,) = member.process()
    assert not answer.reject


def test_who_forgot_its_leader_still_refuses_an_outdated_candidate() -> None:
    member = make_member(terms=[1, 1])
    append(member.core, term=1, index=2, log_term=1)
    member.process()
    member.core.forget_leader()
    member.core.step(Message(MessageType.VOTE, 1, 3, 2, 1, 1))
    (answer,) = member.process()
    assert answer.reject


@pytest.mark.parametrize(
    "kind", [MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP, MessageType.COMMIT]
)
def test_it_follows_again_at_the_next_word_of_the_leader(kind: MessageType) -> None:
    member = make_member()
    append(member.core, term=1)
    member.core.forget_leader()
    member.core.step(Message(kind, 1, 2, 1))
    assert member.core.leader == 2


def test_forgetting_does_nothing_on_leaders_candidates_and_without_a_leader() -> None:
    leader = make_leader()
    leader.core.forget_leader()
    assert (role_of(leader.core), leader.core.leader) == (RaftRole.LEADER, 1)
    candidate = make_member()
    candidate.core.campaign()
    candidate.core.forget_leader()
    assert role_of(candidate.core) is RaftRole.CANDIDATE
    member = make_member()
    member.core.forget_leader()
    assert not member.core.has_ready()


def test_forgetting_is_refused_where_leases_rest_on_remembering() -> None:
    member = make_member(read_mode=ReadMode.LEASE, check_quorum=True)
    append(member.core, term=1)
    member.core.forget_leader()
    assert member.core.leader == 2
