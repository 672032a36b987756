"""Coalesced heartbeats: each row is worth what a heartbeat message of its group is, and no more."""

from __future__ import annotations

import pytest

from multiraft.messages import Message, MessageType, Run
from multiraft.raft.replication import TELLING_BEATS
from tests.raft.helpers import Member, acknowledge, append, make_leader, make_member, only


def beating_leader() -> Member:
    leader = make_leader(commit_notices=True, coalesce_beats=True)
    acknowledge(leader, 2)
    acknowledge(leader, 3)
    leader.core.take_beats()
    leader.process()
    return leader


def test_a_leader_owes_beats_to_all_others_and_sends_no_message() -> None:
    leader = beating_leader()
    core = leader.core
    seen = [core.beat_due]
    core.tick()
    seen.append(core.beat_due)
    assert core.take_beats() == [(2, core.committed), (3, core.committed)]
    seen.append(core.beat_due)
    assert seen == [False, True, False]
    assert not only(leader.process(), MessageType.HEARTBEAT)


def test_the_commit_index_of_a_beat_is_capped_at_the_followers_match() -> None:
    leader = beating_leader()
    behind = leader.core.progress[3].match
    leader.core.report_unreachable(3)
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 2)
    leader.core.tick()
    assert dict(leader.core.take_beats())[3] == behind < leader.core.committed


def test_a_follower_that_an_append_went_to_is_spared_one_beat() -> None:
    leader = beating_leader()
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 2)
    acknowledge(leader, 3)
    leader.core.propose(Run.of([b"y"]))
    leader.process()
    for expected in (set(), {2, 3}):
        leader.core.tick()
        assert {member for member, _ in leader.core.take_beats()} == expected


def test_followers_that_answer_no_append_are_not_spared() -> None:
    """Appends may be stuck behind others for longer than an election timeout; beats are not."""
    leader = beating_leader()
    for _ in range(3):
        leader.core.propose(Run.of([b"x"]))
        leader.process()
        leader.core.tick()
        assert {member for member, _ in leader.core.take_beats()} == {2, 3}


def test_a_follower_that_is_probed_is_not_spared() -> None:
    leader = beating_leader()
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 2)
    acknowledge(leader, 3)
    leader.core.propose(Run.of([b"y"]))
    leader.core.report_unreachable(3)
    leader.process()
    leader.core.tick()
    assert [member for member, _ in leader.core.take_beats()] == [3]


def test_a_beat_that_a_read_waits_for_is_a_message() -> None:
    leader = beating_leader()
    leader.core.propose(Run.of([b"x"]))
    leader.core.read_index(b"r")
    leader.process()
    leader.core.tick()
    assert not leader.core.beat_due
    assert {m.to for m in only(leader.process(), MessageType.HEARTBEAT)} == {2, 3}


def follower() -> Member:
    member = make_member(terms=[1, 1])
    append(member.core, term=1, index=2, log_term=1)
    member.process()
    return member


def test_a_beat_does_what_a_heartbeat_does() -> None:
    by_beat, by_message = follower(), follower()
    leader, term = by_beat.core.leader, by_beat.core.term
    for member in (by_beat, by_message):
        member.core.tick()
    assert by_beat.core.hear_beat(leader, term, 2)
    by_message.core.step(Message(MessageType.HEARTBEAT, by_message.core.id, leader, term, commit=2))
    for member in (by_beat, by_message):
        assert member.core.committed == 2
        assert member.core.election_elapsed == 0
        assert member.core.leader == leader


@pytest.mark.parametrize(("other_leader", "other_term"), [(1, 0), (0, 1), (0, -1)])
def test_a_beat_of_another_leader_or_term_does_nothing(other_leader: int, other_term: int) -> None:
    member = follower()
    member.core.tick()
    before = (member.core.committed, member.core.election_elapsed, member.core.term, member.core.leader)
    leader, term = member.core.leader + other_leader, member.core.term + other_term
    assert not member.core.hear_beat(leader, term, 2)
    assert (
        member.core.committed,
        member.core.election_elapsed,
        member.core.term,
        member.core.leader,
    ) == before


def test_a_candidate_leaves_a_beat_to_the_full_rules() -> None:
    member = follower()
    leader = member.core.leader
    member.core.campaign()
    member.process()
    assert not member.core.hear_beat(leader, member.core.term, 2)


def test_an_answer_counts_as_activity_of_that_member_alone() -> None:
    leader = beating_leader()
    for progress in leader.core.progress.values():
        progress.recent_active = False
    assert leader.core.hear_beat_ack(2, leader.core.term)
    assert leader.core.progress[2].recent_active
    assert not leader.core.progress[3].recent_active


def test_an_answer_of_another_term_or_stranger_is_left_to_the_full_rules() -> None:
    leader = beating_leader()
    assert not leader.core.hear_beat_ack(2, leader.core.term - 1)
    assert not leader.core.hear_beat_ack(2, leader.core.term + 1)
    assert not leader.core.hear_beat_ack(9, leader.core.term)
    assert not follower().core.hear_beat_ack(2, 1)


def test_an_answer_of_one_that_lags_is_left_to_the_full_rules() -> None:
    leader = beating_leader()
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    assert not leader.core.hear_beat_ack(2, leader.core.term)


def proposed_by(leader: Member, member: int) -> None:
    leader.core.propose(Run.of([b"x"], origin=member, sequence=1))
    leader.process()


def test_a_commit_is_told_at_once_only_to_the_member_that_proposed() -> None:
    leader = beating_leader()
    proposed_by(leader, 2)
    acknowledge(leader, 2)
    assert {m.to: m.commit for m in only(leader.process(), MessageType.COMMIT)} == {2: leader.core.committed}
    acknowledge(leader, 3)
    assert not only(leader.process(), MessageType.COMMIT)
    leader.core.tick()
    assert dict(leader.core.take_beats())[3] == leader.core.committed, "the others hear of it by a beat"


