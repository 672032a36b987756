"""Snapshots: when they are sent, and what becomes of them (thesis §5)."""

from __future__ import annotations

import pytest

from multiraft.messages import APPEND_THREAD, ConfState, HardState, Message, MessageType, Run, Snapshot
from multiraft.raft.core import RaftRole
from multiraft.raft.progress import PROBE, REPLICATE, SNAPSHOT
from tests.raft.helpers import (
    ELECTION_TICKS,
    Member,
    Network,
    acknowledge,
    append,
    entries,
    log_terms,
    make_leader,
    make_member,
    only,
    reject,
    role_of,
)

STATE = ConfState((1, 2, 3))


def leader_with_compacted_log() -> Member:
    """Entries 1 to 5 are on 1 and 3; 2 has nothing and is probed; 1 to 4 are compacted."""
    leader = make_leader(committed=False)
    for _ in range(4):
        leader.core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 3)
    leader.process()
    leader.compact(4)
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1))
    reject(leader, 2, 0, 0)
    return leader


def snapshot_to(member: Member, snapshot: Snapshot, term: int = 1) -> list[Message]:
    """A leader, member 2, sends `snapshot`. Returns the answers."""
    member.core.step(Message(MessageType.SNAP, member.id, 2, term, snapshot=snapshot))
    return only(member.process(), MessageType.APP_RESP)


# --- sending -----------------------------------------------------------------------------------


def test_a_follower_that_needs_what_is_compacted_is_sent_a_snapshot() -> None:
    """Thesis §5: "it must ... send snapshots to followers that are far behind"."""
    leader = leader_with_compacted_log()
    (message,) = only(leader.process(), MessageType.SNAP)
    progress = leader.core.progress[2]
    assert message.to == 2
    assert message.snapshot is not None
    assert message.snapshot.index == 4
    assert (progress.state, progress.pending_snapshot, progress.next) == (SNAPSHOT, 4, 5)


def test_nothing_more_is_sent_while_a_snapshot_is_under_way() -> None:
    leader = leader_with_compacted_log()
    leader.process()
    leader.core.propose(Run.of([b"y"]))
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1))
    assert not [m for m in leader.process() if m.to == 2 and m.type is not MessageType.HEARTBEAT]


def test_an_inactive_follower_is_sent_none() -> None:
    """A snapshot is expensive, and who does not answer would not take it."""
    leader = make_leader(committed=False)
    for _ in range(4):
        leader.core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 3)
    leader.process()
    leader.compact(4)
    progress = leader.core.progress[2]
    assert not progress.recent_active
    progress.flow_paused = False
    leader.core.propose(Run.of([b"x"]))
    assert not only(leader.process(), MessageType.SNAP)
    assert progress.state is PROBE
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 1))
    assert only(leader.process(), MessageType.SNAP)


def test_a_snapshot_that_is_not_available_is_asked_for_again_later() -> None:
    leader = make_leader(committed=False)
    for _ in range(4):
        leader.core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 3)
    leader.process()
    leader.compact(4)
    leader.log.snapshot_unavailable = True
    answer = Message(MessageType.HEARTBEAT_RESP, 1, 2, 1)
    leader.core.step(answer)
    assert not only(leader.process(), MessageType.SNAP)
    assert leader.core.progress[2].state is PROBE
    leader.log.snapshot_unavailable = False
    leader.core.step(answer)
    assert only(leader.process(), MessageType.SNAP)


@pytest.mark.parametrize(("ok", "next_index"), [(True, 5), (False, 1)])
def test_after_a_report_it_probes_once_and_waits_for_an_answer(ok: bool, next_index: int) -> None:
    """Sent: from behind the snapshot. Failed: from behind what is known to match."""
    leader = leader_with_compacted_log()
    leader.process()
    leader.core.report_snapshot(2, ok)
    progress = leader.core.progress[2]
    assert (progress.state, progress.next, progress.paused) == (PROBE, next_index, True)
    leader.core.propose(Run.of([b"y"]))
    assert not [m for m in leader.process() if m.to == 2]


def test_a_report_about_no_snapshot_is_ignored() -> None:
    leader = make_leader()
    leader.core.report_snapshot(2, False)
    assert leader.core.progress[2].state is REPLICATE


