"""`multiraft bench`: how fast, how late, at what cost. The hosts are processes (bench_host.py).

The parent only conducts: it starts the hosts, has them make the groups, spreads the leaders,
marks the beginning and the end of the measured window, and adds up what they report.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import attrs
import click
import trio

from multiraft.cli.bench_host import host_config
from multiraft.cli.children import Child, ChildFailed, ask_all, start_child, stop_all
from multiraft.cli.deadline import deadline
from multiraft.cli.interrupt import run_async
from multiraft.cli.output import Progress, print_facts, print_json, progress
from multiraft.cli.scratch import scratch_folder
from multiraft.cli.settings import settings_option

MODES = ("write", "read", "lease-read", "mixed", "idle")

START_TIMEOUT_S = 60.0
GROUPS_PER_TIMEOUT_S = 100
"""Making groups and finding leaders may take a second more for each so many groups."""
GROUPS_AT_ONCE = 1000
BALANCE_ROUNDS_MAX = 5
SETTLED_LOOKS = 3
"""Looks in a row, a second apart, at which nothing may have changed before `idle` measures."""


@attrs.frozen
class Plan:
    """What was asked for."""

    mode: str
    hosts: int
    groups: int
    payload: int
    inflight: int
    seconds: float
    warmup: float
    settings: dict[str, Any]
    """Fields of `HostConfig` that are not to have their defaults."""


@click.command("bench")
@click.option("--hosts", type=click.IntRange(1, 99), default=3, show_default=True, help="Host processes.")
@click.option(
    "--groups", type=click.IntRange(1), default=48, show_default=True, help="Groups, each on all hosts."
)
@click.option("--payload", type=click.IntRange(0), default=16, show_default=True, help="Bytes of a proposal.")
@click.option(
    "--inflight",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Operations outstanding, in all.",
)
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="To measure."
)
@click.option(
    "--warmup", type=click.FloatRange(0), default=3.0, show_default=True, help="Seconds of load before."
)
@click.option("--mode", type=click.Choice(MODES), default="write", show_default=True)
@click.option("--data-dir", help="Where the hosts' folders go. Default: a temporary folder, on a disk.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@settings_option
@click.option("--detail", is_flag=True, hidden=True, help="Add each host's counters to the JSON.")
def command(data_dir: str | None, as_json: bool, detail: bool, **plan: Any) -> None:
    """Measure throughput, latency, CPU and memory of hosts on this machine.

    Each host is a process with real sockets, real files and fdatasync. Operations are started on
    the host that leads the group, from inside it; --inflight of them are outstanding in all.
    CPU per cent are of one core.
    """
    wanted = Plan(**plan)
    host_config("checked", wanted.mode, wanted.settings)  # before anything is started
    results = run_async(lambda: _bench(wanted, data_dir))
    result = summary(wanted, results)
    if failures := sum(each["failures"] for each in results):
        print(f"multiraft: {failures} operations were not acknowledged and tried again", file=sys.stderr)
    if detail:
        result["counters_per_host"] = [each["counters"] for each in results]
    if as_json:
        print_json(result)
    else:
        _print(result)


async def _bench(plan: Plan, data_dir: str | None) -> list[dict[str, Any]]:
    children: list[Child] = []
    with scratch_folder("bench", data_dir) as folder, progress() as shown:
        try:
            return await _conduct(plan, folder, children, shown)
        finally:
            await stop_all(children)


async def _conduct(plan: Plan, folder: str, children: list[Child], shown: Progress) -> list[dict[str, Any]]:
    patience_s = START_TIMEOUT_S + plan.groups / GROUPS_PER_TIMEOUT_S
    with deadline(patience_s, "the hosts to start"):
        shown.say(f"starting {plan.hosts} hosts")
        addresses = await _start(plan, folder, children)
    with deadline(patience_s, "every group to be made and have a leader"):
        await _make_groups(plan.groups, addresses, children, shown)
    with deadline(patience_s, "the leaders to be spread"):
        shown.say("spreading the leaders")
        led = await _spread_leaders(children)
    if plan.mode == "idle":
        with deadline(patience_s, "the groups to settle"):
            shown.say("waiting for the groups to settle")
            await _wait_settled(children)
    else:
        for child, share in zip(children, shares(plan.inflight, led), strict=True):
            await child.ask({"do": "load", "inflight": share})
        await _watch(plan.warmup, "warming up", children, shown)
    await ask_all(children, {"do": "mark"})
    if plan.mode == "idle":
        await trio.sleep(plan.seconds)
    else:
        await _watch(plan.seconds, "measuring", children, shown)
    results = await ask_all(children, {"do": "stop"})
    await _check_applied(children)
    return results


async def _start(plan: Plan, folder: str, children: list[Child]) -> list[str]:
    for number in range(1, plan.hosts + 1):
        name = f"host {number}"
        child = await start_child(name, "multiraft.cli.bench_host", [], f"{folder}/host{number}.log")
        children.append(child)
        await child.send(
            {
                "data_dir": f"{folder}/host{number}",
                "mode": plan.mode,
                "payload": plan.payload,
                "settings": plan.settings,
            }
        )
    return [(await child.receive())["address"] for child in children]


async def _make_groups(groups: int, addresses: list[str], children: Sequence[Child], shown: Progress) -> None:
    """Some at a time: hosts that hold so many elections at once that they are late for them hold more."""
    for first in range(1, groups + 1, GROUPS_AT_ONCE):
        shown.say(f"making {groups} groups, {first - 1} of them led")
        last = min(groups, first + GROUPS_AT_ONCE - 1)
        await ask_all(children, {"do": "create", "first": first, "last": last, "members": addresses})
        await ask_all(children, {"do": "leaders"})


async def _spread_leaders(children: Sequence[Child]) -> list[int]:
    """Even out who leads how many groups; how many each host leads then."""
    for _ in range(BALANCE_ROUNDS_MAX):
        led = [answer["led"] for answer in await ask_all(children, {"do": "leaders"})]
        moves = balancing_moves(led)
        if not any(moves):
            break
        for child, own in zip(children, moves, strict=True):
            await child.ask({"do": "transfer", "moves": own})
    return [len(groups) for groups in led]


def balancing_moves(led: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
    """What each host should hand over, as (group, member), so that all lead as many, give or take one."""
    total, hosts = sum(map(len, led)), len(led)
    order = sorted(range(hosts), key=lambda host: -len(led[host]))
    target = {host: total // hosts + (place < total % hosts) for place, host in enumerate(order)}
    takers = [host for host in order for _ in range(target[host] - len(led[host]))]
    moves: list[list[tuple[int, int]]] = [[] for _ in led]
    for host in order:
        for group in led[host][target[host] :]:
            moves[host].append((group, takers.pop() + 1))
    return moves


def shares(inflight: int, led: Sequence[int]) -> list[int]:
    """Divide `inflight` in proportion to `led`; the remainders go to the largest fractions."""
    total = sum(led)
    if total == 0:
        return [0 for _ in led]
    parts = [inflight * each // total for each in led]
    by_fraction = sorted(range(len(led)), key=lambda host: -(inflight * led[host] % total))
    for host in by_fraction[: inflight - sum(parts)]:
        parts[host] += 1
    return parts


async def _watch(seconds: float, what: str, children: Sequence[Child], shown: Progress) -> None:
    """Let time pass; where somebody looks on, show the throughput twice a second."""
    end = trio.current_time() + seconds
    before, at = 0, end
    while shown.live and trio.current_time() + 0.5 < end:
        count = sum(answer["operations"] for answer in await ask_all(children, {"do": "count"}))
        now = trio.current_time()
        if now > at:
            shown.say(f"{what}, {end - now:.0f} s to go: {(count - before) / (now - at):,.0f} operations/s")
        before, at = count, now
        await trio.sleep(0.5)
    await trio.sleep_until(end)


async def _wait_settled(children: Sequence[Child]) -> None:
    """Every group has a leader and nothing to do, and no more of them come to rest."""
    seen: list[dict[str, Any]] = []
    looks = 0
    while looks < SETTLED_LOOKS:
        await trio.sleep(1)
        answers = await ask_all(children, {"do": "settled"})
        quiet = not any(answer["waiting"] for answer in answers) and answers == seen
        looks = looks + 1 if quiet else 0
        seen = answers


async def _check_applied(children: Sequence[Child]) -> None:
    """A benchmark of writes that were lost would be worth nothing."""
    with deadline(START_TIMEOUT_S, "the last writes to be applied"):
        for part, child in enumerate(children):
            await child.send({"do": "applied", "hosts": len(children), "part": part})
        answers = [await child.receive() for child in children]
    applied = sum(answer["applied"] for answer in answers)
    acknowledged = sum(answer["acknowledged"] for answer in answers)
    if applied < acknowledged:
        raise ChildFailed(f"{acknowledged} writes were acknowledged, but only {applied} were applied")


def summary(plan: Plan, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The object that `--json` prints."""
    seconds = sum(each["seconds"] for each in results) / len(results)
    operations = sum(each["operations"] for each in results)
    cpu_s = sum(each["cpu_s"] for each in results)
    samples = sorted(sample for each in results for sample in each["latencies_us"])
    return {
        "mode": plan.mode,
        "hosts": plan.hosts,
        "groups": plan.groups,
        "payload": plan.payload,
        "inflight": 0 if plan.mode == "idle" else plan.inflight,
        "seconds": round(seconds, 3),
        "operations": operations,
        "per_second": round(sum(each["operations"] / each["seconds"] for each in results), 1),
        "latency_ms": {
            "p50": _quantile_ms(samples, 0.5),
            "p99": _quantile_ms(samples, 0.99),
            "max": _quantile_ms(samples, 1.0),
        },
        "cpu_us_per_operation": round(cpu_s / operations * 1e6, 2) if operations else None,
        "cpu_percent_per_host": [round(100 * each["cpu_s"] / each["seconds"], 1) for each in results],
        "rss_mib_per_host": [round(each["rss_bytes"] / 2**20, 1) for each in results],
        "fdatasync_per_second": round(sum(each["syncs"] / each["seconds"] for each in results), 1),
    }


