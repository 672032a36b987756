"""The contract of step, ready and what follows them."""

from __future__ import annotations

import pytest

from multiraft.errors import ConfigError
from multiraft.messages import (
    APPEND_THREAD,
    ConfState,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Run,
    Snapshot,
)
from multiraft.raft.core import CoreConfig, Raft, RaftRole
from multiraft.raft.failures import PeerNotFound, RaftFailure, StepLocalMessage
from multiraft.raft.memory import MemoryLog
from multiraft.raft.progress import PROBE
from multiraft.raft.ready import SoftState
from multiraft.raft.runs import UNLIMITED
from multiraft.raft.trace import MESSAGE_NAMES, Level
from multiraft.types import Index
from tests.raft.helpers import (
    acknowledge,
    append,
    entries,
    make_leader,
    make_member,
    only,
    role_of,
)

LOCAL = (
    MessageType.HUP,
    MessageType.BEAT,
    MessageType.UNREACHABLE,
    MessageType.SNAP_STATUS,
    MessageType.CHECK_QUORUM,
    MessageType.STORAGE_APPEND,
    MessageType.STORAGE_APPEND_RESP,
    MessageType.STORAGE_APPLY,
    MessageType.STORAGE_APPLY_RESP,
)
RESPONSES = (
    MessageType.APP_RESP,
    MessageType.VOTE_RESP,
    MessageType.PRE_VOTE_RESP,
    MessageType.HEARTBEAT_RESP,
    MessageType.READ_INDEX_RESP,
)


@pytest.mark.parametrize("kind", LOCAL)
def test_local_messages_from_outside_are_refused(kind: MessageType) -> None:
    core = make_member().core
    with pytest.raises(StepLocalMessage):
        core.step(Message(kind, 1, 2, 1))
    assert (core.term, core.has_ready()) == (0, False)


@pytest.mark.parametrize("kind", RESPONSES)
def test_responses_of_strangers_are_refused(kind: MessageType) -> None:
    core = make_member().core
    with pytest.raises(PeerNotFound):
        core.step(Message(kind, 1, 9, 5))
    assert core.term == 0


@pytest.mark.parametrize("kind", [kind for kind in MessageType if kind not in (*LOCAL, *RESPONSES)])
def test_everything_else_is_taken(kind: MessageType) -> None:
    member = make_member()
    append(member.core, term=1)
    member.core.step(Message(kind, 1, 2, 1, runs=() if kind is MessageType.APP else [Run.of([b"x"])]))


# --- ready -------------------------------------------------------------------------------------


def test_a_ready_is_consumed_exactly_once() -> None:
    leader = make_leader()
    leader.core.propose(Run.of([b"x"]))
    ready = leader.core.ready()
    assert not ready.empty
    assert leader.core.ready().empty
    assert not leader.core.has_ready()


def test_messages_queued_between_ready_and_advance_are_kept() -> None:
    leader = make_leader(async_storage_writes=False)
    leader.core.propose(Run.of([b"x"]))
    ready = leader.take()
    leader.core.propose(Run.of([b"y"]))
    leader.finish(ready)
    later = leader.core.ready()
    assert [[run.payloads for run in m.runs] for m in only(later.messages, MessageType.APP)] == [[[b"y"]]] * 2


def test_two_readys_without_advance_are_a_bug_in_sync_mode() -> None:
    member = make_member(async_storage_writes=False)
    member.core.campaign()
    member.core.ready()
    with pytest.raises(AssertionError):
        member.core.ready()


def test_advance_is_a_bug_in_async_mode_and_without_a_ready() -> None:
    with pytest.raises(AssertionError):
        make_member().core.advance()
    with pytest.raises(AssertionError):
        make_member(async_storage_writes=False).core.advance()


def test_states_are_emitted_only_when_they_change() -> None:
    member = make_member()
    append(member.core, term=1)
    ready = member.core.ready()
    assert ready.soft_state == SoftState(2, RaftRole.FOLLOWER)
    assert ready.hard_state == HardState(1, 0, 0)
    append(member.core, term=1)
    ready = member.core.ready()
    assert (ready.soft_state, ready.hard_state, ready.must_sync) == (None, None, False)


@pytest.mark.parametrize(
    ("message", "must_sync"),
    [
        (Message(MessageType.APP, 1, 2, 1, 1, 2, 2), False),  # the commit index alone
        (Message(MessageType.APP, 1, 2, 1, 1, 2, 0, entries([1], 3)), True),  # entries
        (Message(MessageType.HEARTBEAT, 1, 2, 2), True),  # the term
        (Message(MessageType.VOTE, 1, 3, 2, 1, 2), True),  # the vote
        (Message(MessageType.SNAP, 1, 2, 1, snapshot=Snapshot(9, 1, ConfState((1, 2, 3)))), False),
    ],
)
def test_must_sync_exactly_for_entries_term_and_vote(message: Message, must_sync: bool) -> None:
    member = make_member(terms=[1, 1], state=HardState(1, 2, 0))
    append(member.core, term=1, index=2, log_term=1)
    member.process()
    member.core.step(message)
    ready = member.core.ready()
    assert not ready.empty
    assert ready.must_sync is must_sync


