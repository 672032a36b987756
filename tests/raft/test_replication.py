"""Appends, acknowledgements and the commit index (thesis §3.5, §3.6)."""

from __future__ import annotations

import itertools

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
from multiraft.raft.core import RaftRole
from multiraft.raft.failures import RaftFailure
from multiraft.raft.progress import PROBE, REPLICATE
from multiraft.raft.replication import advance_commit
from tests.raft.helpers import (
    Member,
    Network,
    acknowledge,
    append,
    elect,
    entries,
    log_terms,
    make_leader,
    make_member,
    only,
    reject,
)


def answer_of(member: Member) -> Message:
    (answer,) = only(member.process(), MessageType.APP_RESP)
    return answer


# --- the leader's appends --------------------------------------------------------------------


def test_a_leader_appends_then_sends_appends_anchored_at_its_previous_entry() -> None:
    """Thesis §3.5: "the leader includes the index and term of the entry in its log that
    immediately precedes the new entries"."""
    leader = make_leader()
    leader.core.propose(Run.of([b"x"]))
    ready = leader.core.ready()
    assert [(run.first, run.term, run.payloads) for run in ready.runs] == [(2, 1, [b"x"])]
    for message, follower in zip(only(ready.messages, MessageType.APP), (2, 3), strict=True):
        assert (message.to, message.term) == (follower, 1)
        assert (message.index, message.log_term, message.commit) == (1, 1, 1)
        assert [run.payloads for run in message.runs] == [[b"x"]]


def test_a_new_leader_claims_its_term_with_an_empty_entry() -> None:
    member = make_member(terms=[1, 1], state=HardState(1, 0, 1))
    elect(member)
    assert log_terms(member.log) == [1, 1, 2]
    assert member.log.runs(3, 3, 100)[0].payloads == [b""]


@pytest.mark.parametrize(
    ("voters", "acks"), [(1, 0), (3, 0), (3, 1), (3, 2), (5, 0), (5, 1), (5, 2), (5, 3), (5, 4)]
)
def test_an_entry_is_committed_once_a_majority_has_it(voters: int, acks: int) -> None:
    """Thesis §3.5: "A log entry is committed once the leader ... has replicated it on a
    majority of the servers"."""
    leader = make_leader(voters=tuple(range(1, voters + 1)))
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    for follower in range(2, 2 + acks):
        acknowledge(leader, follower)
    assert (leader.core.committed == 2) is (1 + acks > voters // 2)


def test_the_leaders_own_disk_counts_only_once_it_has_the_entry() -> None:
    leader = make_leader()
    leader.core.propose(Run.of([b"x"]))
    ready = leader.take()
    acknowledge(leader, 2)
    assert leader.core.committed == 1
    leader.finish(ready)
    assert leader.core.committed == 2


def test_followers_can_commit_ahead_of_the_leaders_disk_but_nothing_is_applied_before_it() -> None:
    """Thesis §10.2.1: the leader may write in parallel with its followers."""
    leader = make_leader()
    leader.core.propose(Run.of([b"x"]))
    written = leader.take()
    acknowledge(leader, 2)
    acknowledge(leader, 3)
    assert leader.core.committed == 2
    assert leader.take().committed == []
    leader.finish(written)
    assert [run.first for run in leader.take().committed] == [2]


def test_only_entries_of_the_own_term_are_committed_by_counting() -> None:
    """Thesis §3.6.2, Figure 3.7: "only log entries from the leader's current term are committed
    by counting replicas"."""
    member = make_member(terms=[1, 2], state=HardState(2, 0, 0))
    elect(member)
    assert member.core.term == 3
    for follower in (2, 3):
        acknowledge(member, follower, 2)
    assert member.core.committed == 0, "both entries are on all disks, yet are not committed"
    acknowledge(member, 2, 3)
    assert member.core.committed == 3, "committing one of the own term commits all before it"


@pytest.mark.parametrize(
    ("matches", "terms", "term", "committed"),
    [
        ([1], [1], 1, 1),
        ([1], [1], 2, 0),
        ([2], [1, 2], 2, 2),
        ([1], [2], 2, 1),
        ([2, 1, 1], [1, 2], 1, 1),
        ([2, 1, 1], [1, 1], 2, 0),
        ([2, 1, 2], [1, 2], 2, 2),
        ([2, 1, 2], [1, 1], 2, 0),
        ([2, 1, 1, 1], [1, 2], 1, 1),
        ([2, 1, 1, 1], [1, 1], 2, 0),
        ([2, 1, 1, 2], [1, 2], 1, 1),
        ([2, 1, 1, 2], [1, 2], 2, 0),
        ([2, 1, 2, 2], [1, 2], 2, 2),
        ([2, 1, 2, 2], [1, 1], 2, 0),
    ],
)
def test_commit_table(matches: list[int], terms: list[int], term: int, committed: int) -> None:
    """What is committed of a log of `terms` at `term`, with the voters at `matches`."""
    core = make_member(voters=tuple(range(1, len(matches) + 1)), terms=terms).core
    core.term = term
    core.role = RaftRole.LEADER
    own = [index for index, held in enumerate(terms, start=1) if held == term]
    core.term_start = own[0] if own else len(terms) + 1
    for member, match in enumerate(matches, start=1):
        core.progress[member].match = match
    advance_commit(core)
    assert core.committed == committed


def test_learners_get_entries_and_acknowledge_but_do_not_count() -> None:
    network = Network(make_member(member, voters=(1, 2), learners=(3,)) for member in (1, 2, 3))
    network.campaign(1)
    network.isolate(2)
    network.propose(1, b"x")
    assert network.core(1).progress[3].match == 2
    assert network.core(1).committed == 1
    network.heal()
    network.tick(1)
    assert network[3].payloads == [b"x"]


def test_a_joint_configuration_commits_only_what_both_halves_have() -> None:
    state = ConfState((1, 2, 3), voters_outgoing=(1, 4, 5))
    member = make_member(start=Snapshot(1, 1, state))
    elect(member)
    acknowledge(member, 2)
    acknowledge(member, 3)
    assert member.core.committed == 1
    acknowledge(member, 4)
    assert member.core.committed == 2


def test_the_commit_is_looked_at_again_when_a_change_of_configuration_is_applied() -> None:
    """Removing a member can make pending entries committed."""
    leader = make_leader(voters=(1, 2, 3, 4))
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 2)
    assert leader.core.committed == 1
    leader.core.apply_conf_change(ConfChange(((ConfChangeType.REMOVE_NODE, 4),)))
    assert leader.core.committed == 2
    told = {message.to: message.commit for message in only(leader.process(), MessageType.APP)}
    assert told == {2: 2, 3: 2}


