"""Results of large runs, on their way to those who wait for them.

A task that is woken runs in the next turn of trio's loop, together with all others that are, in any
order. Where one group has a thousand results at once, everybody else's frames and results wait for its
thousand tasks, at each of the turns that they take: two from a pass to the socket, two from a socket
to the inbox. So beside others a group gets its results in pieces, and between two of them there are
passes without, in which the others get on. What it proposes meanwhile waits until all its results are
out, and makes one run, as it would have otherwise.

It takes all three. Pieces without passes between them only spread the thousand tasks over as many turns
as the others need; and runs as small as the pieces cost the group more than the pauses do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from multiraft.group import Group

PIECE_RESULTS: Final = 256
"""Waiters of one group that are woken at once beside others: one to three milliseconds, with their turn."""

PAUSE_PASSES: Final = 3
"""Passes between two pieces: about what a frame takes, out or in."""

COMPANY_TICKS: Final = 2
"""Ticks for which a group has company after another one was seen to have business."""


class Outcomes:
    """The groups of a host with results to hand out."""

    def __init__(self, *, mark_dirty: Callable[[Group], None]) -> None:
        self._mark_dirty = mark_dirty
        self.piece = PIECE_RESULTS
        """Fewer in a simulator, whose groups never have that many."""
        self.groups: dict[Group, None] = {}
        """Those whose large runs were applied and whose results are not all handed out."""
        self._pause = 0
        """Passes left until the next piece."""
        self._latest: Group | None = None
        """The first of those that had business last, and when that was."""
        self._latest_at = 0
        self._company_until = 0

    def see(self, groups: Collection[Group], tick: int) -> None:
        """These, one at least, have business in this pass."""
        first = next(iter(groups))
        if len(groups) > 1 or (first is not self._latest and tick < self._latest_at + COMPANY_TICKS):
            self._company_until = tick + COMPANY_TICKS
        self._latest, self._latest_at = first, tick

    def hand_out(self, tick: int) -> None:
        """Once a pass: each group's next piece if it is time for one; all of it, if no other has business."""
        alone = tick >= self._company_until
        if self._pause and not alone:
            self._pause -= 1
            return
        for group in [*self.groups]:
            table = group.proposals
            if table.outcomes:
                table.hand_out(len(table.outcomes) if alone else self.piece)
                self._pause = PAUSE_PASSES
            if not table.outcomes:
                del self.groups[group]
                if table.queued and group.failed is None:
                    # In the next pass: those who were woken last have their turn before.
                    self._mark_dirty(group)
