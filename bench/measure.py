"""What every benchmark here shares: the machine, several runs, what to print and what to keep.

A script asks one question. It measures each row several times, round by round rather than one row
after the other, so that a slow minute of the machine falls on all of them; prints the median with
the lowest and the highest; and appends one line of JSON per row to results/ when told to.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from multiraft.cli.scratch import scratch_folder

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"

SYNCS = 200
SYNC_BYTES = 4096

Figures = Mapping[str, float]
Row = Mapping[str, Any]


# --- the machine ---------------------------------------------------------------------------------


def sync_latencies_us(folder: str, syncs: int = SYNCS) -> list[float]:
    """Microseconds of each of some writes of 4 KiB with fdatasync into a preallocated file, ascending."""
    path = os.path.join(folder, "sync-latency")
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC)
    try:
        # Written once before, as the log does with its segments: no block is allocated by the sync.
        os.pwrite(descriptor, bytes(SYNC_BYTES * syncs), 0)
        os.fsync(descriptor)
        took = []
        for number in range(syncs):
            started = time.perf_counter()
            os.pwrite(descriptor, b"x" * SYNC_BYTES, number * SYNC_BYTES)
            os.fdatasync(descriptor)
            took.append((time.perf_counter() - started) * 1e6)
        return sorted(took)
    finally:
        os.close(descriptor)
        os.unlink(path)


def spin_us() -> float:
    """Microseconds of a fixed piece of pure Python, the best of five: how fast the processor is now."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        total = 0
        for number in range(100_000):
            total += number & 7
        best = min(best, time.perf_counter() - started)
    return best * 1e6


