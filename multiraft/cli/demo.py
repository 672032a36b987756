"""`multiraft demo`: a cluster under load loses a host, and nothing that was acknowledged is lost."""

from __future__ import annotations

import statistics
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import click
import trio

from multiraft.cli.checks import busiest_leader, measure_failover, verify, wait_caught_up
from multiraft.cli.cluster import Cluster, open_cluster
from multiraft.cli.deadline import deadline
from multiraft.cli.interrupt import run_async
from multiraft.cli.output import Progress, print_facts, print_json, progress
from multiraft.cli.scratch import scratch_folder
from multiraft.cli.workload import Ledger, Workload, unicode_names

START_TIMEOUT_S = 60.0
FAILOVER_TIMEOUT_S = 60.0
VERIFY_TIMEOUT_S = 120.0
COMPLAINTS_SHOWN = 10
TICK_S = 0.5


@attrs.define
class Report:
    """The numbers of a run."""

    started_s: float = 0.0
    loaded: int = 0
    load_s: float = 0.0
    run_s: float = 0.0
    written: int = 0
    reads: int = 0
    killed: str | None = None
    led_by_killed: int = 0
    gaps: list[float] = attrs.field(factory=list)
    caught_up_s: float = 0.0
    """From the restart of the killed host's process."""
    unknown: int = 0
    verified: int = 0
    acknowledged: int = 0
    complaints: list[str] = attrs.field(factory=list)


@click.command("demo")
@click.option("--hosts", type=click.IntRange(1, 9), default=3, show_default=True, help="Host processes.")
@click.option(
    "--groups", type=click.IntRange(1), default=1000, show_default=True, help="Groups on all hosts."
)
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="Of load."
)
@click.option("--payload", type=click.IntRange(1), default=16, show_default=True, help="Bytes of a value.")
@click.option("--kill-leader/--no-kill-leader", default=None, help="Default: kill, with three hosts or more.")
@click.option("--data-dir", help="Where the hosts' folders go. Default: a temporary folder, on a disk.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def command(
    hosts: int,
    groups: int,
    seconds: float,
    payload: int,
    kill_leader: bool | None,
    data_dir: str | None,
    as_json: bool,
) -> int:
    """Start hosts of the key-value store, load them, kill one, and check every write.

    Loads the names of Unicode's characters over HTTP and goes on writing and reading. In the
    middle the host that leads most groups gets a SIGKILL; it is started again and catches up.
    Then every acknowledged write is read back, linearizably, through all hosts.
    """
    if kill_leader and hosts < 3:
        raise click.UsageError("--kill-leader needs three hosts: with fewer, one down is no majority left")
    kill = hosts >= 3 if kill_leader is None else kill_leader
    report = run_async(lambda: _demo(hosts, groups, seconds, payload, kill, data_dir))
    for complaint in report.complaints[:COMPLAINTS_SHOWN]:
        print(f"multiraft: {complaint}", file=sys.stderr)
    plan = {"hosts": hosts, "groups": groups, "payload": payload}
    if as_json:
        print_json(plan | _object(report))
    else:
        print_facts(f"multiraft demo, {hosts} hosts, {groups} groups, values of {payload} B", _facts(report))
        print(f"verified {report.verified} of {report.acknowledged} acknowledged writes")
    return 0 if report.verified == report.acknowledged and not report.complaints else 1


async def _demo(
    hosts: int, groups: int, seconds: float, payload: int, kill: bool, data_dir: str | None
) -> Report:
    pairs = unicode_names()
    with scratch_folder("demo", data_dir) as folder, progress() as shown:
        sample = f"{folder}/keys.txt"
        await trio.Path(sample).write_bytes(b"\n".join(key for key, _ in pairs))
        async with open_cluster(folder, hosts, groups, sample) as cluster:
            return await _Run(cluster, Ledger(), Report(), shown).run(pairs, groups, seconds, payload, kill)


