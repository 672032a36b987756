"""One scheduler on parts that a test moves by hand: its disk, its workers, its clock and its peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from multiraft.catalog import Catalog
from multiraft.config import HostConfig
from multiraft.environment import Environment
from multiraft.errors import MultiraftError
from multiraft.group import Group
from multiraft.interfaces import MachineFactory, SnapshotOffer
from multiraft.membership import GroupMeta, predefined
from multiraft.messages import Envelope, Hello, Lane, Message, MessageType, ProposalRefused, Snapshot
from multiraft.scheduler import Scheduler
from multiraft.storage.memory import MemoryFiles
from multiraft.storage.snapshots import SnapshotFiles
from multiraft.storage.store import Store, open_store
from multiraft.storage.writer import Job, Work
from multiraft.types import GroupId, Index, Member, MemberId
from tests.engine.machines import Journal

ADDRESS = "h1:1"
PASSES_MAX = 1000


class HeldWriter:
    """A log's writer whose disk works only when it is told to."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def sync(self) -> None:
        """Everything that was submitted gets to the disk."""
        jobs, self.jobs = self.jobs, []
        if jobs:
            self._work.perform(jobs)
            self._work.finished(jobs, None)

    def close(self) -> None:
        """What is not on the disk by now is lost, as in a crash."""


class HeldExecutor:
    """A worker thread whose jobs run only when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = []

    def submit(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self.jobs.append((job, done))

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        for job, done in jobs:
            result, failure = None, None
            try:
                result = job()
            except Exception as error:
                failure = error
            done(result, failure)


class Wires:
    """A transport that keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Lane, Envelope]] = []
        self.transfers: list[tuple[object, ...]] = []

    def connect(self, address: str) -> None:
        """Nobody answers."""

    def send(self, address: str, lane: Lane, items: Sequence[Envelope]) -> bool:
        self.sent += [(address, lane, item) for item in items]
        return True

    def send_snapshot(
        self,
        address: str,
        offer: SnapshotOffer,
        chunks: Callable[[int], Iterator[bytes]],
        done: Callable[[BaseException | None], None],
    ) -> None:
        self.transfers.append((address, offer, chunks, done))

    def release(self, address: str) -> None:
        """There is nothing to close."""

    def messages(self, kind: MessageType) -> list[Message]:
        found = [item[2] for _, _, item in self.sent]
        return [each for each in found if type(each) is Message and each.type is kind]

    def refusals(self) -> list[ProposalRefused]:
        return [item[2] for _, _, item in self.sent if type(item[2]) is ProposalRefused]


