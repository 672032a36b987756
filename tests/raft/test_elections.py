"""Elections (thesis §3.4, §3.6.1)."""

from __future__ import annotations

import attrs
import pytest

from multiraft.messages import (
    TRANSFER_CONTEXT,
    ConfChange,
    ConfChangeType,
    ConfState,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Run,
    Snapshot,
)
from multiraft.raft.core import RaftRole
from tests.raft.helpers import (
    ELECTION_TICKS,
    Member,
    Network,
    append,
    elect,
    entries,
    log_terms,
    make_leader,
    make_member,
    only,
    role_of,
)

ADD_4 = ConfChange(((ConfChangeType.ADD_NODE, 4),))


def vote(
    member: Member,
    sender: int,
    term: int,
    index: int,
    log_term: int,
    kind: MessageType = MessageType.VOTE,
    context: bytes = b"",
) -> Message | None:
    """Ask `member` for a vote. Returns its answer, if there is one."""
    core = member.core
    core.step(Message(kind, core.id, sender, term, log_term, index, context=context))
    answers = [message for message in member.process() if message.to == sender]
    return answers[0] if answers else None


@pytest.mark.parametrize("role", [RaftRole.FOLLOWER, RaftRole.CANDIDATE])
def test_a_timeout_starts_an_election(role: RaftRole) -> None:
    """Thesis §3.4: "To begin an election, a follower increments its current term and transitions
    to candidate state. It then votes for itself and issues RequestVote RPCs"."""
    member = make_member(voters=(1, 2, 3), learners=(4,), terms=[1, 1], state=HardState(1, 0, 1))
    if role is RaftRole.CANDIDATE:
        member.core.campaign()
        member.process()
    term = member.core.term
    while member.core.term == term:
        member.core.tick()
    assert role_of(member.core) is RaftRole.CANDIDATE
    assert (member.core.term, member.core.vote) == (term + 1, 1)
    requests = member.process()
    assert [(m.type, m.to, m.term, m.index, m.log_term) for m in requests] == [
        (MessageType.VOTE, 2, term + 1, 2, 1),
        (MessageType.VOTE, 3, term + 1, 2, 1),
    ]


@pytest.mark.parametrize(
    ("voters", "grants", "refusals", "role"),
    [
        (1, [], [], RaftRole.LEADER),
        (2, [], [], RaftRole.CANDIDATE),
        (2, [2], [], RaftRole.LEADER),
        (2, [], [2], RaftRole.FOLLOWER),
        (3, [], [], RaftRole.CANDIDATE),
        (3, [2], [], RaftRole.LEADER),
        (3, [2], [3], RaftRole.LEADER),
        (3, [], [2], RaftRole.CANDIDATE),
        (3, [], [2, 3], RaftRole.FOLLOWER),
        (4, [2], [], RaftRole.CANDIDATE),
        (4, [2], [3, 4], RaftRole.FOLLOWER),
        (4, [2, 3], [], RaftRole.LEADER),
        (5, [2], [3, 4], RaftRole.CANDIDATE),
        (5, [2], [3, 4, 5], RaftRole.FOLLOWER),
        (5, [2, 3], [4, 5], RaftRole.LEADER),
    ],
)
@pytest.mark.parametrize("pre_vote", [False, True])
def test_one_round_is_won_lost_or_undecided(
    voters: int, grants: list[int], refusals: list[int], role: RaftRole, pre_vote: bool
) -> None:
    """Thesis §3.4: "A candidate wins an election if it receives votes from a majority"."""
    member = make_member(voters=tuple(range(1, voters + 1)), pre_vote=pre_vote)
    core = member.core
    core.campaign()
    member.process()
    answer = MessageType.PRE_VOTE_RESP if pre_vote else MessageType.VOTE_RESP
    term = 1
    for voter in grants:
        core.step(Message(answer, 1, voter, term))
    for voter in refusals:
        core.step(Message(answer, 1, voter, core.term, reject=True))
    if not pre_vote or voters == 1:
        assert role_of(core) is role
        return
    won = {
        RaftRole.LEADER: RaftRole.CANDIDATE,
        RaftRole.CANDIDATE: RaftRole.PRE_CANDIDATE,
        RaftRole.FOLLOWER: RaftRole.FOLLOWER,
    }
    assert role_of(core) is won[role]


def test_only_the_first_answer_of_a_voter_counts() -> None:
    core = make_member(voters=(1, 2, 3, 4, 5)).core
    core.campaign()
    for reject in (True, False, False):
        core.step(Message(MessageType.VOTE_RESP, 1, 2, 1, reject=reject))
    assert core.tracker.votes == {2: False}


