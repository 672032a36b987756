"""Draw what is in results/, and put the tables into README.md.

    python bench/plots.py [--png FOLDER]        (make plots installs what it needs)

Of each row the newest figures count. Nothing is measured here. The same results give the same
bytes, so a plot changes only when a figure did.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.measure import ROOT
from bench.tables import Line, newest, write_tables

try:
    import matplotlib as mpl
except ImportError:
    sys.exit("matplotlib is not installed: make plots, or pip install -c constraints.txt -e '.[bench]'")

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

PLOTS = ROOT / "bench" / "plots"
OURS, BARE, THIRD, FOURTH = "#1f5fa8", "#9a9a9a", "#c2571a", "#3b8b4b"

Axes = Any
Point = tuple[float, dict[str, float]]

mpl.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "multiraft",
        "font.family": ["DejaVu Sans", "sans-serif"],
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e4e4e4",
        "grid.linewidth": 0.8,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "figure.dpi": 100,
    }
)


def short(value: float, _: object = None) -> str:
    """1500 as 1.5 k, as an axis wants it."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def full(value: float, _: object = None) -> str:
    return f"{value:,.0f}"


def measured_ticks(axis: Any, values: Iterable[float]) -> None:
    """Ticks at the values that were measured, and none between."""
    axis.set_major_locator(FixedLocator(sorted(set(values))))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(full))


def round_ticks(axis: Any, name: Callable[[float, object], str]) -> None:
    """Ticks of a log axis at 1, 2 and 5 of each power of ten."""
    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(name))


def line(axes: Axes, points: Sequence[Point], label: str, color: str, **style: Any) -> None:
    """Medians, with the lowest and the highest run as bars."""
    if not points:
        return
    xs = [x for x, _ in points]
    ys = [figure["median"] for _, figure in points]
    below = [figure["median"] - figure["low"] for _, figure in points]
    above = [figure["high"] - figure["median"] for _, figure in points]
    axes.errorbar(
        xs, ys, yerr=[below, above], label=label, color=color, marker="o", markersize=5, capsize=3, **style
    )


def points(lines: Iterable[Line], x: str, figure: str, **row: object) -> list[Point]:
    """Of the rows that look like `row`, one figure over one field, ascending."""
    found = [
        (float(each["row"][x]), each["figures"][figure])
        for each in lines
        if row.items() <= each["row"].items() and figure in each["figures"]
    ]
    return sorted(found, key=lambda point: point[0])


def throughput(x: str, fixed: str, values: Sequence[int], title: str, label: str) -> Any:
    """Writes per second over `x`, a pair of curves for each of `values`: ours, and the bare flow's."""
    lines = newest("throughput")
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    drawn: list[Point] = []
    for value, color in zip(values, (OURS, THIRD, FOURTH), strict=False):
        row = {"mode": "write", "payload": 16, fixed: value}
        ours = points(lines, x, "per_second", **row)
        bare = points(lines, x, "flow_per_second", **row)
        name = f"{value:,} {fixed_name(fixed, value)}"
        line(axes, ours, f"multiraft, {name}", color, linewidth=1.8)
        line(axes, bare, f"bare data flow, {name}", color, linewidth=1, linestyle=":", alpha=0.6)
        drawn += ours + bare
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="writes per second", title=title)
    measured_ticks(axes.xaxis, (place for place, _ in drawn))
    round_ticks(axes.yaxis, short)
    axes.legend(fontsize=8.5, loc="best")
    return figure


def fixed_name(field: str, value: int) -> str:
    if field == "inflight":
        return "outstanding"
    return "group" if value == 1 else "groups"


def by_groups() -> Any:
    title = "Throughput by groups (three hosts, 16 bytes, fdatasync)"
    return throughput("groups", "inflight", (1024, 8192), title, "groups")


def by_outstanding() -> Any:
    title = "Throughput by writes outstanding (three hosts, 16 bytes, fdatasync)"
    return throughput("inflight", "groups", (1, 48), title, "writes outstanding, in all groups together")


def idle() -> Any:
    lines = newest("idle")
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
    cpu, memory = points(lines, "groups", "cpu_percent"), points(lines, "groups", "rss_mib")
    line(left, cpu, "CPU", OURS, linewidth=1.8)
    line(right, memory, "memory", OURS, linewidth=1.8)
    left.set(title="CPU of an idle host", xlabel="groups", ylabel="per cent of one core", xscale="log")
    right.set(title="Memory of an idle host", xlabel="groups", ylabel="MiB resident", xscale="log")
    for axes in (left, right):
        measured_ticks(axes.xaxis, (place for place, _ in cpu))
    for axes, found in ((left, cpu), (right, memory)):
        axes.set_ylim(0, 1.1 * max(figure["high"] for _, figure in found))
    return figure


