"""Groups that are forced to go on alone, and groups from snapshot files: what each moment leaves.

On a scheduler moved by hand. Real hosts are in tests/api/test_recovery.py.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from multiraft.errors import (
    GroupExists,
    GroupFailed,
    NotMember,
    OutcomeUnknown,
    SnapshotInvalid,
    StateMachineFailed,
)
from multiraft.forced import point_of
from multiraft.group import Group
from multiraft.interfaces import SnapshotFile, SnapshotOffer
from multiraft.membership import Change, GroupMeta, Step, Verb
from multiraft.messages import (
    EntryKind,
    Hello,
    Lane,
    Message,
    MessageType,
    OtherGeneration,
    Run,
    Snapshot,
)
from multiraft.storage.importer import Importer
from multiraft.storage.memory import MemoryFiles
from multiraft.storage.snapshots import SnapshotFiles
from multiraft.types import Role
from tests.engine.bench_host import Answer, BenchHost
from tests.engine.machines import BlockingJournal, Journal
from tests.storage.test_crash import Power, PowerFailed

NEW = 77
"""A generation, random in real life."""


def data_of(group: Group) -> list[bytes]:
    machine = group.machine
    assert isinstance(machine, Journal)
    return [data for _, data in machine.entries]


def follow(host: BenchHost, *payloads: bytes, commit: int = 1, term: int = 2) -> Group:
    """A group of three; member 2 leads it and has sent `payloads`, entries from 2 on."""
    group = host.create(7, hosts=3)
    for index, payload in enumerate(payloads, 2):
        run = Run.of([payload], first=index, term=term, origin=2, sequence=index)
        before = 1 if index == 2 else term
        host.hear(
            group, 2, MessageType.APP, term=term, log_term=before, index=index - 1, commit=commit, runs=[run]
        )
    host.settle()
    return group


def changed(host: BenchHost, group: Group, *steps: Step, commit: bool) -> None:
    """Member 2 sends a configuration change."""
    last, term = group.raft.last_index, group.raft.term
    payload = Change(steps).conf_change().encode()
    run = Run.of([payload], EntryKind.CONF_CHANGE_V2, first=last + 1, term=term, origin=2, sequence=90)
    log_term = group.log.term(last)
    index = last + commit
    host.hear(group, 2, MessageType.APP, term=term, log_term=log_term, index=last, commit=index, runs=[run])
    host.settle()


def force(host: BenchHost, group: Group, generation: int = NEW) -> Group:
    answer = Answer()
    host.scheduler.recovery.force(group, group.member_id, generation, answer)
    host.settle()
    assert answer.error is None
    new = answer.value
    assert isinstance(new, Group)
    return new


def assert_alone(group: Group, generation: int = NEW) -> None:
    assert group.status().role == "leader"
    assert group.generation == generation
    assert {id_ for id_, member in group.members.items() if member.role is not Role.REMOVED} == {1}
    assert group.raft.conf_state().voters == (1,)
    assert not group.raft.joint


def assert_works(host: BenchHost, group: Group, *before: bytes) -> None:
    (answer,) = host.propose(group, b"new")
    host.settle()
    assert answer.told
    assert answer.error is None
    assert data_of(group) == [*before, b"new"]


def test_all_that_the_disk_has_is_committed_and_others_are_removed() -> None:
    host = BenchHost()
    group = follow(host, b"a", b"b", b"c", commit=2)
    assert data_of(group) == [b"a"]
    new = force(host, group)
    assert host.scheduler.groups[7] is new
    assert_alone(new)
    assert {id_: member.role for id_, member in new.members.items()} == {
        1: Role.VOTER,
        2: Role.REMOVED,
        3: Role.REMOVED,
    }
    assert isinstance(group.failed, GroupFailed)
    assert_works(host, new, b"a", b"b", b"c")


def test_a_restart_keeps_the_generation_and_the_members() -> None:
    host = BenchHost()
    new = force(host, follow(host, b"a", b"b"))
    term = new.raft.term
    for _ in range(2):
        host = BenchHost(host.power_cut())
        host.settle()
        again = host.scheduler.groups[7]
        assert_alone(again)
        assert again.raft.term > term
        assert data_of(again) == [b"a", b"b"]
        # From here on behind a snapshot, which holds what the forced entry did.
        host.scheduler.want_snapshot(again, Answer())
        host.settle()
    assert_works(host, again, b"a", b"b")


def test_forced_twice_it_is_another_generation() -> None:
    host = BenchHost()
    first = force(host, follow(host, b"a"))
    assert_works(host, first, b"a")
    second = force(host, first, NEW + 1)
    assert_alone(second, NEW + 1)
    assert list(second.meta.former) == [0, NEW]
    assert data_of(second) == [b"a", b"new"]


@pytest.mark.parametrize("blocking", [False, True])
def test_a_group_that_failed_here_goes_on(blocking: bool) -> None:
    host = BenchHost(machines=lambda _: BlockingJournal() if blocking else Journal())
    group = follow(host, b"a", b"b", commit=3)
    host.scheduler._group_failed(group, StateMachineFailed("for a test"))
    new = force(host, group)
    assert_alone(new)
    assert_works(host, new, b"a", b"b")


def test_a_half_done_joint_change_is_over() -> None:
    host = BenchHost()
    group = follow(host, b"a")
    changed(host, group, Step(Verb.ADD, 4, "h4:1"), Step(Verb.REMOVE, 2), commit=True)
    assert group.raft.joint
    new = force(host, group)
    assert_alone(new)
    assert sorted(new.members) == [1, 2, 3, 4]
    assert_works(host, new, b"a")
    host = BenchHost(host.power_cut())
    host.settle()
    assert_alone(host.scheduler.groups[7])


@pytest.mark.parametrize("blocking", [False, True])
def test_a_removal_of_this_very_member_that_was_on_its_way_is_undone(blocking: bool) -> None:
    def machine(_: int) -> Journal:
        return BlockingJournal() if blocking else Journal()

    host = BenchHost(machines=machine)
    group = follow(host, b"a")
    changed(host, group, Step(Verb.REMOVE, 1), commit=False)
    run = Run.of([b"b"], first=4, term=2, origin=2, sequence=4)
    host.hear(group, 2, MessageType.APP, term=2, log_term=2, index=3, commit=1, runs=[run])
    host.settle()
    new = force(host, group)
    assert_alone(new)
    assert_works(host, new, b"a", b"b")
    host = BenchHost(host.power_cut(), machines=machine)
    host.settle()
    again = host.scheduler.groups[7]
    assert_alone(again)
    assert again.removed is None


def test_a_learner_becomes_the_voter() -> None:
    host = BenchHost()
    group = follow(host, b"a")
    changed(host, group, Step(Verb.DEMOTE, 1), commit=True)
    assert group.raft.is_learner
    assert_alone(force(host, group))


def test_a_snapshot_that_was_being_installed_is_installed() -> None:
    host = BenchHost()
    group = follow(host, b"a")
    host.receive_snapshot(group, 100)
    host.passes()
    host.writer.sync()
    host.passes()
    assert group.restoring
    new = force(host, group)
    assert_alone(new)
    assert new.applied > 100
    assert_works(host, new, b"x")


def test_what_waits_and_what_is_under_way_is_told_the_truth() -> None:
    host = BenchHost()
    group = follow(host, b"a")
    (forwarded,) = host.propose(group, b"on its way")
    host.passes()
    read, capture = Answer(), Answer()
    group.reads.queued.append(read)
    host.scheduler.want_snapshot(group, capture)
    queued = Answer()
    group.proposals.queue(b"not yet", queued)
    answer = Answer()
    host.scheduler.recovery.force(group, 1, NEW, answer)
    assert isinstance(forwarded.error, OutcomeUnknown)
    assert isinstance(forwarded.error, GroupFailed)
    assert isinstance(queued.error, GroupFailed)
    assert not isinstance(queued.error, OutcomeUnknown)
    assert isinstance(read.error, GroupFailed)
    assert isinstance(capture.error, GroupFailed)
    host.settle()
    assert data_of(answer.value) == [b"a"]


def test_what_was_not_yet_on_the_disk_is_there_or_not_but_nothing_waits() -> None:
    """Batches under way are waited for: they are part of what the disk has."""
    host = BenchHost()
    group = follow(host, b"a")
    run = Run.of([b"b"], first=3, term=2, origin=2, sequence=3)
    host.hear(group, 2, MessageType.APP, term=2, log_term=2, index=2, commit=2, runs=[run])
    host.passes()
    answer = Answer()
    host.scheduler.recovery.force(group, 1, NEW, answer)
    for worker in (host.apply_executor, host.snapshot_executor):  # done long before the disk is
        host.passes()
        worker.run()
    host.passes()
    assert host.writer.jobs
    host.settle()
    new = answer.value
    assert_alone(new)
    assert data_of(new) == [b"a", b"b"]


# --- the old generation ------------------------------------------------------------------------


def notices(host: BenchHost) -> list[OtherGeneration]:
    return [item[2] for _, _, item in host.wires.sent if type(item[2]) is OtherGeneration]


@pytest.mark.parametrize(
    "kind",
    [
        MessageType.APP,
        MessageType.APP_RESP,
        MessageType.HEARTBEAT,
        MessageType.HEARTBEAT_RESP,
        MessageType.VOTE,
        MessageType.PRE_VOTE,
        MessageType.VOTE_RESP,
        MessageType.TIMEOUT_NOW,
        MessageType.READ_INDEX,
        MessageType.COMMIT,
    ],
)
def test_old_members_are_not_heard_and_are_told(kind: MessageType) -> None:
    host = BenchHost()
    new = force(host, follow(host, b"a"))
    term, last = new.raft.term, new.raft.last_index
    host.wires.sent.clear()
    for _ in range(3):
        host.hear(new, 2, kind, generation=0, term=50, index=last, log_term=term, context=b"x")
        host.settle()
    assert (new.raft.term, new.raft.last_index) == (term, last)
    assert [(each.to, each.heard) for each in notices(host)] == [(2, 0)], "told, and not three times"
    assert [item[1] for _, _, item in host.wires.sent] == [NEW]
    (warning,) = new.status().warnings
    assert "shut out" in warning
    assert_alone(new)


def test_no_snapshot_of_the_old_generation_is_taken() -> None:
    host = BenchHost()
    new = force(host, follow(host, b"a"))
    snapshot = Snapshot(100, 9, new.log.snapshot_point.conf_state, new.log.snapshot_point.data)
    offer = SnapshotOffer(7, 0, 2, 1, 9, snapshot, 10, b"d")
    with pytest.raises(NotMember, match="generation 4d here, not 0"):
        host.scheduler.snapshot_sink(Hello("c", 2, 1, "h2:1"), offer)


def test_an_old_leader_that_is_told_goes_on_and_says_so() -> None:
    """Only people can say which of two generations is to stay, so nothing stops by itself."""
    host = BenchHost()
    group = follow(host, b"a")
    told = OtherGeneration(1, 0)
    for notice, at, warnings in ((told, NEW, 1), (told, NEW, 1), (OtherGeneration(1, 5), NEW + 1, 1)):
        host.scheduler.receive(Hello("c", 3, 1, "h3:1"), Lane.BULK, [(7, at, notice)])
        host.settle()
        assert len(group.status().warnings) == warnings
    assert "h3:1 carries group 7 at generation 4d, this one at 0" in group.status().warnings[0]
    assert group.failed is None


def test_no_file_of_the_old_generation_is_sent_to_new_members() -> None:
    host = BenchHost()
    group = follow(host, b"a", b"b", commit=3)
    host.scheduler.want_snapshot(group, Answer())
    host.settle()
    new = force(host, group)
    assert new.snapshot_file is not None
    assert new.snapshot_file.generation == 0
    assert new.raft.log.snapshot() is None, "but one was asked for"
    host.settle()
    sent = new.raft.log.snapshot()
    assert new.snapshot_file.snapshot == sent
    assert new.snapshot_file.generation == NEW


def test_a_stray_file_of_the_old_generation_never_counts() -> None:
    """Its transfer may end after the group was forced, at an index and term that come again."""
    host = BenchHost()
    new = force(host, follow(host, b"a"))
    for number in range(20):
        host.propose(new, b"%d" % number)
        host.settle()
    stray = new.raft.last_index
    snapshots = SnapshotFiles(host.files, "/data")
    point = new.log.snapshot_point
    theirs = Snapshot(stray, new.log.term(stray), point.conf_state, point.data)
    wrong = Journal()
    wrong.entries = [(stray, b"wrong")]
    snapshots.write(7, 0, theirs, wrong.snapshot())
    host = BenchHost(host.power_cut())
    host.settle()
    assert b"wrong" not in data_of(host.scheduler.groups[7])
    assert len(data_of(host.scheduler.groups[7])) == 21


# --- what cannot be forced -----------------------------------------------------------------------


def test_a_state_that_cannot_be_brought_back_changes_nothing() -> None:
    made: list[Journal] = []

    def machine(_: int) -> Journal:
        if made:
            raise ValueError("no more")
        made.append(Journal())
        return made[0]

    host = BenchHost(machines=machine)
    group = follow(host, b"a", b"b")
    answer = Answer()
    host.scheduler.recovery.force(group, 1, NEW, answer)
    host.settle()
    assert isinstance(answer.error, StateMachineFailed)
    assert host.scheduler.groups[7] is group
    assert group.failed is not None
    host = BenchHost(host.power_cut())
    again = host.scheduler.groups[7]
    assert (again.generation, again.raft.last_index) == (0, 3)
    assert_alone(force(host, again))


def test_while_it_is_forced_nobody_else_has_the_id() -> None:
    host = BenchHost()
    group = follow(host, b"a")
    answer, other = Answer(), Answer()
    host.scheduler.recovery.force(group, 1, NEW, answer)
    assert 7 not in host.scheduler.groups
    with pytest.raises(GroupExists):
        host.start_creating(other, 7)
    host.settle()
    assert_alone(answer.value)


# --- the power fails -------------------------------------------------------------------------------


def forced_until_cut(files: MemoryFiles, limit: int | None) -> tuple[int, bool]:
    """Force group 7 on a disk with a log, a snapshot and an uncommitted tail; whether it was told."""
    host = BenchHost(files)
    power = Power(files)
    power.limit = limit
    answer = Answer()
    try:
        host.scheduler.recovery.force(host.scheduler.groups[7], 1, NEW, answer)
        host.settle()
    except PowerFailed:
        pass
    files.fault = None
    return power.count, answer.told


def prepared() -> MemoryFiles:
    host = BenchHost()
    group = follow(host, b"a", b"b", commit=3)
    host.scheduler.want_snapshot(group, Answer())
    host.settle()
    changed(host, group, Step(Verb.ADD, 4, "h4:1"), Step(Verb.REMOVE, 1), commit=False)
    return host.power_cut()


@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_at_any_operation_leaves_the_old_generation_or_the_new_one(seed: int) -> None:
    total, told = forced_until_cut(prepared(), None)
    assert told
    left = set()
    for limit in range(1, total + 1):
        files = prepared()
        _, told = forced_until_cut(files, limit)
        files.crash(random.Random(seed * 1000 + limit).randrange)
        host = BenchHost(files)
        host.settle()
        group = host.scheduler.groups[7]
        assert group.failed is None
        assert group.generation in ({NEW} if told else {0, NEW})
        left.add(group.generation)
        if group.generation == 0:
            assert group.raft.conf_state().voters == (1, 2, 3)
            assert {member.role for member in group.members.values()} == {Role.VOTER}
            group = force(host, group)
        assert_alone(group)
        assert_works(host, group, b"a", b"b")
    assert left == {0, NEW}


def exported() -> tuple[MemoryFiles, str]:
    """A disk that holds nothing but a snapshot file of a group of three."""
    host = BenchHost()
    group = follow(host, b"a", b"b", commit=3)
    host.scheduler.want_snapshot(group, Answer())
    host.settle()
    assert group.snapshot_file is not None
    source = host.files.open(group.snapshot_file.path)
    content = source.read(0, source.size())
    files = MemoryFiles()
    files.make_folder("/export")
    file = files.open("/export/7.snap", create=True)
    file.write(0, content)
    file.sync()
    file.close()
    files.sync_folder("/export")
    return files, "/export/7.snap"


def restoring(host: BenchHost, path: str, group_id: int = 9) -> Answer:
    answer = Answer()
    importer = Importer(host.files, SnapshotFiles(host.files, "/data"))

    def write() -> SnapshotFile:
        return importer.write(path, group_id, NEW, lambda source: point_of(source, path, 50, "h1:1"))

    host.scheduler.recovery.restore(group_id, GroupMeta(50, NEW), write, answer)
    return answer


def assert_restored(host: BenchHost, group: Group) -> None:
    assert group.status().role == "leader"
    assert group.generation == NEW
    assert {id_: member.role for id_, member in group.members.items()} == {
        1: Role.REMOVED,
        2: Role.REMOVED,
        3: Role.REMOVED,
        50: Role.VOTER,
    }
    assert_works(host, group, b"a", b"b")


def test_a_group_comes_from_a_snapshot_file() -> None:
    files, path = exported()
    host = BenchHost(files)
    answer = restoring(host, path)
    host.settle()
    assert_restored(host, answer.value)
    host = BenchHost(host.power_cut())
    host.settle()
    assert data_of(host.scheduler.groups[9]) == [b"a", b"b", b"new"]
    with pytest.raises(GroupExists):
        restoring(host, path)


def test_a_power_cut_at_any_operation_leaves_no_group_or_all_of_it() -> None:
    files, path = exported()
    host, power = BenchHost(files), Power(files)
    answer = restoring(host, path)
    host.settle()
    assert answer.told
    left = set()
    for limit in range(1, power.count + 1):
        files, path = exported()
        host, power = BenchHost(files), Power(files)
        power.limit = limit
        answer = Answer()
        try:
            answer = restoring(host, path)
            host.settle()
        except PowerFailed:
            pass
        files.fault = None
        files.crash(random.Random(limit).randrange)
        host = BenchHost(files)
        host.settle()
        left.add(9 in host.scheduler.groups)
        assert 9 in host.scheduler.groups or not answer.told
        if 9 not in host.scheduler.groups:
            restoring(host, path)
            host.settle()
        assert_restored(host, host.scheduler.groups[9])
    assert left == {False, True}


def broken(at: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda _: b"hello" * 100, "not a snapshot file"),
        (lambda content: content[:-5], "damaged|cut short|footer"),
        (lambda content: content[:10], "cut short"),
        (broken(30), "head is damaged"),
        (broken(-70), "is damaged"),
    ],
    ids=["text", "truncated", "stub", "head", "chunk"],
)
def test_a_damaged_file_is_named_and_nothing_is_left(damage: Callable[[bytes], bytes], reason: str) -> None:
    files, path = exported()
    file = files.open(path)
    content = damage(file.read(0, file.size()))
    file.truncate(0)
    file.write(0, content)
    host = BenchHost(files)
    answer = restoring(host, path)
    host.settle()
    assert isinstance(answer.error, SnapshotInvalid)
    assert path in str(answer.error)
    assert re.search(reason, str(answer.error))
    assert not host.scheduler.groups
    assert not any("/snapshots/9/" in name for name in files._names)


def test_a_missing_file_is_named() -> None:
    files, _ = exported()
    answer = restoring(host := BenchHost(files), "/export/8.snap")
    host.settle()
    assert isinstance(answer.error, SnapshotInvalid)
    assert "/export/8.snap: no such file" in str(answer.error)


def test_a_machine_with_state_of_a_former_group_is_not_overwritten() -> None:
    files, path = exported()
    machine = Journal()
    machine.applied_index = 400
    host = BenchHost(files, machines=lambda _: machine)
    with pytest.raises(StateMachineFailed, match="applied up to 400"):
        restoring(host, path)


def test_a_file_left_by_a_former_group_of_that_id_is_a_good_source() -> None:
    """The log is lost, the snapshots are not: the copy may get the very name of its source."""
    host = BenchHost()
    group = follow(host, b"a", b"b", commit=3)
    host.scheduler.want_snapshot(group, Answer())
    host.settle()
    assert group.snapshot_file is not None
    path = group.snapshot_file.path
    for name in host.files.list("/data/wal"):
        host.files.remove(f"/data/wal/{name}")
    host.files.sync_folder("/data/wal")
    host = BenchHost(host.power_cut())
    answer = restoring(host, path, 7)
    host.settle()
    assert_restored(host, answer.value)


def test_a_removed_message_is_harmless() -> None:
    """Members of the old generation may still say that this one was removed there."""
    host = BenchHost()
    new = force(host, follow(host, b"a"))
    host.hear(new, 2, MessageType.APP, generation=0, term=99)
    message = Message(MessageType.APP, to=1, sender=2, term=99)
    host.scheduler.receive(Hello("c", 2, 1, "h2:1"), Lane.BULK, [(7, NEW, message)])
    host.settle()
    assert_alone(new)
