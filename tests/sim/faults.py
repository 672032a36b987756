"""What goes wrong in phase one. Which kinds, and how often, the plan says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from multiraft.raft.core import RaftRole
from tests.sim.disk import fails_at
from tests.sim.world import between

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.host import SimHost


class Faults:
    """Breaks something now and then, and repairs it a while later."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._random = cluster.world.random("faults")
        self._partition = 0
        self._actions: dict[str, Callable[[], None]] = {
            "crash": lambda: self._stop(power_lost=True),
            "kill": lambda: self._stop(power_lost=False),
            "crash_all": self._crash_all,
            "partition": self._part,
            "one_way": self._one_way,
            "break": lambda: self._cluster.network.break_some(1 + self._random.randrange(4)),
            "pause": self._pause,
            "slow_disk": self._slow_disk,
            "stall": self._stall,
            "disk_error": self._disk_error,
            "transfer": self._transfer,
            "campaign": self._campaign,
            "snapshot": self._snapshot,
            "stillborn": self._stillborn,
            "early_snapshot": self._early_snapshot,
        }

    def start(self) -> None:
        self._world.after(self._pause_s(), self._strike)

    def _pause_s(self) -> float:
        return self._cluster.plan.fault_every_s * between(self._random, 0.1, 1.9)

    def _strike(self) -> None:
        if self._cluster.calm:
            return
        kinds = [kind for kind in self._cluster.plan.faults if kind in self._actions]
        if kinds:
            self._actions[self._random.choice(kinds)]()
        self._world.after(self._pause_s(), self._strike)

    def _some_host(self) -> SimHost | None:
        up = [host for host in self._cluster.hosts if host.alive]
        return self._random.choice(up) if up else None

    def _stop(self, *, power_lost: bool) -> None:
        host = self._some_host()
        if host is not None:
            host.stop(power_lost=power_lost)
            self._world.after(between(self._random, 0.01, 3.0), host.restart)

    def _crash_all(self) -> None:
        for host in self._cluster.hosts:
            if host.alive:
                host.stop(power_lost=self._random.random() < 0.8)
                self._world.after(between(self._random, 0.01, 1.0), host.restart)

    def _part(self) -> None:
        """Two sides that cannot reach each other, one of them perhaps a single host."""
        hosts = self._random.sample(self._cluster.hosts, len(self._cluster.hosts))
        cut = 1 + self._random.randrange(len(hosts) - 1)
        one, other = hosts[:cut], hosts[cut:]
        pairs = [(a, b) for a in one for b in other] + [(b, a) for a in one for b in other]
        self._block(pairs)

    def _one_way(self) -> None:
        source, target = self._random.sample(self._cluster.hosts, 2)
        self._block([(source, target)])

    def _block(self, pairs: list[tuple[SimHost, SimHost]]) -> None:
        self._partition += 1
        number = self._partition
        self._world.log("net", "parts " + " ".join(f"{a.name}>{b.name}" for a, b in pairs))
        self._cluster.network.block(pairs)

        def repair() -> None:
            if self._partition == number:
                self._world.log("net", "whole")
                self._cluster.network.unblock_all()

        self._world.after(between(self._random, 0.1, 4.0), repair)

    def _pause(self) -> None:
        host = self._some_host()
        if host is not None:
            seconds = between(self._random, 0.05, 2.0 * self._cluster.plan.election_s)
            host.pause(seconds)
            self._world.after(seconds, lambda: self._wake_up(host))

    def _wake_up(self, host: SimHost) -> None:
        """Programs sleep and wake with their host; what they ask first, it may be unfit to answer."""
        for group_id in self._cluster.group_ids:
            self._cluster.clients.read(host, group_id)

    def _slow_disk(self) -> None:
        host = self._some_host()
        if host is None:
            return
        host.disk_factor = self._random.choice((5.0, 30.0))
        self._world.log(host.name, f"disk slow by {host.disk_factor:g}")

        def repair() -> None:
            host.disk_factor = 1.0

        self._world.after(between(self._random, 0.5, 4.0), repair)

    def _stall(self) -> None:
        host = self._some_host()
        if host is not None:
            host.disk_stuck_until = self._world.now + between(self._random, 0.1, 3.0)
            self._world.log(host.name, f"disk stuck until {host.disk_stuck_until:.3f}")

    def _disk_error(self) -> None:
        host = self._some_host()
        if host is not None:
            self._world.log(host.name, "disk about to fail")
            host.disk_failing = True
            host.files.fault = fails_at(1 + self._random.randrange(6))

    def _transfer(self) -> None:
        """Hand over a leadership, to anybody: the engine asks the core for it just so."""
        host = self._some_host()
        if host is not None and host.scheduler is not None and not host.paused:
            for group in host.scheduler.groups.values():
                if group.raft.role is RaftRole.LEADER and group.failed is None:
                    to = self._random.choice(sorted(group.membership.members))
                    self._world.log(host.name, f"group {group.id} to be led by {to}")
                    group.raft.transfer_leadership(to)
                    group.host.mark_dirty(group)
                    return

    def _campaign(self) -> None:
        host = self._some_host()
        if host is not None and host.scheduler is not None and not host.paused:
            group_id = self._random.choice(self._cluster.group_ids)
            group = host.scheduler.groups.get(group_id)
            if group is not None and group.failed is None:
                self._world.log(host.name, f"group {group_id} stands")
                host.scheduler.stand(group)

    def _stillborn(self) -> None:
        """Stand with a disk that is stuck, lose power, come back and stand again.

        Too particular to be drawn by plans; a planted bug asks for it.
        """
        host = self._some_host()
        if host is None or host.paused:
            return
        host.disk_stuck_until = self._world.now + 1.0
        self._stand_everywhere(host)

        def die() -> None:
            if host.alive:
                host.stop(power_lost=True)
                host.disk_stuck_until = 0.0
                self._world.after(0.05, host.restart)
                self._world.after(0.2, lambda: self._stand_everywhere(host))

        self._world.after(0.1, die)

    def _early_snapshot(self) -> None:
        """Die, come back, and take snapshots before anything was applied again. (As above.)"""
        host = self._some_host()
        if host is not None:
            host.stop(power_lost=False)
            self._world.after(0.05, lambda: self._restart_and_capture(host))

    @staticmethod
    def _restart_and_capture(host: SimHost) -> None:
        host.restart()
        if host.scheduler is not None:
            for group in host.scheduler.groups.values():
                group.host.want_snapshot(group, None)

    def _stand_everywhere(self, host: SimHost) -> None:
        if host.scheduler is not None and not host.paused:
            for group in host.scheduler.groups.values():
                if group.failed is None:
                    host.scheduler.stand(group)

    def _snapshot(self) -> None:
        host = self._some_host()
        if host is not None and host.scheduler is not None and not host.paused:
            group_id = self._random.choice(self._cluster.group_ids)
            group = host.scheduler.groups.get(group_id)
            if group is not None and group.failed is None:
                group.host.want_snapshot(group, None)
