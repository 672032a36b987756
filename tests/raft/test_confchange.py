"""Configurations and how they change (thesis §4)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiraft.messages import (
    ConfChange,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Run,
)
from multiraft.raft.confchange import (
    Changes,
    Configuration,
    Membership,
    apply_change,
    enter_joint,
    leave_joint,
    leaves_joint,
    restore,
    simple,
)
from multiraft.raft.core import RaftRole
from multiraft.raft.failures import ConfChangeRefused
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
    role_of,
)

ADD, REMOVE = ConfChangeType.ADD_NODE, ConfChangeType.REMOVE_NODE
UPDATE, LEARN = ConfChangeType.UPDATE_NODE, ConfChangeType.ADD_LEARNER_NODE
AUTO, IMPLICIT, EXPLICIT = ConfChangeTransition


def membership(*voters: int, learners: tuple[int, ...] = ()) -> Membership:
    return restore(ConfState(voters, learners))


# --- configurations alone ----------------------------------------------------------------------


changes = st.lists(st.tuples(st.sampled_from([ADD, REMOVE, LEARN, UPDATE]), st.integers(0, 6)), max_size=6)


@pytest.mark.slow
@given(st.sets(st.integers(1, 6), min_size=1), changes)
@settings(max_examples=200, deadline=None)
def test_simple_steps_and_one_joint_change_lead_to_the_same(voters: set[int], steps: Changes) -> None:
    start = membership(*sorted(voters))
    one_by_one = start
    try:
        for step in steps:
            one_by_one = simple(one_by_one, [step])
    except ConfChangeRefused:
        return  # a list that empties the voters on its way
    both = leave_joint(enter_joint(start, steps, auto_leave=False))
    assert both.config == one_by_one.config
    assert dict(both.learner) == dict(one_by_one.learner)


@pytest.mark.slow
@given(st.sets(st.integers(1, 6), min_size=1), changes, st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_configuration_survives_being_written_down(
    voters: set[int], steps: Changes, auto_leave: bool
) -> None:
    try:
        joint = enter_joint(membership(*sorted(voters)), steps, auto_leave=auto_leave)
    except ConfChangeRefused:
        return
    for config in (joint, leave_joint(joint)):
        again = restore(config.config.conf_state())
        assert again.config == config.config
        assert dict(again.learner) == dict(config.learner)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([(REMOVE, 1), (REMOVE, 2), (REMOVE, 3)], "removed all voters"),
        ([(ADD, 4), (ADD, 5)], "more than one voter"),
        ([(REMOVE, 1), (ADD, 4)], "more than one voter"),
    ],
)
def test_a_simple_change_moves_at_most_one_voter(steps: Changes, reason: str) -> None:
    """Thesis §4.1: adding or removing one server at a time keeps majorities overlapping."""
    before = membership(1, 2, 3)
    with pytest.raises(ConfChangeRefused, match=reason):
        simple(before, steps)
    assert before == membership(1, 2, 3)


def test_joint_configurations_are_entered_and_left_in_turn() -> None:
    joint = enter_joint(membership(1, 2), [(ADD, 3)], auto_leave=False)
    with pytest.raises(ConfChangeRefused, match="already joint"):
        enter_joint(joint, [], auto_leave=False)
    with pytest.raises(ConfChangeRefused, match="simple"):
        simple(joint, [(ADD, 4)])
    with pytest.raises(ConfChangeRefused, match="non-joint"):
        leave_joint(leave_joint(joint))
    with pytest.raises(ConfChangeRefused, match="zero-voter"):
        enter_joint(Membership(), [(ADD, 1)], auto_leave=False)


def test_a_demoted_voter_is_staged_until_the_joint_configuration_is_left() -> None:
    joint = enter_joint(membership(1, 2), [(LEARN, 2)], auto_leave=False)
    assert joint.config.learners_next == {2}
    assert joint.learner[2] is False, "it still votes in the outgoing half"
    left = leave_joint(joint)
    assert left.config == Configuration(frozenset({1}), learners=frozenset({2}))
    assert left.learner[2] is True


def test_a_staged_learner_can_change_its_mind() -> None:
    joint = enter_joint(membership(1, 2), [(LEARN, 2), (ADD, 2)], auto_leave=False)
    assert joint.config.learners_next == frozenset()
    gone = enter_joint(membership(1, 2), [(LEARN, 2), (REMOVE, 2)], auto_leave=False)
    assert (gone.config.learners_next, 2 in gone.learner) == (frozenset(), True)
    assert 2 not in leave_joint(gone).learner


@pytest.mark.parametrize(
    "steps",
    [[(ADD, 1)], [(REMOVE, 9)], [(UPDATE, 1)], [(UPDATE, 9)], [(ADD, 0)], [(REMOVE, 0)], [(LEARN, 4)], []],
)
def test_what_is_so_already_or_means_nothing_changes_nothing(steps: Changes) -> None:
    before = membership(1, 2, 3, learners=(4,))
    assert simple(before, steps) == before


@pytest.mark.parametrize(
    ("change", "leaves"),
    [
        (ConfChange(), True),
        (ConfChange(context=b"why"), True),
        (ConfChange(transition=IMPLICIT), False),
        (ConfChange(transition=EXPLICIT), False),
        (ConfChange(((ADD, 1),)), False),
    ],
)
def test_leaving_takes_every_field_into_account_but_the_context(change: ConfChange, leaves: bool) -> None:
    assert leaves_joint(change) is leaves


# --- in a core: what is applied --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "v1", "applied", "left"),
    [
        (ConfChange(((ADD, 2),)), True, ConfState((1, 2)), None),
        (ConfChange(((ADD, 2),)), False, ConfState((1, 2)), None),
        (ConfChange(((LEARN, 2),)), True, ConfState((1,), (2,)), None),
        (ConfChange(((LEARN, 2),)), False, ConfState((1,), (2,)), None),
        (ConfChange(((ADD, 2),), EXPLICIT), False, ConfState((1, 2), (), (1,)), ConfState((1, 2))),
        (ConfChange(((ADD, 2),), IMPLICIT), False, ConfState((1, 2), (), (1,), (), True), ConfState((1, 2))),
        (
            ConfChange(((ADD, 2), (LEARN, 1), (LEARN, 3))),
            False,
            ConfState((2,), (3,), (1,), (1,), True),
            ConfState((2,), (1, 3)),
        ),
        (
            ConfChange(((ADD, 2), (LEARN, 1), (LEARN, 3)), EXPLICIT),
            False,
            ConfState((2,), (3,), (1,), (1,), False),
            ConfState((2,), (1, 3)),
        ),
    ],
)
def test_what_comes_of_a_change_on_a_single_voter(
    change: ConfChange, v1: bool, applied: ConfState, left: ConfState | None
) -> None:
    leader = make_leader(voters=(1,))
    index = leader.core.propose_conf_change(change, v1)
    assert index == 2
    assert leader.core.pending_conf_index == 2
    states: list[ConfState] = []
    while leader.core.has_ready():
        ready = leader.take()
        for run in ready.runs:
            if run.kind is not EntryKind.NORMAL and run.first == 2:
                assert run.payloads == [change.encode()]
                assert run.kind is (EntryKind.CONF_CHANGE if v1 else EntryKind.CONF_CHANGE_V2)
        leader.finish(ready)
        if leader.conf_state not in states[-1:]:
            states.append(leader.conf_state)
    assert applied in states
    if left is not None:
        if applied.auto_leave:
            assert leader.core.pending_conf_index == 3
            assert leader.core.last_index == 3
            if 2 in applied.voters and leader.core.conf_state() == applied:
                acknowledge(leader, 2)
                leader.process()
        else:
            acknowledge(leader, 2)
            leader.core.propose_conf_change(ConfChange(context=b"manual"))
            acknowledge(leader, 2)
            leader.process()
            acknowledge(leader, 2)
            leader.process()
        assert leader.core.conf_state() == left


def test_v1_and_v2_single_changes_are_equal() -> None:
    results = []
    for v1 in (True, False):
        leader = make_leader(voters=(1,))
        for step in ((ADD, 2), (LEARN, 3), (ADD, 3), (LEARN, 3), (REMOVE, 3)):
            leader.core.apply_conf_change(ConfChange((step,)))
            results.append((v1, leader.core.conf_state()))
    assert [state for v1, state in results if v1] == [state for v1, state in results if not v1]


def test_add_promote_demote_and_remove() -> None:
    network = Network.of(3)
    network.members[4] = make_member(4)
    network.campaign(1)
    for step, voters, learners in (
        ((LEARN, 4), (1, 2, 3), (4,)),
        ((ADD, 4), (1, 2, 3, 4), ()),
        ((LEARN, 4), (1, 2, 3), (4,)),
        ((REMOVE, 4), (1, 2, 3), ()),
    ):
        network.change(1, ConfChange((step,)))
        state = network.core(1).conf_state()
        assert (state.voters, state.learners) == (voters, learners)
        assert network.core(2).conf_state() == state
    assert network.core(4).last_index >= 4


def test_removing_the_last_voter_is_refused_when_it_is_applied_and_when_it_is_proposed() -> None:
    leader = make_leader(voters=(1,))
    with pytest.raises(ConfChangeRefused, match="all voters"):
        leader.core.apply_conf_change(ConfChange(((REMOVE, 1),)))
    leader.core.propose_conf_change(ConfChange(((REMOVE, 1),)))
    leader.process()
    assert leader.core.conf_state() == ConfState((1,))
    assert leader.payloads == []


# --- in a core: what is refused ------------------------------------------------------------------


def refused(member: Member, change: ConfChange) -> bool:
    """Propose `change`; whether an empty entry went in instead."""
    core = member.core
    before = core.last_index
    index = core.propose_conf_change(change)
    assert index == core.last_index == before + 1
    (run,) = core.log.runs(index, index, 1 << 20)
    assert run.term == core.term
    if run.kind is EntryKind.NORMAL:
        assert run.payloads == [b""]
        return True
    return False


def test_one_change_at_a_time() -> None:
    leader = make_leader()
    assert not refused(leader, ConfChange(((ADD, 4),)))
    assert leader.core.pending_conf_index == 2
    assert refused(leader, ConfChange(((ADD, 5),)))
    leader.process()
    acknowledge(leader, 2)
    leader.process()
    assert leader.core.conf_state().voters == (1, 2, 3, 4)
    assert not refused(leader, ConfChange(((ADD, 5),)))


def test_two_changes_in_one_message_are_one_too_many() -> None:
    leader = make_leader()
    first = Run.of([ConfChange(((ADD, 4),)).encode()], EntryKind.CONF_CHANGE_V2)
    second = Run.of([ConfChange(((ADD, 5),)).encode()], EntryKind.CONF_CHANGE_V2, origin=2, sequence=8)
    leader.core.step(Message(MessageType.PROP, 1, 2, runs=[first, Run.of([b"x"]), second]))
    kinds = [run.kind for run in leader.core.log.runs(2, 4, 1 << 20)]
    assert kinds == [EntryKind.CONF_CHANGE_V2, EntryKind.NORMAL, EntryKind.NORMAL]
    assert leader.core.pending_conf_index == 2
    kept = leader.core.log.runs(4, 4, 1 << 20)[0]
    assert (kept.origin, kept.sequence) == (2, 8), "the proposer can see what became of it"
    assert second.kind is EntryKind.CONF_CHANGE_V2, "the caller's message is not changed"


def test_a_new_leader_takes_everything_in_its_log_as_possibly_pending() -> None:
    member = make_member(terms=[1] * 4, state=HardState(1, 0, 2))
    elect(member)
    assert member.core.pending_conf_index == 4
    assert refused(member, ConfChange(((ADD, 4),)))
    acknowledge(member, 2)
    member.process()
    assert not refused(member, ConfChange(((ADD, 4),)))


def test_while_joint_only_leaving_is_allowed() -> None:
    leader = make_leader()
    leader.core.apply_conf_change(ConfChange(((ADD, 4),), EXPLICIT))
    assert refused(leader, ConfChange(((ADD, 5),)))
    assert refused(leader, ConfChange(transition=EXPLICIT))
    assert not refused(leader, ConfChange(context=b"leave"))


def test_leaving_when_not_joint_is_refused() -> None:
    leader = make_leader()
    assert refused(leader, ConfChange())
    assert refused(leader, ConfChange(transition=IMPLICIT))


def test_what_could_not_be_applied_is_refused_when_it_is_proposed() -> None:
    leader = make_leader()
    assert refused(leader, ConfChange(((REMOVE, 1), (REMOVE, 2), (REMOVE, 3))))
    assert "removed all voters" in leader.lines[-1]


def test_with_validation_off_everything_is_accepted() -> None:
    leader = make_leader(disable_conf_change_validation=True)
    for change in (ConfChange(((ADD, 4),)), ConfChange(((ADD, 5),)), ConfChange()):
        assert not refused(leader, change)


def test_adding_the_same_member_twice_does_no_harm() -> None:
    network = Network.of(3)
    network.campaign(1)
    for _ in range(2):
        network.change(1, ConfChange(((ADD, 2),)), v1=True)
    network.propose(1, b"x")
    assert network[3].payloads[-1] == b"x"


def test_a_followers_change_is_validated_by_the_leader_only() -> None:
    network = Network.of(3)
    network.campaign(1)
    assert network.core(2).propose_conf_change(ConfChange()) is None
    network.settle()
    assert network.core(1).log.runs(2, 2, 100)[0].kind is EntryKind.NORMAL


# --- leaving by itself -----------------------------------------------------------------------------


def joint_leader() -> Member:
    """A leader of three that entered a joint configuration which leaves itself; 4 is new."""
    leader = make_leader()
    leader.core.propose_conf_change(ConfChange(((ADD, 4),), IMPLICIT))
    leader.process()
    for follower in (2, 3):
        acknowledge(leader, follower)
    leader.process()
    assert leader.core.conf_state().auto_leave
    return leader


def test_leaving_is_proposed_once_even_with_later_entries_in_the_log() -> None:
    leader = joint_leader()
    assert leader.core.last_index == 3
    (run,) = leader.core.log.runs(3, 3, 100)
    assert (run.kind, run.payloads, run.size) == (EntryKind.CONF_CHANGE_V2, [b""], 0)
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    for index in (3, 4):
        for follower in (2, 3, 4):
            acknowledge(leader, follower, index)
        leader.process()
    assert leader.core.last_index == 4, "no second proposal"
    assert leader.core.conf_state() == ConfState((1, 2, 3, 4))


def test_leaving_waits_until_the_pending_change_is_applied() -> None:
    """Applying entries before the change that was proposed last must not propose to leave."""
    leader = make_leader(max_apply_bytes=1)
    leader.core.apply_conf_change(ConfChange(((ADD, 4),), IMPLICIT))
    leader.core.propose(Run.of([b"x"]))
    leader.core.pending_conf_index = 3
    leader.core.propose(Run.of([b"y"]))
    leader.finish(leader.take())
    for follower in (2, 3, 4):
        acknowledge(leader, follower)
    ready = leader.take()
    assert [run.last for run in ready.committed] == [2]
    leader.finish(ready)
    assert leader.core.last_index == 3, "entry 3 may be a change that is not applied yet"
    leader.process()
    assert leader.core.last_index == 4


def test_a_leader_that_lost_leadership_does_not_propose_to_leave() -> None:
    leader = make_leader()
    leader.core.propose_conf_change(ConfChange(((ADD, 4),), IMPLICIT))
    leader.finish(leader.take())
    for follower in (2, 3):
        acknowledge(leader, follower)
    ready = leader.take()
    leader.core.become_follower(2, 0)
    leader.finish(ready)
    assert leader.core.conf_state().auto_leave
    assert leader.core.last_index == 2


def test_the_next_leader_proposes_to_leave() -> None:
    network = Network.of(3)
    network.campaign(1)
    network.core(1).propose_conf_change(ConfChange(((ADD, 4),), IMPLICIT))
    network.lost = lambda message: any(run.first >= 3 for run in message.runs)
    network.settle()
    assert network.core(2).conf_state().auto_leave
    network.isolate(1)
    network.lost = lambda _message: False
    network.members[4] = make_member(4)
    network.campaign(2)
    network.tick(2)
    assert network.core(2).conf_state() == ConfState((1, 2, 3, 4))


def test_leaving_is_sent_at_once() -> None:
    leader = make_leader()
    leader.core.propose_conf_change(ConfChange(((ADD, 4),), IMPLICIT))
    leader.process()
    acknowledge(leader, 2)
    acknowledge(leader, 3)
    sent = only(leader.process(), MessageType.APP)
    assert {m.to for m in sent if any(run.first == 3 for run in m.runs)} >= {2, 3}


# --- leaders that change their own part --------------------------------------------------------------


@pytest.mark.parametrize("kind", [REMOVE, LEARN])
def test_a_removed_or_demoted_leader_steps_down_if_told_so(kind: ConfChangeType) -> None:
    leader = make_leader(step_down_on_removal=True)
    leader.core.apply_conf_change(ConfChange(((kind, 1),)))
    assert leader.core.role is RaftRole.FOLLOWER
    for _ in range(3 * ELECTION_TICKS):
        leader.core.tick()
    assert role_of(leader.core) is RaftRole.FOLLOWER


@pytest.mark.parametrize("kind", [REMOVE, LEARN])
def test_otherwise_it_goes_on_beating_until_it_is_superseded(kind: ConfChangeType) -> None:
    leader = make_leader()
    leader.core.apply_conf_change(ConfChange(((kind, 1),)))
    leader.process()
    leader.core.tick()
    assert [m.to for m in only(leader.process(), MessageType.HEARTBEAT)] == [2, 3]
    leader.core.become_follower(leader.core.term, 0)
    leader.core.campaign()
    assert leader.core.role is RaftRole.FOLLOWER


def test_a_demotion_inside_a_joint_change_does_not_cost_the_group_its_leader() -> None:
    leader = make_leader(step_down_on_removal=True)
    leader.core.apply_conf_change(ConfChange(((LEARN, 1), (ADD, 4))))
    assert role_of(leader.core) is RaftRole.LEADER, "it still votes in the outgoing half"
    leader.core.apply_conf_change(ConfChange())
    assert role_of(leader.core) is RaftRole.FOLLOWER


def test_a_new_member_is_sent_to_at_once() -> None:
    leader = make_leader()
    leader.core.apply_conf_change(ConfChange(((LEARN, 4),)))
    assert [m.to for m in only(leader.process(), MessageType.APP)] == [4]
    progress = leader.core.progress[4]
    assert (progress.match, progress.next, progress.is_learner) == (0, 1, True)


def test_progress_survives_promotion_and_demotion() -> None:
    leader = make_leader()
    for step, learner in (((LEARN, 3), True), ((ADD, 3), False)):
        before = leader.core.progress[3]
        leader.core.apply_conf_change(ConfChange((step,)))
        after = leader.core.progress[3]
        assert (after is before, after.match, after.is_learner) == (True, 1, learner)


def test_a_joint_configuration_survives_a_restart() -> None:
    leader = make_leader()
    leader.conf_state = leader.core.apply_conf_change(ConfChange(((LEARN, 3), (ADD, 4)), EXPLICIT))
    leader.compact()
    state = leader.core.conf_state()
    leader.restart()
    assert leader.core.conf_state() == state
    assert not leader.core.progress[3].is_learner


def test_applying_on_a_follower_sends_nothing() -> None:
    member = make_member()
    append(member.core, term=1)
    member.process()
    member.core.apply_conf_change(ConfChange(((ADD, 4),)))
    assert not member.process()
    assert member.core.conf_state().voters == (1, 2, 3, 4)


def test_changes_are_applied_by_the_protocol_they_ask_for() -> None:
    start = membership(1, 2, 3)
    assert not apply_change(start, ConfChange(((ADD, 4),))).config.joint
    implicit = apply_change(start, ConfChange(((ADD, 4), (ADD, 5))))
    assert (implicit.config.joint, implicit.config.auto_leave) == (True, True)
    explicit = apply_change(start, ConfChange(((ADD, 4),), EXPLICIT))
    assert (explicit.config.joint, explicit.config.auto_leave) == (True, False)
    assert str(explicit.config) == "voters=(1 2 3 4)&&(1 2 3)"
