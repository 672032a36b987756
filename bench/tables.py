"""The tables of README.md, made from what is in results/; plots.py calls this."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.bench_dataflow import best_recorded
from bench.measure import ROOT, digits, recorded

QUIET_PERCENT = 10
"""What others may take of the machine before a table says that its figures suffer from it."""
README = ROOT / "bench" / "README.md"

Line = dict[str, Any]


def newest(question: str) -> list[Line]:
    """What was recorded last for each row, in the order in which the rows came first."""
    found: dict[str, Line] = {}
    for line in recorded(question):
        found[json.dumps(line["row"], sort_keys=True)] = line
    return list(found.values())


def cell(line: Line, figure: str, unit: str = "") -> str:
    """The median; a dash if there is none."""
    found = line["figures"].get(figure)
    return "" if found is None else f"{digits(found['median'])}{unit}"


def spread(line: Line, figure: str) -> str:
    """The median, and in parentheses the lowest and the highest run."""
    found = line["figures"].get(figure)
    if found is None:
        return ""
    if found["low"] == found["high"]:
        return digits(found["median"])
    return f"{digits(found['median'])} ({digits(found['low'])} to {digits(found['high'])})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def taken(lines: Sequence[Line]) -> str:
    """When, where and how often."""
    last = max(lines, key=lambda line: line["at"])
    machine = last["machine"]
    revisions = sorted({line["revision"] for line in lines if line["revision"]})
    runs = sorted({line["runs"] for line in lines})
    others = max(
        (line["figures"].get("others_percent", {"high": 0.0})["high"] for line in lines), default=0.0
    )
    text = (
        f"{last['at'][:10]}, commit {', '.join(revisions)}; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['python']}, Linux {machine['kernel']}, fdatasync {machine['fdatasync_us_p50']} µs; "
        f"runs of each row: {' or '.join(map(str, runs))}."
    )
    if others > QUIET_PERCENT:
        text += (
            f" **The machine was not quiet:** other programs took up to {others:.0f} % of it. Times and "
            "rates suffer from that; counts, and CPU for each operation, far less."
        )
    return text


def throughput(lines: Sequence[Line]) -> str:
    rows = []
    for line in lines:
        row = line["row"]
        what = row["mode"] + ("" if row["payload"] == 16 else f", {row['payload']} B")
        load = {name: row[name] for name in ("groups", "inflight", "payload")}
        machine = line["figures"]["flow_per_second"]["median"] / best_recorded(load)
        rows.append(
            [
                f"{what}, {row['groups']:,} x {row['inflight']:,}",
                spread(line, "per_second"),
                cell(line, "p50_ms", " ms"),
                cell(line, "p99_ms", " ms"),
                cell(line, "cpu_us"),
                cell(line, "flow_per_second"),
                f"{100 * line['figures']['of_flow']['median']:.0f} %",
                f"{100 * machine:.0f} %",
            ]
        )
    head = ["groups x outstanding", "operations/s", "p50", "p99", "CPU-µs, all hosts"]
    return table([*head, "bare data flow/s", "of it", "machine"], rows)


def idle(lines: Sequence[Line]) -> str:
    rows = [
        [
            f"{line['row']['groups']:,}",
            cell(line, "cpu_percent", " %"),
            cell(line, "cpu_us_per_group_and_second"),
            cell(line, "rss_mib", " MiB"),
            cell(line, "syncs_per_second"),
        ]
        for line in lines
    ]
    return table(["idle groups", "CPU of a host", "µs a group and second", "memory", "fdatasync/s"], rows)


def startup(lines: Sequence[Line]) -> str:
    rows = [
        [
            f"{line['row']['groups']:,}",
            spread(line, "create_led_s"),
            spread(line, "restart_led_s"),
            spread(line, "restart_open_s"),
            spread(line, "kill_led_s"),
        ]
        for line in lines
    ]
    head = ["groups", "made and all led", "restarted and all led", "of that, logs read"]
    return table([*head, "one of three killed, all led again"], rows)


def many(lines: Sequence[Line]) -> str:
    rows = [
        [
            f"{line['row']['groups']:,}",
            cell(line, "create_led_s", " s"),
            cell(line, "writes_s", " s"),
            f"{cell(line, 'p50_ms')} / {cell(line, 'p99_ms')} ms",
            cell(line, "applied_s", " s"),
            cell(line, "idle_cpu_percent", " %"),
            cell(line, "rss_mib", " MiB"),
            cell(line, "rss_kib_per_group", " KiB"),
            cell(line, "down_led_s", " s"),
            cell(line, "down_cpu_percent", " %"),
        ]
        for line in lines
    ]
    head = ["groups", "made and all led", "one write to each", "p50 / p99", "applied everywhere after"]
    head += ["CPU of a host, idle again", "memory", "of that, a group"]
    return table([*head, "one host killed, all led again", "CPU of a host, one down"], rows)


RESTART = ("open_s", "led_s", "applied_s", "pass_ms_max", "pass_cpu_ms_max")


def restart(lines: Sequence[Line]) -> str:
    names = {"closed": "closed and started again", "killed": "killed and started again", "lost": "one lost"}
    rows = [
        [
            f"{line['row']['groups']:,} groups, {line['row']['mib']:,} MiB: {text}",
            *(cell(line, f"{name}_{figure}") for figure in RESTART),
            f"{cell(line, f'{name}_passes_above_20_ms')} of {cell(line, f'{name}_passes')}",
        ]
        for line in lines
        for name, text in names.items()
    ]
    head = ["groups and log of each host", "logs read, groups opened", "all led", "all applied"]
    return table([*head, "longest pass, ms", "of its processor", "passes above 20 ms"], rows)


def fairness(lines: Sequence[Line]) -> str:
    rows = [
        [
            f"{line['row']['groups']:,} groups, {line['row']['hot']:,} outstanding on one",
            f"{cell(line, 'alone_p50_ms')} / {cell(line, 'alone_p99_ms')} ms",
            f"{cell(line, 'beside_p50_ms')} / {cell(line, 'beside_p99_ms')} ms",
            cell(line, "p99_times"),
            cell(line, "hot_per_second"),
        ]
        for line in lines
    ]
    head = ["", "quiet groups alone, p50 / p99", "beside the busy one", "p99, times"]
    return table([*head, "writes/s of the busy one"], rows)


def wakeup(lines: Sequence[Line]) -> str:
    rows = [[line["row"]["wake"], spread(line, "us"), spread(line, "cpu_us")] for line in lines]
    return table(["woken", "µs", "CPU-µs"], rows)


def work(lines: Sequence[Line]) -> str:
    rows = []
    for line in lines:
        row = line["row"]
        each = f", {row['each']} in each" if "each" in row else ""
        names = (
            "leader_calls",
            "follower_calls",
            "leader_bytes",
            "follower_bytes",
            "passes",
            "syncs",
            "frames",
        )
        rows.append([f"{row['work']}, {row['groups']:,} groups{each}", *(cell(line, name) for name in names)])
    head = ["", "calls, leader", "calls, a follower", "bytes, leader", "bytes, a follower"]
    return table([*head, "passes", "fdatasyncs", "frames"], rows)


def peers(lines: Sequence[Line]) -> str:
    rows = []
    for line in sorted(lines, key=lambda line: (line["row"]["load"] != "inside", line["row"]["outstanding"])):
        row = line["row"]
        groups = (
            f", {row['groups']} group{'s' if row['groups'] > 1 else ''}"
            if row["system"] == "multiraft"
            else ""
        )
        rows.append(
            [
                f"{row['load']}, {row['outstanding']:,}: {row['system']}{groups}",
                spread(line, "per_second"),
                cell(line, "p50_ms", " ms"),
                cell(line, "p99_ms", " ms"),
                cell(line, "server_cpu_us"),
                cell(line, "generator_cpu_us"),
            ]
        )
    head = ["load, outstanding: system", "writes/s", "p50", "p99", "CPU-µs of the servers"]
    return table([*head, "CPU-µs of the load"], rows)


TABLES: dict[str, Callable[[Sequence[Line]], str]] = {
    "throughput": throughput,
    "idle": idle,
    "startup": startup,
    "many": many,
    "restart": restart,
    "fairness": fairness,
    "wakeup": wakeup,
    "work": work,
    "peers": peers,
}


def filled_in(text: str) -> str:
    """`text` with every `<!-- figures of X -->` … `<!-- end -->` filled from what was recorded."""
    for question, make in TABLES.items():
        begin, end = f"<!-- figures of {question} -->", "<!-- end -->"
        place = text.find(begin)
        if place < 0:
            raise ValueError(f"{README} has no {begin}")
        until = text.index(end, place)
        lines = newest(question)
        body = f"{make(lines)}\n\n{taken(lines)}" if lines else "Nothing was recorded yet."
        text = f"{text[:place]}{begin}\n{body}\n{text[until:]}"
    return text


def write_tables() -> None:
    """Raises: ValueError, when README.md has lost the place of a table."""
    README.write_text(filled_in(README.read_text(encoding="utf-8")), encoding="utf-8")
    print("bench/README.md")
