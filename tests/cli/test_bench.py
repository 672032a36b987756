"""What the load tester computes: who gets how much load, who leads what, what is reported."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft.cli.bench import Plan, balancing_moves, shares, summary
from multiraft.cli.bench_host import Counter
from multiraft.types import Entry

PLAN = Plan(mode="write", hosts=2, groups=4, payload=16, inflight=8, seconds=2.0, warmup=0.0, settings={})


@given(st.integers(1, 10_000), st.lists(st.integers(0, 1_000), min_size=1, max_size=9))
def test_shares_are_proportional_and_complete(inflight: int, led: list[int]) -> None:
    """All operations are given out, to those who lead, each to within one of its due."""
    parts = shares(inflight, led)
    total = sum(led)
    assert sum(parts) == (inflight if total else 0)
    for part, groups in zip(parts, led, strict=True):
        assert abs(part - (inflight * groups / total if total else 0)) < 1


@given(st.lists(st.integers(0, 60), min_size=1, max_size=7))
def test_moves_even_out_the_leaders(counts: list[int]) -> None:
    """Afterwards all lead as many, give or take one, and nothing moved that need not have."""
    led: list[list[int]] = []
    for host, count in enumerate(counts):
        led.append([host * 100 + group for group in range(count)])
    moves = balancing_moves(led)
    after = [set(groups) for groups in led]
    for host, own in enumerate(moves):
        for group, member in own:
            assert member - 1 != host
            after[host].remove(group)
            after[member - 1].add(group)
    sizes = [len(groups) for groups in after]
    assert max(sizes) - min(sizes) <= 1
    moved = sum(map(len, moves))
    assert moved == sum(max(0, before - now) for before, now in zip(counts, sizes, strict=True))


def report(operations: int, latencies_us: Sequence[int]) -> dict[str, object]:
    return {
        "seconds": 2.0,
        "operations": operations,
        "failures": 0,
        "latencies_us": list(latencies_us),
        "cpu_s": 1.0,
        "syncs": 100,
        "rss_bytes": 64 << 20,
        "counters": {},
    }


def test_summary_adds_up_the_hosts() -> None:
    """Operations and CPU in all, percentages and memory host by host, percentiles over all."""
    found = summary(PLAN, [report(1_000, range(1_000, 100_000, 1_000)), report(3_000, [500_000])])
    assert found["operations"] == 4_000
    assert found["per_second"] == 2_000
    assert found["cpu_us_per_operation"] == 500
    assert found["cpu_percent_per_host"] == [50.0, 50.0]
    assert found["rss_mib_per_host"] == [64.0, 64.0]
    assert found["fdatasync_per_second"] == 100
    assert found["latency_ms"] == {"p50": 51.0, "p99": 500.0, "max": 500.0}


def test_summary_without_operations_has_no_latency() -> None:
    """Not a number that looks like a measurement."""
    found = summary(PLAN, [report(0, []), report(0, [])])
    assert found["cpu_us_per_operation"] is None
    assert found["latency_ms"] == {"p50": None, "p99": None, "max": None}


@pytest.mark.parametrize("payload", [b"", b"x" * 16])
def test_counter_counts_every_entry(payload: bytes) -> None:
    """The state machine under load really applies, and its snapshots carry what it has."""
    counter = Counter()
    assert list(counter.apply([Entry(1, 1, payload), Entry(2, 1, payload)])) == [1, 2]
    copy = Counter()
    copy.restore(counter.snapshot())
    assert (copy.count, copy.last) == (2, payload)
    assert copy.query(None) == 2
