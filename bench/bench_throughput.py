"""How many operations a second, how late, at what cost: the cluster's table.

    python bench/bench_throughput.py [--only 48x1024] [--seconds 5] [--runs 3] [--record]

Each row is `multiraft bench --json`: three processes, real sockets, real fdatasync. Before it, in
the same minute, the bare data flow (bench_dataflow.py) carries the same load, so that `of_flow`,
the share of it that multiraft reaches, survives a machine whose speed changes by the minute. The
table in README.md adds what the flow carried now by the most it was ever recorded to carry. Reads
have the writes' flow beside them. With ten thousand groups a run takes minutes, most of it to start.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.bench_dataflow import flow
from bench.measure import Bench, Figures, RunFailed, arguments, bench_command

ROWS: tuple[tuple[str, int, int, int], ...] = (
    ("write", 1, 1, 16),
    ("write", 1, 64, 16),
    ("write", 1, 1024, 16),
    ("write", 48, 64, 16),
    ("write", 48, 1024, 16),
    ("write", 48, 8192, 16),
    ("write", 48, 1024, 256),
    ("write", 1000, 1024, 16),
    ("write", 1000, 8192, 16),
    ("write", 10000, 8192, 16),
    ("read", 48, 1024, 16),
    ("lease-read", 48, 1024, 16),
)
"""Mode, groups, outstanding in all, bytes."""


def once(row: dict[str, Any], seconds: float, warmup: float) -> Figures:
    load = {"groups": row["groups"], "inflight": row["inflight"], "payload": row["payload"]}
    bare = flow(**load, seconds=min(seconds, 3.0))
    got = bench_command(mode=row["mode"], seconds=seconds, warmup=warmup, **load)
    found = {
        "per_second": got["per_second"],
        "p50_ms": got["latency_ms"]["p50"],
        "p99_ms": got["latency_ms"]["p99"],
        "cpu_us": got["cpu_us_per_operation"],
        "syncs_per_second": got["fdatasync_per_second"],
        "rss_mib": max(got["rss_mib_per_host"]),
        "flow_per_second": bare["per_second"],
        "flow_p50_ms": bare["p50_ms"],
        "flow_cpu_us": bare["cpu_us"],
        "of_flow": got["per_second"] / bare["per_second"],
    }
    if None in found.values():
        raise RunFailed(f"too few operations were done to say how long they take: {got['operations']}")
    return found


def main() -> None:
    parser = arguments(__doc__, seconds=5)
    parser.add_argument("--warmup", type=float, default=2.0, help="seconds of load before; default: 2")
    parser.add_argument("--only", default="", help="rows whose mode or GROUPSxOUTSTANDING this is")
    parser.add_argument("--groups-max", type=int, default=10000, help="leave rows with more groups out")
    options = parser.parse_args()
    rows = []
    for mode, groups, inflight, payload in ROWS:
        row = {"mode": mode, "groups": groups, "inflight": inflight, "payload": payload}
        if options.only in ("", mode, f"{groups}x{inflight}") and groups <= options.groups_max:
            rows.append((row, partial(once, row, options.seconds, options.warmup)))
    if not rows:
        parser.error(f"no row is {options.only!r}; rows are named write, read, lease-read, or like 48x1024")
    Bench("throughput", options).measure(rows, warmup=False)


if __name__ == "__main__":
    main()
