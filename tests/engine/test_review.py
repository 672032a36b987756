"""Orders, waiters and turns of the engine that are easy to get wrong, on a scheduler moved by hand."""

from __future__ import annotations

import errno
from collections.abc import Iterable

import pytest

from multiraft import intake, scheduler
from multiraft.errors import GroupFailed, HostClosed, NoLeader, StorageFailed
from multiraft.group import Group
from multiraft.membership import Change, Step, Verb
from multiraft.messages import Beats, HardState, Hello, Lane, Message, MessageType, Run, Snapshot
from multiraft.proposals import QueuedChange
from multiraft.storage.memory import MemoryFiles
from multiraft.storage.store import open_store
from multiraft.types import ReadMode, Role
from tests.engine.bench_host import Answer, BenchHost
from tests.engine.machines import BlockingJournal, Journal


class Uncapturable(Journal):
    def snapshot(self) -> Iterable[bytes]:
        raise ValueError("cannot be captured")


def test_groups_that_fail_in_a_capture_leave_others_their_turn() -> None:
    host = BenchHost(machines=lambda group: Uncapturable() if group < 5 else Journal())
    for group_id in (1, 2, 3, 4):
        host.scheduler.want_snapshot(host.create(group_id), None)
        host.settle()
    group = host.create(7)
    answer = Answer()
    host.scheduler.want_snapshot(group, answer)
    host.settle()
    host.tick()
    host.settle()
    assert answer.told
    assert answer.error is None


def test_groups_removed_before_their_capture_leave_others_their_turn() -> None:
    host = BenchHost(machines=lambda _: BlockingJournal())
    for group_id in (1, 2, 3, 4):
        host.scheduler.want_snapshot(host.create(group_id), None)
        host.catalog.remove_group(group_id, Answer())
    host.settle()
    group = host.create(7)
    answer = Answer()
    host.scheduler.want_snapshot(group, answer)
    host.settle()
    host.tick()
    host.settle()
    assert answer.told


def test_a_clean_close_does_not_commit_what_is_not_the_groups_log() -> None:
    host = BenchHost()
    group = host.create(7, hosts=3)
    old = Run.of([b"never committed"], first=2, term=2, origin=2, sequence=1)
    host.hear(group, 2, MessageType.APP, term=2, log_term=1, index=1, commit=1, runs=[old])
    host.settle()
    assert group.log.term(2) == 2
    # The next leader replaces it and says that its own is committed; the host closes before the
    # group has had its turn.
    new = Run.of([b"committed"], first=2, term=3, origin=3, sequence=1)
    group.raft.step(Message(MessageType.APP, 1, 3, 3, log_term=1, index=1, commit=2, runs=[new]))
    host.scheduler.mark_dirty(group)
    host.scheduler.close()
    host.writer.sync()
    files = host.power_cut()
    again = BenchHost(files)
    group = again.scheduler.groups[7]
    again.settle()
    machine = group.machine
    assert isinstance(machine, Journal)
    assert machine.entries == []


def test_snapshots_of_a_removed_group_do_not_come_back_with_its_id() -> None:
    host = BenchHost()
    group = host.create(7)
    host.propose(group, b"old 1", b"old 2")
    host.settle()
    host.scheduler.want_snapshot(group, Answer())
    host.settle()
    host.catalog.remove_group(7, Answer())
    host.passes()
    host.writer.sync()  # the removal is on disk; the power fails before the files are deleted
    host = BenchHost(host.power_cut())
    assert not host.scheduler.groups
    group = host.create(7)
    host.propose(group, b"new 1", b"new 2")
    host.settle()
    machine = group.machine
    assert isinstance(machine, Journal)
    before = machine.entries
    host = BenchHost(host.power_cut())
    host.settle()
    machine = host.scheduler.groups[7].machine
    assert isinstance(machine, Journal)
    assert machine.entries == before


def test_closing_tells_those_who_wait_for_a_group_to_be_made_or_removed() -> None:
    host = BenchHost()
    host.create(1)
    making, removing = Answer(), Answer()
    host.start_creating(making, 2)
    host.catalog.remove_group(1, removing)
    host.passes()
    host.scheduler.close()
    assert isinstance(making.error, HostClosed)
    assert isinstance(removing.error, HostClosed)


def test_closing_tells_those_who_wait_for_a_snapshot_being_written() -> None:
    host = BenchHost()
    group = host.create(7)
    answer = Answer()
    host.scheduler.want_snapshot(group, answer)
    host.passes()
    assert host.snapshot_executor.jobs
    host.scheduler.close()
    assert isinstance(answer.error, HostClosed)


