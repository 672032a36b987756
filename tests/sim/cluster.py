"""One simulation: a cluster, its programs and its troubles, in two phases.

Phase one is about safety: things break, and no rule may. Phase two is about liveness: all faults
end, and within a bounded time every group has to work again on every host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from multiraft.membership import Membership, predefined
from multiraft.types import GroupId, Member, MemberId, Role
from tests.sim.clients import Clients, Read
from tests.sim.faults import Faults
from tests.sim.host import SimHost
from tests.sim.invariants import Configuration, Invariants
from tests.sim.members import Members
from tests.sim.network import Network
from tests.sim.pieces import small_pieces
from tests.sim.plan import Plan, draw_plan
from tests.sim.world import Violation, World

RECOVERY_ELECTIONS = 30
"""Longest election timeouts that everything may take to work again once all is whole."""

STEPS_MAX = 2_000_000


class SimulationFailed(AssertionError):
    """A rule was broken. Says how to see it again."""

    def __init__(self, plan: Plan, cluster: Cluster, error: BaseException, lines: int) -> None:
        trace = cluster.world.trace
        tail = "\n".join(list(trace.lines)[-lines:])
        super().__init__(
            f"seed {plan.seed}, step {cluster.world.steps}, at {cluster.world.now:.6f} s: "
            f"{type(error).__name__}: {error}\n{plan}\n"
            f"--- the last {lines} of {trace.count} lines of the trace\n{tail}\n"
            f"--- replay: python -m tests.sim --seed {plan.seed} --verbose"
        )
        self.seed = plan.seed
        self.error = error


@attrs.frozen
class Outcome:
    """What a run that broke no rule did."""

    seed: int
    digest: str
    """Of the whole trace."""
    steps: int
    virtual_s: float
    calls: Mapping[str, int]
    frames: int
    committed: int
    terms: int
    snapshots: int


class Cluster:
    """Everything that is simulated."""

    def __init__(self, plan: Plan, sink: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.world = World(plan.seed, sink)
        self.calm = False
        self.group_ids: list[GroupId] = list(range(1, plan.groups + 1))
        self.invariants = Invariants(self.world)
        self.network = Network(self.world, plan, self.invariants.sent)
        self.clients = Clients(self)
        self.members = Members(self)
        spare = plan.spare_hosts if plan.change_every_s else 0
        self.hosts = [SimHost(self, number) for number in range(1, plan.hosts + spare + 1)]
        self.founders = self.hosts[: plan.hosts]
        self._random = self.world.random("cluster")
        self._faults = Faults(self)
        self._snapshots = 0
        for group in self.group_ids:
            self.invariants.add_group(group, self.membership(group))
        for host in self.hosts:
            self.network.add(host)
        for host in self.founders:
            for group in self.group_ids:
                self.invariants.place(host, group, self.member_id(host, group))

    def member_id(self, host: SimHost, group: GroupId) -> MemberId:
        """Different from group to group, as they would be in the world."""
        return 10 * group + host.number

    def membership(self, group: GroupId) -> Membership:
        return predefined([Member(self.member_id(host, group), host.address) for host in self.founders])

    def draws_death_in_recovery(self) -> bool:
        return not self.calm and "crash_in_recovery" in self.plan.faults and self._random.random() < 0.3

    # --- the two phases --------------------------------------------------------------------------

    def run(self) -> Outcome:
        self.world.log("sim", f"{self.plan}")
        for host in self.hosts:
            self.world.after(self._random.random() * 0.2, host.restart)
        self.clients.start()
        self.members.start()
        self._faults.start()
        self._run(self.plan.fault_s)
        self._heal()
        bound = RECOVERY_ELECTIONS * self.plan.election_s + self.plan.leader_wait_s
        self._require("every call has ended", bound, self._all_ended)
        self._require("every group has one leader that all follow", bound, self._led)
        self._require("every member has what is committed", bound, self._caught_up)
        self._require("no membership change is under way", bound, self._settled)
        self._require("every group has one leader that all follow", bound, self._led)
        self._require("a new proposal is applied everywhere", bound, self._Marks(self).applied)
        self._require("all state machines are equal", bound, self._equal)
        self._require("removed members have stopped", bound, self._departed)
        for group in self.group_ids:
            last = self._members_of(group)[0].machines[group].state
            self.clients.recorder.check(group, self.invariants.groups[group], last)
        return self._outcome()

    def _run(self, seconds: float, stop: Callable[[], bool] | None = None) -> bool:
        found = self.world.run_until(self.world.now + seconds, stop)
        if self.world.steps > STEPS_MAX:
            raise Violation(f"{self.world.steps} steps: something goes round in circles")
        return found

    def _heal(self) -> None:
        self.world.log("sim", "healed")
        self.calm = True
        self.clients.busy = False
        for host in self.hosts:
            host.resume()
            host.disk_factor, host.disk_stuck_until = 1.0, 0.0
            if not host.disk_failing:
                host.files.fault = None
            host.restart()
        self.network.heal()

    def _require(self, what: str, bound_s: float, condition: Callable[[], bool]) -> None:
        """§3.9 (timing): once a majority can communicate, the group makes progress."""
        deadline = self.world.now + bound_s
        while not condition():
            if self.world.now >= deadline:
                raise Violation(f"not within {bound_s:.1f} s of healing: {what}; {self._described()}")
            self._run(0.1)
        self.world.log("sim", what)

    def _all_ended(self) -> bool:
        """Nobody waits for ever, whoever died and whatever link broke.

        A network that loses single frames out of a stream is worse than the engine is made for:
        there a forwarded proposal may wait for as long as its leader leads. Nor can a learner end what
        it was asked that was away when it was removed, and whose leader is gone: nobody tells it.
        """
        calls = [call for call in self.clients.pending.values() if self._belongs(call.host, call.group)]
        changes = [call for call in self.members.pending if self._belongs(call.host, call.group.id)]
        if changes and not self.plan.lossy:
            return False
        return not any(isinstance(call, Read) or not self.plan.lossy for call in calls)

    def _belongs(self, host: SimHost, group_id: GroupId) -> bool:
        """Whether the host has a member of the group, or one that knows better than to wait."""
        group = host.scheduler.groups.get(group_id) if host.scheduler is not None else None
        if group is None or group.removed is not None:
            return True
        return group.member_id in self._present(group_id) or not group.membership.members

    def _led(self) -> bool:
        for group_id in self.group_ids:
            found = set()
            for host in self._members_of(group_id):
                group = host.scheduler.groups.get(group_id) if host.scheduler is not None else None
                found.add((0, 0) if group is None else (group.raft.leader, group.raft.term))
            if len(found) != 1 or 0 in found.pop():
                return False
        return True

    def _members_of(self, group_id: GroupId) -> list[SimHost]:
        """The hosts of the group's members."""
        places = self.invariants.groups[group_id].places
        return [places[id_] for id_ in sorted(self._present(group_id))]

    def _present(self, group_id: GroupId) -> set[MemberId]:
        """The group's members, by the newest configuration that anybody applied."""
        configurations = self.invariants.groups[group_id].configurations
        members = configurations[max(configurations)].members
        return {id_ for id_, member in members.items() if member.role is not Role.REMOVED}

    def _settled(self) -> bool:
        """Joint configurations are left, and staging members have become voters."""
        for group_id in self.group_ids:
            history = self.invariants.groups[group_id]
            newest = history.configurations[max(history.configurations)]
            if newest.outgoing or any(m.role is Role.STAGING for m in newest.members.values()):
                return False
        return True

    def _departed(self) -> bool:
        """Who was removed, and asks somebody who is a member for a vote, was told so.

        A learner that was away when it was removed speaks to nobody, and nobody speaks to a learner: so
        nobody tells.
        """
        for group_id in self.group_ids:
            present = self._present(group_id)
            for host in self.hosts:
                group = host.scheduler.groups.get(group_id) if host.scheduler is not None else None
                if group is None or group.member_id in present or group.removed is not None:
                    continue
                known = Configuration(group.membership.members).voters
                if group.member_id in known and known & present:
                    return False
        return True

    class _Marks:
        """One more proposal for each group, repeated if it fails, until one is applied by all."""

        def __init__(self, cluster: Cluster) -> None:
            self._cluster = cluster
            self._names: dict[GroupId, bytes] = {}

        def applied(self) -> bool:
            waiting = [group for group in self._cluster.group_ids if not self._is_applied(group)]
            return not waiting

        def _is_applied(self, group: GroupId) -> bool:
            cluster = self._cluster
            name = self._names.get(group)
            history = cluster.invariants.groups[group]
            if name is not None and name in history.index_of:
                at = history.index_of[name]
                return all(host.machines[group].fed_to >= at for host in cluster._members_of(group))
            if name is None or name not in cluster.clients.pending:
                members = cluster._members_of(group)
                host = members[group % len(members)]
                proposed = cluster.clients.propose(host, group)
                if proposed is not None:
                    self._names[group] = proposed
            return False

    def _caught_up(self) -> bool:
        """With nothing new to carry it along: groups come to rest when there is no business left."""
        for group_id in self.group_ids:
            last = self.invariants.groups[group_id].last_committed
            for host in self._members_of(group_id):
                group = host.scheduler.groups.get(group_id) if host.scheduler is not None else None
                if group is None or group.applied < last:
                    return False
        return True

    def _equal(self) -> bool:
        return all(
            len({host.machines[group].state for host in self._members_of(group)}) == 1
            for group in self.group_ids
        )

    def _described(self) -> str:
        lines = [f"{len(self.clients.pending)} calls and {len(self.members.pending)} changes pending"]
        for group_id, history in self.invariants.groups.items():
            newest = max(history.configurations)
            lines.append(f"group {group_id} at {newest}: {history.configurations[newest]}")
        for host in self.hosts:
            if host.scheduler is None:
                lines.append(f"{host.name} down")
            else:
                lines += [f"{host.name} {g} applied {g.applied}" for g in host.scheduler.groups.values()]
        return "; ".join(lines)

    def _outcome(self) -> Outcome:
        histories = self.invariants.groups.values()
        return Outcome(
            seed=self.plan.seed,
            digest=self.world.trace.digest,
            steps=self.world.steps,
            virtual_s=round(self.world.now, 3),
            calls=dict(sorted((self.clients.outcomes + self.members.outcomes).items())),
            frames=self.network.frames,
            committed=sum(history.last_committed for history in histories),
            terms=sum(len(history.leaders) for history in histories),
            snapshots=sum(
                host.scheduler.statistics().snapshots_taken for host in self.hosts if host.scheduler
            ),
        )


def simulate(
    seed: int, *, sink: Callable[[str], None] | None = None, lines: int = 60, plan: Plan | None = None
) -> Outcome:
    """Run one seed.

    Args:
        sink: Gets every line of the trace.
        lines: How many of the last ones a failure is reported with.
        plan: Instead of the one that the seed draws.

    Raises:
        SimulationFailed: A rule was broken, or the code under test raised.
    """
    drawn = draw_plan(seed) if plan is None else plan
    cluster = Cluster(drawn, sink)
    try:
        with small_pieces(wanted=drawn.clock_step_s > 0):
            return cluster.run()
    except (Exception, Violation) as error:
        raise SimulationFailed(drawn, cluster, error, lines) from error