def test_one_proposal_is_one_round_of_appends() -> None:
    leader = make_leader()
    leader.core.propose(Run.of([b"x"]))
    leader.core.propose(Run.of([b"y"]))
    sent = [
        (m.to, m.index, [r.first for r in m.runs])
        for m in only(leader.core.ready().messages, MessageType.APP)
    ]
    assert sent == [(2, 1, [2]), (3, 1, [2]), (2, 2, [3]), (3, 2, [3])]


# --- the follower ----------------------------------------------------------------------------


def test_a_follower_commits_what_the_append_vouches_for() -> None:
    for commit, expected in ((0, 0), (1, 1), (2, 2), (3, 3), (9, 3)):
        member = make_member(terms=[1, 1])
        append(member.core, term=1, index=2, log_term=1, commit=commit, runs=entries([1], 3))
        assert member.core.committed == expected


def test_a_follower_does_not_commit_beyond_the_last_new_entry() -> None:
    """Thesis, Figure 3.1: "set commitIndex = min(leaderCommit, index of last new entry)". What
    lies behind may still differ from the leader's."""
    member = make_member(terms=[1, 1, 1, 1], state=HardState(1, 0, 0))
    append(member.core, term=2, index=1, log_term=1, commit=4)
    assert member.core.committed == 1
    append(member.core, term=2, index=1, log_term=1, commit=4, runs=entries([1], 2))
    assert member.core.committed == 2
    assert member.core.last_index == 4


def test_the_commit_index_never_falls() -> None:
    member = make_member(terms=[1, 1, 1], state=HardState(1, 0, 2))
    append(member.core, term=1, index=3, log_term=1, commit=1)
    assert member.core.committed == 2