def test_closing_tells_those_whose_query_is_in_the_worker() -> None:
    host = BenchHost(machines=lambda _: BlockingJournal())
    group = host.create(7)
    answer = Answer()
    host.scheduler.run_query(group, None, answer)
    host.passes()
    assert host.apply_executor.jobs
    host.scheduler.close()
    assert isinstance(answer.error, HostClosed)


def asking(host: BenchHost) -> tuple[Group, Answer, Message]:
    """A follower of member 2, a read that waits there, and what asked the leader for it."""
    group = host.create(7, hosts=3)
    host.hear(group, 2, MessageType.HEARTBEAT, term=2, commit=1)
    host.settle()
    answer = Answer()
    group.reads.queued.append(answer)
    host.scheduler.mark_dirty(group)
    host.passes()
    (asked,) = host.wires.messages(MessageType.READ_INDEX)
    return group, answer, asked


def test_no_query_sees_a_machine_that_is_being_restored() -> None:
    host = BenchHost()
    group, answer, asked = asking(host)
    host.receive_snapshot(group, 100)
    host.passes()
    host.writer.sync()
    host.passes()
    assert group.restoring
    host.hear(group, 2, MessageType.READ_INDEX_RESP, term=2, index=1, context=asked.context)
    host.passes()
    told = [answer.told]
    host.settle()
    told.append(answer.told)
    assert told == [False, True]
    assert group.applied == 100


def test_a_read_that_may_be_lost_is_asked_again_as_soon_as_there_is_a_link() -> None:
    host = BenchHost()
    group, answer, asked = asking(host)
    host.wires.sent.clear()
    host.scheduler.peer_up(Hello("multiraft", 3, 1, "h3:1"), Lane.BULK)
    host.settle()
    assert not host.wires.messages(MessageType.READ_INDEX), "it leads nothing"
    host.scheduler.peer_up(Hello("multiraft", 2, 1, "h2:1"), Lane.BULK)
    host.settle()
    (again,) = host.wires.messages(MessageType.READ_INDEX)
    for context in (asked.context, again.context):
        assert not answer.told
        host.hear(group, 2, MessageType.READ_INDEX_RESP, term=2, index=1, context=context)
        host.settle()
    assert answer.told
    assert answer.error is None


def test_a_read_that_the_last_leader_left_waits_no_longer_than_any_other() -> None:
    """Also in a group that nothing else has business with, as one that never stands for election."""
    host = BenchHost(tick_interval_s=0.1, leader_wait_s=0.3)
    group, answer, _ = asking(host)
    host.settle()
    host.hear(group, 3, MessageType.VOTE, term=3, log_term=2, index=9, context=b"CampaignTransfer")
    host.settle()
    assert group.leader is None
    host.tick(4)
    assert group.status().role == "follower", "it did not stand yet"
    assert isinstance(answer.error, NoLeader)


def test_a_lease_is_not_believed_in_before_owed_ticks_are_counted() -> None:
    host = BenchHost(read_mode=ReadMode.LEASE, tick_interval_s=0.1)
    group = host.create(7, hosts=3)
    lead(host, group)
    host.tick()
    for beat in host.wires.messages(MessageType.HEARTBEAT):
        host.hear(group, beat.to, MessageType.HEARTBEAT_RESP, term=beat.term, context=beat.context)
    host.passes()
    host.wires.sent.clear()
    host.hear(group, 2, MessageType.READ_INDEX, context=b"early")
    host.passes()
    assert [m.context for m in host.wires.messages(MessageType.READ_INDEX_RESP)] == [b"early"]
    # Paused for longer than the lease; the first thing it sees is another member's read.
    host.time += 5.0
    host.hear(group, 2, MessageType.READ_INDEX, context=b"late")
    host.passes()
    assert [m.context for m in host.wires.messages(MessageType.READ_INDEX_RESP)] == [b"early"]


def test_an_answer_that_names_no_heartbeat_confirms_nothing() -> None:
    """As a learner's that hears no leader, and may be a voter by what its leader knows (elections.py)."""
    host = BenchHost(read_mode=ReadMode.LEASE, tick_interval_s=0.1)
    group = host.create(7, hosts=3)
    lead(host, group)
    host.tick()
    beats = host.wires.messages(MessageType.HEARTBEAT)
    assert {beat.to for beat in beats} == {2, 3}
    host.hear(group, 2, MessageType.READ_INDEX, context=b"read")
    for member in (2, 3):
        host.hear(group, member, MessageType.HEARTBEAT_RESP, term=group.raft.term)
    host.settle()
    assert not host.wires.messages(MessageType.READ_INDEX_RESP)
    asked = host.wires.messages(MessageType.HEARTBEAT)[-1]
    host.hear(group, asked.to, MessageType.HEARTBEAT_RESP, term=asked.term, context=asked.context)
    host.settle()
    assert [m.context for m in host.wires.messages(MessageType.READ_INDEX_RESP)] == [b"read"]


