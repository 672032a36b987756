"""The protocol that lets groups rest, scene by scene; and what each of its rules prevents."""

from __future__ import annotations

import pytest

from multiraft import partings
from tests.sim.mutants import MUTANTS, replaced
from tests.sim.rest_mutants import SHOWN_BY
from tests.sim.scenes import SCENES
from tests.sim.world import Violation


@pytest.mark.parametrize("name", SCENES)
def test_scene(name: str) -> None:
    SCENES[name]()


PROMPT = {"followers_of_a_silent_host_elect_another"}
"""Scenes that ask who is first, which is nobody's promise: there whoever is told late comes late."""


@pytest.mark.parametrize("name", sorted(SCENES.keys() - PROMPT))
def test_scene_in_turn(name: str) -> None:
    """Groups of a session that began or ended are told one in each tick, so that most are told late."""
    with replaced(partings, "TURNS_TICK_MAX", 1):
        SCENES[name]()


@pytest.mark.parametrize("name", SHOWN_BY)
def test_a_rule_that_is_left_out_is_missed(name: str) -> None:
    with MUTANTS[name](), pytest.raises(Violation):
        SCENES[SHOWN_BY[name]]()
