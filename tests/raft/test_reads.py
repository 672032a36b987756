"""Linearizable reads (thesis §6.4)."""

from __future__ import annotations

import pytest

from multiraft.messages import (
    ConfChange,
    ConfChangeType,
    ConfState,
    HardState,
    Message,
    MessageType,
    Run,
    Snapshot,
)
from multiraft.raft.core import RaftRole, ReadState
from multiraft.types import ReadMode
from tests.raft.helpers import (
    ELECTION_TICKS,
    Member,
    Network,
    acknowledge,
    append,
    elect,
    make_leader,
    make_member,
    only,
)


def lease_leader() -> Member:
    return make_leader(read_mode=ReadMode.LEASE, check_quorum=True)


def answer_heartbeats(leader: Member, *followers: int) -> list[Message]:
    """Followers answer the leader's last heartbeats. Returns the heartbeats."""
    beats = only(leader.process(), MessageType.HEARTBEAT)
    for beat in beats:
        if beat.to in followers:
            leader.core.step(
                Message(MessageType.HEARTBEAT_RESP, 1, beat.to, leader.core.term, context=beat.context)
            )
    return beats


def contexts(member: Member) -> list[bytes]:
    member.process()
    return [state.context for state in member.read_states]


# --- with a round of heartbeats -----------------------------------------------------------------


@pytest.mark.parametrize("reader", [1, 2, 3])
@pytest.mark.parametrize("in_async", [False, True])
def test_leader_follower_and_learner_can_read(reader: int, in_async: bool) -> None:
    network = Network(
        make_member(member, voters=(1, 2), learners=(3,), async_storage_writes=in_async)
        for member in (1, 2, 3)
    )
    network.campaign(1)
    network.propose(1, b"x")
    network.core(reader).read_index(b"r")
    network.settle()
    assert network[reader].read_states == [ReadState(2, b"r")]


def test_the_index_is_the_commit_at_the_time_of_the_request() -> None:
    leader = make_leader()
    leader.core.read_index(b"r")
    leader.core.propose(Run.of([b"x"]))
    beats = only(leader.process(), MessageType.HEARTBEAT)
    acknowledge(leader, 2)
    assert leader.core.committed == 2
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, context=beats[0].context))
    leader.process()
    assert leader.read_states == [ReadState(1, b"r")]


def test_a_read_waits_for_a_quorum_to_answer_a_heartbeat_sent_for_it() -> None:
    """Thesis §6.4, step 3: "the leader needs to make sure it has not been superseded"."""
    leader = make_leader(voters=(1, 2, 3, 4, 5))
    leader.core.read_index(b"r")
    beats = {beat.to: beat for beat in only(leader.process(), MessageType.HEARTBEAT)}
    assert sorted(beats) == [2, 3, 4, 5]
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, context=beats[2].context))
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, context=beats[2].context))
    assert contexts(leader) == []
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 3, 1, context=beats[3].context))
    assert contexts(leader) == [b"r"]


def test_learners_do_not_confirm_reads() -> None:
    leader = make_leader(learners=(4, 5))
    leader.core.read_index(b"r")
    answer_heartbeats(leader, 4, 5)
    assert contexts(leader) == []


def test_an_answer_to_an_earlier_heartbeat_confirms_nothing() -> None:
    leader = make_leader()
    leader.core.read_index(b"first")
    early = only(leader.process(), MessageType.HEARTBEAT)
    leader.core.read_index(b"second")
    leader.process()
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, context=early[0].context))
    assert contexts(leader) == [b"first"]


def test_one_answer_confirms_all_earlier_reads_and_they_are_freed() -> None:
    leader = make_leader()
    for number in range(5):
        leader.core.read_index(b"%d" % number)
    beats = [beat for beat in only(leader.process(), MessageType.HEARTBEAT) if beat.to == 2]
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, context=beats[3].context))
    assert contexts(leader) == [b"0", b"1", b"2", b"3"]
    assert leader.core.reads.last_position == 5
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, context=beats[4].context))
    assert contexts(leader) == [b"0", b"1", b"2", b"3", b"4"]
    assert leader.core.reads.last_position == 0


def test_the_same_context_twice_is_two_reads() -> None:
    """A retry plus a delayed answer must not confirm a later read: positions are ours."""
    leader = make_leader()
    leader.core.read_index(b"r")
    first = only(leader.process(), MessageType.HEARTBEAT)
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, context=first[0].context))
    assert contexts(leader) == [b"r"]
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 2)
    leader.core.read_index(b"r")
    leader.process()
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, context=first[0].context))
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 3, 1, context=first[1].context))
    assert contexts(leader) == [b"r"], "only the first read is confirmed by the first heartbeat"


def test_lost_heartbeats_are_repeated_with_the_next_regular_one() -> None:
    leader = make_leader()
    leader.core.read_index(b"r")
    leader.process()
    leader.core.tick()
    answer_heartbeats(leader, 3)
    assert contexts(leader) == [b"r"]


@pytest.mark.parametrize("context", [b"x", b"\xff" * 8, b"\0" * 8])
def test_a_position_that_was_never_given_out_confirms_nothing(context: bytes) -> None:
    leader = make_leader()
    leader.core.read_index(b"r")
    leader.process()
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, context=context))
    assert contexts(leader) == []


