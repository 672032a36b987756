"""The simulator catches known bugs, planted one at a time, and blames nothing else."""

from __future__ import annotations

from functools import partial

import attrs
import pytest

from tests.sim.call_mutants import STALE_READS
from tests.sim.cluster import Outcome, SimulationFailed, simulate
from tests.sim.invariants import Invariants
from tests.sim.mutants import FOCUS, MUTANTS, replaced
from tests.sim.plan import draw_plan
from tests.sim.rest_mutants import BY_SEEDS, SHOWN_BY
from tests.sim.world import Violation

SEEDS_MAX = 100

CAUGHT_BY = {
    "leads_before_its_own_vote_is_durable": 17,
    "votes_for_shorter_logs": 3,
    "commits_older_terms_by_counting": 7,
    "follower_commits_all_the_leader_did": 6,
    "capture_goes_to_the_worker": 7,
    "reads_need_no_quorum": 8,
    "forwarded_proposals_of_any_term_are_taken": 32,
    "refusal_of_a_second_copy_is_believed": 9,
    "new_term_drops_what_is_being_applied": 4,
    "anybodys_vote_counts": 4,
}
"""A seed that caught it once, to be tried first. Nothing hangs on it: when the simulator has changed, and
what its seeds mean, the others are tried as well."""


def seeds(name: str) -> list[int]:
    """All of them; the one that caught it last comes first."""
    first = CAUGHT_BY.get(name, 0)
    return [first, *(seed for seed in range(SEEDS_MAX) if seed != first)]


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
    caught = next((seed for seed in seeds(name) if breaks_a_rule(name, seed)), None)
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

    assert any(found(seed) for seed in seeds(name))


def test_mutants_leave_nothing_behind() -> None:
    """A planted bug is gone when its context ends, or later tests would test something else."""
    clean = partial(simulate, 2)
    before = clean()
    for mutant in MUTANTS.values():
        with mutant():
            pass
    assert clean() == before