@pytest.mark.parametrize(
    ("index", "log_term", "runs", "result"),
    [
        (0, 0, [3, 3], [3, 3]),  # conflict at the start
        (1, 1, [3, 4], [1, 3, 4]),  # conflict behind the start
        (0, 0, [1], [1, 2]),  # all known: nothing is cut off
        (2, 2, [3], [1, 2, 3]),  # new at the end
        (1, 1, [2], [1, 2]),  # duplicate
        (1, 1, [2, 3], [1, 2, 3]),  # partly known
        (2, 2, [], [1, 2]),  # nothing at all
    ],
)
def test_a_follower_merges_an_append_into_its_log(
    index: int, log_term: int, runs: list[int], result: list[int]
) -> None:
    """Thesis, Figure 3.1, AppendEntries, receiver's steps 3 and 4."""
    member = make_member(terms=[1, 2], state=HardState(2, 0, 0))
    append(member.core, term=4, index=index, log_term=log_term, runs=entries(runs, index + 1))
    answer = answer_of(member)
    assert (answer.reject, answer.index) == (False, index + len(runs))
    assert log_terms(member.log) == result


@pytest.mark.parametrize("whole", [False, True])
def test_a_follower_does_not_cut_a_matching_suffix_off(whole: bool) -> None:
    """Appends can be reordered: an older, shorter one says nothing about what follows."""
    member = make_member()
    append(member.core, term=1, runs=[Run.of([b"a", b"b", b"c"], first=1, term=1)])
    run = Run.of([b"a", b"b"], first=1, term=1) if whole else Run.of([b"b"], first=2, term=1)
    append(member.core, term=1, index=run.first - 1, log_term=run.first - 1, runs=[run])
    assert member.core.last_index == 3
    assert not any(run.first == 1 and run.last == 2 for run in member.take().runs)
    assert log_terms(member.log) == [1, 1, 1]


@pytest.mark.parametrize(
    ("index", "log_term", "hint", "hint_term"),
    [(2, 1, 1, 1), (3, 3, 2, 2), (9, 2, 2, 2), (1, 2, 1, 1)],
)
def test_a_follower_rejects_what_does_not_fit(index: int, log_term: int, hint: int, hint_term: int) -> None:
    member = make_member(terms=[1, 2], state=HardState(2, 0, 0))
    append(member.core, term=3, index=index, log_term=log_term, runs=entries([3], index + 1))
    answer = answer_of(member)
    assert (answer.reject, answer.index, answer.reject_hint, answer.log_term) == (
        True,
        index,
        hint,
        hint_term,
    )
    assert log_terms(member.log) == [1, 2]


def test_an_append_below_the_commit_index_is_answered_with_it() -> None:
    """And is not even looked at: what is committed is equal everywhere."""
    member = make_member(terms=[1, 1, 1], state=HardState(1, 0, 2))
    append(member.core, term=1, index=1, log_term=9, commit=3, runs=entries([9], 2))
    answer = answer_of(member)
    assert (answer.index, answer.reject) == (2, False)
    assert log_terms(member.log) == [1, 1, 1]
    assert member.core.committed == 2


def test_an_empty_append_is_answered_too() -> None:
    member = make_member(terms=[1], state=HardState(1, 0, 0))
    append(member.core, term=1, index=1, log_term=1)
    assert answer_of(member).index == 1


def test_a_conflict_with_what_is_committed_is_fatal() -> None:
    member = make_member(terms=[1, 1, 1], state=HardState(1, 0, 2))
    with pytest.raises(RaftFailure, match="conflict"):
        member.core.log.merge(entries([2], 2))


def test_a_heartbeat_beyond_the_log_is_fatal_and_says_why() -> None:
    """Only a log that lost what it had promised gets into that."""
    member = make_member(terms=[1], state=HardState(1, 0, 0))
    with pytest.raises(RaftFailure, match="lost"):
        member.core.step(Message(MessageType.HEARTBEAT, 1, 2, 1, commit=2))


def test_a_rejection_waits_for_durability_like_an_acknowledgement() -> None:
    member = make_member()
    append(member.core, term=1, index=5, log_term=1)
    ready = member.core.ready()
    assert ready.messages == []
    assert [answer.reject for answer in ready.responses] == [True]