def test_votes_of_others_than_voters_do_not_count() -> None:
    member = make_member(voters=(1, 2, 3), learners=(4, 5))
    core = member.core
    core.campaign()
    member.process()
    for learner in (4, 5):
        core.step(Message(MessageType.VOTE_RESP, 1, learner, 1))
    assert role_of(core) is RaftRole.CANDIDATE


# --- voting ----------------------------------------------------------------------------------


def test_one_vote_per_term_first_come_first_served() -> None:
    """Thesis §3.4: "Each server will vote for at most one candidate in a given term"."""
    member = make_member()
    first = vote(member, 2, 1, 0, 0)
    second = vote(member, 3, 1, 0, 0)
    again = vote(member, 2, 1, 0, 0)
    assert first is not None
    assert not first.reject
    assert second is not None
    assert second.reject
    assert again is not None
    assert not again.reject
    assert member.core.vote == 2


def test_a_vote_survives_a_change_of_role_within_the_term() -> None:
    member = make_member()
    vote(member, 2, 1, 0, 0)
    member.core.become_follower(1, 0)
    refused = vote(member, 3, 1, 0, 0)
    assert refused is not None
    assert refused.reject


def test_a_vote_survives_a_restart() -> None:
    member = make_member()
    vote(member, 2, 1, 0, 0)
    member.restart()
    refused = vote(member, 3, 1, 0, 0)
    assert refused is not None
    assert refused.reject


@pytest.mark.parametrize("kind", [MessageType.VOTE, MessageType.PRE_VOTE])
@pytest.mark.parametrize(
    ("terms", "index", "log_term", "granted"),
    [
        ([1], 1, 1, True),
        ([1], 2, 1, True),
        ([1, 1], 1, 1, False),
        ([1], 1, 2, True),
        ([1], 2, 2, True),
        ([1, 1], 1, 2, True),
        ([2], 1, 1, False),
        ([2], 2, 1, False),
        ([2, 1], 1, 1, False),
        ([], 0, 0, True),
        ([2, 2], 3, 1, False),
        ([2, 2], 1, 3, True),
    ],
)
def test_only_who_is_up_to_date_gets_a_vote(
    kind: MessageType, terms: list[int], index: int, log_term: int, granted: bool
) -> None:
    """Thesis §3.6.1: "the voter denies its vote if its own log is more up-to-date"."""
    terms = sorted(terms)
    member = make_member(terms=terms, state=HardState(2, 0, 0))
    answer = vote(member, 3, 3, index, log_term, kind)
    assert answer is not None
    assert answer.reject is not granted
    assert member.core.vote == (3 if granted and kind is MessageType.VOTE else 0)


@pytest.mark.parametrize("kind", [MessageType.VOTE, MessageType.PRE_VOTE])
def test_no_vote_while_a_leader_of_the_term_is_known(kind: MessageType) -> None:
    """Whoever follows a leader of this term has no vote left to give in it, even uncast."""
    member = make_member()
    append(member.core, term=1)
    member.process()
    assert (member.core.leader, member.core.vote) == (2, 0)
    answer = vote(member, 3, 1, 9, 1, kind)
    assert answer is not None
    assert answer.reject
    assert member.core.vote == 0


@pytest.mark.parametrize("role", list(RaftRole))
def test_a_vote_of_a_higher_term_is_granted_from_any_role(role: RaftRole) -> None:
    member = make_leader() if role is RaftRole.LEADER else make_member(pre_vote=role.value == 3)
    if role in (RaftRole.CANDIDATE, RaftRole.PRE_CANDIDATE):
        member.core.campaign()
        member.process()
    assert role_of(member.core) is role
    answer = vote(member, 3, 5, 9, 4)
    assert answer is not None
    assert not answer.reject
    assert answer.term == 5
    assert (member.core.role, member.core.term, member.core.vote) == (RaftRole.FOLLOWER, 5, 3)


@pytest.mark.parametrize("role", list(RaftRole))
def test_a_granted_pre_vote_changes_nothing(role: RaftRole) -> None:
    member = make_leader() if role is RaftRole.LEADER else make_member(pre_vote=role.value == 3)
    if role in (RaftRole.CANDIDATE, RaftRole.PRE_CANDIDATE):
        member.core.campaign()
        member.process()
    core = member.core
    core.election_elapsed = 4
    before = (core.role, core.term, core.vote, core.leader, core.election_elapsed)
    answer = vote(member, 3, 5, 9, 4, MessageType.PRE_VOTE)
    assert answer is not None
    assert not answer.reject
    assert answer.term == 5, "a grant names the term that was asked for"
    assert (core.role, core.term, core.vote, core.leader, core.election_elapsed) == before


