"""What the benchmarks share: several runs summed up, rows kept, and a README that agrees with them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import measure
from bench.measure import Bench, Figure, Figures, Missing, RunFailed, percentile, recorded, summed_up
from bench.tables import README, TABLES, filled_in, newest

MACHINE = {
    "cpu": "x",
    "cores": 2,
    "memory_gib": 1.0,
    "kernel": "6",
    "python": "CPython 3",
    "fdatasync_us_p50": 100,
    "fdatasync_us_p99": 200,
    "spin_us": 3000,
}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(measure, "machine", lambda: MACHINE)
    return Bench("work", argparse.Namespace(runs=3, record=True))


def each(*values: float) -> Iterator[Figures]:
    return iter([{"us": value} for value in values])


def test_runs_are_summed_up_by_median_and_spread() -> None:
    """A figure that one run lacks is taken from the others."""
    found = summed_up([{"a": 3, "b": 1}, {"a": 1}, {"a": 2}])
    assert found == {"a": Figure(2, 1, 3), "b": Figure(1, 1, 1)}


@pytest.mark.parametrize(("fraction", "expected"), [(0.5, 51), (0.99, 100), (1.0, 100)])
def test_percentiles_are_samples(fraction: float, expected: int) -> None:
    assert percentile(range(1, 101), fraction) == expected


def test_the_warm_up_run_does_not_count(bench: Bench) -> None:
    runs = each(1000, 1, 2, 3)
    bench.measure([({"work": "x"}, lambda: next(runs))])
    assert recorded("work")[0]["figures"]["us"] == {"median": 2, "low": 1, "high": 3}


def test_the_newest_figures_of_each_row_count(bench: Bench) -> None:
    """Older ones stay in the file."""
    for value in (5.0, 6.0):
        bench.keep({"work": "x"}, {"us": Figure.of([value])})
    bench.keep({"work": "y"}, {"us": Figure.of([7.0])})
    assert [line["figures"]["us"]["median"] for line in recorded("work")] == [5, 6, 7]
    assert [line["figures"]["us"]["median"] for line in newest("work")] == [6, 7]


def test_a_row_that_fails_is_tried_once_and_spoils_no_other(bench: Bench) -> None:
    tries = 0

    def fails() -> Figures:
        nonlocal tries
        tries += 1
        raise RunFailed("no luck")

    with pytest.raises(SystemExit, match="1 of 2 rows"):
        bench.measure([({"work": "bad"}, fails), ({"work": "good"}, lambda: {"us": 1})])
    assert tries == 1
    assert [line["row"]["work"] for line in newest("work")] == ["good"]


def test_what_is_not_installed_is_left_out(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """That is no failure, but it is said."""

    def missing() -> Figures:
        raise Missing("install it")

    bench.measure([({"work": "bad"}, missing)])
    assert "install it" in capsys.readouterr().out
    assert newest("work") == []


def test_the_readme_shows_what_was_recorded() -> None:
    """`make plots` puts the figures there."""
    text = README.read_text(encoding="utf-8")
    assert filled_in(text) == text


@pytest.mark.parametrize("question", TABLES)
def test_every_recorded_line_names_its_machine(question: str) -> None:
    """And when, and at which commit: figures without these mean nothing."""
    for line in recorded(question):
        assert {"at", "revision", "machine", "runs", "row", "figures"} <= line.keys()
        assert line["machine"].keys() >= MACHINE.keys(), json.dumps(line)
