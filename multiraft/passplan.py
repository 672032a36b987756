"""How long passes are to be, going by how long those before took. Pure."""

from __future__ import annotations

from typing import Final

from multiraft.statistics import PassHistogram

LONG_PASS: Final = 3
"""A pass that takes so many times `max_pass_s` has the next ones planned for less."""

PLAN_MIN: Final = 0.6
"""The least part of `max_pass_s` that a pass is planned for."""
PLAN_LESS: Final = 0.95
"""What a long pass leaves of the plan."""
PLAN_MORE: Final = 0.002
"""What any other gives back, as a part of the time that it took: nothing, where there was nothing to do."""


class PassPlan:
    """What passes are planned for, and what they took.

    Attributes:
        seconds: For the next pass; its parts are bounded by multiples of it (`Scheduler.run_pass`).
    """

    __slots__ = ("_most_s", "histogram", "seconds")

    def __init__(self, max_pass_s: float) -> None:
        self.seconds = self._most_s = max_pass_s
        self.histogram = PassHistogram()

    def took(self, seconds: float) -> None:
        """A pass took so long, by the clock."""
        self.histogram.add(seconds)
        most_s = self._most_s
        if seconds > LONG_PASS * most_s:
            self.seconds = max(PLAN_MIN * most_s, PLAN_LESS * self.seconds)
        elif self.seconds < most_s:
            self.seconds = min(most_s, self.seconds + PLAN_MORE * seconds)
