# NOTE FROM THE LEAD: see NOTE_FROM_LEAD.md in this worktree before you go on (remove this line).
"""Two settings of the interpreter that a host changes while it is open, and puts back after.

They belong to the whole process, not to a host, so hosts that share one count themselves.

*The switch interval.* A thread that comes back from a system call waits for Python's global
lock until whoever holds it lets go, by default after 5 ms. The log's writer comes back from an
fdatasync of 0.2 ms that way, several times for a batch.

*The collector of cyclic garbage.* A host holds millions of small objects for long (the entry
cache, the groups) and makes few cycles. With the default thresholds it looks through all of
them about once a second under load, which halved the throughput of a thousand groups. And it looks
through young ones when their number has grown so far, wherever that is: in the middle of a pass. It
counts what was made less what was freed, of whatever age, so a host that frees as much as it makes
has ten thousand young objects by then, and twice as many of the next age: 25 ms of a pass. So a host
collects by itself (`collect_young`), between two passes and after a bounded amount of work. The thresholds
are for what the program makes meanwhile: so many objects at once that they are looked through in parts.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

SWITCH_INTERVAL_S: Final = 0.0005
GC_THRESHOLDS: Final = (2_000, 2, 5_000)
PYTHON_THRESHOLDS: Final = (700, 10, 10)
"""What they are where nobody has changed them."""

MIDDLE_EVERY: Final = 3
"""Of so many looks at the youngest objects one is at those that the others left as well. What is still there
then counts as old."""

OLD_AFTER: Final = GC_THRESHOLDS[2]
"""So many looks at the middle ones after which all objects may be looked through. It takes 0.3 s with ten
thousand groups, in one piece, which nothing but the collector itself could change."""

OLD_SHARE: Final = 1 / 500
"""Of the time that may be spent with that, so that it is rarer where it takes long."""

_open = 0
_before: tuple[float, tuple[int, int, int]] = (0.0, (0, 0, 0))
_looks = 0
_old_not_before = 0.0


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
        if _before[1] == PYTHON_THRESHOLDS:
            gc.set_threshold(*GC_THRESHOLDS)
        elif _before[1][0]:
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


def collect_young() -> None:
    """Collect cyclic garbage among young objects; now and then among middle ones, and rarely among all.

    A host calls this after every few ms of passes. It does nothing where the program has switched
    collection off.
    """
    global _looks, _old_not_before
    if not gc.isenabled() or not gc.get_threshold()[0]:
        return
    _looks += 1
    if _looks % MIDDLE_EVERY:
        gc.collect(0)
    elif gc.get_count()[2] < OLD_AFTER or (started := perf_counter()) < _old_not_before:
        gc.collect(1)
    else:
        gc.collect()
        _old_not_before = started + (perf_counter() - started) / OLD_SHARE
