"""Proposals: who takes them, who forwards them, and when they are refused."""

from __future__ import annotations

import pytest

from multiraft.errors import ProposalDropped
from multiraft.messages import ConfChange, ConfChangeType, EntryKind, Message, MessageType, Run
from multiraft.raft.core import RaftRole
from tests.raft.helpers import (
    ELECTION_TICKS,
    Network,
    acknowledge,
    append,
    make_leader,
    make_member,
    only,
)


def proposal(size: int) -> Run:
    return Run.of([b"x" * size])


@pytest.mark.parametrize("in_async", [False, True])
@pytest.mark.parametrize("pre_vote", [False, True])
def test_with_a_quorum_all_apply_the_same_bytes_in_order(in_async: bool, pre_vote: bool) -> None:
    network = Network.of(3, async_storage_writes=in_async, pre_vote=pre_vote)
    network.campaign(1)
    network.propose(1, b"a", b"b")
    network.propose(1, b"c")
    assert [network[member].payloads for member in (1, 2, 3)] == [[b"a", b"b", b"c"]] * 3
    assert network[1].applied == network[2].applied == network[3].applied


def test_without_a_quorum_a_proposal_is_appended_but_not_committed() -> None:
    network = Network.of(3)
    network.campaign(1)
    committed = network.core(1).committed
    network.isolate(1)
    network.propose(1, b"x")
    assert network.core(1).last_index == committed + 1
    assert network.core(1).committed == committed


def test_a_leader_returns_the_run_as_placed_and_leaves_the_callers_alone() -> None:
    leader = make_leader()
    run = Run.of([b"a", b"b"], origin=7, sequence=5)
    placed = leader.core.propose(run)
    assert placed is not None
    assert (placed.first, placed.last, placed.term) == (2, 3, 1)
    assert (placed.origin, placed.sequence, placed.blob) == (7, 5, run.blob)
    assert (run.first, run.term) == (0, 0)


def test_a_follower_forwards_to_the_leader_and_keeps_the_proposers_mark() -> None:
    network = Network.of(3)
    network.campaign(1)
    run = Run.of([b"x"], origin=2, sequence=9)
    assert network.core(2).propose(run) is None
    (message,) = network[2].process()
    assert (message.type, message.to, message.sender, message.term) == (MessageType.PROP, 1, 2, 0)
    network.send([message])
    network.settle()
    (kept,) = network[3].log.runs(2, 2, 100)
    assert (kept.payloads, kept.origin, kept.sequence) == ([b"x"], 2, 9)


def test_a_forwarded_proposal_is_forwarded_again_in_the_proposers_name() -> None:
    """Leadership may have moved on. The message that came is not changed."""
    member = make_member(2)
    append(member.core, sender=3, term=1)
    member.process()
    came = Message(MessageType.PROP, 2, 1, runs=[proposal(1)])
    member.core.step(came)
    (message,) = only(member.process(), MessageType.PROP)
    assert (message.to, message.sender, message.term) == (3, 1, 0)
    assert came.to == 2


def test_a_follower_without_a_leader_drops() -> None:
    with pytest.raises(ProposalDropped, match="no leader"):
        make_member().core.propose(proposal(1))


def test_a_follower_drops_when_forwarding_is_off() -> None:
    member = make_member(disable_proposal_forwarding=True)
    append(member.core, term=1)
    with pytest.raises(ProposalDropped, match="not the leader"):
        member.core.propose(proposal(1))
    assert not only(member.process(), MessageType.PROP)


def test_a_candidate_drops() -> None:
    member = make_member()
    member.core.campaign()
    with pytest.raises(ProposalDropped, match="no leader"):
        member.core.propose(proposal(1))


def test_a_removed_leader_drops() -> None:
    leader = make_leader()
    leader.core.apply_conf_change(ConfChange(((ConfChangeType.REMOVE_NODE, 1),)))
    assert leader.core.role is RaftRole.LEADER
    with pytest.raises(ProposalDropped, match="removed"):
        leader.core.propose(proposal(1))


def test_a_leader_that_hands_over_drops() -> None:
    leader = make_leader()
    leader.core.transfer_leadership(2)
    with pytest.raises(ProposalDropped, match="transferred"):
        leader.core.propose(proposal(1))
    assert leader.core.last_index == 1


def test_an_empty_proposal_message_is_a_bug() -> None:
    leader = make_leader()
    with pytest.raises(AssertionError):
        leader.core.step(Message(MessageType.PROP, 1, 2))


