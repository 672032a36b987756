"""The interpreter's settings are a host's only while one is open."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from multiraft.process import GC_THRESHOLDS, SWITCH_INTERVAL_S, YOUNG_OBJECTS, YOUNG_RUNS, Young, tuned


def settings() -> tuple[float, tuple[int, int, int]]:
    return sys.getswitchinterval(), gc.get_threshold()


def test_settings_hold_until_the_last_host_closes() -> None:
    before = settings()
    with tuned():
        with tuned():
            assert settings() == (SWITCH_INTERVAL_S, GC_THRESHOLDS)
        assert settings() == (SWITCH_INTERVAL_S, GC_THRESHOLDS)
    assert settings() == before


def test_what_the_program_chose_stays_when_it_goes_further() -> None:
    before = settings()
    try:
        sys.setswitchinterval(SWITCH_INTERVAL_S / 5)
        gc.set_threshold(0)
        chosen = settings()
        with tuned():
            assert settings() == chosen
        assert settings() == chosen
    finally:
        sys.setswitchinterval(before[0])
        gc.set_threshold(*before[1])


class Node:
    """Holds itself: only the collector frees it."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture
def host_is_open() -> Iterator[None]:
    gc.collect()
    with tuned():
        yield


@pytest.mark.usefixtures("host_is_open")
def test_young_garbage_goes_once_many_objects_were_made() -> None:
    young, node = Young(), weakref.ref(Node())
    young.look(0)
    assert node() is not None, "too early"
    held: list[list[object]] = [[] for _ in range(YOUNG_OBJECTS)]
    young.look(0)
    assert node() is None
    assert young.looks == 1
    assert young.max_s > 0
    del held


@pytest.mark.usefixtures("host_is_open")
def test_young_garbage_goes_once_many_runs_were_written_though_as_many_objects_were_freed() -> None:
    young, node = Young(), weakref.ref(Node())
    young.look(YOUNG_RUNS - 1)
    assert node() is not None, "too early"
    young.look(YOUNG_RUNS)
    assert node() is None
    young.look(YOUNG_RUNS + 1)
    assert young.looks == 1


@pytest.mark.usefixtures("host_is_open")
def test_garbage_that_was_in_use_at_one_look_goes_at_the_next() -> None:
    young, kept = Young(), Node()
    node = weakref.ref(kept)
    young.look(YOUNG_RUNS)
    del kept
    young.look(2 * YOUNG_RUNS)
    assert node() is None


@pytest.mark.usefixtures("host_is_open")
def test_nothing_is_collected_where_the_program_switched_that_off() -> None:
    young, node = Young(), weakref.ref(Node())
    gc.disable()
    try:
        young.look(YOUNG_RUNS)
    finally:
        gc.enable()
    assert node() is not None
    assert young.looks == 0
