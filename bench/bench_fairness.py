"""Does one busy group make the others wait?

    python bench/bench_fairness.py [--groups 1000] [--pause 1] [--hot 1024] [--seconds 3] [--windows 3]

Every group but the first is quiet: it gets one write a second, each group at its own moment of the second,
and measured is how long those take, from the call of `propose` to its return. First alone, for `--seconds`,
then as long while the first group has as many writes outstanding as it can be given, and so on in turns, so
that what else the machine and its disk do meets both alike. All of them share the passes, links, logs and
processors of three hosts; the question is what of that the quiet ones feel. The p99 of a run is that of
all its windows of one kind together, with the defaults some 9,000 writes each.

The quiet groups write by the clock. If each waited a second after its last write, those that were done
in one pass would write together ever after: a single stall would make crowds of them, and the windows
after it another load than those before. Nothing is measured before every group has applied all it has.
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
SETTLE_S = 1.0
"""Between two kinds of load."""


async def window(cluster: Hosts, seconds: float) -> tuple[list[int], int, float]:
    """Latencies of the quiet groups, the busy one's writes, and how long the window was."""
    await cluster.ask({"do": "begin"})
    started = perf_counter()
    await trio.sleep(seconds)
    answers = await cluster.ask({"do": "end"})
    hot = sum(answer["hot"] for answer in answers)
    return [each for answer in answers for each in answer["quiet_us"]], hot, perf_counter() - started


async def settled(cluster: Hosts) -> None:
    """Return when every group has a leader and has applied what it has, on every host."""
    while True:
        answers = await cluster.ask({"do": "settled"})
        if not any(answer["waiting"] for answer in answers):
            return
        await trio.sleep(SETTLE_S)


async def once(groups: int, pause_s: float, outstanding: int, seconds: float, windows: int) -> Figures:
    alone: list[int] = []
    beside: list[int] = []
    hot, spent = 0, 0.0
    async with hosts("bench.fairness_host") as cluster:
        await cluster.start()
        await cluster.create(groups)
        await cluster.wait_all_led(groups)
        await cluster.balance()
        await settled(cluster)
        await cluster.ask({"do": "quiet", "pause_s": pause_s})
        await trio.sleep(pause_s)
        for _ in range(windows):
            await trio.sleep(SETTLE_S)
            alone += (await window(cluster, seconds))[0]
            await cluster.ask({"do": "hot", "outstanding": outstanding})
            await trio.sleep(SETTLE_S)
            latencies_us, writes, took = await window(cluster, seconds)
            beside += latencies_us
            hot, spent = hot + writes, spent + took
            await cluster.ask({"do": "cool"})
    alone.sort()
    beside.sort()
    return {
        **latencies("alone", alone),
        **latencies("beside", beside),
        "p99_times": percentile(beside, 0.99) / percentile(alone, 0.99),
        "hot_per_second": hot / spent,
        "quiet_per_second": len(beside) / spent,
    }


def latencies(name: str, ascending: Sequence[float]) -> Figures:
    return {
        f"{name}_p50_ms": percentile(ascending, 0.5) / 1000,
        f"{name}_p99_ms": percentile(ascending, 0.99) / 1000,
    }


def run(groups: int, pause_s: float, outstanding: int, seconds: float, windows: int) -> Figures:
    """Raises: RunFailed."""

    async def bounded() -> Figures:
        with trio.fail_after(PATIENCE_S + 2 * windows * (seconds + SETTLE_S)):
            return await once(groups, pause_s, outstanding, seconds, windows)

    try:
        return trio.run(bounded)
    except (trio.TooSlowError, MultiraftError) as error:
        raise RunFailed(str(error) or "it took too long") from None


def main() -> None:
    parser = arguments(__doc__, seconds=3)
    parser.add_argument("--groups", type=int, default=1000, help="the busy one counted; default: 1000")
    parser.add_argument(
        "--pause", type=float, default=1.0, help="seconds between two writes to a quiet group; default: 1"
    )
    parser.add_argument("--hot", type=int, default=1024, help="writes outstanding there; default: 1024")
    parser.add_argument("--windows", type=int, default=3, help="of each kind; default: 3")
    options = parser.parse_args()
    row = {"groups": options.groups, "pause_s": options.pause, "hot": options.hot}
    once = partial(run, options.groups, options.pause, options.hot, options.seconds, options.windows)
    Bench("fairness", options).measure([(row, once)], warmup=False)


if __name__ == "__main__":
    main()