@cache
def machine() -> dict[str, Any]:
    """This machine, the versions, and how fast its disk and processor are at this moment."""
    with scratch_folder("measure") as folder:
        syncs = sync_latencies_us(folder)
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "fdatasync_us_p50": round(syncs[len(syncs) // 2]),
        "fdatasync_us_p99": round(syncs[int(len(syncs) * 0.99)]),
        "spin_us": round(spin_us()),
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        lines = []
    return lines[0] if lines else platform.machine()


def revision() -> str:
    """The commit that is measured; with "+" if code differs from it; "" outside a checkout."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *NOT_CODE)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changed else "")


NOT_CODE = (":!bench/results", ":!bench/plots", ":!*.md")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


class Others:
    """How busy the machine was with anything but us and the processes we waited for."""

    def __init__(self) -> None:
        self._busy, self._all, self._own = *_jiffies(), _own_cpu_s()
        self._tick = 1 / os.sysconf("SC_CLK_TCK")

    def percent(self) -> float:
        """Of all cores together, since this object was made. What the hypervisor took counts too."""
        busy, total = _jiffies()
        spent = (total - self._all) * self._tick
        others = (busy - self._busy) * self._tick - (_own_cpu_s() - self._own)
        return max(0.0, 100 * others / spent) if spent else 0.0


def _jiffies() -> tuple[int, int]:
    """Busy and all time of all cores (proc(5) stat)."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


# --- several runs --------------------------------------------------------------------------------


@attrs.frozen
class Figure:
    """One figure over the runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.low == self.high:
            return digits(self.median)
        return f"{digits(self.median)} ({digits(self.low)} to {digits(self.high)})"


def digits(value: float) -> str:
    """Three significant digits, or all before the point; 0 is plain."""
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def percentile(ascending: Sequence[float], fraction: float) -> float:
    """Of sorted samples; nan if there are none."""
    if not ascending:
        return float("nan")
    return ascending[min(len(ascending) - 1, int(len(ascending) * fraction))]


def summed_up(runs: Sequence[Figures]) -> dict[str, Figure]:
    """Each figure's median and spread. A figure that a run lacks is left out of that run only."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: Figure.of([run[name] for run in runs if name in run]) for name in names}


class Bench:
    """One script's run: how often, what is kept, what is printed."""

    def __init__(self, question: str, options: argparse.Namespace) -> None:
        self.question = question
        self.runs: int = options.runs
        self._record: bool = options.record
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._head = {"question": question, "at": at, "revision": revision(), "machine": machine()}
        print("{cpu}, {cores} cores, {memory_gib} GiB, Linux {kernel}, {python}".format_map(machine()))
        print(
            "fdatasync of 4 KiB: p50 {fdatasync_us_p50} us, p99 {fdatasync_us_p99} us; "
            "a fixed loop: {spin_us} us".format_map(machine())
        )

    def measure(self, rows: Sequence[tuple[Row, Callable[[], Figures]]], warmup: bool = True) -> None:
        """Measure every row `runs` times, round by round; print and keep each.

        Args:
            rows: What names a row, and what measures it once.
            warmup: Measure each row once more, before, and forget that. False: each measurement
                warms up by itself.

        A row that cannot be measured is left out, after its first failure. Unless that was only
        because something is `Missing`, the script ends with an error, after the other rows.
        """
        seen: list[list[Figures]] = [[] for _ in rows]
        failures: dict[int, RunFailed | Missing] = {}
        for run in range(self.runs + warmup):
            for number, (row, once) in enumerate(rows):
                if number in failures:
                    continue
                _say(f"run {run + 1} of {self.runs + warmup}: {label(row)}")
                try:
                    measured = _with_others(once)
                except (Missing, RunFailed) as failure:  # the other rows are still worth their time
                    failures[number] = failure
                else:
                    if run or not warmup:
                        seen[number].append(measured)
        _say("")
        for number, (row, _) in enumerate(rows):
            if number in failures:
                print(f"{label(row)}\n    not measured: {failures[number]}", flush=True)
            else:
                self.keep(row, summed_up(seen[number]))
        failed = sum(isinstance(each, RunFailed) for each in failures.values())
        if failed:
            sys.exit(f"{failed} of {len(rows)} rows could not be measured")

    def keep(self, row: Row, figures: Mapping[str, Figure]) -> None:
        """Print one row; append it to results/ if that was asked for."""
        print(label(row))
        width = max(map(len, figures))
        for name, figure in figures.items():
            print(f"    {name:<{width}}  {figure}")
        sys.stdout.flush()
        if self._record:
            line = {
                **self._head,
                "row": dict(row),
                "runs": self.runs,
                "figures": {name: attrs.asdict(figure) for name, figure in figures.items()},
            }
            RESULTS.mkdir(exist_ok=True)
            with open(RESULTS / f"{self.question}.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def _with_others(once: Callable[[], Figures]) -> Figures:
    """A measurement, and beside it how busy the machine was with something else."""
    others = Others()
    figures = dict(once())
    return {**figures, "others_percent": round(others.percent(), 1)}


def _say(text: str) -> None:
    """Progress, where somebody looks on."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def label(row: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items())


def arguments(
    description: str | None, *, runs: int = 3, seconds: float | None = None
) -> argparse.ArgumentParser:
    """The options that all scripts have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=runs, help=f"default: {runs}")
    parser.add_argument("--record", action="store_true", help="append the figures to bench/results/")
    if seconds is not None:
        parser.add_argument(
            "--seconds", type=float, default=seconds, help=f"of each run; default: {seconds:g}"
        )
    return parser


def recorded(question: str) -> list[dict[str, Any]]:
    """All lines that were kept for a question, oldest first; none if it was never asked."""
    try:
        with open(RESULTS / f"{question}.jsonl", encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        return []


# --- hosts in processes of their own -------------------------------------------------------------


class RunFailed(Exception):
    """A program that was to be measured ended with an error; this is what it said."""


class Missing(Exception):
    """What was to be measured is not installed; the message says how to install it."""


def run_json(command: Sequence[str]) -> dict[str, Any]:
    """Run a program of this checkout; the JSON object on its last line. Raises: RunFailed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RunFailed(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def bench_command(**options: object) -> dict[str, Any]:
    """`multiraft bench --json` with these options: its object."""
    command = [sys.executable, "-m", "multiraft", "bench", "--json"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return run_json(command)
