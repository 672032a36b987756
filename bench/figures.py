"""Ask every question and keep the answers: then `make plots` draws them.

    python bench/figures.py [--quick] [--fresh] [--groups-max 1000] [--only throughput]

Everything goes to results/, one line of JSON a row, with the machine and the date. Takes about half an
hour on an idle machine, `--quick` (one short run of each row) about eight; more with ten thousand
groups. Close everything else before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent

QUESTIONS = (
    "work",
    "core_step",
    "wal",
    "wire",
    "wakeup",
    "dataflow",
    "throughput",
    "idle",
    "startup",
    "many",
    "restart",
    "fairness",
    "peers",
)
QUICK = {
    "core_step": ("--runs", "2", "--proposals", "5000"),
    "wal": ("--runs", "1", "--seconds", "1"),
    "wire": ("--runs", "2", "--seconds", "0.5"),
    "wakeup": ("--runs", "2"),
    "dataflow": ("--runs", "1", "--seconds", "3"),
    "throughput": ("--runs", "1", "--seconds", "3", "--warmup", "1.5"),
    "idle": ("--seconds", "5"),
    "startup": ("--runs", "1"),
    "restart": ("--groups", "2000", "--mib", "100"),
    "fairness": ("--runs", "1", "--windows", "1"),
    "many": ("--seconds", "5"),
    "peers": ("--runs", "1", "--seconds", "3"),
}


GROUPS = {"idle": (10, 100, 1_000, 10_000), "startup": (1_000, 10_000), "many": (1_000, 10_000, 100_000)}
"""Rows, as far as `--groups-max` lets them."""


def command(question: str, quick: bool, groups_max: int) -> list[str]:
    made = [sys.executable, str(HERE / f"bench_{question}.py"), "--record"]
    if quick:
        made += QUICK.get(question, ())
    if question == "throughput":
        made += ["--groups-max", str(groups_max)]
    if question in GROUPS:
        made += ["--groups", *(str(each) for each in GROUPS[question] if each <= groups_max)]
    if question == "restart" and not quick:
        made += ["--groups", str(min(10_000, groups_max))]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short run of each row")
    parser.add_argument("--fresh", action="store_true", help="forget what was recorded before")
    parser.add_argument("--groups-max", type=int, default=10_000, help="leave rows with more groups out")
    parser.add_argument("--only", choices=QUESTIONS, nargs="+", default=QUESTIONS)
    options = parser.parse_args()
    failed = []
    for question in options.only:
        print(f"\n== {question}", flush=True)
        if options.fresh:
            (HERE / "results" / f"{question}.jsonl").unlink(missing_ok=True)
        began = time.monotonic()
        done = subprocess.run(command(question, options.quick, options.groups_max), check=False)
        print(f"({time.monotonic() - began:.0f} s)", flush=True)
        if done.returncode:
            failed.append(question)
    if failed:
        sys.exit(f"not all could be measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
