"""A small cluster that does only what a test tells it to: scenes in which order decides.

One group (or a few) on quiet hosts, no faults but those of the test, every invariant checked as always.
Streams can be *held*: frames wait in them, nothing breaks, and nobody is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from multiraft.group import Group
from multiraft.messages import Lane, Message
from multiraft.raft.core import RaftRole
from tests.sim.cluster import Cluster
from tests.sim.host import SimHost
from tests.sim.plan import draw_plan
from tests.sim.world import Violation

QUIET: dict[str, Any] = {
    "hosts": 3,
    "groups": 1,
    "faults": (),
    "lossy": False,
    "durable": "memory",
    "blocking": False,
    "latency_s": 0.001,
    "jitter_s": 0.0,
    "sync_s": 0.001,
    "clock_step_s": 0.0,
    "change_every_s": 0.0,
    "tick_interval_s": 0.1,
    "election_ticks": 10,
    "heartbeat_ticks": 1,
    "pre_vote": True,
    "check_quorum": True,
    "lease": False,
    "leader_wait_s": 10.0,
    "payload_bytes": 8,
    "snapshot_interval_entries": 10_000,
    "max_message_bytes": 1 << 20,
    "max_apply_bytes": 1 << 20,
    "max_inflight_messages": 256,
    "max_inflight_bytes": 1 << 20,
    "max_uncommitted_bytes": 1 << 20,
    "cache_bytes": 1 << 20,
    "total_bytes": 1 << 20,
    "segment_bytes": 65536,
}


class Stage:
    """The cluster, and what tests do to it. Raises `Violation` when a rule is broken."""

    def __init__(self, **changes: Any) -> None:
        self.cluster = Cluster(attrs.evolve(draw_plan(1), **{**QUIET, **changes}))
        self.world = self.cluster.world
        self.hosts = self.cluster.hosts
        self.election_s = self.cluster.plan.election_ticks * self.cluster.plan.tick_interval_s
        self.reads = self.cluster.clients.outcomes
        for host in self.hosts:
            host.restart()

    def run(self, seconds: float) -> None:
        self.world.run_until(self.world.now + seconds)

    def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Run until it is so; a broken rule when it does not come to be."""
        if not condition() and not self.world.run_until(self.world.now + seconds, condition):
            raise Violation(f"did not come to be within {seconds} s: {self.cluster._described()}")

    # --- groups ------------------------------------------------------------------------------------

    def group(self, host: SimHost, group_id: int = 1) -> Group:
        assert host.scheduler is not None, f"{host.name} is down"
        return host.scheduler.groups[group_id]

    def leads(self, host: SimHost, group_id: int = 1) -> bool:
        return host.alive and self.group(host, group_id).raft.role is RaftRole.LEADER

    def at_rest(self) -> bool:
        """Every group rests on every host that is up."""
        return all(
            host.scheduler is not None
            and len(host.scheduler.groups) == self.cluster.plan.groups
            and all(group.at_rest for group in host.scheduler.groups.values())
            for host in self.hosts
            if host.alive
        )

    def term(self) -> int:
        return max(self.group(host).raft.term for host in self.hosts if host.alive)

    def cast(self) -> tuple[SimHost, SimHost, SimHost]:
        """All at rest; the leader of group 1, and two others."""
        self.until(self.at_rest)
        leader = next(host for host in self.hosts if self.leads(host))
        first, second = [host for host in self.hosts if host is not leader][:2]
        return leader, first, second

    def stand(self, host: SimHost) -> None:
        """Stand for election now, whatever the timer says."""
        group = self.group(host)
        assert host.scheduler is not None
        host.scheduler.stand(group)

    def step_down(self, host: SimHost, terms: int = 0) -> None:
        """Follow nobody, that many terms later."""
        group = self.group(host)
        group.raft.become_follower(group.raft.term + terms, 0)
        assert host.scheduler is not None
        host.scheduler._moved(group)

    def elect(self, host: SimHost) -> None:
        self.stand(host)
        self.until(lambda: self.leads(host), 0.3)

    def say(self, source: SimHost, target: SimHost, message: Message) -> None:
        """As if `source` had sent it long ago."""
        assert target.scheduler is not None
        target.scheduler.receive(source.hello, Lane.LIVENESS, [(1, 0, message)])

    def check_books(self) -> None:
        """Where nothing is on its way, both sides of an open session say the same of every group."""
        for host in self.hosts:
            for other in self.hosts:
                if host is other or not (host.alive and other.alive):
                    continue
                assert host.scheduler is not None
                assert other.scheduler is not None
                mine = host.scheduler._post.peers[other.address].session
                theirs = other.scheduler._post.peers[host.address].session
                assert mine is not None
                assert theirs is not None
                if not (mine.is_open and theirs.is_open):
                    raise Violation(f"{host.name} and {other.name} have no session")
                words = {id_: (f.term, f.member) for id_, f in mine.led.items()}
                given = {id_: (g.bond_term, g.member_id) for id_, g in theirs.followed.items()}
                if words != given:
                    raise Violation(f"{host.name} has the words {words} of {other.name}, which gave {given}")

    # --- programs ------------------------------------------------------------------------------------

    def write(self, host: SimHost, within_s: float = 5.0) -> None:
        """Propose something there, and wait until the program was told that it is done."""
        before = self.reads["done"]
        self.cluster.clients.propose(host, 1)
        self.until(lambda: self.reads["done"] > before, within_s)

    def read(self, host: SimHost) -> None:
        """Ask; the answer is checked when it comes."""
        self.cluster.clients.read(host, 1)

    def finish_reads(self, within_s: float = 10.0) -> None:
        self.until(lambda: not self.cluster.clients.pending, within_s)

    # --- the network -----------------------------------------------------------------------------------

    def hold(self, *pairs: tuple[SimHost, SimHost]) -> None:
        """Frames from the first to the second of each pair wait."""
        for source, target in pairs:
            self.cluster.network._blocked.add((source.address, target.address))

    def let_go(self, *pairs: tuple[SimHost, SimHost]) -> None:
        network = self.cluster.network
        for source, target in pairs:
            network._blocked.discard((source.address, target.address))
            for lane in Lane:
                network._pump(network._links[source.address, target.address, lane])

    def lose(self, source: SimHost, target: SimHost, lane: Lane) -> None:
        """What is on its way there never arrives, and nothing breaks."""
        frames = self.cluster.network._links[source.address, target.address, lane].frames
        assert frames, "there is something to lose"
        frames.clear()

    def part(self, one: SimHost, other: SimHost) -> None:
        self.hold((one, other), (other, one))

    def end_session(self, host: SimHost, other: SimHost) -> None:
        """`host` takes a new half for its session with `other`, as if something were missing."""
        assert host.scheduler is not None
        scheduler = host.scheduler
        session = scheduler._post.peers[other.address].session
        assert session is not None

        def renew() -> None:
            scheduler._liveness._renew(session)

        scheduler._call_soon(renew)

    def break_lane(self, source: SimHost, target: SimHost, lane: Lane) -> None:
        network = self.cluster.network
        network._break(network._links[source.address, target.address, lane], "reset")

    def said(self, what: str, since: int) -> int:
        """How many lines of the trace since then name `what`."""
        lines = list(self.world.trace.lines)
        return sum(what in line for line in lines[since - self.world.trace.count :])
