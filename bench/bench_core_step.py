"""What does one proposal cost in the Raft core alone: three replicas, no disk, no network?

    python bench/bench_core_step.py [--proposals 20000] [--runs 5] [--record]

One entry of 16 bytes is proposed on the leader and applied by all three members. Counted is all
CPU time: steps, Readys, acknowledgements, and around them the making of the proposal and three
logs in memory, which `around` measures alone: so much of the others is not the cores'. `serial`
waits for each proposal before the next; `pipelined` proposes ahead, so that commit indexes
travel with appends.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.measure import Bench, Figures, Row, arguments
from multiraft.messages import ConfState, Message, Run, Snapshot
from multiraft.raft.core import CoreConfig, Raft
from multiraft.raft.memory import MemoryLog
from multiraft.raft.runs import total_weight

PAYLOAD = b"0123456789abcdef"
MEMBERS = (1, 2, 3)


class Cluster:
    """Three cores whose messages and writes arrive at once, but only when asked."""

    def __init__(self) -> None:
        start = Snapshot(1, 1, ConfState(MEMBERS))
        self.logs = {member: MemoryLog(start) for member in MEMBERS}
        self.cores: dict[int, Raft] = {}
        for member in MEMBERS:
            draw = random.Random(member).randrange
            self.cores[member] = Raft(_config(member), self.logs[member], draw)
        self.inbox: list[Message] = []
        self.cores[1].campaign()
        self.settle()
        assert self.cores[1].commit_to_current_term()

    def process(self, member: int) -> None:
        """Take a Ready, write it, report the write, apply."""
        core = self.cores[member]
        ready = core.ready()
        inbox = self.inbox
        inbox += ready.messages
        if ready.hard_state is not None:
            self.logs[member].set_hard_state(ready.hard_state)
        if ready.runs:
            self.logs[member].append(ready.runs)
        for response in ready.responses:
            if response.to == member:
                core.step(response)
            else:
                inbox.append(response)
        if ready.committed:
            core.applied_to(ready.committed[-1].last, total_weight(ready.committed))
        if core.has_ready():  # our own acknowledgement may have committed something
            self.process(member)

    def settle(self) -> None:
        """Deliver and process until nothing is left."""
        dirty = {1, 2, 3}
        while dirty:
            for member in dirty:
                if self.cores[member].has_ready():
                    self.process(member)
            dirty = self.deliver()

    def deliver(self) -> set[int]:
        """Step every message that was sent. Returns whom they went to."""
        cores = self.cores
        taken, self.inbox = self.inbox, []
        dirty: set[int] = set()
        for message in taken:
            cores[message.to].step(message)
            dirty.add(message.to)
        return dirty

    def compact(self) -> None:
        """Keep the in-memory logs short, so that they cost the same throughout."""
        for member, log in self.logs.items():
            if self.cores[member].applied > log.first_index():
                log.compact(self.cores[member].applied - 1)


def _config(member: int) -> CoreConfig:
    return CoreConfig(
        id=member,
        async_storage_writes=True,
        commit_notices=True,
        pre_vote=True,
        check_quorum=True,
        max_uncommitted_bytes=1 << 30,
    )


def serial(cluster: Cluster, proposals: int) -> None:
    """Written out, so that next to nothing but the cores is measured."""
    leader, *followers = cluster.cores.values()
    log, *follower_logs = cluster.logs.values()
    for number in range(proposals):
        leader.propose(Run.of([PAYLOAD]))
        ready = leader.ready()
        log.append(ready.runs)
        for follower, follower_log, append in zip(followers, follower_logs, ready.messages, strict=True):
            follower.step(append)
            copied = follower.ready()
            follower_log.append(copied.runs)
            acknowledgement, report = copied.responses
            follower.step(report)
            leader.step(acknowledgement)
        for response in ready.responses:
            leader.step(response)
        done = leader.ready()
        leader.applied_to(done.committed[-1].last, done.committed[-1].weight)
        for follower, notice in zip(followers, done.messages, strict=True):
            follower.step(notice)
            done = follower.ready()
            follower.applied_to(done.committed[-1].last, done.committed[-1].weight)
        if number % 1000 == 0:
            cluster.compact()


def pipelined(cluster: Cluster, proposals: int) -> None:
    core = cluster.cores[1]
    for number in range(proposals):
        core.propose(Run.of([PAYLOAD]))
        dirty = cluster.deliver()
        dirty.add(1)
        for member in dirty:
            if cluster.cores[member].has_ready():
                cluster.process(member)
        if number % 1000 == 0:
            cluster.compact()
    cluster.settle()


def around(proposals: int) -> float:
    """CPU microseconds to encode a proposal and to append it to three logs in memory."""
    logs = [MemoryLog() for _ in MEMBERS]
    start = time.process_time_ns()
    for index in range(1, proposals + 1):
        runs = [Run.of([PAYLOAD], first=index, term=1)]
        for log in logs:
            log.append(runs)
    return (time.process_time_ns() - start) / proposals / 1000


def measure(question: Callable[[Cluster, int], None], proposals: int) -> Figures:
    """CPU microseconds per proposal."""
    cluster = Cluster()
    before = cluster.cores[1].applied
    start = time.process_time_ns()
    question(cluster, proposals)
    spent = time.process_time_ns() - start
    assert all(core.applied == before + proposals for core in cluster.cores.values())
    return {"us": spent / proposals / 1000}


def main() -> None:
    parser = arguments(__doc__, runs=5)
    parser.add_argument("--proposals", type=int, default=20_000, help="of each run; default: 20,000")
    options = parser.parse_args()
    proposals = options.proposals
    rows: list[tuple[Row, Callable[[], Figures]]] = [
        ({"proposals": "serial"}, partial(measure, serial, proposals)),
        ({"proposals": "pipelined"}, partial(measure, pipelined, proposals)),
        ({"proposals": "around"}, lambda: {"us": around(proposals)}),
    ]
    Bench("core_step", options).measure(rows)


if __name__ == "__main__":
    main()