def test_a_member_that_proposed_is_told_even_if_others_made_the_quorum() -> None:
    leader = beating_leader()
    proposed_by(leader, 3)
    acknowledge(leader, 2)
    assert not only(leader.process(), MessageType.COMMIT), "it has not acknowledged the entry yet"
    acknowledge(leader, 3)
    assert {m.to for m in only(leader.process(), MessageType.COMMIT)} == {3}


def test_a_commit_that_nobody_waits_for_goes_along_with_the_next_append() -> None:
    leader = beating_leader()
    proposed_by(leader, 1)
    acknowledge(leader, 2)
    assert not only(leader.process(), MessageType.COMMIT)
    committed = leader.core.committed
    leader.core.propose(Run.of([b"y"], origin=1, sequence=2))
    assert {m.to: m.commit for m in only(leader.process(), MessageType.APP)} == {2: committed, 3: committed}


def test_a_member_that_reads_is_told_the_commit_index_it_waits_for() -> None:
    leader = beating_leader()
    proposed_by(leader, 1)
    acknowledge(leader, 2)
    acknowledge(leader, 3)
    leader.process()
    leader.core.step(Message(MessageType.READ_INDEX, 1, 3, context=b"r"))
    beat = only(leader.process(), MessageType.HEARTBEAT)[0]
    leader.core.progress[3].sent_commit = 0
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, leader.core.term, context=beat.context))
    sent = leader.process()
    assert {m.to for m in only(sent, MessageType.READ_INDEX_RESP)} == {3}
    assert {m.to: m.commit for m in only(sent, MessageType.COMMIT)} == {3: leader.core.committed}


def test_a_beat_is_not_spared_where_the_append_told_an_older_commit_index() -> None:
    leader = beating_leader()
    proposed_by(leader, 1)
    acknowledge(leader, 2)
    acknowledge(leader, 3)
    leader.core.tick()
    committed = leader.core.committed
    assert leader.core.take_beats() == [(2, committed), (3, committed)]


def test_whose_host_vouches_for_it_is_told_of_a_commit_all_the_same() -> None:
    """Its leader does not rest while another member lags, and nothing else would tell it."""
    leader = make_leader(commit_notices=True, coalesce_beats=True)
    core = leader.core
    for progress in core.progress.values():
        progress.vouch = object()
    core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 2)
    leader.process()
    committed = core.committed
    assert committed == core.last_index
    told = [dict(core.take_beats()).get(2) for _ in range(2 * TELLING_BEATS)]
    assert told == [None] * (TELLING_BEATS - 1) + [committed] + [None] * TELLING_BEATS


def test_whose_host_vouches_for_it_hears_of_a_commit_with_the_next_append() -> None:
    leader = make_leader(commit_notices=True, coalesce_beats=True)
    core = leader.core
    for progress in core.progress.values():
        progress.vouch = object()
    core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 2)
    leader.process()
    assert core.take_beats() == []
    committed = core.committed
    core.propose(Run.of([b"y"]))
    assert {m.to: m.commit for m in only(leader.process(), MessageType.APP)} == {2: committed, 3: committed}
    for _ in range(TELLING_BEATS):
        assert 2 not in dict(core.take_beats())


def test_whose_host_vouches_for_it_is_left_in_peace_while_appends_are_on_their_way() -> None:
    """For an election timeout. Then it is asked what became of them, as on any other road."""
    leader = make_leader(commit_notices=True, coalesce_beats=True)
    core = leader.core
    for progress in core.progress.values():
        progress.vouch = object()
    core.propose(Run.of([b"x"]))
    leader.process()
    for _ in range(core.election_ticks):
        assert core.take_beats() == []
    assert [member for member, _ in core.take_beats()] == [2, 3], "they may have been lost after all"
    assert core.take_beats() == [], "an answer is on its way"
    answer = Message(MessageType.HEARTBEAT_RESP, to=1, sender=2, term=core.term)
    core.step(answer)
    assert [m.to for m in only(leader.process(), MessageType.APP)] == [2]
    core.step(answer)
    assert not only(leader.process(), MessageType.APP), "asked once"


def test_who_does_not_answer_though_its_host_vouches_for_it_is_asked_again() -> None:
    leader = make_leader(commit_notices=True, coalesce_beats=True)
    core = leader.core
    for progress in core.progress.values():
        progress.vouch = object()
    core.propose(Run.of([b"x"]))
    leader.process()
    asked = [bool(core.take_beats()) for _ in range(5 * core.election_ticks)]
    assert asked.count(True) == 2


def test_a_member_where_somebody_waits_hears_of_a_commit_that_came_while_it_was_probed() -> None:
    """Nothing tells a member that is probed, so it is still to be told once it is not any more."""
    leader = make_leader(voters=(1, 2, 3, 4, 5), commit_notices=True, coalesce_beats=True)
    core = leader.core
    core.step(Message(MessageType.PROP, to=1, sender=2, runs=[Run.of([b"x"], origin=2, sequence=1)]))
    leader.process()
    acknowledge(leader, 2)
    core.report_unreachable(2)
    acknowledge(leader, 3)
    committed = core.committed
    assert committed == core.last_index
    assert not only(leader.process(), MessageType.COMMIT)
    acknowledge(leader, 2)
    assert [(m.to, m.commit) for m in only(leader.process(), MessageType.COMMIT)] == [(2, committed)]
    acknowledge(leader, 2)
    assert not only(leader.process(), MessageType.COMMIT), "told once"
