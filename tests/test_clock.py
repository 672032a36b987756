"""The time that a machine was suspended counts."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from multiraft import clock
from multiraft.clock import HostClock, suspended_s


async def test_a_suspension_counts_at_once(
    monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    before = suspended_s()
    monkeypatch.setattr(clock, "suspended_s", lambda: before)
    host = HostClock()
    start = host.now()
    assert start == trio.current_time()
    mock_clock.jump(2)
    assert host.now() == start + 2
    monkeypatch.setattr(clock, "suspended_s", lambda: before + 3600)
    assert host.now() == pytest.approx(start + 3602)


async def test_it_never_falls(
    monkeypatch: pytest.MonkeyPatch,
    mock_clock: trio.testing.MockClock,  # noqa: ARG001 - trio runs on it
) -> None:
    """A reading is too low when its thread was held up in the middle of it."""
    readings = iter([10.0, 10.5, 10.2])
    monkeypatch.setattr(clock, "suspended_s", lambda: next(readings))
    host = HostClock()
    assert host.now() == trio.current_time() + 0.5
    assert host.now() == trio.current_time() + 0.5


async def test_sleeping_ends_when_the_moment_has_come(
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - trio runs on it
) -> None:
    before = suspended_s()
    monkeypatch.setattr(clock, "suspended_s", lambda: before)
    host = HostClock()
    start = host.now()
    await host.sleep_until(start + 5)
    assert host.now() == start + 5
    await host.sleep_until(start)
    assert host.now() == start + 5


def test_this_machine_was_not_suspended_within_the_last_moment() -> None:
    first = suspended_s()
    assert 0 <= suspended_s() - first + 0.5 < 1
