"""How long until every group is led: when they are made, after a restart, after a host died?

    python bench/bench_startup.py [--groups 1000] [--runs 3] [--record]

Three host processes, every group on all of them. In seconds:

create   from the order to make the groups, on all hosts, until each is led
restart  from starting the three processes, on logs with writes of all groups, until each is led;
         `open`: until the last host has read its log and listens
kill     from SIGKILL of a host that leads a third of the groups until each is led again

No election is faster than the election timeout: 10 to 20 ticks of 0.1 s.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.hosts import hosts
from bench.measure import Bench, Figures, RunFailed, arguments
from multiraft.errors import MultiraftError

PATIENCE_S = 60.0
GROUPS_PER_PATIENCE_S = 50
"""A second more for each so many groups."""
WRITES_OUTSTANDING = 256
WRITES_S = 1.0


async def once(groups: int) -> Figures:
    figures: dict[str, float] = {}
    async with hosts() as cluster:
        await cluster.start()
        started = time.perf_counter()
        await cluster.create(groups)
        figures["create_s"] = time.perf_counter() - started
        await cluster.wait_all_led(groups)
        figures["create_led_s"] = time.perf_counter() - started
        await cluster.balance()
        await cluster.ask({"do": "load", "inflight": WRITES_OUTSTANDING})
        await cluster.ask({"do": "mark"})
        await trio.sleep(WRITES_S)
        await cluster.ask({"do": "stop"})
        await cluster.stop()

        started = time.perf_counter()
        await cluster.start()
        figures["restart_open_s"] = time.perf_counter() - started
        await cluster.wait_all_led(groups)
        figures["restart_led_s"] = time.perf_counter() - started
        led = await cluster.balance()
        figures["killed_led"] = len(led[0])

        victim = cluster.children.pop(0)
        started = time.perf_counter()
        await victim.kill()
        await cluster.wait_all_led(groups)
        figures["kill_led_s"] = time.perf_counter() - started
    return figures


def run(groups: int) -> Figures:
    """Raises: RunFailed, when it takes unreasonably long or a host fails."""
    patience_s = PATIENCE_S + groups / GROUPS_PER_PATIENCE_S

    async def bounded() -> Figures:
        with trio.fail_after(patience_s):
            return await once(groups)

    try:
        return trio.run(bounded)
    except trio.TooSlowError:
        raise RunFailed(f"not every group was led in time; given up after {patience_s:.0f} s") from None
    except MultiraftError as error:
        raise RunFailed(str(error)) from None


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--groups", type=int, nargs="+", default=[1000])
    options = parser.parse_args()
    rows = [({"groups": groups}, partial(run, groups)) for groups in options.groups]
    Bench("startup", options).measure(rows, warmup=False)


if __name__ == "__main__":
    main()
