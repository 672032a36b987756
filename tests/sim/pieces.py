"""Passes that end between any two pieces of work, as those of a host with thousands of groups do.

A simulated host has a handful of groups and short frames. Where looks at its clock take time, a piece is
one group, message or entry, and a pass is over after a few looks: whatever may be left to the next one is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest

from multiraft import apply, inbox, partings, rest, scheduler, writes

LOOKS: Final = 3
"""Looks at the clock in the time that a part of a pass may take."""

_ONE_AT_A_TIME: Final = (
    (apply, "PIECE_GROUPS"),
    (apply, "CLOCK_CHECK_ENTRIES"),
    (inbox, "PIECE_MESSAGES"),
    (inbox, "PIECE_ROWS"),
    (partings, "PIECE_GROUPS"),
    (rest, "TURNS_MIN"),
    (scheduler, "CLOCK_CHECK_GROUPS"),
    (writes, "STORED_PIECE"),
    (writes, "HELD_PIECE"),
)


@contextmanager
def small_pieces(*, wanted: bool) -> Iterator[None]:
    """While the block runs, if `wanted`."""
    with ExitStack() as stack:
        if wanted:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            for module, name in _ONE_AT_A_TIME:
                patch.setattr(module, name, 1)
        yield