def latency() -> Any:
    """A bar from p50 to p99 for each row of the table."""
    lines = newest("throughput")[::-1]  # the first row of the table on top
    figure, axes = plt.subplots(figsize=(7.6, 0.8 + 0.36 * len(lines)), layout="constrained")
    labels = []
    for place, each in enumerate(lines):
        p50, p99 = each["figures"]["p50_ms"]["median"], each["figures"]["p99_ms"]["median"]
        axes.plot([p50, p99], [place, place], color=OURS, linewidth=2, alpha=0.45)
        axes.plot(p50, place, "o", color=OURS, label="p50" if place == 0 else None)
        axes.plot(
            p99, place, "|", color=OURS, markersize=12, markeredgewidth=2, label="p99" if place == 0 else None
        )
        bare = each["figures"]["flow_p50_ms"]["median"]
        axes.plot(
            bare,
            place,
            "o",
            color=BARE,
            markersize=4,
            label="p50 of the bare data flow" if place == 0 else None,
        )
        row = each["row"]
        size = "" if row["payload"] == 16 else f", {row['payload']} B"
        labels.append(f"{row['mode']}, {row['groups']:,} x {row['inflight']:,}{size}")
    axes.set(xscale="log", xlabel="milliseconds", title="Latency, by groups x operations outstanding")
    axes.set_yticks(range(len(labels)), labels)
    round_ticks(axes.xaxis, full)
    axes.grid(axis="y", visible=False)
    figure.legend(fontsize=8.5, loc="outside lower center", ncols=3)
    return figure


NAMES = {"etcd": "etcd", "PySyncObj": "PySyncObj, nothing synced to disk"}


def peers() -> Any:
    """Writes per second, two kinds of load side by side."""
    lines = newest("peers")
    kinds = {"inside": "Load from inside the process", "http": "Load over HTTP/1.1"}
    figure, both = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for axes, (kind, title) in zip(both, kinds.items(), strict=True):
        rows = [each for each in lines if each["row"]["load"] == kind]
        systems = list(dict.fromkeys((each["row"]["system"], each["row"]["groups"]) for each in rows))
        loads = sorted({each["row"]["outstanding"] for each in rows})
        width = 0.8 / max(1, len(systems))
        for number, ((system, groups), color) in enumerate(zip(systems, (OURS, THIRD, FOURTH), strict=False)):
            found = points(rows, "outstanding", "per_second", system=system, groups=groups)
            places = [loads.index(int(x)) + (number - (len(systems) - 1) / 2) * width for x, _ in found]
            name = NAMES.get(system, f"{system}, {groups} group{'s' if groups > 1 else ''}")
            bars = axes.bar(places, [f["median"] for _, f in found], width * 0.92, color=color, label=name)
            axes.bar_label(
                bars, [short(float(f"{f['median']:.2g}")) for _, f in found], fontsize=8, padding=2
            )
        axes.set(title=title, ylabel="writes per second", xlabel="operations outstanding")
        axes.set_xticks(range(len(loads)), [f"{each:,}" for each in loads])
        axes.yaxis.set_major_formatter(FuncFormatter(short))
        axes.grid(axis="x", visible=False)
        axes.margins(y=0.3)
        axes.legend(fontsize=8.5, loc="upper left")
    return figure


DRAWN: dict[str, tuple[str, Callable[[], Any]]] = {
    "throughput-by-groups": ("throughput", by_groups),
    "throughput-by-outstanding": ("throughput", by_outstanding),
    "latency": ("throughput", latency),
    "idle": ("idle", idle),
    "peers": ("peers", peers),
}
"""File name: the question whose figures it shows, and who draws it."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--png", metavar="FOLDER", help="write PNGs there as well, to look at")
    options = parser.parse_args()
    PLOTS.mkdir(exist_ok=True)
    for name, (question, draw) in DRAWN.items():
        if not newest(question):
            print(f"{name}: nothing was recorded yet (python bench/bench_{question}.py --record)")
            continue
        figure = draw()
        # No date, or the file would change each time.
        figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})
        if options.png:
            figure.savefig(Path(options.png) / f"{name}.png")
        plt.close(figure)
        print(f"bench/plots/{name}.svg")
    write_tables()


if __name__ == "__main__":
    main()