def test_garbage_instead_of_a_change_of_configuration_is_dropped() -> None:
    leader = make_leader()
    with pytest.raises(ProposalDropped, match="configuration"):
        leader.core.propose(Run.of([b"\xff"], EntryKind.CONF_CHANGE_V2))
    assert leader.core.last_index == 1


# --- the limit of uncommitted bytes ----------------------------------------------------------


def test_proposals_are_taken_until_their_payload_exceeds_the_limit() -> None:
    leader = make_leader(max_uncommitted_bytes=100)
    leader.core.propose(proposal(60))
    leader.core.propose(proposal(40))
    with pytest.raises(ProposalDropped, match="uncommitted"):
        leader.core.propose(proposal(1))
    assert leader.core.last_index == 3


def test_a_single_proposal_of_any_size_is_taken_when_nothing_waits() -> None:
    leader = make_leader(max_uncommitted_bytes=10)
    assert leader.core.propose(proposal(1000)) is not None


def test_empty_payloads_are_never_refused() -> None:
    """A new leader's entry and the leaving of a joint configuration must not be blocked."""
    leader = make_leader(max_uncommitted_bytes=10)
    leader.core.propose(proposal(1000))
    assert leader.core.propose(Run.of([b""])) is not None
    assert ConfChange().encode() == b""
    assert Run.of([b""]).size == 0


def test_only_payload_bytes_count() -> None:
    leader = make_leader(max_uncommitted_bytes=10)
    run = proposal(5)
    assert run.weight > 5
    leader.core.propose(run)
    assert leader.core.propose(proposal(5)) is not None


def test_room_comes_back_when_entries_are_applied_not_when_they_are_committed() -> None:
    leader = make_leader(max_uncommitted_bytes=100)
    leader.core.propose(proposal(100))
    leader.finish(leader.take())
    acknowledge(leader, 2)
    assert leader.core.committed == 2
    with pytest.raises(ProposalDropped):
        leader.core.propose(proposal(1))
    ready = leader.take()
    assert [run.size for run in ready.committed] == [100]
    with pytest.raises(ProposalDropped):
        leader.core.propose(proposal(1))
    leader.finish(ready)
    assert leader.core.uncommitted_bytes == 0
    assert leader.core.propose(proposal(1)) is not None


def test_a_new_term_starts_counting_anew() -> None:
    leader = make_leader(max_uncommitted_bytes=100)
    leader.core.propose(proposal(100))
    leader.core.become_follower(5, 0)
    assert leader.core.uncommitted_bytes == 0


def test_entries_of_earlier_terms_are_not_given_back() -> None:
    """They were never counted; giving them back would let more in than the limit says."""
    network = Network.of(3, max_uncommitted_bytes=100)
    network.campaign(1)
    network.lost = lambda message: message.type is MessageType.APP_RESP
    network.propose(1, b"x" * 90)
    network.heal()
    network.lost = lambda message: message.type is MessageType.APP_RESP
    network.campaign(2)
    network.core(2).propose(proposal(90))
    network.heal()
    network.core(2).tick()
    for member in (2, 1, 3):
        network.send(network[member].process())
    assert network.core(2).uncommitted_bytes == 90
    network.settle()
    assert network.core(2).applied == network.core(2).last_index
    assert network.core(2).uncommitted_bytes == 0


def test_a_refused_change_of_configuration_counts_as_the_empty_entry_it_becomes() -> None:
    leader = make_leader(max_uncommitted_bytes=1000)
    add = ConfChange(((ConfChangeType.ADD_NODE, 4),), context=b"x" * 100)
    leader.core.propose_conf_change(add)
    counted = leader.core.uncommitted_bytes
    leader.core.propose_conf_change(add)
    assert leader.core.uncommitted_bytes == counted == len(add.encode())


def test_a_leader_cut_off_from_its_quorum_does_not_grow_its_log_past_the_limit() -> None:
    network = Network.of(3, max_uncommitted_bytes=100)
    network.campaign(1)
    network.isolate(1)
    for _ in range(30):
        try:
            network.propose(1, b"x" * 10)
        except ProposalDropped:
            break
    assert network.core(1).last_index == 11
    for _ in range(ELECTION_TICKS):
        network.core(1).tick()
        network.settle()
    with pytest.raises(ProposalDropped):
        network.propose(1, b"x")


@pytest.mark.parametrize("payload", [b"", b"x"])
def test_the_limit_is_off_by_default(payload: bytes) -> None:
    leader = make_leader()
    for _ in range(10):
        assert leader.core.propose(Run.of([payload * 1000])) is not None