@pytest.mark.parametrize("index", [4, 5])
def test_a_follower_that_connects_to_the_log_is_replicated_to_again(index: int) -> None:
    """Whatever brought it there: the snapshot, an older one, or appends still under way."""
    leader = leader_with_compacted_log()
    leader.process()
    progress = leader.core.progress[2]
    progress.pending_snapshot = 5
    acknowledge(leader, 2, index)
    assert (progress.state, progress.match, progress.next) == (REPLICATE, index, leader.core.last_index + 1)


def test_a_follower_below_the_first_index_goes_on_waiting() -> None:
    leader = leader_with_compacted_log()
    leader.process()
    acknowledge(leader, 2, 2)
    progress = leader.core.progress[2]
    assert (progress.state, progress.match) == (SNAPSHOT, 2)


# --- receiving -----------------------------------------------------------------------------------


def test_a_snapshot_replaces_log_and_configuration() -> None:
    member = make_member(terms=[1] * 3, state=HardState(1, 0, 2))
    state = ConfState((1, 2), (4,), (1, 2, 3), (3,), True)
    (answer,) = snapshot_to(member, Snapshot(11, 1, state))
    assert (answer.index, answer.reject) == (11, False)
    core = member.core
    assert (core.last_index, core.committed, core.applied, core.first_index) == (11, 11, 11, 12)
    assert core.conf_state() == state
    assert core.progress[4].is_learner
    assert not core.progress[3].is_learner, "it still votes in the outgoing half"
    assert log_terms(member.log) == []


def test_the_acknowledgement_waits_until_the_snapshot_is_durable() -> None:
    member = make_member()
    member.core.step(Message(MessageType.SNAP, 1, 2, 1, snapshot=Snapshot(11, 1, STATE)))
    ready = member.core.ready()
    assert ready.snapshot == Snapshot(11, 1, STATE)
    assert ready.messages == []
    assert [m.type for m in ready.responses] == [MessageType.APP_RESP, MessageType.STORAGE_APPEND_RESP]
    assert not ready.must_sync or ready.hard_state is not None


def test_the_same_snapshot_again_and_older_ones_are_only_acknowledged() -> None:
    member = make_member()
    snapshot_to(member, Snapshot(11, 1, STATE))
    for index in (11, 5):
        (answer,) = snapshot_to(member, Snapshot(index, 1, STATE))
        assert (answer.index, answer.reject) == (11, False)
    assert member.core.last_index == 11


def test_what_is_already_in_the_log_only_moves_the_commit_index() -> None:
    member = make_member(terms=[1, 1, 1], state=HardState(1, 0, 0))
    (answer,) = snapshot_to(member, Snapshot(2, 1, STATE))
    assert answer.index == 2
    assert (member.core.committed, member.core.last_index) == (2, 3)
    assert log_terms(member.log) == [1, 1, 1]


@pytest.mark.parametrize(
    ("state", "taken"),
    [
        (ConfState((2, 3)), False),
        (ConfState((1, 2)), True),
        (ConfState((2, 3), (1,)), True),
        (ConfState((2, 3), (), (1, 2)), True),
    ],
    ids=["nowhere", "voter", "learner", "outgoing only"],
)
def test_who_is_in_the_snapshots_configuration_takes_it(state: ConfState, taken: bool) -> None:
    member = make_member()
    snapshot_to(member, Snapshot(11, 1, state))
    assert (member.core.last_index == 11) is taken


@pytest.mark.parametrize("learner_first", [False, True])
def test_roles_can_change_through_a_snapshot(learner_first: bool) -> None:
    as_voter, as_learner = ConfState((1, 2, 3)), ConfState((2, 3), (1,))
    before, after = (as_learner, as_voter) if learner_first else (as_voter, as_learner)
    member = make_member(voters=before.voters, learners=before.learners)
    assert member.core.is_learner is learner_first
    snapshot_to(member, Snapshot(11, 1, after))
    assert member.core.is_learner is not learner_first


def test_a_restored_member_does_not_stand_before_the_snapshot_is_stored() -> None:
    member = make_member()
    member.core.step(Message(MessageType.SNAP, 1, 2, 1, snapshot=Snapshot(11, 1, STATE)))
    for _ in range(3 * ELECTION_TICKS):
        member.core.tick()
    assert role_of(member.core) is RaftRole.FOLLOWER
    member.process()
    for _ in range(2 * ELECTION_TICKS):
        member.core.tick()
    assert role_of(member.core) is RaftRole.CANDIDATE


