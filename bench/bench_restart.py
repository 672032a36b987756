"""How long do hosts with large logs need to come back, and do their passes stay short?

    python bench/bench_restart.py [--groups 10000] [--mib 1024] [--payload 1024] [--runs 1] [--record]

Three host processes on loopback, every group on all of them, default settings. Their logs are made
beforehand (make_log.py): each holds `--mib` of writes of `--payload` bytes, each an append of its own.
Nothing of it may be dropped, as no group comes near to its next automatic snapshot. The state machines
keep nothing on disk, so each gets its whole log again after a restart. Then

closed   all hosts are started, on logs as of hosts that were closed orderly
killed   all hosts are killed (SIGKILL) and started again
lost     one of three is killed, and not started again

In seconds, from starting the processes (lost: from the SIGKILL):

read      until the last host has read its log; groups: until it has opened its groups and listens
first     until some group is led
led       until every group is led
applied   until every group has also applied all of its log on every host

and of the passes of all hosts in that time: the longest in ms, by the clock and of its processor (since the
processes were started, so not of "lost"), and how many took above 20 ms by the clock. The logs are in the
system's page cache, as after a restart of the processes, not of the machine.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.hosts import MEMBERS, Hosts, hosts
from bench.measure import Bench, Figures, RunFailed, arguments
from multiraft.errors import MultiraftError
from multiraft.identity import NAME

PATIENCE_S = 900.0
LOOK_S = 0.1
"""Between two looks at how far the hosts are; each costs them a few ms at ten thousand groups."""
ENTRY_BYTES = 80
"""What an entry's record takes in the log beside its payload, about."""


async def passes(cluster: Hosts, name: str, before: Figures | None = None) -> Figures:
    """Of all passes since the processes were started, or since `before`."""
    answers = await cluster.ask({"do": "passes"})
    counted: dict[str, float] = {
        figure: sum(answer[figure] for answer in answers) for figure in ("passes", "passes_above_20_ms")
    }
    if before is None:
        for figure in ("pass_ms_max", "pass_cpu_ms_max"):
            counted[figure] = max(answer[figure] for answer in answers)
        before = dict.fromkeys(counted, 0)
    return {f"{name}{figure}": number - before.get(figure, 0) for figure, number in counted.items()}


async def come_back(
    cluster: Hosts, groups: int, name: str, started: float, before: Figures | None = None
) -> Figures:
    """Look on until everything is led, and then until everything is applied."""
    figures: dict[str, float] = {}
    while True:
        answers = await cluster.ask({"do": "progress"})
        took = time.perf_counter() - started
        led = sum(answer["led"] for answer in answers)
        if led:
            figures.setdefault(f"{name}_first_s", took)
        if led >= groups:
            figures.setdefault(f"{name}_led_s", took)
            if not any(answer["unapplied"] for answer in answers):
                figures[f"{name}_applied_s"] = took
                return {**figures, **await passes(cluster, f"{name}_", before)}
        await trio.sleep(LOOK_S)


async def restart(cluster: Hosts, groups: int, name: str) -> Figures:
    started = time.perf_counter()
    await cluster.start()
    opened = await cluster.ask({"do": "opened"})
    return {
        f"{name}_read_s": max(answer["read_s"] for answer in opened),
        f"{name}_groups_s": max(answer["groups_s"] for answer in opened),
        f"{name}_open_s": time.perf_counter() - started,
        **await come_back(cluster, groups, name, started),
    }


async def fill(cluster: Hosts, groups: int, mib: int, payload: int) -> Figures:
    """Have the hosts' folders, and in them the logs that they would have. None of them runs then."""
    await cluster.start()
    await cluster.stop()
    folders = [f"{cluster.folder}/host{number}" for number in range(1, MEMBERS + 1)]
    hosts = []
    for number, folder in enumerate(folders, 1):
        identity = json.loads(await trio.Path(folder, NAME).read_text())
        hosts.append((number, cluster.addresses[number - 1], identity["host_id"]))
    entries = -(-(mib << 20) // (groups * (payload + ENTRY_BYTES)))
    live: list[int] = []

    async def make(number: int, folder: str) -> None:
        wanted = {"folder": folder, "member": number, "hosts": hosts}
        wanted |= {"groups": groups, "entries": entries, "payload": payload}
        made = await trio.run_process(
            [sys.executable, "-m", "bench.make_log", json.dumps(wanted)], capture_stdout=True
        )
        live.append(int(made.stdout))

    async with trio.open_nursery() as nursery:
        for number, folder in enumerate(folders, 1):
            nursery.start_soon(make, number, folder)
    return {"log_mib": min(live) / 2**20, "entries": groups * entries}


async def once(groups: int, mib: int, payload: int) -> Figures:
    async with hosts("bench.restart_host") as cluster:
        figures = dict(await fill(cluster, groups, mib, payload))
        figures |= await restart(cluster, groups, "closed")
        await cluster.kill(MEMBERS)
        figures |= await restart(cluster, groups, "killed")
        await cluster.balance()
        started = time.perf_counter()
        await cluster.kill(1)
        before = await passes(cluster, "")
        return {**figures, **await come_back(cluster, groups, "lost", started, before)}


def run(groups: int, mib: int, payload: int) -> Figures:
    """Raises: RunFailed, when it takes unreasonably long or a host fails."""

    async def bounded() -> Figures:
        with trio.fail_after(PATIENCE_S):
            return await once(groups, mib, payload)

    try:
        return trio.run(bounded)
    except trio.TooSlowError:
        raise RunFailed(f"given up after {PATIENCE_S:.0f} s") from None
    except MultiraftError as error:
        raise RunFailed(str(error)) from None


def main() -> None:
    parser = arguments(__doc__, runs=1)
    parser.add_argument("--groups", type=int, default=10_000, help="default: 10,000")
    parser.add_argument("--mib", type=int, default=1024, help="in the log of each host; default: 1,024")
    parser.add_argument("--payload", type=int, default=1024, help="bytes of a write; default: 1,024")
    options = parser.parse_args()
    row = {"groups": options.groups, "mib": options.mib, "payload": options.payload}
    Bench("restart", options).measure([(row, partial(run, **row))], warmup=False)


if __name__ == "__main__":
    main()
