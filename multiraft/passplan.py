"""How long passes are to be, going by how long those before took. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from multiraft.statistics import PassHistogram

MANY_GROUPS: Final = 4096
"""Groups on a host from which on its passes are kept shorter. With so many the next one's data are cold in
any case, and its writes seldom meet others of the same group, so shorter passes cost less than a tenth; with
a thousand groups they cost up to a fifth."""

PLAN_MORE: Final = 0.002
"""What a pass that was not long gives back to the plan, as a part of the time that it took: nothing, where
there was nothing to do."""


class Rule(NamedTuple):
    """When a pass is long, and what becomes of the plan then. All in times of `max_pass_s` but `less`."""

    long: float
    """A pass that takes so much has the next ones planned for less."""
    least: float
    """Never for less than that."""
    less: float
    """What a long pass leaves of the plan."""


FEW: Final = Rule(long=3.0, least=0.6, less=0.95)
MANY: Final = Rule(long=2.4, least=0.5, less=0.9)


class PassPlan:
    """What passes are planned for, and what they took.

    Attributes:
        seconds: For the next pass; its parts are bounded by multiples of it (`Scheduler.run_pass`).
    """

    __slots__ = ("_most_s", "histogram", "seconds")

    def __init__(self, max_pass_s: float) -> None:
        self.seconds = self._most_s = max_pass_s
        self.histogram = PassHistogram()

    def took(self, seconds: float, groups: int) -> None:
        """A pass took so long, by the clock, on a host with so many groups."""
        self.histogram.add(seconds)
        most_s, rule = self._most_s, MANY if groups >= MANY_GROUPS else FEW
        if seconds > rule.long * most_s:
            self.seconds = max(rule.least * most_s, rule.less * self.seconds)
        elif self.seconds < most_s:
            self.seconds = min(most_s, self.seconds + PLAN_MORE * seconds)
