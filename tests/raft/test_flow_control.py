"""The window of unacknowledged appends, and the progress it belongs to."""

from __future__ import annotations

from typing import Any

import pytest

from multiraft.messages import Message, MessageType, Run
from multiraft.raft.inflights import Inflights
from multiraft.raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress, ProgressState
from tests.raft.helpers import Member, acknowledge, make_leader, only


def window(*ends: int, limit: int = 10, max_bytes: int = 0, size: int = 100) -> Inflights:
    made = Inflights(limit, max_bytes)
    for end in ends:
        made.add(end, size)
    return made


# --- the window --------------------------------------------------------------------------------


def test_a_window_fills_and_over_adding_is_a_bug() -> None:
    made = Inflights(10)
    assert [made.add(end, 100) for end in range(10)] == [False] * 9 + [True]
    assert made.full
    with pytest.raises(AssertionError):
        made.add(10, 100)


@pytest.mark.parametrize(("to", "count"), [(0, 9), (4, 5), (8, 1), (9, 0), (99, 0)])
def test_an_acknowledgement_frees_everything_up_to_its_index(to: int, count: int) -> None:
    made = window(*range(10))
    made.free_to(to)
    assert made.count == count
    assert made.held_bytes == count * 100


def test_a_stale_acknowledgement_frees_nothing() -> None:
    made = window(5, 6, 7)
    made.free_to(4)
    assert made.count == 3


def test_a_window_goes_round_and_round() -> None:
    made = Inflights(3)
    for end in range(1, 50):
        made.add(end, end)
        if end >= 2:
            made.free_to(end - 1)
        assert made.count == 1
        assert made.held_bytes == end


def test_bytes_are_a_soft_limit() -> None:
    made = Inflights(10, 100)
    assert not made.add(1, 99)
    assert made.add(2, 500), "a message goes out while the window holds less, and may overshoot"
    made.free_to(1)
    assert made.full
    made.free_to(2)
    assert not made.full


def test_resetting_forgets_the_bytes_too() -> None:
    made = window(1, 2, max_bytes=200)
    assert made.full
    made.reset()
    assert (made.count, made.held_bytes, made.full) == (0, 0, False)


def test_a_copy_is_a_copy() -> None:
    made = window(1, 2)
    twin = made.copy()
    made.add(3, 1)
    assert (twin.count, twin.held_bytes) == (2, 200)


# --- progress ----------------------------------------------------------------------------------


def progress(state: ProgressState = PROBE, match: int = 1, **attributes: Any) -> Progress:
    made = Progress(match + 1, Inflights(256), match=match)
    made.state = state
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("state", "flow_paused", "paused"),
    [
        (PROBE, False, False),
        (PROBE, True, True),
        (REPLICATE, False, False),
        (REPLICATE, True, True),
        (SNAPSHOT, False, True),
        (SNAPSHOT, True, True),
    ],
)
def test_when_nothing_is_sent(state: ProgressState, flow_paused: bool, paused: bool) -> None:
    assert progress(state, flow_paused=flow_paused).paused is paused


@pytest.mark.parametrize(
    ("state", "attributes", "next_index"),
    [
        (REPLICATE, {"next": 5}, 2),
        (SNAPSHOT, {"next": 11, "pending_snapshot": 10}, 11),
        (SNAPSHOT, {"next": 5, "pending_snapshot": 0}, 2),
    ],
)
def test_becoming_probe(state: ProgressState, attributes: dict[str, int], next_index: int) -> None:
    """After a snapshot it probes behind the snapshot, not behind match."""
    made = progress(state, sent_commit=99, **attributes)
    made.inflights.add(3, 7)
    made.become_probe()
    assert (made.state, made.match, made.next) == (PROBE, 1, next_index)
    assert (made.inflights.count, made.inflights.held_bytes, made.pending_snapshot) == (0, 0, 0)
    assert made.sent_commit == next_index - 1


def test_becoming_replicate_and_snapshot() -> None:
    made = progress(PROBE, next=5, flow_paused=True)
    made.become_replicate()
    assert (made.state, made.match, made.next, made.flow_paused) == (REPLICATE, 1, 2, False)
    made.become_snapshot(10)
    assert (made.state, made.next, made.pending_snapshot, made.sent_commit) == (SNAPSHOT, 11, 10, 10)


@pytest.mark.parametrize(
    ("index", "match", "next_index", "news"),
    [(2, 3, 5, False), (3, 3, 5, False), (4, 4, 5, True), (5, 5, 6, True), (9, 9, 10, True)],
)
def test_acknowledgements_only_move_forward(index: int, match: int, next_index: int, news: bool) -> None:
    made = progress(match=3, next=5, flow_paused=True)
    assert made.acknowledge(index) is news
    assert (made.match, made.next, made.flow_paused) == (match, next_index, not news)
    assert made.match < made.next


@pytest.mark.parametrize(
    ("state", "match", "next_index", "rejected", "hint", "changed", "result"),
    [
        (REPLICATE, 5, 10, 5, 5, False, 10),
        (REPLICATE, 5, 10, 4, 4, False, 10),
        (REPLICATE, 5, 10, 9, 9, True, 6),
        (PROBE, 0, 0 + 10, 5, 5, False, 10),
        (PROBE, 0, 10, 9, 9, True, 9),
        (PROBE, 0, 2, 1, 1, True, 1),
        (PROBE, 0, 1, 0, 0, True, 1),
        (PROBE, 0, 10, 9, 2, True, 3),
        (PROBE, 0, 10, 9, 0, True, 1),
        (PROBE, 5, 10, 9, 2, True, 6),
        (SNAPSHOT, 5, 11, 7, 7, False, 11),
    ],
)
def test_rejections(
    state: ProgressState, match: int, next_index: int, rejected: int, hint: int, changed: bool, result: int
) -> None:
    made = progress(state, match=match, next=next_index)
    assert made.reject(rejected, hint) is changed
    assert (made.match, made.next) == (match, result)
    assert made.match < made.next


