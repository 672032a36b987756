"""Seeds of the simulator: every rule of invariants.py, on many short lives of whole clusters."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.sim.cluster import SimulationFailed, simulate
from tests.sim.mutants import MUTANTS
from tests.sim.plan import draw_plan

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 120
PARTS = 8

ONCE_BROKEN = {
    7: "a refusal that was lost with its link left the proposer waiting for ever",
    11: "a forwarded proposal was not sent again to a leader that was lost and found in one term",
    22: "our own snapshot was recorded behind a received one",
    111: "a machine of the host's thread was captured in the worker",
    160: "likewise",
    189: "the term of a captured index was asked for when a received snapshot had replaced the log",
    228: "a snapshot file held the state of an earlier index than it said",
    243: "pruning took the only file that the log could use",
    315: "the rest of a half-applied run was sent with an index",
    431: "answers to later writes overtook the restoring of a snapshot",
    702: "a leader was elected twice in one term, its own vote having been lost",
    1103: "pruning took a received file before it was installed",
    2449: "a durable machine that was ahead after a restart was captured under too low an index",
    2318: "an event took a change for a joint one, by the configuration of a later snapshot",
    2408: "the only member left needed the vote of one that was removed and had stopped",
    1234: "a follower waited for a snapshot that could not be sent",
}
"""Seeds that found a bug, and which. They draw other plans whenever plan.py changes."""


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_rule_is_broken(part: int) -> None:
    for seed in range(part, SEEDS, PARTS):
        simulate(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ONCE_BROKEN)
def test_what_was_once_broken_stays_mended(seed: int) -> None:
    simulate(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 3, 7])
def test_a_seed_replays_exactly(seed: int) -> None:
    """The same events at the same times in the same order, to the last byte of every frame."""
    lines: list[str] = []
    first = simulate(seed, sink=lines.append)
    assert simulate(seed) == first
    assert len(lines) > 1000


def test_another_seed_is_another_run() -> None:
    assert draw_plan(1) != draw_plan(2)
    assert draw_plan(1) == draw_plan(1)


@pytest.mark.slow
def test_a_run_does_not_depend_on_the_hash_seed() -> None:
    """Sets of strings are iterated in another order in every process; nothing may come of it."""
    outputs = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-m", "tests.sim", "--seed", "9"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(done.stdout.split(" in ")[0])
    assert outputs[0] == outputs[1]
    assert "digest" in outputs[0]


@pytest.mark.slow
def test_the_simulator_gets_somewhere() -> None:
    """Rules that nothing tests hold of themselves: things must happen, good and bad."""
    calls: Counter[str] = Counter()
    joint = joins = deleted = 0
    snapshots = terms = transfers = crashes = 0
    for seed in range(20):
        lines: list[str] = []
        outcome = simulate(seed, sink=lines.append)
        calls.update(outcome.calls)
        snapshots += outcome.snapshots
        terms += outcome.terms
        transfers += sum(line.endswith(" arrived") for line in lines)
        joint += sum(" has members " in line and " from [" in line for line in lines)
        joins += sum("to be joined as" in line for line in lines)
        deleted += sum(line.endswith(" to be deleted") for line in lines)
        crashes += sum(line.endswith((" power lost", " killed")) for line in lines)
        assert outcome.committed > 0
    assert calls["done"] > 1000
    assert calls["read"] > 1000
    assert min(calls[outcome] for outcome in ("dropped", "unknown", "lost", "unread")) > 10
    assert min(calls[outcome] for outcome in ("changed", "change refused")) > 50
    assert min(snapshots, terms, crashes) > 20
    assert min(joint, joins, deleted) > 5
    assert transfers > 0


def test_a_failure_says_how_to_see_it_again() -> None:
    with MUTANTS["answers_before_the_sync"](), pytest.raises(SimulationFailed) as failed:
        simulate(0, lines=5)
    text = str(failed.value)
    assert "python -m tests.sim --seed 0 --verbose" in text
    assert "the last 5 of" in text
    assert "§3.8" in text
