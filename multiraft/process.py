"""Two settings of the interpreter that a host changes while it is open, and puts back after.

They belong to the whole process, not to a host, so hosts that share one count themselves.

*The switch interval.* A thread that comes back from a system call waits for Python's global
lock until whoever holds it lets go, by default after 5 ms. The log's writer comes back from an
fdatasync of 0.2 ms that way, several times for a batch.

*The collector of cyclic garbage.* A host holds millions of small objects for long (the entry
cache, the groups) and makes few cycles. With the default thresholds it looks through all of
them about once a second under load, which halved the throughput of a thousand groups. The
youngest generations stay small, as nothing else happens while one is looked through: 50,000
objects and twenty such, before, took up to a second while tens of thousands of groups were made,
and 10,000 and ten such still made the longest passes of all, up to 50 ms.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH_INTERVAL_S = 0.0005
GC_THRESHOLDS = (1_000, 10, 2_000)

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
