"""How do other systems do at the same work, on this machine, in the same run?

    python bench/bench_peers.py [--only etcd] [--seconds 5] [--runs 3] [--check-perf] [--record]

Three processes each, on loopback, writes of 16 bytes. Two kinds of rows, to be compared within
their kind only:

inside  the load starts in the servers' own process, through the library's API:
        multiraft (1 group, and 48) and PySyncObj, which does not sync its journal to disk
http    64 and 256 clients, each with a connection, spread over the three servers, from one Python
        process beside them (peers/load.py): multiraft's key-value store, and etcd's JSON gateway

`server_cpu_us` is of all three servers, per write, and where the load comes from inside, of that
too; `generator_cpu_us` is what the load from outside took on the same processors. `--check-perf` adds
etcd's own load generator, which writes 1,000 clients' 256 bytes for a minute, 15,000/s at most.
A system that is not installed is left out, with a word on how to install it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.measure import Bench, Figures, Missing, Row, RunFailed, arguments, bench_command
from bench.peers import etcd, store, syncobj
from bench.peers.load import load
from multiraft.cli.scratch import scratch_folder

PAYLOAD = 16
WARMUP_S = 1.5
INSIDE = (1, 64, 256)
CLIENTS = (64, 256)


def multiraft_inside(groups: int, outstanding: int, seconds: float) -> Figures:
    got = bench_command(
        groups=groups, inflight=outstanding, payload=PAYLOAD, seconds=seconds, warmup=WARMUP_S
    )
    if got["latency_ms"]["p50"] is None:
        raise RunFailed(f"too few operations were done to say how long they take: {got['operations']}")
    return {
        "per_second": got["per_second"],
        "p50_ms": got["latency_ms"]["p50"],
        "p99_ms": got["latency_ms"]["p99"],
        "server_cpu_us": got["cpu_us_per_operation"],
        "generator_cpu_us": 0.0,
    }


def multiraft_http(groups: int, clients: int, seconds: float) -> Figures:
    async def run() -> Figures:
        with scratch_folder("store") as folder:
            async with store.open_store(folder, groups) as servers:
                return await load(
                    servers, lambda n: store.request(b"%08d" % n, PAYLOAD), clients, seconds, WARMUP_S
                )

    return bare(run)


def etcd_http(clients: int, seconds: float) -> Figures:
    async def run() -> Figures:
        with scratch_folder("etcd") as folder:
            async with etcd.open_etcd(folder) as servers:
                return await load(
                    servers, lambda n: etcd.request(b"%08d" % n, PAYLOAD), clients, seconds, WARMUP_S
                )

    return bare(run)


def etcd_check_perf() -> Figures:
    async def run() -> Figures:
        with scratch_folder("etcd") as folder:
            async with etcd.open_etcd(folder) as servers:
                return {"per_second": await trio.to_thread.run_sync(etcd.check_perf, servers)}

    return bare(run)


def bare(run: Callable[[], object]) -> Figures:
    """What `run` returns, or the first `Missing` or `RunFailed` inside whatever it raises."""
    try:
        figures: Figures = trio.run(run)  # type: ignore[arg-type]  # an async function
    except BaseExceptionGroup as group:
        found: BaseException = group.split((Missing, RunFailed))[0] or group
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        raise found from None
    return figures


def rows(seconds: float, check_perf: bool) -> list[tuple[Row, Callable[[], Figures]]]:
    found: list[tuple[Row, Callable[[], Figures]]] = []
    for outstanding in INSIDE:
        for groups in (1, 48):
            row = {"system": "multiraft", "load": "inside", "groups": groups, "outstanding": outstanding}
            found.append((row, partial(multiraft_inside, groups, outstanding, seconds)))
        row = {"system": "PySyncObj", "load": "inside", "groups": 1, "outstanding": outstanding}
        found.append((row, partial(syncobj.run, outstanding, PAYLOAD, seconds, WARMUP_S)))
    for clients in CLIENTS:
        for groups in (1, 48):
            row = {"system": "multiraft", "load": "http", "groups": groups, "outstanding": clients}
            found.append((row, partial(multiraft_http, groups, clients, seconds)))
        row = {"system": "etcd", "load": "http", "groups": 1, "outstanding": clients}
        found.append((row, partial(etcd_http, clients, seconds)))
    if check_perf:
        row = {"system": "etcd", "load": "etcdctl check perf", "groups": 1, "outstanding": 1000}
        found.append((row, etcd_check_perf))
    return found


def main() -> None:
    parser = arguments(__doc__, seconds=5)
    parser.add_argument("--only", choices=("multiraft", "etcd", "PySyncObj"), help="one system")
    parser.add_argument("--load", choices=("inside", "http"), help="one kind of rows")
    parser.add_argument("--check-perf", action="store_true", help="etcd's own load generator too: a minute")
    options = parser.parse_args()
    wanted = [
        (row, once)
        for row, once in rows(options.seconds, options.check_perf)
        if options.only in (None, row["system"]) and options.load in (None, row["load"])
    ]
    Bench("peers", options).measure(wanted, warmup=False)


if __name__ == "__main__":
    main()