class _Run:
    """One demo, step by step."""

    def __init__(self, cluster: Cluster, ledger: Ledger, report: Report, shown: Progress) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._report = report
        self._shown = shown

    async def run(
        self, pairs: list[tuple[bytes, bytes]], groups: int, seconds: float, payload: int, kill: bool
    ) -> Report:
        report, ledger, shown = self._report, self._ledger, self._shown
        workload = Workload(self._cluster, ledger)
        began = trio.current_time()
        shown.say(f"starting {len(self._cluster.hosts)} hosts with {groups} groups")
        with deadline(START_TIMEOUT_S + groups / 50, "every group to have a leader"):
            await self._cluster.wait_leaders(groups)
        report.started_s = trio.current_time() - began
        began = trio.current_time()
        with deadline(START_TIMEOUT_S, "the data set to be loaded"):
            async with self._ticking(self._say_load):
                await workload.load(pairs)
        report.load_s = trio.current_time() - began
        report.loaded = len(ledger.acknowledged)
        began = trio.current_time()
        async with self._ticking(self._say_run), trio.open_nursery() as nursery:
            if kill:
                nursery.start_soon(self._kill_and_restart, seconds / 2)
            await workload.run([key for key, _ in pairs], payload, seconds)
            report.run_s = trio.current_time() - began
            report.written = len(ledger.acknowledged) - report.loaded
            report.reads = ledger.reads
        with deadline(VERIFY_TIMEOUT_S, "every write to be read back"):
            report.verified = await verify(self._cluster, ledger, self._say_verify)
        report.acknowledged = len(ledger.acknowledged)
        report.unknown = len(ledger.unknown)
        report.complaints = ledger.complaints
        return report

    async def _kill_and_restart(self, after_s: float) -> None:
        report = self._report
        await trio.sleep(after_s)
        victim, led = await busiest_leader(self._cluster)
        killed_at = trio.current_time()
        await self._cluster.kill(victim)
        report.killed, report.led_by_killed = victim.name, len(led)
        with deadline(FAILOVER_TIMEOUT_S, f"the groups that {victim.name} led to have another leader"):
            report.gaps = await measure_failover(self._cluster, led, killed_at)
        restarted_at = trio.current_time()
        await self._cluster.start(victim)
        with deadline(FAILOVER_TIMEOUT_S, f"{victim.name} to catch up"):
            await wait_caught_up(self._cluster, victim)
        report.caught_up_s = trio.current_time() - restarted_at

    @asynccontextmanager
    async def _ticking(self, say: Callable[[float], None]) -> AsyncIterator[None]:
        """While the block runs, `say` gets the writes per second; nothing if nobody looks on."""

        async def tick() -> None:
            before, at = len(self._ledger.acknowledged), trio.current_time()
            while self._shown.live:
                await trio.sleep(TICK_S)
                count, now = len(self._ledger.acknowledged), trio.current_time()
                say((count - before) / (now - at))
                before, at = count, now

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            yield
            nursery.cancel_scope.cancel()

    def _say_load(self, per_second: float) -> None:
        self._shown.say(f"loading: {len(self._ledger.acknowledged):,} keys, {per_second:,.0f} writes/s")

    def _say_run(self, per_second: float) -> None:
        report = self._report
        text = f"running: {per_second:,.0f} writes/s, {self._ledger.reads:,} reads"
        if report.killed is not None:
            text += f"; killed {report.killed}, which led {report.led_by_killed} groups"
        self._shown.say(text)

    def _say_verify(self, verified: int) -> None:
        self._shown.say(f"verified {verified:,} of {len(self._ledger.acknowledged):,}")


def _object(report: Report) -> dict[str, Any]:
    """What `--json` adds to what was asked for."""
    return {
        "seconds": round(report.run_s, 3),
        "started_s": round(report.started_s, 3),
        "loaded": report.loaded,
        "load_per_second": round(report.loaded / report.load_s, 1),
        "written": report.written,
        "writes_per_second": round(report.written / report.run_s, 1),
        "reads": report.reads,
        "unknown": report.unknown,
        "killed": report.killed,
        "led_by_killed": report.led_by_killed,
        "without_leader_s": {
            "median": round(statistics.median(report.gaps), 3) if report.gaps else None,
            "max": round(max(report.gaps), 3) if report.gaps else None,
        },
        "caught_up_s": round(report.caught_up_s, 3) if report.killed else None,
        "verified": report.verified,
        "acknowledged": report.acknowledged,
        "ok": report.verified == report.acknowledged and not report.complaints,
    }


def _facts(report: Report) -> dict[str, object]:
    facts: dict[str, object] = {
        "start": f"all groups had leaders after {report.started_s:.1f} s",
        "load": f"{report.loaded:,} names of characters, {report.loaded / report.load_s:,.0f} writes/s",
        "run": f"{report.written:,} writes and {report.reads:,} reads in {report.run_s:.1f} s, "
        f"{report.written / report.run_s:,.0f} writes/s",
    }
    if report.killed is not None:
        facts["kill"] = f"{report.killed}, which led {report.led_by_killed} groups, by SIGKILL"
        if report.gaps:
            facts["without a leader"] = (
                f"median {statistics.median(report.gaps):.2f} s, at most {max(report.gaps):.2f} s"
            )
        facts["restart"] = f"caught up {report.caught_up_s:.1f} s after it was started again"
    if report.unknown:
        facts["outcome unknown"] = (
            f"{report.unknown} writes under way at the kill: there or not, both are right"
        )
    return facts
