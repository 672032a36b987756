"""Programs: they propose and read on any host, and remember what they were told."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from multiraft.errors import (
    GroupNotFound,
    MemberRemoved,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    ProposalDropped,
)
from multiraft.group import Group
from multiraft.types import GroupId, Index
from tests.sim.linearizability import Kind
from tests.sim.machines import ID_BYTES, State
from tests.sim.recorder import Recorder
from tests.sim.world import Violation, between

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.host import SimHost

CERTAIN = (ProposalDropped, NoLeader, NotLeader)
"""Errors after which a proposal is never applied."""

LEFT = (MemberRemoved, GroupNotFound)
"""The host has no member any more. Likewise, unless the error is an `OutcomeUnknown` as well."""

OUTSTANDING_MAX = 300


class Call:
    """A waiter. Exactly one of `resolve` and `fail` is called, once, unless the host dies."""

    kind: Kind

    def __init__(self, clients: Clients, host: SimHost, group: GroupId, name: bytes) -> None:
        self.clients = clients
        self.host = host
        self.group = group
        self.name = name
        self.record = clients.recorder.called(group, self.kind, name, host.name, clients.world.now)

    def _end(self, outcome: str, answer: State | Index | None = None) -> None:
        self.clients.ended(self, outcome, answer)


class Proposal(Call):
    kind = Kind.APPEND

    def resolve(self, value: object) -> None:
        self._end("done", value[0] if isinstance(value, tuple) else None)
        self.clients.cluster.invariants.done(self.group, self.name, value)

    def fail(self, error: Exception) -> None:
        if isinstance(error, OutcomeUnknown):
            self._end("unknown")
        elif isinstance(error, (*CERTAIN, *LEFT)):
            self._end("dropped")
            self.clients.cluster.invariants.refused(self.group, self.name, f"{error!r}")
        elif self.host.disk_failing:
            self._end("unknown")
        else:
            raise Violation(f"a proposal failed with {error!r}") from error


class Read(Call):
    """A barrier, then a query: what `Group.query` does."""

    kind = Kind.LIST

    def __init__(self, clients: Clients, host: SimHost, group: Group, name: bytes) -> None:
        super().__init__(clients, host, group.id, name)
        self._group = group
        self._barrier = True
        self.floor: Index = clients.cluster.invariants.groups[group.id].vouched

    def resolve(self, value: object) -> None:
        if self._barrier:
            self._barrier = False
            scheduler = self.host.scheduler
            assert scheduler is not None, "barriers die with their host"
            scheduler.run_query(self._group, None, self)
            return
        assert isinstance(value, State)
        self._end("read", value)
        self.clients.cluster.invariants.answered(self.group, self.floor, value)

    def fail(self, error: Exception) -> None:
        self._end("unread")
        if not isinstance(error, (NoLeader, *LEFT)) and not self.host.disk_failing:
            raise Violation(f"a read failed with {error!r}") from error


class Clients:
    """All programs of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.outcomes: Counter[str] = Counter()
        self.recorder = Recorder()
        self.pending: dict[bytes, Call] = {}
        self.busy = True
        self._random = self.world.random("clients")
        self._count = 0

    def start(self) -> None:
        self.world.after(0.0, self._operate)

    def _operate(self) -> None:
        """One burst of calls on one host, then the next one some time later."""
        if not self.busy:
            return
        plan, random = self.cluster.plan, self._random
        if len(self.pending) < OUTSTANDING_MAX:
            host = random.choice(self.cluster.hosts)
            group_id = random.choice(self.cluster.group_ids)
            for _ in range(random.randrange(plan.burst) + 1):
                if random.randrange(100) < plan.reads_percent:
                    self.read(host, group_id)
                else:
                    self.propose(host, group_id)
        self.world.after(between(random, 0.2, 1.8) * plan.operation_every_s, self._operate)

    def propose(self, host: SimHost, group_id: GroupId) -> bytes | None:
        """Propose something on `host`; its id, or None if the host cannot take it."""
        group = self._group(host, group_id)
        if group is None:
            return None
        name = self._name()
        size = self._random.randrange(self.cluster.plan.payload_bytes)
        call = Proposal(self, host, group_id, name)
        self._begin(call, "propose")
        group.proposals.queue(name + b"x" * size, call)
        group.host.mark_dirty(group)
        return name

    def read(self, host: SimHost, group_id: GroupId) -> None:
        group = self._group(host, group_id)
        if group is None:
            return
        call = Read(self, host, group, self._name())
        self._begin(call, "read")
        group.reads.queued.append(call)
        group.host.mark_dirty(group)

    def host_down(self, host: SimHost) -> None:
        """Nobody is told anything; what came of their calls they do not know."""
        for call in [call for call in self.pending.values() if call.host is host]:
            self.ended(call, "lost")

    def ended(self, call: Call, outcome: str, answer: State | Index | None = None) -> None:
        if self.pending.pop(call.name, None) is None:
            raise Violation(f"call {call.name.hex()} ended twice")
        self.outcomes[outcome] += 1
        self.recorder.ended(call.record, outcome, self.world.now, answer)
        self.world.log(call.host.name, f"call {call.name.hex()} {outcome}")

    def _begin(self, call: Call, what: str) -> None:
        self.pending[call.name] = call
        self.world.log(call.host.name, f"call {call.name.hex()} {what} group {call.group}")

    def _group(self, host: SimHost, group_id: GroupId) -> Group | None:
        scheduler = host.scheduler
        if scheduler is None or host.paused or scheduler.failure is not None:
            return None
        group = scheduler.groups.get(group_id)
        return None if group is None or group.failed is not None or group.removed is not None else group

    def _name(self) -> bytes:
        self._count += 1
        return self._count.to_bytes(ID_BYTES, "big")