def test_a_stale_leader_confirms_nothing() -> None:
    network = Network.of(3)
    network.campaign(1)
    network.isolate(1)
    network.campaign(2)
    network.propose(2, b"x")
    network.core(1).read_index(b"r")
    network.settle()
    network.heal()
    network.settle()
    assert network[1].read_states == []


def test_in_a_joint_configuration_a_read_needs_both_halves() -> None:
    member = make_member(start=Snapshot(1, 1, ConfState((1, 2, 3), voters_outgoing=(1, 4, 5))))
    elect(member)
    for follower in (2, 4):
        acknowledge(member, follower)
    member.process()
    member.core.read_index(b"r")
    beats = {beat.to: beat for beat in only(member.process(), MessageType.HEARTBEAT)}
    for follower, expected in ((2, []), (3, []), (4, [b"r"])):
        member.core.step(Message(MessageType.HEARTBEAT_RESP, 1, follower, 1, context=beats[follower].context))
        assert contexts(member) == expected


def test_a_change_of_configuration_can_confirm_a_read() -> None:
    leader = make_leader(voters=(1, 2, 3, 4))
    leader.core.read_index(b"r")
    answer_heartbeats(leader, 2)
    assert contexts(leader) == []
    leader.core.apply_conf_change(ConfChange(((ConfChangeType.REMOVE_NODE, 4),)))
    assert contexts(leader) == [b"r"]


# --- before the first commit of a term ------------------------------------------------------------


@pytest.mark.parametrize("voters", [(1,), (1, 2, 3)])
def test_reads_wait_for_the_first_commit_of_the_term(voters: tuple[int, ...]) -> None:
    """Thesis §6.4, step 1. A single voter is no exception: after a restart its commit index on
    disk may be behind what it had acknowledged."""
    member = make_member(voters=voters, terms=[1, 1], state=HardState(1, 0, 1))
    core = member.core
    core.campaign()
    while core.role is not RaftRole.LEADER:
        member.finish(member.take())
        if core.role is RaftRole.CANDIDATE and len(voters) > 1:
            core.step(Message(MessageType.VOTE_RESP, 1, 2, 2))
    core.read_index(b"r")
    written = member.take()
    assert written.read_states == []
    assert not only(written.messages, MessageType.HEARTBEAT)
    member.finish(written)
    member.process()
    if len(voters) > 1:
        assert member.read_states == []
        acknowledge(member, 2)
        answer_heartbeats(member, 2)
        member.process()
    assert member.read_states == [ReadState(3, b"r")]


def test_postponed_reads_are_released_when_removing_a_voter_brings_the_first_commit() -> None:
    leader = make_leader(voters=(1, 2, 3, 4), committed=False)
    acknowledge(leader, 2)
    leader.core.read_index(b"r")
    leader.core.apply_conf_change(ConfChange(((ConfChangeType.REMOVE_NODE, 4),)))
    answer_heartbeats(leader, 2)
    assert contexts(leader) == [b"r"]


def test_a_single_voter_answers_at_once() -> None:
    leader = make_leader(voters=(1,))
    leader.core.read_index(b"r")
    assert leader.core.ready().read_states == [ReadState(1, b"r")]


# --- changes of role --------------------------------------------------------------------------------


@pytest.mark.parametrize("committed", [False, True])
def test_a_change_of_role_discards_reads_the_postponed_ones_too(committed: bool) -> None:
    """Decided on purpose: callers retry. Kept ones could be answered a leadership later."""
    leader = make_leader(committed=committed)
    leader.core.read_index(b"r")
    leader.process()
    leader.core.become_follower(2, 0)
    assert leader.core.reads.last_position == 0
    assert not leader.core.reads.postponed
    elect(leader)
    acknowledge(leader, 2)
    answer_heartbeats(leader, 2, 3)
    assert contexts(leader) == []


def test_a_position_is_never_used_again_even_after_a_change_of_role() -> None:
    leader = make_leader()
    leader.core.read_index(b"old")
    old = only(leader.process(), MessageType.HEARTBEAT)
    leader.core.become_follower(2, 0)
    elect(leader)
    acknowledge(leader, 2)
    leader.core.read_index(b"new")
    new = only(leader.process(), MessageType.HEARTBEAT)
    assert {beat.context for beat in new if beat.context}.isdisjoint({beat.context for beat in old})


# --- forwarding ---------------------------------------------------------------------------------------


def test_a_follower_forwards_without_a_term_and_in_the_readers_name() -> None:
    """A term would make the next leader ignore it."""
    member = make_member(2)
    append(member.core, sender=1, term=1)
    member.process()
    member.core.read_index(b"r")
    member.core.step(Message(MessageType.READ_INDEX, 2, 3, 0, context=b"s"))
    forwarded = only(member.process(), MessageType.READ_INDEX)
    assert [(m.to, m.sender, m.term, m.context) for m in forwarded] == [(1, 2, 0, b"r"), (1, 3, 0, b"s")]


