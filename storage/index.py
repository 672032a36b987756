"""Where a group's entries lie: five numbers per run in one packed array.

A row is (first, last, term, place, length): 40 bytes, where a tuple of ints in a list would be
280. `place` is the segment's sequence number times 2**32 plus the record's offset in it; `length`
is the whole record's. Rows are ascending and do not overlap. In a log that is in use they have no
gaps either; while a log is being recovered there may be (see recovery.py).

A row can say less than its record holds, when a later append overwrote the run's end: the record
stays as it is, the row's `last` counts.
"""

from __future__ import annotations

from array import array
from typing import Final

STRIDE: Final = 5
FIRST: Final = 0
LAST: Final = 1
TERM: Final = 2
PLACE: Final = 3
LENGTH: Final = 4
OFFSET_BITS: Final = 32
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1


def new_rows() -> array[int]:
    return array("Q")


def find(rows: array[int], index: int) -> int:
    """Number of the first row whose last index is at least `index`; the row count if none is.

    Looks at the last row first: that is where nearly every question is about.
    """
    high = len(rows) // STRIDE
    if not high or rows[-4] < index:
        return high
    if rows[-5] <= index:
        return high - 1
    low = 0
    while low < high:
        middle = (low + high) >> 1
        if rows[middle * STRIDE + LAST] < index:
            low = middle + 1
        else:
            high = middle
    return low


def cut_from(rows: array[int], first: int) -> array[int]:
    """Drop every entry from index `first` on. Returns the rows that are gone as a whole."""
    number = find(rows, first)
    at = number * STRIDE
    if at < len(rows) and rows[at + FIRST] < first:
        rows[at + LAST] = first - 1
        at += STRIDE
    gone = rows[at:]
    del rows[at:]
    return gone


def cut_up_to(rows: array[int], index: int) -> array[int]:
    """Drop the rows that lie wholly at or below `index` and return them."""
    at = find(rows, index + 1) * STRIDE
    gone = rows[:at]
    del rows[:at]
    return gone


def holes(rows: array[int], base: int) -> int | None:
    """The first index above `base` that lies between rows but in none of them, or None.

    `rows` is not empty.
    """
    firsts, lasts = rows[FIRST::STRIDE], rows[LAST::STRIDE]
    # Rows do not overlap: if together they hold as many entries as there are between their ends,
    # none is missing. Millions of rows are counted like this in no time.
    if firsts[0] <= base + 1 and sum(lasts) - sum(firsts) + len(firsts) == lasts[-1] + 1 - firsts[0]:
        return None
    expected = base + 1
    for at in range(0, len(rows), STRIDE):
        if rows[at + FIRST] > expected:
            return expected
        expected = rows[at + LAST] + 1
    return None
