"""The interpreter's settings are a host's only while one is open."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest

from multiraft import process
from multiraft.process import (
    GC_THRESHOLDS,
    MIDDLE_EVERY,
    PYTHON_THRESHOLDS,
    SWITCH_INTERVAL_S,
    collect_young,
    tuned,
)


def settings() -> tuple[float, tuple[int, int, int]]:
    return sys.getswitchinterval(), gc.get_threshold()


def test_settings_hold_until_the_last_host_closes() -> None:
    before = settings()
    assert before[1] == PYTHON_THRESHOLDS
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


class Cycle:
    """Garbage that only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


def collected() -> list[int]:
    """How often each generation was looked through, ever."""
    return [generation["collections"] for generation in gc.get_stats()]


def test_young_garbage_is_collected_and_older_now_and_then() -> None:
    with tuned():
        young = weakref.ref(Cycle())
        before = collected()
        for _ in range(MIDDLE_EVERY):
            collect_young()
        assert young() is None
        each = [now - then for now, then in zip(collected(), before, strict=True)]
        assert each == [MIDDLE_EVERY - 1, 1, 0]


def test_nothing_is_collected_where_the_program_switched_that_off() -> None:
    gc.disable()
    try:
        with tuned():
            before = collected()
            for _ in range(MIDDLE_EVERY):
                collect_young()
            assert collected() == before
    finally:
        gc.enable()


def test_all_objects_are_looked_through_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many looks at the middle ones, and not again while that would take too much of the time."""
    monkeypatch.setattr(process, "OLD_AFTER", 1)
    monkeypatch.setattr(process, "_old_not_before", 0.0)
    gc.freeze()  # what the tests' process has is no part of this, and takes long
    try:
        with tuned():
            gc.collect()
            before = collected()
            for _ in range(4 * MIDDLE_EVERY):
                collect_young()
            assert collected()[2] - before[2] == 1
    finally:
        gc.unfreeze()