def _quantile_ms(samples: Sequence[int], fraction: float) -> float | None:
    if not samples:
        return None
    return round(samples[min(len(samples) - 1, int(len(samples) * fraction))] / 1e3, 3)


def _print(result: dict[str, Any]) -> None:
    latency = result["latency_ms"]
    facts: dict[str, object] = {
        "hosts, groups": f"{result['hosts']}, {result['groups']}",
        "measured": f"{result['seconds']:.1f} s",
    }
    if result["mode"] != "idle":
        facts |= {
            "payload, in flight": f"{result['payload']} B, {result['inflight']}",
            "operations": f"{result['operations']:,}",
            "throughput": f"{result['per_second']:,.0f} operations/s",
        }
        if latency["p50"] is not None:
            facts["latency"] = "p50 {p50} ms, p99 {p99} ms, max {max} ms".format_map(latency)
        if result["cpu_us_per_operation"] is not None:
            facts["CPU, all hosts"] = f"{result['cpu_us_per_operation']} µs per operation"
    facts |= {
        "CPU per host": ", ".join(f"{each:g} %" for each in result["cpu_percent_per_host"]),
        "memory per host": ", ".join(f"{each:g} MiB" for each in result["rss_mib_per_host"]),
        "fdatasync": f"{result['fdatasync_per_second']:,.0f}/s",
    }
    print_facts(f"multiraft bench --mode {result['mode']}", facts)