def test_a_real_grant_restarts_the_timer_and_is_persisted_before_it_leaves() -> None:
    member = make_member()
    member.core.election_elapsed = 4
    member.core.step(Message(MessageType.VOTE, 1, 2, 1, 0, 0))
    assert member.core.election_elapsed == 0
    ready = member.core.ready()
    assert ready.hard_state == HardState(1, 2, 0)
    assert ready.must_sync
    assert not ready.messages
    assert [answer.type for answer in ready.responses] == [MessageType.VOTE_RESP]


def test_a_learner_votes_when_asked() -> None:
    """It may have become a voter without knowing it yet; a refusal could leave a group stuck."""
    member = make_member(1, voters=(2, 3), learners=(1,))
    answer = vote(member, 2, 1, 0, 0)
    assert answer is not None
    assert not answer.reject


# --- the own vote ----------------------------------------------------------------------------


@pytest.mark.parametrize("pre_vote", [False, True])
def test_a_single_voter_leads_once_its_vote_is_durable(pre_vote: bool) -> None:
    member = make_member(voters=(1,), pre_vote=pre_vote)
    core = member.core
    core.campaign()
    assert role_of(core) is not RaftRole.LEADER
    rounds = 0
    while core.role is not RaftRole.LEADER:
        ready = member.take()
        assert role_of(core) is not RaftRole.LEADER, "taking a Ready is no promise that it is on disk"
        member.finish(ready)
        rounds += 1
    assert rounds == 1 + pre_vote


def test_the_own_vote_does_not_count_before_it_is_durable() -> None:
    member = make_member(voters=(1, 2))
    core = member.core
    core.campaign()
    ready = member.take()
    core.step(Message(MessageType.VOTE_RESP, 1, 2, 1))
    assert role_of(core) is RaftRole.CANDIDATE, "the other's vote is one of two"
    assert core.tracker.votes == {2: True}
    member.finish(ready)
    assert role_of(core) is RaftRole.LEADER


def test_a_majority_of_others_does_not_elect_before_the_own_vote_is_durable() -> None:
    """A crash would forget the term that it leads; standing in it again, with the same voters,
    would give that term two leaders with different logs."""
    member = make_member()
    member.core.campaign()
    ready = member.take()
    for voter in (2, 3):
        member.core.step(Message(MessageType.VOTE_RESP, 1, voter, 1))
    assert role_of(member.core) is RaftRole.CANDIDATE
    member.finish(ready)
    assert role_of(member.core) is RaftRole.LEADER


@pytest.mark.parametrize("pre_vote", [False, True])
def test_the_own_vote_is_ignored_once_the_election_is_lost(pre_vote: bool) -> None:
    member = make_member(pre_vote=pre_vote)
    core = member.core
    core.campaign()
    ready = member.take()
    kind = MessageType.PRE_VOTE_RESP if pre_vote else MessageType.VOTE_RESP
    for voter in (2, 3):
        core.step(Message(kind, 1, voter, core.term, reject=True))
    assert role_of(core) is RaftRole.FOLLOWER
    member.finish(ready)
    assert role_of(core) is RaftRole.FOLLOWER
    assert core.tracker.votes.get(1) is None


def test_a_late_own_pre_vote_does_not_count_in_the_election() -> None:
    member = make_member(pre_vote=True)
    core = member.core
    core.campaign()
    asked = member.take()
    for voter in (2, 3):
        core.step(Message(MessageType.PRE_VOTE_RESP, 1, voter, 1))
    assert role_of(core) is RaftRole.CANDIDATE
    member.finish(asked)
    assert core.tracker.votes == {}
    elected = member.take()
    core.step(Message(MessageType.VOTE_RESP, 1, 2, 1))
    assert role_of(core) is RaftRole.CANDIDATE
    member.finish(elected)
    assert role_of(core) is RaftRole.LEADER


def test_the_own_acknowledgement_is_ignored_after_a_change_of_term() -> None:
    member = make_member(voters=(1, 2))
    elect(member)
    core = member.core
    core.propose(Run.of([b"x"]))
    written = member.take()
    core.step(Message(MessageType.HEARTBEAT, 1, 2, 5))
    member.finish(written)
    assert core.committed == 0


