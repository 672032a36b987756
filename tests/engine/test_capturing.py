"""When states are captured, on a scheduler moved by hand."""

from __future__ import annotations

from multiraft.membership import Change, Step, Verb
from multiraft.messages import EntryKind, MessageType, Run
from tests.engine.bench_host import Answer, BenchHost
from tests.engine.machines import Journal

TERM = 2


class DurableJournal(Journal):
    """Keeps what it was given, whatever becomes of the host."""

    @property
    def applied_index(self) -> int:  # type: ignore[override]  # read, never set
        return self.entries[-1][0] if self.entries else 0


def test_a_capture_waits_for_a_durable_machine_that_is_ahead_and_for_changes_before_that() -> None:
    """After a restart the log is handed out again from its snapshot, changes and all."""
    journal = DurableJournal()
    before = BenchHost(machines=lambda _: journal)
    group = before.create(7, hosts=3)
    change = Change((Step(Verb.ADD, 4, "h4:1"),)).conf_change().encode()
    log = [
        Run.of([b"a"], first=2, term=TERM, origin=2, sequence=1),
        Run.of([change], EntryKind.CONF_CHANGE_V2, first=3, term=TERM, origin=2, sequence=2),
        Run.of([b"b"], first=4, term=TERM, origin=2, sequence=3),
    ]
    before.hear(group, 2, MessageType.APP, term=TERM, log_term=1, index=1, commit=4, runs=log)
    before.settle()
    assert journal.applied_index == 4

    host = BenchHost(before.power_cut(), machines=lambda _: journal)
    group = host.scheduler.groups[7]
    assert group.applied < group.machine_at == 4
    answer = Answer()
    host.scheduler.want_snapshot(group, answer)
    host.hear(group, 2, MessageType.HEARTBEAT, term=TERM, commit=4)
    host.settle()
    assert not host.failures
    assert answer.error is None
    assert answer.value.snapshot.index == group.applied == 4
    assert 4 in group.members
    assert journal.entries == [(2, b"a"), (4, b"b")], "nothing is applied twice"