def test_has_ready_agrees_with_ready_through_an_election_and_proposals() -> None:
    member = make_member(voters=(1,))

    def propose() -> None:
        member.core.propose(Run.of([b"x"]))

    for action in (member.core.campaign, propose, member.core.tick):
        action()
        while True:
            promised = member.core.has_ready()
            ready = member.take()
            assert ready.empty is not promised
            member.finish(ready)
            if not promised:
                break
    assert member.payloads == [b"x"]


@pytest.mark.parametrize("in_async", [False, True])
def test_a_single_voter_persists_an_entry_before_it_is_committed(in_async: bool) -> None:
    """An entry must not be handed out as committed in the Ready that is to persist it."""
    leader = make_leader(voters=(1,), async_storage_writes=in_async)
    leader.core.propose(Run.of([b"x"]))
    ready = leader.take()
    assert [run.payloads for run in ready.runs] == [[b"x"]]
    assert ready.committed == []
    assert leader.core.committed == 1
    leader.finish(ready)
    ready = leader.take()
    assert [run.payloads for run in ready.committed] == [[b"x"]]


@pytest.mark.parametrize("in_async", [False, True])
def test_a_follower_applies_unstable_entries_in_sync_mode_only(in_async: bool) -> None:
    member = make_member(async_storage_writes=in_async)
    append(member.core, term=1, commit=2, runs=entries([1, 1]))
    ready = member.take()
    assert [run.last for run in ready.committed] == ([] if in_async else [1, 2])
    member.finish(ready)
    member.process()
    assert [index for index, _term, _data in member.applied] == [1, 2]


# --- starting again ------------------------------------------------------------------------------


def test_a_restart_hands_out_exactly_what_is_committed_and_not_applied() -> None:
    member = make_member(terms=[1] * 4, state=HardState(1, 2, 3), applied=1)
    ready = member.core.ready()
    assert [run.first for run in ready.committed] == [2, 3]
    assert (ready.hard_state, ready.soft_state, ready.runs, ready.must_sync) == (None, None, [], False)
    assert (member.core.term, member.core.vote) == (1, 2)


def test_a_restart_from_a_snapshot() -> None:
    member = make_member(start=Snapshot(2, 1, ConfState((1, 2))), terms=[1], state=HardState(1, 0, 3))
    assert member.core.conf_state() == ConfState((1, 2))
    assert [run.first for run in member.core.ready().committed] == [3]


@pytest.mark.parametrize("commit", [1, 5])
def test_a_hard_state_outside_of_the_log_is_fatal(commit: Index) -> None:
    with pytest.raises(RaftFailure, match="out of range"):
        make_member(start=Snapshot(2, 1, ConfState((1, 2))), terms=[1, 1], state=HardState(1, 0, commit))


class BulkyLog(MemoryLog):
    """Ignores limits, as a log may."""

    __slots__ = ()

    def runs(self, first: Index, last: Index, max_bytes: int) -> list[Run]:
        assert max_bytes
        return super().runs(first, last, UNLIMITED)


def test_pages_of_a_log_that_ignores_limits_skip_nothing_and_keep_the_commit_index() -> None:
    log = BulkyLog(Snapshot(conf_state=ConfState((1,))))
    log.append(entries([1] * 10))
    log.set_hard_state(HardState(1, 1, 10))
    core = Raft(CoreConfig(id=1, max_apply_bytes=1, async_storage_writes=True), log, lambda _n: 0)
    handed: list[Index] = []
    while core.has_ready():
        ready = core.ready()
        assert ready.hard_state is None or ready.hard_state.commit == 10
        handed += [run.first for run in ready.committed]
        core.applied_to(ready.committed[-1].last, sum(run.weight for run in ready.committed))
    assert handed == list(range(1, 11))


def test_pages_span_several_readys_in_async_mode() -> None:
    """What is handed out and not reported counts, whatever Ready it came with."""
    weight = entries([1])[0].weight
    member = make_member(terms=[1] * 6, state=HardState(1, 0, 6), max_apply_bytes=2 * weight)
    first = member.core.ready()
    assert [run.first for run in first.committed] == [1, 2]
    append(member.core, term=1, index=6, log_term=1)
    assert member.core.ready().committed == []
    member.core.applied_to(1, weight)
    assert [run.first for run in member.core.ready().committed] == [3]
    member.core.applied_to(3, 2 * weight)
    assert [run.first for run in member.core.ready().committed] == [4, 5]