def lead(host: BenchHost, group: Group) -> None:
    """Elect member 1, and have the others acknowledge its first entry."""
    host.elect(group)
    last = group.raft.last_index
    for member in (2, 3):
        host.hear(group, member, MessageType.APP_RESP, term=group.raft.term, index=last)
    host.settle()
    assert group.raft.committed == last


def test_the_file_the_log_stands_on_is_never_pruned() -> None:
    host = BenchHost(max_snapshot_files=0)
    group = host.create(7, hosts=3)
    entry = Run.of([b"a"], first=2, term=2, origin=2, sequence=1)
    host.hear(group, 2, MessageType.APP, term=2, log_term=1, index=1, commit=2, runs=[entry])
    host.settle()
    # A leader of a term that is over by the time its snapshot is here.
    host.hear(group, 3, MessageType.HEARTBEAT, term=5, commit=1)
    host.settle()
    host.receive_snapshot(group, 100)
    host.settle()
    assert group.applied == 2
    host.scheduler.want_snapshot(group, Answer())
    host.settle()
    host = BenchHost(host.power_cut())
    assert host.scheduler.groups[7].machine_at == 2


def test_ticks_come_even_when_messages_never_cease() -> None:
    host = BenchHost(max_pass_s=0.0001)
    group = host.create(7, hosts=3)
    host.look_s = 0.001  # so that a pass has time for one frame
    due = host.scheduler.next_tick_at
    for _ in range(500):
        for _ in range(2):
            host.hear(group, 2, MessageType.HEARTBEAT, term=2, commit=1)
        host.scheduler.run_pass()
    assert host.scheduler.next_tick_at > due


def test_a_beat_beyond_the_log_stops_its_group_alone() -> None:
    host = BenchHost()
    group = host.create(7, hosts=3)
    host.hear(group, 2, MessageType.HEARTBEAT, term=2, commit=1)
    host.settle()
    rows = [group.id, group.generation, 1, 2, 2, 50]
    host.scheduler.receive(Hello("c", 2, 1, "h2:1"), Lane.LIVENESS, [(0, 0, Beats(rows))])
    host.settle()
    assert isinstance(group.failed, GroupFailed)
    assert not host.failures


class Discarded(Journal):
    """Says in which order it was restored and discarded; may refuse to be discarded."""

    def __init__(self, events: list[str], refuses: bool = False) -> None:
        super().__init__()
        self.events = events
        self.refuses = refuses

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.events.append("restore")
        super().restore(chunks)

    def discard(self) -> None:
        self.events.append("discard")
        if self.refuses:
            raise ValueError("cannot be discarded")


def test_what_a_removed_group_was_restoring_is_discarded_after_it() -> None:
    events: list[str] = []
    host = BenchHost(machines=lambda _: Discarded(events))
    group = host.create(7, hosts=3)
    host.hear(group, 2, MessageType.HEARTBEAT, term=2, commit=1)
    host.settle()
    host.receive_snapshot(group, 100)
    host.passes()
    host.writer.sync()
    host.passes()
    assert group.restoring
    answer = Answer()
    host.catalog.remove_group(7, answer)
    host.settle()
    assert answer.error is None
    assert events == ["restore", "discard"]


def test_a_machine_that_cannot_be_discarded_fails_the_removal() -> None:
    host = BenchHost(machines=lambda _: Discarded([], refuses=True))
    host.create(7)
    answer = Answer()
    host.catalog.remove_group(7, answer)
    assert isinstance(answer.error, StorageFailed)


def test_reads_that_waited_for_the_first_commit_take_no_lease() -> None:
    host = BenchHost(read_mode=ReadMode.LEASE)
    group = host.create(7, hosts=3)
    host.elect(group)
    host.hear(group, 2, MessageType.READ_INDEX, context=b"early")
    host.tick()
    beats = [beat for beat in host.wires.messages(MessageType.HEARTBEAT) if beat.to == 2]
    # Paused; these were on their way. The ticks it slept through come after them.
    host.time += 5.0
    term, last = group.raft.term, group.raft.last_index
    for beat in beats:
        host.hear(group, 2, MessageType.HEARTBEAT_RESP, term=term, context=beat.context)
    host.hear(group, 2, MessageType.APP_RESP, term=term, index=last)
    host.scheduler.run_pass()
    assert group.raft.committed == last
    assert not host.wires.messages(MessageType.READ_INDEX_RESP)


