"""Results of large runs, on their way to those who wait for them.

A task that is woken runs in the next turn of trio's loop, together with all others that are, in any
order. Where one group has a thousand results at once, everybody else's frames and results wait for its
thousand tasks, at each of the turns that they take: two from a pass to the socket, two from a socket
to the inbox. So beside others results of large runs leave in pieces, and between two of them there are
passes without, in which the others get on. What the group proposes meanwhile waits until all its results
are out and who was woken last had a turn, and makes one run, as it would have otherwise.

It takes all three. Pieces without passes between them only spread the thousand tasks over as many turns
as the others need; and runs as small as the pieces cost the group more than the pauses do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Final

from multiraft.group import Group
from multiraft.types import GroupId

PIECE_WAITERS: Final = 256
"""Those of one group that are woken in a pass beside others: one to three milliseconds, with their turn. A
run that no more wait for is not large. Of each group: where many have large runs none of them is quiet, and
to have them wait for each other would cost a third of their throughput."""

PAUSE_PASSES: Final = 3
"""Passes between two pieces: about what a frame takes, out or in."""

COMPANY_TICKS: Final = 10
"""Ticks for which a group has company after another one was seen to have business."""


class Outcomes:
    """The groups of a host with results to hand out."""

    def __init__(self, *, mark_dirty: Callable[[Group], None]) -> None:
        self._mark_dirty = mark_dirty
        self.piece = PIECE_WAITERS
        """Fewer in a simulator, whose groups never have that many."""
        self.groups: dict[Group, None] = {}
        """Those with large runs that were applied, until a pass after the last piece."""
        self._pause = 0
        """Passes left until the next piece."""
        self._latest: GroupId = 0
        """The first of those that had business last, and when that was."""
        self._latest_at = -COMPANY_TICKS
        self._company_until = 0

    def see(self, groups: Collection[Group], tick: int) -> None:
        """These, one at least, have business in this pass."""
        first = next(iter(groups)).id
        if len(groups) > 1 or (first != self._latest and tick < self._latest_at + COMPANY_TICKS):
            self._company_until = tick + COMPANY_TICKS
        self._latest, self._latest_at = first, tick

    def hand_out(self, tick: int) -> None:
        """Once a pass: each group's next piece if it is time for one; all of it if no other has business."""
        groups = self.groups
        for group in [*groups]:
            if not group.proposals.outcomes:
                self._done(group)
        if tick >= self._company_until:
            for group in [*groups]:
                group.proposals.hand_out(sys.maxsize)
                self._done(group)
        elif self._pause:
            self._pause -= 1
        elif groups:
            self._pause = PAUSE_PASSES
            for group in groups:
                group.proposals.hand_out(self.piece)
        if not groups:
            self._pause = 0

    def _done(self, group: Group) -> None:
        """It may propose again: in the next pass, before which all who were woken have had their turn."""
        del self.groups[group]
        table = group.proposals
        table.outcomes = None
        if table.queued:
            self._mark_dirty(group)
