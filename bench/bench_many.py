"""Does it hold a hundred thousand groups?

    python bench/bench_many.py [--groups 100000] [--outstanding 4096] [--seconds 10] [--record]

Three host processes, every group on all of them, a thousand made at a time. Once every group is led
each gets one write; all of them must be acknowledged, and applied on all three hosts. Then nobody
does anything for a while.

create_led_s   from the order to make the groups until each is led
writes_s       from the first write until the last one is acknowledged
applied_s      from then until all three hosts have applied all of them
idle_cpu       of one core, of the busiest host, once that is over
rss_mib        of the largest host at the end, the interpreter included; rss_kib_per_group without it
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.hosts import MEMBERS, Hosts, hosts
from bench.measure import Bench, Figures, RunFailed, arguments
from multiraft.errors import MultiraftError

AT_A_TIME = 1000
PATIENCE_S = 120.0
GROUPS_PER_PATIENCE_S = 100
"""A second more for each so many groups."""
SETTLING_S = 10.0
"""What the hosts have to come to rest before idling is measured."""


async def used(cluster: Hosts, figure: str) -> list[float]:
    return [answer[figure] for answer in await cluster.ask({"do": "used"})]


async def once(groups: int, outstanding: int, seconds: float) -> Figures:
    figures: dict[str, float] = {}
    async with hosts("bench.many_host") as cluster:
        await cluster.start()
        empty = max(await used(cluster, "rss_bytes"))
        started = time.perf_counter()
        for first in range(1, groups + 1, AT_A_TIME):
            last = min(first + AT_A_TIME - 1, groups)
            order = {"do": "create", "first": first, "last": last, "members": cluster.addresses}
            await cluster.ask(order)
        await cluster.wait_all_led(groups)
        figures["create_led_s"] = time.perf_counter() - started
        figures["create_pass_ms_max"] = max(await used(cluster, "pass_ms_max"))

        started = time.perf_counter()
        answers = await cluster.ask({"do": "each", "outstanding": outstanding // MEMBERS})
        figures["writes_s"] = time.perf_counter() - started
        written = sum(answer["written"] for answer in answers)
        if written != groups:
            raise RunFailed(f"{written} groups of {groups} had a leader to write to")
        figures["p50_ms"] = max(answer["p50_ms"] for answer in answers)
        figures["p99_ms"] = max(answer["p99_ms"] for answer in answers)
        while any(  # noqa: ASYNC110 - in other processes
            answer["applied"] != groups for answer in await cluster.ask({"do": "counted"})
        ):
            await trio.sleep(0.1)
        figures["applied_s"] = time.perf_counter() - started - figures["writes_s"]

        await trio.sleep(SETTLING_S)
        before, started = await used(cluster, "cpu_s"), time.perf_counter()
        await trio.sleep(seconds)
        after, took = await used(cluster, "cpu_s"), time.perf_counter() - started
        figures["idle_cpu_percent"] = 100 * max(b - a for a, b in zip(before, after, strict=True)) / took
        full = max(await used(cluster, "rss_bytes"))
        figures["rss_mib"] = full / 2**20
        figures["rss_kib_per_group"] = (full - empty) / 1024 / groups
    return figures


def run(groups: int, outstanding: int, seconds: float) -> Figures:
    """Raises: RunFailed, when it takes unreasonably long or a host fails."""
    patience_s = PATIENCE_S + seconds + groups / GROUPS_PER_PATIENCE_S

    async def bounded() -> Figures:
        with trio.fail_after(patience_s):
            return await once(groups, outstanding, seconds)

    try:
        return trio.run(bounded)
    except trio.TooSlowError:
        raise RunFailed(f"given up after {patience_s:.0f} s") from None
    except MultiraftError as error:
        raise RunFailed(str(error)) from None


def main() -> None:
    parser = arguments(__doc__, runs=1, seconds=10)
    parser.add_argument("--groups", type=int, nargs="+", default=[100_000])
    parser.add_argument("--outstanding", type=int, default=4096, help="writes under way; default: 4096")
    options = parser.parse_args()
    rows = [
        (
            {"groups": groups, "outstanding": options.outstanding},
            partial(run, groups, options.outstanding, options.seconds),
        )
        for groups in options.groups
    ]
    Bench("many", options).measure(rows, warmup=False)


if __name__ == "__main__":
    main()
