"""The simulator catches known bugs, planted one at a time, and blames nothing else."""

from __future__ import annotations

from functools import partial

import attrs
import pytest

from tests.sim.cluster import Outcome, SimulationFailed, simulate
from tests.sim.invariants import Invariants
from tests.sim.mutants import FOCUS, MUTANTS, replaced
from tests.sim.plan import draw_plan
from tests.sim.rest_mutants import BY_SEEDS, SHOWN_BY
from tests.sim.world import Violation

SEEDS_MAX = 100

STALE_READS = (
    "reads_need_no_quorum",
    "reads_do_not_wait_for_the_term",
    "lease_outlives_a_pause",
    "reads_do_not_wait_for_apply",
)


def run(name: str, seed: int) -> Outcome:
    return simulate(seed, plan=attrs.evolve(draw_plan(seed), **FOCUS.get(name, {})))


def breaks_a_rule(name: str, seed: int) -> bool:
    """Whether the planted bug shows. Any other way to fail than by a rule is a mutant gone wrong."""
    try:
        with MUTANTS[name]():
            run(name, seed)
    except SimulationFailed as failure:
        if not isinstance(failure.error, Violation):
            raise
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in SHOWN_BY or name in BY_SEEDS])
def test_a_planted_bug_is_caught(name: str) -> None:
    """Within `SEEDS_MAX` seeds a rule is broken; without the bug that very run breaks none."""
    caught = next((seed for seed in range(SEEDS_MAX) if breaks_a_rule(name, seed)), None)
    assert caught is not None
    run(name, caught)


@pytest.mark.slow
@pytest.mark.parametrize("name", STALE_READS)
def test_a_stale_read_is_caught_from_the_calls_alone(name: str) -> None:
    """The recorded history gives it away, without the rule that looks at indexes."""

    def found(seed: int) -> bool:
        try:
            with MUTANTS[name](), replaced(Invariants, "answered", lambda *_: None):
                run(name, seed)
        except SimulationFailed as failure:
            return "not linearizable: nothing explains read" in str(failure.error)
        return False

    assert any(found(seed) for seed in range(SEEDS_MAX))


def test_mutants_leave_nothing_behind() -> None:
    """A planted bug is gone when its context ends, or later tests would test something else."""
    clean = partial(simulate, 2)
    before = clean()
    for mutant in MUTANTS.values():
        with mutant():
            pass
    assert clean() == before
