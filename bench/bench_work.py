"""How much work is a write, a read, an idle interval, counted instead of timed?

    python bench/bench_work.py [--record]

Three hosts in one process, moved by hand: calls of Python functions, bytes, frames, fdatasyncs. The
counts are the same on every machine, so this is where a change shows first; tests/engine/test_work.py
holds them against bounds. Calls include passes and the taking of frames, not tasks and sockets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.measure import Bench, Figures, Row, arguments
from tests.engine.work_cluster import WorkCluster, cluster_of, cost

WAVES = 3
TICKS = 20


def count(cluster: WorkCluster, work: Callable[[], None], times: int, units: int) -> Figures:
    """Per unit: calls and bytes. Per wave or interval: passes, fdatasyncs and frames of all hosts."""

    def repeated() -> None:
        for _ in range(times):
            work()

    work()  # a tick after a read has no beat: the read was one
    leader, followers = cluster.counted(repeated)
    everybody = (leader, *followers)
    return {
        **attrs.asdict(cost(leader, followers, times * units)),
        "passes": sum(each.passes for each in everybody) / times,
        "syncs": sum(each.syncs for each in everybody) / times,
        "frames": sum(each.frames for each in everybody) / times,
    }


def rows(groups: int) -> list[tuple[Row, Callable[[], Figures]]]:
    """Everything that is counted with so many groups, all led by one host."""
    cluster, everybody = cluster_of(groups), range(1, groups + 1)
    found: list[tuple[Row, Callable[[], Figures]]] = []
    for each in (1, 21):
        units = groups * each
        for name, work in (("write", cluster.write), ("read", cluster.read)):
            row = {"work": name, "groups": groups, "each": each}
            found.append((row, partial(count, cluster, partial(work, everybody, each), WAVES, units)))
    found.append(({"work": "idle", "groups": groups}, partial(count, cluster, cluster.tick, TICKS, groups)))
    one = partial(count, cluster, partial(cluster.write, [1]), WAVES, 1)
    found.append(({"work": "one write", "groups": groups}, one))
    return found


def main() -> None:
    options = arguments(__doc__, runs=1).parse_args()
    bench = Bench("work", options)
    for groups in (48, 1000):
        bench.measure(rows(groups), warmup=False)


if __name__ == "__main__":
    main()
