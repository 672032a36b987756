"""What one seed decides before anything runs: the cluster, its limits, and which faults happen.

Each seed leaves most kinds of trouble out ("swarm testing", Groce et al. 2012): all of them at
once hide each other's effects, and a cluster that is always broken gets nowhere deep.
"""

from __future__ import annotations

import random

import attrs

from multiraft.config import HostConfig
from multiraft.types import ReadMode
from tests.sim.pieces import LOOKS

FAULTS = (
    "crash",
    "kill",
    "crash_all",
    "partition",
    "one_way",
    "break",
    "pause",
    "slow_disk",
    "stall",
    "disk_error",
    "transfer",
    "campaign",
    "snapshot",
    "crash_in_recovery",
)


@attrs.frozen(kw_only=True)
class Plan:
    """The settings of one run. Times in virtual seconds, sizes in bytes."""

    seed: int
    hosts: int
    groups: int
    durable: str
    """Of the state machines: "memory", "lazy" (durable when synced) or "batch" (when committed)."""
    blocking: bool
    fault_s: float
    """How long phase one lasts."""
    faults: tuple[str, ...]
    fault_every_s: float
    operation_every_s: float
    burst: int
    payload_bytes: int
    reads_percent: int
    latency_s: float
    jitter_s: float
    lossy: bool
    """Frames are lost, doubled and overtaken one by one, as no stream would; else in order."""
    sync_s: float
    clock_step_s: float
    """What each look at the clock within a pass costs."""
    segment_bytes: int
    cache_bytes: int
    total_bytes: int
    tick_interval_s: float
    election_ticks: int
    heartbeat_ticks: int
    pre_vote: bool
    check_quorum: bool
    lease: bool
    leader_wait_s: float
    max_message_bytes: int
    max_apply_bytes: int
    max_inflight_messages: int
    max_inflight_bytes: int
    max_uncommitted_bytes: int
    snapshot_interval_entries: int
    snapshot_keep_entries: int
    max_snapshot_files: int
    change_every_s: float
    """Between membership changes; 0: the members stay who they are."""
    spare_hosts: int
    """Hosts that start without groups; some may join."""

    @property
    def election_s(self) -> float:
        """The longest election timeout."""
        return 2 * self.election_ticks * self.tick_interval_s

    def config(self, address: str) -> HostConfig:
        return HostConfig(
            data_dir="/data",
            listen=address,
            cluster_id="sim",
            tick_interval_s=self.tick_interval_s,
            election_ticks=self.election_ticks,
            heartbeat_ticks=self.heartbeat_ticks,
            pre_vote=self.pre_vote,
            check_quorum=self.check_quorum,
            read_mode=ReadMode.LEASE if self.lease else ReadMode.QUORUM,
            leader_wait_s=self.leader_wait_s,
            max_message_bytes=self.max_message_bytes,
            max_apply_bytes=self.max_apply_bytes,
            max_inflight_messages=self.max_inflight_messages,
            max_inflight_bytes=max(self.max_inflight_bytes, self.max_message_bytes),
            max_uncommitted_bytes=self.max_uncommitted_bytes,
            snapshot_interval_entries=self.snapshot_interval_entries,
            snapshot_keep_entries=self.snapshot_keep_entries,
            max_snapshot_files=self.max_snapshot_files,
            max_pass_s=LOOKS * self.clock_step_s if self.clock_step_s else 0.005,
        )


def draw_plan(seed: int) -> Plan:
    """The plan of `seed`; another revision of this function may draw another one."""
    source = random.Random(f"{seed}/plan")
    pick = source.choice
    check_quorum = source.random() < 0.8
    faults = tuple(sorted(source.sample(FAULTS, source.randrange(2, 8))))
    return Plan(
        seed=seed,
        hosts=pick((3, 3, 3, 5)),
        groups=pick((1, 1, 2, 3, 6)),
        durable=pick(("memory", "memory", "lazy", "batch")),
        blocking=source.random() < 0.4,
        fault_s=source.uniform(6, 16),
        faults=faults,
        fault_every_s=source.uniform(0.3, 1.5),
        operation_every_s=source.uniform(0.01, 0.08),
        burst=pick((1, 1, 3, 10)),
        payload_bytes=pick((8, 40, 300, 1500)),
        reads_percent=pick((10, 30, 60)),
        latency_s=pick((0.0005, 0.005, 0.03)),
        jitter_s=pick((0.0005, 0.01, 0.1)),
        lossy=source.random() < 0.35,
        sync_s=pick((0.0005, 0.004, 0.02)),
        clock_step_s=pick((0.0, 0.0, 0.0005)),
        segment_bytes=pick((4096, 16384, 65536)),
        cache_bytes=pick((0, 2000, 1 << 20)),
        total_bytes=pick((40_000, 1 << 20)),
        tick_interval_s=pick((0.05, 0.1)),
        election_ticks=pick((5, 10)),
        heartbeat_ticks=pick((1, 1, 2)),
        pre_vote=source.random() < 0.75,
        check_quorum=check_quorum,
        lease=check_quorum and source.random() < 0.3,
        leader_wait_s=pick((0.5, 3.0, 10.0)),
        max_message_bytes=pick((1024, 1024, 1 << 20)),
        max_apply_bytes=pick((1024, 1 << 20)),
        max_inflight_messages=pick((1, 4, 256)),
        max_inflight_bytes=pick((1024, 1 << 20)),
        max_uncommitted_bytes=pick((4096, 1 << 20)),
        snapshot_interval_entries=pick((7, 25, 100, 10_000)),
        snapshot_keep_entries=pick((0, 5, 20)),
        max_snapshot_files=pick((0, 1, 3)),
        change_every_s=pick((0.0, 0.0, 0.08, 0.2, 0.6)),
        spare_hosts=pick((0, 1, 2, 3)),
    )