class Answer:
    """A waiter that keeps what it was told."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: Exception | None = None
        self.told = False

    def resolve(self, value: object) -> None:
        assert not self.told
        self.told, self.value = True, value

    def fail(self, error: Exception) -> None:
        assert not self.told
        self.told, self.error = True, error


class BenchHost:
    """The scheduler under test. `settle` lets everything happen that can; until then nothing does."""

    def __init__(
        self,
        files: MemoryFiles | None = None,
        machines: MachineFactory | None = None,
        *,
        number: int = 1,
        **settings: Any,
    ) -> None:
        self.files = MemoryFiles() if files is None else files
        self.number = number
        self.hello = Hello("c", number, 1, f"h{number}:1")
        self.config = HostConfig(data_dir="/data", listen=self.hello.address, **settings)
        self.time = 0.0
        self.look_s = 0.0
        """What each look at the clock costs."""
        self.failures: list[MultiraftError] = []
        self.wires = Wires()
        self.apply_executor = HeldExecutor()
        self.snapshot_executor = HeldExecutor()
        self.store: Store = open_store(
            self.files,
            "/data",
            random=lambda n: n // 2,
            on_failure=self._failed,
            writer=self._make_writer,
            segment_bytes=1 << 18,  # a restart reads all of it
        )
        self.scheduler = Scheduler(
            self.config,
            Environment(
                clock=self,
                random=lambda n: (n // 2 + 3 * (number - 1)) % n,  # so that not all stand at once
                store=self.store,
                snapshots=SnapshotFiles(self.files, "/data"),
                transport=self.wires,
                apply_executor=self.apply_executor,
                snapshot_executor=self.snapshot_executor,
                machines=(lambda _: Journal()) if machines is None else machines,
                hello=self.hello,
                wake=lambda: None,
                failed=self.failures.append,
            ),
        )
        self.catalog: Catalog = self.scheduler.catalog
        self.catalog.load_groups()

    def _make_writer(self, work: Work) -> HeldWriter:
        self.writer = HeldWriter(work)
        return self.writer

    def _failed(self, error: MultiraftError) -> None:
        self.scheduler.fail(error)

    def now(self) -> float:
        self.time += self.look_s
        return self.time

    # --- what happens --------------------------------------------------------------------------

    def passes(self) -> None:
        """Run passes until there is nothing more to do without the disk or a worker."""
        for _ in range(PASSES_MAX):
            if not self.scheduler.run_pass():
                return
        raise AssertionError("the scheduler never comes to rest")

    def settle(self) -> None:
        """Let disk, workers and scheduler go on until nothing is left."""
        for _ in range(PASSES_MAX):
            self.passes()
            if not (self.writer.jobs or self.apply_executor.jobs or self.snapshot_executor.jobs):
                return
            self.writer.sync()
            self.apply_executor.run()
            self.snapshot_executor.run()
        raise AssertionError("the host never comes to rest")

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.time += self.config.tick_interval_s
            self.passes()

    def create(self, group_id: GroupId = 7, *, hosts: int = 1) -> Group:
        """A group whose member of this host's number is here."""
        answer = Answer()
        self.start_creating(answer, group_id, hosts=hosts)
        self.settle()
        assert answer.error is None
        return self.scheduler.groups[group_id]

    def start_creating(self, answer: Answer, group_id: GroupId = 7, *, hosts: int = 1) -> None:
        membership = predefined([Member(number, f"h{number}:1") for number in range(1, hosts + 1)])
        self.catalog.create_groups({group_id: (membership, GroupMeta(self.number))}, answer)

    def propose(self, group: Group, *payloads: bytes) -> list[Answer]:
        answers = []
        for payload in payloads:
            answers.append(Answer())
            group.proposals.queue(payload, answers[-1])
        self.scheduler.mark_dirty(group)
        return answers

    def hear(
        self,
        group: Group,
        sender: MemberId,
        kind: MessageType,
        *,
        host_id: int | None = None,
        generation: int | None = None,
        **fields: Any,
    ) -> None:
        """A message of another member arrives; it is handled in the next pass."""
        message = Message(kind, to=group.member_id, sender=sender, **fields)
        hello = Hello("c", sender if host_id is None else host_id, 1, f"h{sender}:1")
        at = group.generation if generation is None else generation
        self.scheduler.receive(hello, Lane.BULK, [(group.id, at, message)])

    def elect(self, group: Group) -> None:
        """Member 1 leads, by the vote of member 2."""
        self.scheduler.stand(group)
        self.settle()
        self.hear(group, 2, MessageType.PRE_VOTE_RESP, term=group.raft.term + 1)
        self.settle()
        self.hear(group, 2, MessageType.VOTE_RESP, term=group.raft.term)
        self.settle()
        assert group.status().role == "leader"

    def receive_snapshot(self, group: Group, index: Index) -> None:
        """Member 2, which leads at term 2, has sent a snapshot; it is handled in the next pass."""
        point = group.log.snapshot_point
        snapshot = Snapshot(index, 2, point.conf_state, point.data)
        theirs = SnapshotFiles(MemoryFiles(), "/data")
        state = Journal()
        state.entries = [(index, b"x")]
        file = theirs.write(group.id, group.generation, snapshot, state.snapshot())
        offer = SnapshotOffer(
            group.id, group.generation, 2, group.member_id, 2, snapshot, file.file_bytes, file.digest
        )
        hello = Hello("c", 2, 1, "h2:1")
        sink = self.scheduler.snapshot_sink(hello, offer)
        for chunk in theirs.raw(file, 0):
            sink.write(chunk)
        sink.finish()
        self.scheduler.snapshot_received(hello, offer, sink)

    def power_cut(self) -> MemoryFiles:
        """What the disk holds after one; the host is not used any more."""
        self.files.crash(lambda _: 0)
        return self.files
