"""The interpreter's settings are a host's only while one is open."""

from __future__ import annotations

import gc
import sys

from multiraft.process import GC_THRESHOLDS, SWITCH_INTERVAL_S, tuned


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