def test_reordered_and_duplicated_appends_and_answers_do_no_harm() -> None:
    for order in itertools.permutations(range(3)):
        leader, follower = make_leader(), make_member(2)
        elect_message = Message(MessageType.APP, 2, 1, 1, 0, 0, 1, leader.log.runs(1, 1, 100))
        follower.core.step(elect_message)
        follower.process()
        for number in range(3):
            leader.core.propose(Run.of([b"%d" % number]))
        sent = [m for m in only(leader.process(), MessageType.APP) if m.to == 2]
        answers: list[Message] = []
        for place in [*order, *order]:
            follower.core.step(sent[place])
            answers += follower.process()
        for answer in [*answers, *reversed(answers)]:
            leader.core.step(answer)
            for retry in (m for m in only(leader.process(), MessageType.APP) if m.to == 2):
                follower.core.step(retry)
                answers += follower.process()
        progress = leader.core.progress[2]
        assert progress.match < progress.next
        assert log_terms(follower.log) == log_terms(leader.log)


# --- answers -----------------------------------------------------------------------------------


def test_a_stale_rejection_is_ignored() -> None:
    leader = make_leader()
    progress = leader.core.progress[2]
    reject(leader, 2, progress.match, 0)
    assert progress.state is REPLICATE
    assert not leader.process()


def test_a_rejection_lowers_next_and_probes_once() -> None:
    leader = make_leader(terms=[1] * 5, state=HardState(1, 0, 0), committed=False)
    progress = leader.core.progress[2]
    assert (progress.match, progress.next, progress.state) == (0, 6, PROBE)
    reject(leader, 2, 5, 3, 1)
    assert progress.next == 4
    (probe,) = only(leader.process(), MessageType.APP)
    assert (probe.to, probe.index) == (2, 3)
    reject(leader, 2, 5, 3, 1)
    assert not leader.process(), "the same rejection again is stale"


def test_an_acceptance_advances_and_ends_probing() -> None:
    leader = make_leader(terms=[1] * 5, state=HardState(1, 0, 0), committed=False)
    progress = leader.core.progress[2]
    acknowledge(leader, 2, 3)
    assert (progress.state, progress.match) == (REPLICATE, 3)
    (sent,) = [m for m in only(leader.process(), MessageType.APP) if m.to == 2]
    assert (sent.index, sent.runs[-1].last) == (3, 6)
    assert progress.next == 7


def test_an_acceptance_at_match_ends_probing() -> None:
    leader = make_leader()
    leader.core.report_unreachable(2)
    states = [leader.core.progress[2].state]
    acknowledge(leader, 2, leader.core.progress[2].match)
    states.append(leader.core.progress[2].state)
    assert states == [PROBE, REPLICATE]


def test_a_stale_acceptance_is_ignored() -> None:
    leader = make_leader()
    leader.core.propose(Run.of([b"x"]))
    leader.process()
    acknowledge(leader, 2, 1)
    assert leader.core.progress[2].match == 1
    assert not leader.process()


def test_next_grows_ahead_only_while_replicating() -> None:
    leader = make_leader(committed=False)
    acknowledge(leader, 2)
    for _ in range(3):
        leader.core.propose(Run.of([b"x"]))
    assert leader.core.progress[2].next == 5
    assert leader.core.progress[3].next == 1


def test_a_heartbeat_answer_of_a_laggard_brings_an_append_until_it_has_caught_up() -> None:
    leader = make_leader(committed=False)
    answer = Message(MessageType.HEARTBEAT_RESP, 1, 2, 1)
    leader.core.step(answer)
    assert [m.to for m in only(leader.process(), MessageType.APP)] == [2]
    acknowledge(leader, 2)
    leader.process()
    leader.core.step(answer)
    assert not leader.process()


def test_answers_of_strangers_do_no_harm() -> None:
    """A removed member's answers may still be on the way when the core is asked directly."""
    leader = make_leader()
    for kind in (MessageType.APP_RESP, MessageType.HEARTBEAT_RESP):
        leader.core._step(Message(kind, 1, 9, 1, index=1))
    leader.core.report_unreachable(9)
    leader.core.report_snapshot(9, True)
    leader.core.transfer_leadership(9)
    assert leader.core.lead_transferee == 0
    assert not leader.process()


