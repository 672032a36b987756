"""The clock of a real host: trio's, and on top of it the time that the machine was suspended.

A leader that answers reads under a lease counts on its clock going on while those of its voters
do (thesis §6.4.1). trio's clock is CLOCK_MONOTONIC, which stands still while a machine is
suspended; CLOCK_BOOTTIME does not. A machine that wakes up finds the ticks owed that it slept
through, and reads nothing before they are counted. A virtual machine that is paused together
with its clocks cannot notice: leases are not for those.
"""

from __future__ import annotations

import time

import trio


def suspended_s() -> float:
    """Seconds for which this machine was suspended since it was started; 0 where nobody knows.

    Never too much: whoever is held up between the two readings makes the second one later.
    """
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return 0.0
    return time.clock_gettime(boottime) - time.clock_gettime(time.CLOCK_MONOTONIC)


class HostClock:
    """`Clock` of `open_host`. Underneath is trio's own clock, so that tests may bring theirs."""

    def __init__(self) -> None:
        self._before = self._most = suspended_s()

    def now(self) -> float:
        """Seconds; never falls."""
        self._most = max(self._most, suspended_s())
        return trio.current_time() + self._most - self._before

    async def sleep_until(self, moment: float) -> None:
        """Return once `now` has reached `moment`: late by what is left of it, after a suspension."""
        await trio.sleep(max(0.0, moment - self.now()))
