"""Does one busy group make the others wait?

    python bench/bench_fairness.py [--groups 1000] [--pause 1] [--hot 1024] [--seconds 5] [--record]

Every group but the first is quiet: it gets a write, waits until that is done, and then a second
until the next. Measured is how long those take, first alone, then while the first group has as
many writes outstanding as it can be given. All of them share the passes, links, logs and
processors of three hosts; the question is what of that they feel.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.hosts import Hosts, hosts
from bench.measure import Bench, Figures, RunFailed, arguments, percentile
from multiraft.errors import MultiraftError

PATIENCE_S = 120.0


async def window(cluster: Hosts, seconds: float) -> tuple[list[int], float]:
    """Latencies of the quiet groups, ascending, and the busy group's writes per second."""
    await cluster.ask({"do": "begin"})
    started = perf_counter()
    await trio.sleep(seconds)
    answers = await cluster.ask({"do": "end"})
    hot = sum(answer["hot"] for answer in answers) / (perf_counter() - started)
    return sorted(each for answer in answers for each in answer["quiet_us"]), hot


async def once(groups: int, pause_s: float, outstanding: int, seconds: float) -> Figures:
    async with hosts("bench.fairness_host") as cluster:
        await cluster.start()
        await cluster.create(groups)
        await cluster.wait_all_led(groups)
        await cluster.balance()
        await cluster.ask({"do": "quiet", "pause_s": pause_s})
        await trio.sleep(1 + pause_s)
        alone, _ = await window(cluster, seconds)
        await cluster.ask({"do": "hot", "outstanding": outstanding})
        await trio.sleep(1)
        beside, hot = await window(cluster, seconds)
    return {
        **latencies("alone", alone),
        **latencies("beside", beside),
        "p99_times": percentile(beside, 0.99) / percentile(alone, 0.99),
        "hot_per_second": hot,
        "quiet_per_second": len(beside) / seconds,
    }


def latencies(name: str, ascending: Sequence[float]) -> Figures:
    return {
        f"{name}_p50_ms": percentile(ascending, 0.5) / 1000,
        f"{name}_p99_ms": percentile(ascending, 0.99) / 1000,
    }


def run(groups: int, pause_s: float, outstanding: int, seconds: float) -> Figures:
    """Raises: RunFailed."""

    async def bounded() -> Figures:
        with trio.fail_after(PATIENCE_S + 2 * seconds):
            return await once(groups, pause_s, outstanding, seconds)

    try:
        return trio.run(bounded)
    except (trio.TooSlowError, MultiraftError) as error:
        raise RunFailed(str(error) or "it took too long") from None


def main() -> None:
    parser = arguments(__doc__, seconds=5)
    parser.add_argument("--groups", type=int, default=1000, help="the busy one counted; default: 1000")
    parser.add_argument(
        "--pause", type=float, default=1.0, help="seconds between two writes to a quiet group; default: 1"
    )
    parser.add_argument("--hot", type=int, default=1024, help="writes outstanding there; default: 1024")
    options = parser.parse_args()
    row = {"groups": options.groups, "pause_s": options.pause, "hot": options.hot}
    once = partial(run, options.groups, options.pause, options.hot, options.seconds)
    Bench("fairness", options).measure([(row, once)], warmup=False)


if __name__ == "__main__":
    main()
