"""What do groups cost that do nothing?

    python bench/bench_idle.py [--groups 10 1000 10000] [--seconds 10] [--runs 1] [--record]

`multiraft bench --mode idle`: three host processes, every group on all of them, nothing proposed.
It waits until all groups have a leader and nothing to do and no more of them come to rest, then
measures. CPU is of one core, of the busiest host; memory is resident, of the largest host, with
the interpreter in it (the row of ten groups shows how much that is).
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.measure import Bench, Figures, arguments, bench_command


def once(groups: int, seconds: float) -> Figures:
    got = bench_command(mode="idle", groups=groups, seconds=seconds)
    cpu = got["cpu_percent_per_host"]
    return {
        "cpu_percent": max(cpu),
        "cpu_us_per_group_and_second": sum(cpu) / len(cpu) / 100 * 1e6 / groups,
        "rss_mib": max(got["rss_mib_per_host"]),
        "syncs_per_second": got["fdatasync_per_second"],
    }


def main() -> None:
    parser = arguments(__doc__, runs=1, seconds=10)
    parser.add_argument("--groups", type=int, nargs="+", default=[10, 1000, 10000])
    options = parser.parse_args()
    rows = [({"groups": groups}, partial(once, groups, options.seconds)) for groups in options.groups]
    Bench("idle", options).measure(rows, warmup=False)


if __name__ == "__main__":
    main()