# --- who may stand ---------------------------------------------------------------------------


def _outsiders() -> list[Member]:
    removed = make_member(1, voters=(2, 3))
    learner = make_member(1, voters=(2, 3), learners=(1,))
    pending = make_member(1)
    state = ConfState((1, 2, 3))
    pending.core.step(Message(MessageType.SNAP, 1, 2, 1, snapshot=Snapshot(9, 1, state)))
    pending.core.become_follower(1, 0)
    return [removed, learner, pending]


@pytest.mark.parametrize("which", range(3), ids=["removed", "learner", "snapshot pending"])
@pytest.mark.parametrize("how", ["tick", "request", "timeout now"])
def test_who_may_not_lead_does_not_stand(which: int, how: str) -> None:
    member = _outsiders()[which]
    core = member.core
    term = core.term
    if how == "tick":
        for _ in range(3 * ELECTION_TICKS):
            core.tick()
    elif how == "request":
        core.campaign()
    else:
        core.step(Message(MessageType.TIMEOUT_NOW, 1, 2, term))
    assert (core.role, core.term) == (RaftRole.FOLLOWER, term)


def test_a_promoted_learner_stands() -> None:
    member = make_member(1, voters=(2,), learners=(1,))
    member.core.apply_conf_change(ConfChange(((ConfChangeType.ADD_NODE, 1),)))
    for _ in range(2 * ELECTION_TICKS):
        member.core.tick()
    assert role_of(member.core) is RaftRole.CANDIDATE


@pytest.mark.parametrize("kind", [EntryKind.CONF_CHANGE, EntryKind.CONF_CHANGE_V2])
@pytest.mark.parametrize("how", ["request", "timeout now"])
def test_no_campaign_while_a_committed_change_is_not_applied(kind: EntryKind, how: str) -> None:
    """Two disjoint majorities could come about, one by the old and one by the new configuration."""
    member = make_member(max_apply_bytes=8)
    change = Run.of([ADD_4.encode()], kind, first=41, term=1)
    append(member.core, term=1, commit=41, runs=[*entries([1] * 40), change])
    member.take()
    core = member.core
    core.become_follower(2, 0)

    def ask() -> None:
        if how == "request":
            core.campaign()
        else:
            core.step(Message(MessageType.TIMEOUT_NOW, 1, 2, core.term))

    ask()
    assert role_of(core) is RaftRole.FOLLOWER
    core.step(Message(MessageType.STORAGE_APPEND_RESP, 1, (1 << 64) - 1, 2, 1, 41))
    member.process()
    assert core.applied == 41
    ask()
    assert role_of(core) is RaftRole.CANDIDATE


def test_unapplied_changes_are_looked_for_page_by_page() -> None:
    """The scan must not read a whole log at once; it reads as much as is applied at once."""
    member = make_member(terms=[1] * 30, state=HardState(1, 0, 30), max_apply_bytes=20)
    member.log.reads = 0
    member.core.campaign()
    assert role_of(member.core) is RaftRole.CANDIDATE
    assert 10 <= member.log.reads <= 30


# --- several members ---------------------------------------------------------------------------


def test_the_candidate_with_the_shorter_log_loses_and_the_logs_converge() -> None:
    network = Network.of(3)
    network.campaign(1)
    network.isolate(3)
    network.propose(1, b"x")
    network.heal()
    network.campaign(3)
    assert network.leaders == []
    assert role_of(network.core(3)) is RaftRole.FOLLOWER
    network.campaign(2)
    assert network.leaders == [2]
    assert len({tuple(log_terms(member.log)) for member in network.members.values()}) == 1
    assert network[3].payloads == [b"x"]


def test_a_deposed_candidate_concedes_and_the_logs_converge() -> None:
    network = Network.of(3)
    network.isolate(3)
    network.campaign(1)
    network.campaign(3)
    network.heal()
    assert role_of(network.core(3)) is RaftRole.CANDIDATE
    network.tick(1)
    assert network.leaders == [1]
    assert network.core(3).leader == 1
    assert log_terms(network[3].log) == log_terms(network[1].log) == [1]


def test_a_new_leader_overwrites_entries_of_a_minority_with_higher_terms() -> None:
    """Thesis §3.5: "conflicting entries in follower logs will be overwritten"."""
    network = Network(
        [
            make_member(1, terms=[1], state=HardState(2, 0, 0)),
            make_member(2, terms=[1], state=HardState(2, 0, 0)),
            make_member(3, terms=[1, 2, 2], state=HardState(2, 3, 0)),
        ]
    )
    network.campaign(1)
    if network.leaders != [1]:
        network.campaign(1)
    assert network.leaders == [1]
    assert log_terms(network[3].log) == log_terms(network[1].log)
    assert log_terms(network[3].log)[1] > 2