def test_no_committed_entries_are_handed_out_with_a_snapshot() -> None:
    member = make_member()
    member.core.step(Message(MessageType.SNAP, 1, 2, 1, snapshot=Snapshot(11, 1, STATE)))
    append(member.core, term=1, index=11, log_term=1, commit=12, runs=entries([1], 12))
    assert member.core.committed == 12
    ready = member.take()
    assert (ready.snapshot is not None, ready.committed) == (True, [])
    member.finish(ready)
    assert [index for index, _term, _data in member.applied] == []
    member.process()
    assert [index for index, _term, _data in member.applied] == [12]


def test_a_stored_snapshot_counts_even_if_the_term_changed_meanwhile() -> None:
    member = make_member()
    member.core.step(Message(MessageType.SNAP, 1, 2, 1, snapshot=Snapshot(11, 1, STATE)))
    ready = member.take()
    member.core.step(Message(MessageType.HEARTBEAT, 1, 3, 4))
    member.finish(ready)
    assert (member.core.applied, member.core.log.unstable.snapshot) == (11, None)


def test_entries_of_an_old_write_do_not_count_after_the_term_changed() -> None:
    """The ABA race: (5, 1) is written, replaced by (5, 2), put back as (5, 1) at term 3; the
    report of the first write must not make us forget the third."""
    member = make_member(terms=[1] * 4, state=HardState(1, 0, 4))
    core = member.core
    append(core, term=1, index=4, log_term=1, runs=entries([1], 5))
    first = core.ready()
    append(core, sender=3, term=2, index=4, log_term=1, runs=entries([2], 5))
    second = core.ready()
    append(core, term=3, index=4, log_term=1, runs=[Run.of([b"1/5"], first=5, term=1)])
    third = core.ready()
    reports = [[m for m in ready.responses if m.sender == APPEND_THREAD] for ready in (first, second, third)]
    assert [(m.index, m.log_term, m.term) for report in reports for m in report] == [
        (5, 1, 1),
        (5, 2, 2),
        (5, 1, 3),
    ]
    for ready in (first, second):
        member.log.append(ready.runs)
        core.step(ready.responses[-1])
        assert core.log.unstable.entry_count == 1, "the entry is still only in memory"
    member.log.append(third.runs)
    core.step(third.responses[-1])
    assert core.log.unstable.entry_count == 0


def test_a_report_names_the_whole_tail_even_if_its_own_write_has_no_entries() -> None:
    """The other half of the ABA guard: what an ignored report was about is released later."""
    member = make_member()
    core = member.core
    append(core, term=1, runs=entries([1, 1]))
    first = core.ready()
    core.step(Message(MessageType.HEARTBEAT, 1, 3, 2))
    second = core.ready()
    assert second.runs == []
    assert (second.responses[-1].index, second.responses[-1].log_term) == (2, 1)
    member.log.append(first.runs)
    core.step(first.responses[-1])
    assert core.log.unstable.entry_count == 2
    core.step(second.responses[-1])
    assert core.log.unstable.entry_count == 0


# --- together ----------------------------------------------------------------------------------


def lagging_network() -> Network:
    """3 missed entries that are compacted on 1, the leader."""
    network = Network.of(3)
    network.campaign(1)
    network.isolate(3)
    for number in range(5):
        network.propose(1, b"%d" % number)
    network[1].compact()
    network.propose(1, b"later")
    network.heal()
    return network


def test_a_slow_follower_catches_up_through_a_snapshot_and_entries() -> None:
    network = lagging_network()
    network.tick(1, 2)
    assert network.core(3).applied == network.core(1).applied
    assert network[3].payloads == [b"later"]
    assert network.core(1).progress[3].state is REPLICATE


def test_leadership_can_be_handed_to_a_follower_that_needs_a_snapshot_first() -> None:
    network = lagging_network()
    network.core(1).progress[3].recent_active = True
    network.core(1).transfer_leadership(3)
    network.settle()
    network.tick(1, 2)
    assert network.leaders == [3]
