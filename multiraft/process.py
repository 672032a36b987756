"""Two settings of the interpreter that a host changes while it is open, and puts back after.

They belong to the whole process, not to a host, so hosts that share one count themselves.

*The switch interval.* A thread that comes back from a system call waits for Python's global
lock until whoever holds it lets go, by default after 5 ms. The log's writer comes back from an
fdatasync of 0.2 ms that way, several times for a batch.

*The collector of cyclic garbage.* A host holds millions of small objects for long (groups, and
what machines hold) and makes few cycles. With the default thresholds it looks through all of
them about once a second under load, which halved the throughput of a thousand groups; looking
through young ones alone took a quarter of its time, as a thousand of them are made for a few
writes, most of which are freed without any help a moment later. One that is looked at costs nearly
a microsecond, since all it refers to is cold. So that is rare, and between passes: see `Young`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

SWITCH_INTERVAL_S: Final = 0.0005
GC_THRESHOLDS: Final = (50_000, 10, 2_000)
"""Where Python collects by itself, if a pass or the program makes so many objects before `Young` looks. All
objects are looked through after two thousand looks at the middle ones, which takes a second with ten thousand
groups, and only if a quarter of them came since the last time: next to never. A program that makes
cycles which live long has `gc.collect` for when it suits."""

YOUNG_OBJECTS: Final = 20_000
"""Objects made and not freed after which the young ones are looked through."""

YOUNG_RUNS: Final = 20_000
"""Runs of entries, likewise. Python counts what was made less what was freed, of whatever age, so a host
whose state machines drop as many objects as they take in would look never, and then at all of them."""

_open = 0
_before: tuple[float, tuple[int, int, int]] = (0.0, (0, 0, 0))


@contextmanager
def tuned() -> Iterator[None]:
    """Hold the settings of this module while the block runs.

    A shorter switch interval, or collection switched off, that the program chose itself stays.
    """
    global _open, _before
    if _open == 0:
        _before = (sys.getswitchinterval(), gc.get_threshold())
        if _before[0] > SWITCH_INTERVAL_S:
            sys.setswitchinterval(SWITCH_INTERVAL_S)
        if _before[1][0]:
            gc.set_threshold(*map(max, _before[1], GC_THRESHOLDS))
    _open += 1
    try:
        yield
    finally:
        _open -= 1
        if _open == 0:
            if _before[0] > SWITCH_INTERVAL_S:
                sys.setswitchinterval(_before[0])
            gc.set_threshold(*_before[1])


class Young:
    """Looks through young objects when that is due: called between passes, and takes as long as one.

    Every other time those are included that survived the look before; who survives that counts as old.
    Does nothing where the program has switched collection off.
    """

    __slots__ = ("_middle", "_runs", "looks", "max_s")

    def __init__(self) -> None:
        self._runs = 0
        self._middle = False
        self.looks = 0
        self.max_s = 0.0
        """The longest look."""

    def look(self, runs: int) -> None:
        """`runs`: how many were written so far."""
        if gc.get_count()[0] < YOUNG_OBJECTS and runs - self._runs < YOUNG_RUNS:
            return
        self._runs = runs
        if gc.isenabled() and gc.get_threshold()[0]:
            started = perf_counter()
            gc.collect(int(self._middle))
            self._middle = not self._middle
            self.looks += 1
            self.max_s = max(self.max_s, perf_counter() - started)