def test_the_text_of_a_progress() -> None:
    made = progress(SNAPSHOT, pending_snapshot=4, recent_active=False, is_learner=True)
    made.inflights = window(123, limit=1)
    assert str(made) == (
        "StateSnapshot match=1 next=2 learner paused pendingSnap=4 inactive inflight=1[full]"
    )
    assert str(progress()) == "StateProbe match=1 next=2"


# --- a leader's sending --------------------------------------------------------------------------


def sent_to(leader: Member, follower: int) -> list[Message]:
    return [message for message in only(leader.process(), MessageType.APP) if message.to == follower]


def propose(leader: Member, count: int, size: int = 10) -> None:
    for _ in range(count):
        leader.core.propose(Run.of([b"x" * size]))


def heartbeat_answer(leader: Member, follower: int) -> None:
    leader.core.step(Message(MessageType.HEARTBEAT_RESP, 1, follower, leader.core.term))


def test_a_full_window_stops_the_flow_and_an_acknowledgement_frees_it() -> None:
    leader = make_leader(max_inflight_messages=3)
    propose(leader, 5)
    assert [m.runs[0].first for m in sent_to(leader, 2)] == [2, 3, 4]
    acknowledge(leader, 2, 1)
    assert not sent_to(leader, 2), "a stale acknowledgement frees nothing"
    acknowledge(leader, 2, 3)
    (sent,) = sent_to(leader, 2)
    assert (sent.runs[0].first, sent.runs[-1].last) == (5, 6)


def test_a_window_counts_bytes_as_well() -> None:
    leader = make_leader(max_inflight_messages=4, max_inflight_bytes=250, max_message_bytes=250)
    propose(leader, 8, 100)
    assert len(sent_to(leader, 2)) == 3, "it stops once 250 bytes are under way"
    acknowledge(leader, 2, 4)
    propose(leader, 8, 1)
    first = leader.core.progress[2].inflights
    assert first.count <= 4
    assert first.full


def test_a_full_window_gets_one_empty_append_per_heartbeat_answer() -> None:
    """Freeing a slot for entries instead would fill the network with data for a dead peer."""
    leader = make_leader(max_inflight_messages=2)
    propose(leader, 4)
    assert len(sent_to(leader, 2)) == 2
    for _ in range(5):
        heartbeat_answer(leader, 2)
        (probe,) = sent_to(leader, 2)
        assert list(probe.runs) == []
        assert (probe.index, probe.log_term) == (3, 1)
        assert leader.core.progress[2].inflights.count == 2
        assert leader.core.progress[2].paused
        propose(leader, 1)
        assert not sent_to(leader, 2)


def test_an_empty_append_is_never_anchored_at_an_unknown_term() -> None:
    """The anchor of a full window can be compacted: then a snapshot is due, not a guess."""
    leader = make_leader(max_inflight_messages=2)
    propose(leader, 4)
    leader.process()
    acknowledge(leader, 3)
    leader.process()
    leader.compact(5)
    heartbeat_answer(leader, 2)
    messages = leader.process()
    assert not [m for m in only(messages, MessageType.APP) if m.to == 2]
    assert [m.to for m in only(messages, MessageType.SNAP)] == [2]


def test_probing_sends_entries_once_per_heartbeat() -> None:
    leader = make_leader()
    leader.core.report_unreachable(2)
    propose(leader, 3)
    (first,) = sent_to(leader, 2)
    assert [run.first for run in first.runs] == [2]
    for _ in range(3):
        heartbeat_answer(leader, 2)
        (again,) = sent_to(leader, 2)
        assert (again.index, again.runs[-1].last) == (1, 4)
        propose(leader, 0)
    acknowledge(leader, 2, 4)
    assert leader.core.progress[2].state is REPLICATE


def test_unreachable_falls_back_to_what_is_known() -> None:
    leader = make_leader()
    propose(leader, 3)
    leader.process()
    state = leader.core.progress[2]
    assert (state.match, state.next) == (1, 5)
    leader.core.report_unreachable(2)
    assert (state.state, state.match, state.next) == (PROBE, 1, 2)


def test_a_caught_up_follower_does_not_stay_in_probe_after_an_unreachable_report() -> None:
    leader = make_leader()
    leader.core.report_unreachable(2)
    heartbeat_answer(leader, 2)
    (probe,) = sent_to(leader, 2)
    assert list(probe.runs) == []
    acknowledge(leader, 2)
    assert leader.core.progress[2].state is REPLICATE


def test_the_byte_count_starts_anew_with_every_change_of_state() -> None:
    leader = make_leader(max_inflight_bytes=50, max_message_bytes=50)
    propose(leader, 3, 100)
    assert leader.core.progress[2].inflights.full
    leader.core.report_unreachable(2)
    assert leader.core.progress[2].inflights.held_bytes == 0
    heartbeat_answer(leader, 2)
    assert sent_to(leader, 2)