def test_a_host_that_restarts_keeps_what_a_lease_counts_on() -> None:
    host = BenchHost(read_mode=ReadMode.LEASE)
    group = host.create(7, hosts=3)
    host.hear(group, 2, MessageType.HEARTBEAT, term=2, commit=1, context=(1).to_bytes(8, "big"))
    host.settle()
    assert host.wires.messages(MessageType.HEARTBEAT_RESP)
    host = BenchHost(host.power_cut(), read_mode=ReadMode.LEASE)
    group = host.scheduler.groups[7]
    for ticks, votes in ((0, 0), (9, 0), (1, 1)):
        host.tick(ticks)
        host.hear(group, 3, MessageType.VOTE, term=3, log_term=1, index=1)
        host.settle()
        assert len(host.wires.messages(MessageType.VOTE_RESP)) == votes


def test_forwarded_proposals_wait_while_leadership_is_handed_over() -> None:
    host = BenchHost()
    group = host.create(7, hosts=3)
    lead(host, group)
    host.propose(group, b"2 lacks this")
    host.settle()
    group.raft.transfer_leadership(2)
    host.settle()
    assert group.raft.lead_transferee == 2
    last = group.raft.last_index
    for sequence in (1, 2):
        run = Run.of([b"%d" % sequence], origin=3, sequence=sequence)
        host.hear(group, 3, MessageType.PROP, term=group.raft.term, runs=[run])
        host.settle()
    assert group.raft.last_index == last
    assert not host.wires.refusals()
    group.raft.lead_transferee = 0  # as when the target did not make it in time
    late = Run.of([b"3"], origin=3, sequence=3)
    host.hear(group, 3, MessageType.PROP, term=group.raft.term, runs=[late])
    host.settle()
    host.tick()
    host.settle()
    assert group.raft.last_index == last + 3
    payloads = [run.payloads for run in group.log.runs(last + 1, last + 3, 1000)]
    assert payloads == [[b"1"], [b"2"], [b"3"]]
    assert not host.wires.refusals()


def test_a_log_whose_last_write_fails_while_it_is_closed_says_so() -> None:
    files = MemoryFiles()
    undelivered: list[object] = []
    store = open_store(
        files,
        "/data",
        random=lambda n: n // 2,
        on_failure=undelivered.append,
        deliver=undelivered.append,
    )
    batch = store.batch()
    batch.create(7, b"", HardState(1, 0, 1), Snapshot(1, 1))
    files.fail_matching("sync", "wal", OSError(errno.EIO, "the disk failed"))
    store.submit(batch, lambda: None)
    with pytest.raises(StorageFailed):
        store.close()


def test_a_pass_writes_a_bounded_batch_however_much_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue may hold gigabytes while the disk is stuck; the log takes batches below one."""
    monkeypatch.setattr(scheduler, "PASS_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(intake, "PASS_BYTES_MAX", 1 << 18)
    host = BenchHost()
    groups = [host.create(group_id) for group_id in range(1, 9)]
    answers = [host.propose(group, *[b"x" * (1 << 18)] * 4) for group in groups]
    before = host.store.statistics().records
    host.scheduler.run_pass()
    (job,) = host.writer.jobs
    assert job.length <= (1 << 20) + (1 << 18)
    host.settle()
    assert all(answer.told and answer.error is None for group in answers for answer in group)
    assert host.store.statistics().records - before == 8 * 4


def test_a_group_made_late_is_not_born_timed_out() -> None:
    """What the host had been up for before counts for nothing in it."""
    host = BenchHost()
    for _ in range(50):
        host.tick()
    group = host.create(7, hosts=3)
    host.settle()
    assert group.raft.election_elapsed <= 1


def test_a_change_that_is_done_for_others_does_not_stand_in_the_way_of_the_next() -> None:
    """Followers commit beside the leader's disk, so who asked a follower for a change is told before the
    leader has applied it, and may ask for the next one."""
    host = BenchHost()
    group = host.create(7, hosts=3)
    lead(host, group)
    answers = [Answer() for _ in range(3)]

    def ask(number: int) -> None:
        change = Change((Step(Verb.ADD, 3 + number, f"h{3 + number}:1", Role.LEARNER),)).conf_change()
        group.proposals.changes.append(QueuedChange(change.encode(), answers[number - 1]))
        host.scheduler.mark_dirty(group)
        host.passes()

    ask(1)
    ask(2)
    assert str(answers[1].error) == "another change is under way"
    for member in (2, 3):
        host.hear(group, member, MessageType.APP_RESP, term=group.raft.term, index=group.raft.last_index)
    host.passes()
    assert group.applied < group.raft.committed, "its own disk has not got it yet"
    ask(3)
    assert not answers[2].told, "neither taken nor refused"
    host.settle()
    host.tick()
    for member in (2, 3):
        host.hear(group, member, MessageType.APP_RESP, term=group.raft.term, index=group.raft.last_index)
    host.settle()
    assert [answer.error for answer in (answers[0], answers[2])] == [None, None]
    assert [group.members.get(number) is not None for number in (4, 5, 6)] == [True, False, True]