# --- asynchronous writes ---------------------------------------------------------------------------


def test_several_writes_can_be_under_way_and_are_reported_in_order() -> None:
    leader = make_leader()
    readys = []
    for number in range(3):
        leader.core.propose(Run.of([b"%d" % number]))
        readys.append(leader.take())
    assert [[run.first for run in ready.runs] for ready in readys] == [[2], [3], [4]]
    assert [ready.responses[-1].index for ready in readys] == [2, 3, 4]
    acknowledge(leader, 2)
    for ready, committed in zip(readys, (4, 4, 4), strict=True):
        leader.finish(ready)
        assert leader.core.committed <= committed
    assert leader.core.committed == 4
    assert leader.core.log.unstable.entry_count == 0


def test_no_report_where_nothing_has_to_become_stable() -> None:
    leader = make_leader()
    leader.core.propose(Run.of([b"x"]))
    leader.finish(leader.take())
    acknowledge(leader, 2)
    ready = leader.take()
    assert ready.hard_state == HardState(1, 1, 2)
    assert ready.responses == []
    assert not ready.must_sync


def test_a_vote_is_promised_by_the_very_ready_that_persists_it() -> None:
    member = make_member()
    member.core.campaign()
    ready = member.core.ready()
    assert ready.hard_state == HardState(1, 1, 0)
    assert [(m.type, m.to) for m in ready.responses] == [(MessageType.VOTE_RESP, 1)]
    assert all(m.to != 1 for m in ready.messages), "nobody writes to himself at once"


def test_a_report_carries_the_term_it_was_made_in() -> None:
    leader = make_leader()
    leader.core.propose(Run.of([b"x"]))
    (report,) = [m for m in leader.core.ready().responses if m.sender == APPEND_THREAD]
    assert (report.term, report.index, report.log_term) == (1, 2, 1)


# --- looking -----------------------------------------------------------------------------------


def test_progress_is_shown_on_a_leader_only_and_as_a_copy() -> None:
    leader = make_leader()
    shown = leader.core.status()
    assert sorted(shown) == [1, 2, 3]
    shown[2].match = 99
    shown[2].inflights.add(99, 1)
    assert leader.core.progress[2].match == 1
    assert leader.core.progress[2].inflights.count == 0
    assert make_member().core.status() == {}


def test_what_a_core_says_of_itself() -> None:
    leader = make_leader()
    core = leader.core
    assert (core.id, core.term, core.leader, role_of(core)) == (1, 1, 1, RaftRole.LEADER)
    assert (core.committed, core.applied, core.last_index, core.first_index) == (1, 1, 1, 1)
    assert core.commit_to_current_term()
    assert not make_leader(committed=False).core.commit_to_current_term()
    assert core.progress[2].state is not PROBE
    assert core.lead_transferee == 0


def test_a_core_without_a_logger_says_nothing_and_with_one_names_its_messages() -> None:
    lines: list[tuple[Level, str]] = []
    log = MemoryLog(Snapshot(conf_state=ConfState((1,))))
    Raft(CoreConfig(id=1), log, lambda _n: 0)
    Raft(CoreConfig(id=1), log, lambda _n: 0, lambda level, text: lines.append((level, text)))
    assert [text.split()[1] for _level, text in lines] == ["switched", "became", "1"]
    assert MESSAGE_NAMES[MessageType.HEARTBEAT_RESP] == "MsgHeartbeatResp"
    assert MESSAGE_NAMES[MessageType.PROP] == "MsgProp"


def test_settings_are_checked_when_a_core_is_made() -> None:
    with pytest.raises(ConfigError):
        Raft(CoreConfig(id=0), MemoryLog(), lambda _n: 0)


def test_handed_out_entries_are_not_changed_by_what_follows() -> None:
    member = make_member()
    append(member.core, term=1, runs=entries([1, 1]))
    ready = member.core.ready()
    append(member.core, sender=3, term=2, runs=entries([2]))
    assert [run.term for run in ready.runs] == [1, 1]


def test_a_received_message_is_not_changed() -> None:
    member = make_member(terms=[1], state=HardState(1, 0, 0))
    runs = [Run.of([b"a", b"b"], first=1, term=1)]
    message = Message(MessageType.APP, 1, 2, 1, 0, 0, 1, runs)
    before = repr(message)
    member.core.step(message)
    append(member.core, sender=3, term=2, index=1, log_term=1, runs=entries([2], 2))
    assert repr(message) == before


def test_entries_proposed_together_travel_together() -> None:
    leader = make_leader()
    leader.core.propose(Run.of([b"x", b"y"]))
    ready = leader.take()
    assert [(run.kind, run.first, run.last) for run in ready.runs] == [(EntryKind.NORMAL, 2, 3)]
    assert [run is ready.runs[0] for m in ready.messages for run in m.runs] == [True, True]
