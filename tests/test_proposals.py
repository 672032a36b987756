"""The table of proposals: every outcome is exact, whatever happens on the way."""

from __future__ import annotations

from multiraft.budget import Budget
from multiraft.errors import (
    HostClosed,
    MembershipRejected,
    MultiraftError,
    NoLeader,
    OutcomeUnknown,
    ProposalDropped,
)
from multiraft.messages import EntryKind, Run
from multiraft.proposals import LEADERSHIP_CHANGED, RUN_BYTES_MAX, TRIES_MAX, ProposalTable


class Recorder:
    """A waiter that remembers what it was told, and that it was told once."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def resolve(self, value: object) -> None:
        self.told.append(value)

    def fail(self, error: Exception) -> None:
        self.told.append(error)


def run(count: int, sequence: int = 100, origin: int = 1) -> Run:
    return Run.of([b"%d" % i for i in range(count)], origin=origin, sequence=sequence)


def proposed(table: ProposalTable, count: int, sequence: int = 100, term: int = 1) -> list[Recorder]:
    waiters = [Recorder() for _ in range(count)]
    table.proposed(run(count, sequence), term, list(waiters))
    return waiters


def test_applied_entries_wake_their_waiters_in_order() -> None:
    table = ProposalTable()
    waiters = proposed(table, 3)
    table.applied(run(3).placed(7, 1), ["a", "b", "c"])
    assert [w.told for w in waiters] == [["a"], ["b"], ["c"]]
    assert not table


def test_a_run_that_was_cut_is_recognized_part_by_part() -> None:
    table = ProposalTable()
    waiters = proposed(table, 5)
    whole = run(5).placed(11, 1)
    for first, last in ((11, 12), (13, 13), (14, 15)):
        table.applied(whole.cut(first, last), [*range(first, last + 1)])
    assert [w.told for w in waiters] == [[11], [12], [13], [14], [15]]
    assert not table


def test_another_members_run_wakes_nobody_here() -> None:
    table = ProposalTable()
    waiters = proposed(table, 1, sequence=100)
    table.applied(run(1, sequence=101).placed(7, 1), ["x"])
    assert waiters[0].told == []


def test_an_entry_of_a_higher_term_drops_what_was_proposed_before_it() -> None:
    table = ProposalTable()
    old = proposed(table, 2, sequence=100, term=3)
    new = proposed(table, 1, sequence=200, term=4)
    table.applied_term(3)
    assert [w.told for w in old] == [[], []]
    assert table.applied_term(4)
    assert new[0].told == []
    payloads, waiters, tries = table.take_queued()
    assert payloads == [b"0", b"1"]
    assert waiters == old
    assert tries == 1


def test_what_leadership_changes_drop_too_often_fails() -> None:
    table = ProposalTable()
    waiter = Recorder()
    table.queue(b"x", waiter)
    for attempt in range(TRIES_MAX):
        payloads, waiters, tries = table.take_queued()
        assert tries == attempt
        table.proposed(Run.of(payloads, origin=1, sequence=attempt), attempt, waiters, tries)
        assert waiter.told == []
        assert table.applied_term(attempt + 1) == (attempt < TRIES_MAX - 1)
    assert isinstance(waiter.told[0], ProposalDropped)
    assert not table


def test_a_run_refused_for_its_term_is_queued_again() -> None:
    table = ProposalTable()
    waiters = proposed(table, 1)
    assert table.refused(100, LEADERSHIP_CHANGED)
    assert table.queued
    assert waiters[0].told == []


def test_a_refused_run_is_dropped_and_no_other() -> None:
    table = ProposalTable()
    first, second = proposed(table, 1, sequence=100), proposed(table, 1, sequence=101)
    table.refused(100, "why")
    assert isinstance(first[0].told[0], ProposalDropped)
    assert first[0].told[0].reason == "why"
    assert second[0].told == []
    table.refused(100, "again")
    assert len(first[0].told) == 1


def test_a_snapshot_leaves_the_outcome_unknown() -> None:
    table = ProposalTable()
    waiters = proposed(table, 1)
    table.skipped()
    assert isinstance(waiters[0].told[0], OutcomeUnknown)


def test_queued_proposals_fail_with_the_reason_and_outstanding_ones_as_unknown() -> None:
    table = ProposalTable()
    queued = Recorder()
    table.queue(b"x", queued)
    outstanding = proposed(table, 1)
    reason: MultiraftError = NoLeader("none")
    table.fail_all(reason, unknown="closed")
    assert queued.told == [reason]
    assert isinstance(outstanding[0].told[0], OutcomeUnknown)
    assert not table


def test_what_is_queued_is_taken_as_runs_of_bounded_size() -> None:
    table = ProposalTable()
    payload = b"x" * (RUN_BYTES_MAX // 4)
    for _ in range(10):
        table.queue(payload, Recorder())
    sizes = []
    while table.payloads:
        payloads, waiters, _ = table.take_queued()
        assert len(payloads) == len(waiters)
        sizes.append(len(payloads))
    assert sizes == [4, 4, 2]


def test_a_proposal_larger_than_a_run_is_taken_alone() -> None:
    table = ProposalTable()
    table.queue(b"x" * (RUN_BYTES_MAX + 1), Recorder())
    table.queue(b"y", Recorder())
    assert [len(table.take_queued()[0]) for _ in range(2)] == [1, 1]


def test_a_leader_takes_each_forwarded_run_once_and_in_order() -> None:
    table = ProposalTable()
    first, second = run(2, sequence=100), run(1, sequence=102)
    for each in (first, second):
        assert table.take_forwarded(each, 5)
        table.took_forwarded(each)
    assert not table.take_forwarded(first, 5), "sent again after the link broke"
    assert not table.take_forwarded(second, 5)
    assert table.take_forwarded(run(1, sequence=103), 5)
    assert table.take_forwarded(run(1, sequence=100, origin=2), 5), "another member counts by itself"


def test_a_refused_forwarded_run_may_come_again() -> None:
    table = ProposalTable()
    assert table.take_forwarded(run(1, sequence=100), 5)
    assert table.take_forwarded(run(1, sequence=100), 5)


def test_a_new_leadership_forgets_what_the_last_one_took() -> None:
    table = ProposalTable()
    table.take_forwarded(run(1), 5)
    table.took_forwarded(run(1))
    assert table.take_forwarded(run(1), 6)


def test_only_runs_of_this_term_are_sent_again_in_order() -> None:
    table = ProposalTable()
    proposed(table, 1, sequence=300, term=2)
    proposed(table, 1, sequence=100, term=2)
    proposed(table, 1, sequence=200, term=1)
    assert [each.sequence for each in table.to_resend(2)] == [100, 300]


def test_a_refusal_of_a_second_copy_proves_nothing() -> None:
    table = ProposalTable()
    waiters = proposed(table, 1, term=2)
    assert list(table.to_resend(2))
    assert not table.refused(100, LEADERSHIP_CHANGED)
    assert waiters[0].told == []
    table.applied(run(1).placed(9, 2), ["the first copy was in the log"])
    assert waiters[0].told == ["the first copy was in the log"]


def test_a_run_that_could_not_be_sent_was_dropped_and_a_second_copy_is_unknown() -> None:
    table = ProposalTable()
    first, second = proposed(table, 1, sequence=100, term=1), proposed(table, 1, sequence=101, term=2)
    assert list(table.to_resend(2))
    table.lost(100)
    table.lost(101)
    assert isinstance(first[0].told[0], ProposalDropped)
    assert isinstance(second[0].told[0], OutcomeUnknown)


def test_a_refusal_for_a_change_of_leadership_names_the_term_that_is_over() -> None:
    table, waiter = ProposalTable(), Recorder()
    table.proposed(run(1, 10), 3, [waiter])
    assert table.refused(10, LEADERSHIP_CHANGED)
    assert table.dead_term == 3


def test_a_refused_change_is_proposed_again_or_rejected_by_its_reason() -> None:
    table, waiter = ProposalTable(), Recorder()
    change = Run.of([b"c"], EntryKind.CONF_CHANGE_V2, origin=1, sequence=10)
    table.proposed(change, 3, [waiter])
    assert table.refused(10, LEADERSHIP_CHANGED)
    assert [(queued.payload, queued.tries) for queued in table.changes] == [(b"c", 1)]
    table.changes.clear()
    table.proposed(change, 4, [waiter], 1)
    assert not table.refused(10, "there is no member 9")
    (error,) = waiter.told
    assert isinstance(error, MembershipRejected)
    assert error.reason == "there is no member 9"


def test_a_change_is_done_when_no_joint_configuration_is_left() -> None:
    table, waiter = ProposalTable(), Recorder()
    change = Run.of([b"c"], EntryKind.CONF_CHANGE_V2, origin=1, sequence=10).placed(5, 3)
    table.proposed(change, 3, [waiter])
    table.changed(change, None)
    assert waiter.told == []
    assert table, "somebody still waits"
    table.completed()
    assert waiter.told == [None]


def test_a_joint_change_that_was_entered_when_the_group_stops_may_be_done() -> None:
    table, waiter = ProposalTable(), Recorder()
    change = Run.of([b"c"], EntryKind.CONF_CHANGE_V2, origin=1, sequence=10).placed(5, 3)
    table.proposed(change, 3, [waiter])
    table.changed(change, None)
    table.fail_all(HostClosed("closed"), unknown="closed before it was known")
    (error,) = waiter.told
    assert isinstance(error, OutcomeUnknown)
    assert isinstance(error, HostClosed)


# --- what it all weighs ------------------------------------------------------------------------


def test_queued_and_outstanding_payload_counts_until_its_outcome() -> None:
    budget = Budget(100)
    table = ProposalTable(budget)
    for data in (b"abc", b"defg"):
        table.queue(data, Recorder())
    assert (table.held_bytes, budget.used) == (7, 7)
    payloads, waiters, _ = table.take_queued()
    sent = Run.of(payloads, origin=1, sequence=5)
    table.proposed(sent, 1, waiters)
    assert budget.used == 7
    table.applied(sent.placed(3, 1).cut(3, 3), ["a"])
    assert budget.used == 4, "a run that was cut counts by its parts"
    table.applied(sent.placed(3, 1).cut(4, 4), ["b"])
    assert (table.held_bytes, budget.used) == (0, 0)


def test_every_way_to_fail_gives_the_room_back() -> None:
    def refused(table: ProposalTable) -> None:
        table.refused(5, "full")

    def lost(table: ProposalTable) -> None:
        table.lost(5)

    def snapshot(table: ProposalTable) -> None:
        table.skipped()

    def higher_term(table: ProposalTable) -> None:
        while table.applied_term(9):  # queued again, TRIES_MAX times in all
            payloads, waiters, tries = table.take_queued()
            table.proposed(Run.of(payloads, origin=1, sequence=5), 1, waiters, tries)

    def stopped(table: ProposalTable) -> None:
        table.fail_all(HostClosed("x"), unknown="y")

    for ending in (refused, lost, snapshot, higher_term, stopped):
        budget = Budget(100)
        table = ProposalTable(budget)
        table.queue(b"abc", Recorder())
        payloads, waiters, tries = table.take_queued()
        table.proposed(Run.of(payloads, origin=1, sequence=5), 1, waiters, tries)
        assert budget.used == 3
        ending(table)
        assert (table.held_bytes, budget.used) == (0, 0), ending.__name__


def test_withdrawn_and_expired_proposals_give_the_room_back() -> None:
    budget = Budget(100)
    table, waiter = ProposalTable(budget), Recorder()
    table.queue(b"abc", waiter)
    table.queue(b"de", Recorder())
    table.withdraw(waiter)
    payloads, waiters, _ = table.take_queued()
    assert budget.used == 2
    table.dropped(Run.of(payloads), waiters, ProposalDropped("full"))
    table.queue(b"abc", Recorder())
    table.expire_queued(NoLeader("x"))
    assert (table.held_bytes, budget.used) == (0, 0)


def test_what_a_leader_carries_for_others_counts_until_applied_or_led_no_more() -> None:
    budget = Budget(100)
    table = ProposalTable(budget)
    foreign = run(3, origin=2).placed(7, 4)
    table.carry(foreign, 4)
    table.carried(run(3, origin=2).placed(4, 3))
    assert budget.used == 3, "an entry of an earlier term was not counted"
    table.carried(foreign.cut(7, 8))
    assert budget.used == 1
    table.put_down()
    assert (table.carried_bytes, budget.used) == (0, 0)
    table.carry(foreign, 4)
    table.carry(foreign, 5)
    assert budget.used == 3, "of the former term nothing is left"


def test_results_that_are_kept_leave_in_the_order_of_the_log() -> None:
    table = ProposalTable()
    first, second = proposed(table, 3), proposed(table, 2, sequence=200)
    table.applied(run(3).placed(7, 1), ["a", "b", "c"], at_once=False)
    table.applied(run(2, sequence=200).placed(10, 1), ["d", "e"])
    assert [waiter.told for waiter in first + second] == [[]] * 5
    table.hand_out(2)
    assert [waiter.told for waiter in first + second] == [["a"], ["b"], [], [], []]
    assert table.awaited
    table.hand_out(2)
    assert [waiter.told for waiter in first + second] == [["a"], ["b"], ["c"], ["d"], []]
    table.fail_all(HostClosed("closed"), unknown="unknown")
    assert second[1].told == ["e"]
    assert not table.awaited


def test_who_waits_for_several_in_a_row_counts_once() -> None:
    table = ProposalTable()
    many, other, last = Recorder(), Recorder(), Recorder()
    table.proposed(run(5), 1, [many, many, many, other, last])
    table.applied(run(5).placed(7, 1), [1, 2, 3, 4, 5], at_once=False)
    table.hand_out(1)
    assert (many.told, other.told, last.told) == ([1, 2, 3], [], [])
    table.hand_out(9)
    assert (many.told, other.told, last.told) == ([1, 2, 3], [4], [5])


def test_who_waits_for_a_whole_run_alone_is_told_at_once() -> None:
    table = ProposalTable()
    many = Recorder()
    table.proposed(run(5), 1, [many] * 5)
    table.applied(run(5).placed(7, 1), [1, 2, 3, 4, 5], at_once=False)
    assert many.told == [1, 2, 3, 4, 5]
    assert table.outcomes is None


def test_who_was_cancelled_meanwhile_does_not_count() -> None:
    class Gone(Recorder):
        listening = False

    table = ProposalTable()
    waiters = [Gone(), Gone(), Recorder(), Gone(), Recorder()]
    table.proposed(run(5), 1, list(waiters))
    table.applied(run(5).placed(7, 1), [1, 2, 3, 4, 5], at_once=False)
    table.hand_out(1)
    assert waiters[2].told == [3]
    assert waiters[4].told == []
