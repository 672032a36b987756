"""The protocol that lets groups rest, scene by scene; and what each of its rules prevents."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS
from tests.sim.rest_mutants import SHOWN_BY
from tests.sim.scenes import SCENES
from tests.sim.world import Violation


@pytest.mark.parametrize("name", SCENES)
def test_scene(name: str) -> None:
    SCENES[name]()


@pytest.mark.parametrize("name", SHOWN_BY)
def test_a_rule_that_is_left_out_is_missed(name: str) -> None:
    with MUTANTS[name](), pytest.raises(Violation):
        SCENES[SHOWN_BY[name]]()