def test_a_message_is_cut_to_its_size_but_never_empty() -> None:
    leader = make_leader(committed=False, max_message_bytes=300)
    for size in (100, 100, 100, 1000, 10):
        leader.core.propose(Run.of([b"x" * size]))
    leader.process()
    acknowledge(leader, 2, 1)
    sent = [[(run.first, run.last) for run in m.runs] for m in only(leader.process(), MessageType.APP)]
    assert sent == [[(2, 2), (3, 3)], [(4, 4)], [(5, 5)], [(6, 6)]]


def test_a_run_that_is_too_heavy_by_itself_is_cut() -> None:
    leader = make_leader(committed=False, max_message_bytes=1000)
    leader.core.propose(Run.of([b"x" * 90] * 50))
    leader.process()
    acknowledge(leader, 2, 1)
    sent = only(leader.process(), MessageType.APP)
    assert all(sum(run.weight for run in m.runs) <= 1000 for m in sent)
    assert next(m.index for m in sent) == 1
    assert sent[-1].runs[-1].last == 51
    assert all(second.index == first.runs[-1].last for first, second in itertools.pairwise(sent))


def test_a_log_of_many_terms_is_brought_into_line() -> None:
    """Thesis, Figure 3.6 (a) to (f)."""
    leader_terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    for follower_terms in (
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ):
        network = Network(
            [
                make_member(1, terms=leader_terms, state=HardState(7, 0, 3)),
                make_member(2, terms=follower_terms, state=HardState(7, 0, 3)),
                make_member(3, terms=leader_terms, state=HardState(7, 0, 3)),
            ]
        )
        network.lost = lambda message: message.to == 2 and message.type is MessageType.VOTE
        network.campaign(1)
        assert network.leaders == [1]
        network.propose(1, b"x")
        assert log_terms(network[2].log) == log_terms(network[1].log) == [*leader_terms, 8, 8]


# --- fast backing up ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leader_terms", "follower_terms", "hint_term", "hint", "next_term", "next_index"),
    [
        ([1, 2, 2, 4, 4, 4, 4], [1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3], 3, 7, 2, 3),
        ([1, 2, 2, 3, 4, 4, 4, 5], [1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3], 3, 8, 3, 4),
        ([1, 1, 1, 1], [1, 2, 2, 4], 1, 1, 1, 1),
        ([1, 1, 1, 1, 1], [1, 2, 2, 4], 1, 1, 1, 1),
        ([1, 1, 1, 1], [1, 2, 2, 4, 4], 1, 1, 1, 1),
        ([1, 1, 1, 4, 5], [1, 1, 1, 4], 4, 4, 4, 4),
        ([2, 5, 5, 5, 5, 5, 5, 5, 5], [2, 4, 4, 4, 4, 4], 4, 6, 2, 1),
        ([2, 2, 2, 2, 2], [2, 4, 4, 4, 4, 4, 4, 4], 2, 1, 2, 1),
    ],
)
def test_whole_terms_are_skipped_when_logs_differ(
    leader_terms: list[int],
    follower_terms: list[int],
    hint_term: int,
    hint: int,
    next_term: int,
    next_index: int,
) -> None:
    """Thesis §3.5: "the follower can include the term of the conflicting entry"."""
    term = max([*leader_terms, *follower_terms])
    leader = make_member(1, terms=leader_terms, state=HardState(term, 0, 0))
    follower = make_member(2, terms=follower_terms, state=HardState(term, 0, 0))
    elect(leader)
    leader.core.log.committed = 0
    last = len(leader_terms)
    append(
        follower.core,
        sender=1,
        term=leader.core.term,
        index=last,
        log_term=leader_terms[-1],
    )
    answer = answer_of(follower)
    assert (answer.reject, answer.reject_hint, answer.log_term) == (True, hint, hint_term)
    leader.core.step(answer)
    (probe,) = only(leader.process(), MessageType.APP)
    assert (probe.log_term, probe.index) == (next_term, next_index)


def test_a_follower_compacted_beyond_the_probe_gives_no_term_and_the_leader_backs_off_one() -> None:
    follower = make_member(2, start=Snapshot(50, 2, ConfState((1, 2, 3))), terms=[2])
    index, term = follower.core.log.find_conflict_by_term(40, 2)
    assert (index, term) == (40, 0)
    leader = make_leader(terms=[1] * 60, state=HardState(1, 0, 0), committed=False)
    reject(leader, 2, 60, 59, 0)
    assert leader.core.progress[2].next == 60
