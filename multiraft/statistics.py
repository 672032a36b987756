"""What a host counts about itself. Counters only ever grow while the host is open."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

BUCKETS_MS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0)


class PassHistogram:
    """How long passes took, in buckets with fixed upper bounds."""

    __slots__ = ("_counts", "count", "max_ms")

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_MS) + 1)
        self.count = 0
        self.max_ms = 0.0

    def add(self, seconds: float) -> None:
        took = seconds * 1e3
        self.count += 1
        if took > self.max_ms:
            self.max_ms = took
        for place, bound in enumerate(BUCKETS_MS):
            if took <= bound:
                self._counts[place] += 1
                return
        self._counts[-1] += 1

    def buckets(self) -> Mapping[float, int]:
        """Passes by upper bound in ms, each counted once; the last bound is infinity."""
        return dict(zip((*BUCKETS_MS, float("inf")), self._counts, strict=True))


@attrs.frozen
class SchedulerStatistics:
    """The scheduler's part of `host.statistics()`."""

    groups: int
    leading: int
    at_rest: int
    """Groups without business, which cost nothing."""
    stopped: int
    """Groups that failed here and are stopped."""
    passes: int
    pass_ms_max: float
    """By the clock."""
    pass_histogram_ms: Mapping[float, int]
    applied_entries: int
    proposed_runs: int
    snapshots_taken: int
    lost_messages: int
    """Messages that the transport would not take; raft sends again what matters."""
    inbox_messages: int
    """Waiting now."""
    uncommitted_bytes: int
    """Payload of proposals that count against `max_host_uncommitted_bytes` now."""
    pass_cpu_ms_max: float = 0.0
    """As `pass_ms_max`, but in time that the host's thread had of its processor."""
    pass_cpu_histogram_ms: Mapping[float, int] = attrs.field(factory=dict)
