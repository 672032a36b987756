"""Does it hold a hundred thousand groups?

    python bench/bench_many.py [--groups 100000] [--outstanding 4096] [--seconds 10] [--no-kill] [--record]

Three host processes, every group on all of them, a thousand made at a time. Once every group is led
each gets one write; all of them must be acknowledged, and applied on all three hosts. Then nobody
does anything for a while. Then one host is killed for good, and once that is over again nobody does
anything.

create_led_s   from the order to make the groups until each is led
writes_s       from the first write until the last one is acknowledged
applied_s      from then until all three hosts have applied all of them
idle_cpu       of one core, of the busiest host, once that is over
rss_mib        of the largest host then, the interpreter included; rss_kib_per_group without it
down_led_s     from SIGKILL of the host that leads most groups until all are led by the other two
down_cpu       of one core, of the busier of those two, once that is over
"""

from __future__ import annotations

import argparse
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


async def idle_cpu_percent(cluster: Hosts, seconds: float) -> float:
    """Of one core, of the busiest host, while nobody asks for anything."""
    await trio.sleep(SETTLING_S)
    before, started = await used(cluster, "cpu_s"), time.perf_counter()
    await trio.sleep(seconds)
    after, took = await used(cluster, "cpu_s"), time.perf_counter() - started
    return 100 * max(b - a for a, b in zip(before, after, strict=True)) / took


async def kill_leader_of_most(cluster: Hosts, groups: int) -> float:
    """Kill that host; the seconds until all groups are led again."""
    led = [answer["leading"] for answer in await cluster.ask({"do": "leading"})]
    cluster.children.insert(0, cluster.children.pop(led.index(max(led))))
    started = time.perf_counter()
    await cluster.kill(1)
    await cluster.wait_all_led(groups)
    return time.perf_counter() - started


async def once(groups: int, outstanding: int, seconds: float, kill: bool) -> Figures:
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
        figures["create_pass_cpu_ms_max"] = max(await used(cluster, "pass_cpu_ms_max"))

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

        figures["idle_cpu_percent"] = await idle_cpu_percent(cluster, seconds)
        full = max(await used(cluster, "rss_bytes"))
        figures["rss_mib"] = full / 2**20
        figures["rss_kib_per_group"] = (full - empty) / 1024 / groups

        if kill:
            figures["down_led_s"] = await kill_leader_of_most(cluster, groups)
            figures["down_cpu_percent"] = await idle_cpu_percent(cluster, seconds)
    return figures


def run(groups: int, outstanding: int, seconds: float, kill: bool) -> Figures:
    """Raises: RunFailed, when it takes unreasonably long or a host fails."""
    patience_s = PATIENCE_S + 2 * seconds + groups / GROUPS_PER_PATIENCE_S

    async def bounded() -> Figures:
        with trio.fail_after(patience_s):
            return await once(groups, outstanding, seconds, kill)

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
    parser.add_argument(
        "--kill",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="kill a host at the end; default: --kill",
    )
    options = parser.parse_args()
    rows = [
        (
            {"groups": groups, "outstanding": options.outstanding},
            partial(run, groups, options.outstanding, options.seconds, options.kill),
        )
        for groups in options.groups
    ]
    Bench("many", options).measure(rows, warmup=False)


if __name__ == "__main__":
    main()