def test_a_request_to_an_old_leader_finds_the_new_one() -> None:
    network = Network.of(3)
    network.campaign(1)
    network.campaign(2)
    assert network.core(3).leader == 2
    network.step(Message(MessageType.READ_INDEX, 1, 3, 0, context=b"r"))
    network.settle()
    assert network[3].read_states == [ReadState(2, b"r")]


def test_without_a_leader_a_request_is_dropped() -> None:
    member = make_member()
    member.core.read_index(b"r")
    assert not member.process()


def test_a_malformed_answer_is_ignored_with_a_line() -> None:
    member = make_member()
    append(member.core, term=1)
    member.process()
    member.core.step(Message(MessageType.READ_INDEX_RESP, 1, 2, 1, index=3))
    assert contexts(member) == []
    assert "invalid format of MsgReadIndexResp from 2" in member.lines[-1]


def test_read_states_are_handed_out_once() -> None:
    leader = make_leader(voters=(1,))
    leader.core.read_index(b"r")
    assert leader.core.has_ready()
    assert leader.core.ready().read_states == [ReadState(1, b"r")]
    assert not leader.core.has_ready()
    assert leader.core.ready().read_states == []


# --- leases ---------------------------------------------------------------------------------------


def renew(leader: Member) -> None:
    """A heartbeat, answered by 2."""
    leader.core.tick()
    answer_heartbeats(leader, 2)
    leader.process()


def test_under_a_lease_the_leader_answers_at_once() -> None:
    leader = lease_leader()
    renew(leader)
    leader.core.read_index(b"r")
    ready = leader.take()
    assert ready.read_states == [ReadState(1, b"r")]
    assert not only(ready.messages, MessageType.HEARTBEAT)


def test_under_a_lease_a_forwarded_read_is_answered_at_once() -> None:
    leader = lease_leader()
    renew(leader)
    leader.core.step(Message(MessageType.READ_INDEX, 1, 3, 0, context=b"r"))
    (answer,) = only(leader.process(), MessageType.READ_INDEX_RESP)
    assert (answer.to, answer.index, answer.context) == (3, 1, b"r")


def needs_a_round(leader: Member) -> bool:
    leader.core.read_index(b"r")
    ready = leader.take()
    beats = only(ready.messages, MessageType.HEARTBEAT)
    leader.finish(ready)
    assert bool(beats) is not bool(ready.read_states)
    return bool(beats)


def test_without_a_fresh_contact_of_a_quorum_there_is_no_lease() -> None:
    leader = lease_leader()
    assert needs_a_round(leader), "nobody has answered a heartbeat yet"
    renew(leader)
    assert not needs_a_round(leader)


def test_a_lease_counts_from_the_sending_and_ends_before_others_may_vote() -> None:
    """A late answer vouches for the time when its heartbeat was sent, not for now."""
    leader = lease_leader()
    leader.core.tick()
    beats = only(leader.process(), MessageType.HEARTBEAT)
    for elapsed in range(ELECTION_TICKS):
        if elapsed == ELECTION_TICKS // 2:
            leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1, context=beats[0].context))
        held = ELECTION_TICKS // 2 <= elapsed <= ELECTION_TICKS - 3
        assert needs_a_round(leader) is not held, elapsed
        leader.core.tick()
        leader.process()


def test_a_lease_needs_a_commit_in_the_own_term() -> None:
    member = make_member(read_mode=ReadMode.LEASE, check_quorum=True)
    elect(member)
    renew(member)
    member.core.read_index(b"r")
    assert contexts(member) == []
    acknowledge(member, 2)
    assert contexts(member) == [], "what had waited takes a round: it may have slept meanwhile"
    member.core.read_index(b"s")
    assert contexts(member) == [b"s"]


def test_while_a_transfer_is_pending_there_is_no_lease() -> None:
    """The target may be elected before the lease of the old leader would end."""
    leader = lease_leader()
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    renew(leader)
    assert not needs_a_round(leader)
    leader.core.transfer_leadership(3)
    assert leader.core.lead_transferee == 3
    assert not leader.core.lease_given_up, "3 lacks an entry, so nothing was sent yet"
    assert needs_a_round(leader)


def test_once_timeout_now_is_sent_there_is_no_lease_for_the_rest_of_the_term() -> None:
    """Aborting the transfer does not call the message back."""
    leader = lease_leader()
    renew(leader)
    leader.core.transfer_leadership(2)
    assert only(leader.process(), MessageType.TIMEOUT_NOW)
    for _ in range(ELECTION_TICKS):
        renew(leader)
    assert leader.core.lead_transferee == 0
    assert needs_a_round(leader)
    leader.core.become_follower(2, 0)
    elect(leader)
    for follower in (2, 3):
        acknowledge(leader, follower)
    renew(leader)
    assert not needs_a_round(leader), "a new term, a new lease"


def test_a_lease_that_a_transfer_which_never_started_suspended_comes_back() -> None:
    leader = lease_leader()
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    leader.core.transfer_leadership(3)
    for _ in range(ELECTION_TICKS):
        renew(leader)
    assert leader.core.lead_transferee == 0
    assert not needs_a_round(leader)