def test_a_joint_election_needs_both_halves() -> None:
    """Thesis §4.3: "Agreement (for elections and entry commitment) requires separate majorities"."""
    state = ConfState((1, 2, 3), voters_outgoing=(1, 4, 5))
    for first, second in (((2, 3), (4,)), ((4, 5), (2,))):
        member = make_member(start=Snapshot(1, 1, state))
        core = member.core
        core.campaign()
        assert sorted(m.to for m in only(member.process(), MessageType.VOTE)) == [2, 3, 4, 5]
        for voter in first:
            core.step(Message(MessageType.VOTE_RESP, 1, voter, 1))
        assert role_of(core) is RaftRole.CANDIDATE, "one half is not enough"
        for voter in second:
            core.step(Message(MessageType.VOTE_RESP, 1, voter, 1))
        assert role_of(core) is RaftRole.LEADER


def test_a_transfer_campaign_says_so_and_uses_no_pre_vote() -> None:
    member = make_member(pre_vote=True)
    append(member.core, term=1)
    member.process()
    member.core.step(Message(MessageType.TIMEOUT_NOW, 1, 2, 1))
    requests = member.process()
    assert role_of(member.core) is RaftRole.CANDIDATE
    assert {(m.type, m.context) for m in requests} == {(MessageType.VOTE, TRANSFER_CONTEXT)}


def test_a_candidate_ignores_the_order_to_campaign() -> None:
    member = make_member()
    member.core.campaign()
    member.core.step(Message(MessageType.TIMEOUT_NOW, 1, 2, 1))
    assert member.core.term == 1


def test_who_refuses_a_vote_tells_what_is_committed() -> None:
    """A candidate may need to know that the change is committed by which it can do without the voter."""
    voter = make_member(1, terms=(1, 1, 1), state=HardState(1, 0, 2), coalesce_beats=True)
    voter.core.step(Message(MessageType.VOTE, 1, 2, 2, 1, 2))
    [answer] = only(voter.process(), MessageType.VOTE_RESP)
    assert (answer.reject, answer.index, answer.log_term) == (True, 2, 1)
    for terms, committed in (((1, 1), 2), ((1, 2), 0), ((1,), 0)):
        candidate = make_member(2, terms=terms, coalesce_beats=True)
        candidate.core.campaign()
        candidate.process()
        late = attrs.evolve(answer, term=candidate.core.term)
        candidate.core.step(late)
        assert candidate.core.committed == committed


def test_who_stands_at_a_lower_term_is_told_the_present_one() -> None:
    """Thesis, Figure 3.1. Two that stand as often as each other would else ignore each other for long."""
    ahead = make_member(1, terms=(1,), state=HardState(7, 0, 0), voters=(1, 3), coalesce_beats=True)
    behind = make_member(2, terms=(1, 1), voters=(1, 2), coalesce_beats=True)
    behind.core.campaign()
    [request] = only(behind.process(), MessageType.VOTE)
    ahead.core.step(request)
    [answer] = only(ahead.process(), MessageType.VOTE_RESP)
    assert (answer.to, answer.reject, answer.term) == (2, True, 7)
    behind.core.step(answer)
    behind.process()
    assert (behind.core.term, role_of(behind.core)) == (7, RaftRole.FOLLOWER)
    behind.core.campaign()
    [request] = only(behind.process(), MessageType.VOTE)
    ahead.core.step(request)
    [answer] = only(ahead.process(), MessageType.VOTE_RESP)
    assert (answer.reject, answer.term) == (False, 8)


def test_a_candidate_that_learns_of_its_removal_stands_no_more() -> None:
    """The others may not know of it yet, and give it their votes."""
    member = make_member(1, terms=(1,), voters=(1, 2, 3, 4), step_down_on_removal=True)
    core = member.core
    core.campaign()
    member.process()
    assert role_of(core) is RaftRole.CANDIDATE
    core.apply_conf_change(ConfChange(((ConfChangeType.REMOVE_NODE, 1),)))
    assert role_of(core) is RaftRole.FOLLOWER
    for voter in (2, 3, 4):
        core.step(Message(MessageType.VOTE_RESP, 1, voter, core.term))
    assert role_of(core) is RaftRole.FOLLOWER
