"""Equal values, kept once.

The groups of a host are made in thousands from one list of members, so their snapshot points and
metas are the same few bytes over and over; a host that has just read its log would hold each of
them ten thousand times.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

VALUES_MAX: Final = 1024

V = TypeVar("V", bound=Hashable)


class Shared(Generic[V]):
    """Call it with a value: what it returns is equal, and the same object for equal values.

    Knows `VALUES_MAX` values; at one more it forgets them all, which costs memory only: values
    that were handed out before are not the same as those handed out after.
    """

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[V, V] = {}

    def __call__(self, value: V) -> V:
        known = self._values.get(value)
        if known is None:
            if len(self._values) >= VALUES_MAX:
                self._values.clear()
            known = self._values[value] = value
        return known
