"""What each program asked and was told: one history for each group, checked when the run is over.

A group's machine is a list of proposals. A proposal's answer says where in the list it is, and a read
sees all of it, by digest. Unlike `Invariants.answered`, which compares each read with the newest index
that anybody was told, this knows nothing of indexes and of what hosts show: only the calls count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from multiraft.types import GroupId, Index
from tests.sim.linearizability import Answer, AppendList, Kind, Operation, Outcome, Verdict, check
from tests.sim.machines import ID_BYTES, State
from tests.sim.world import Violation

if TYPE_CHECKING:
    from tests.sim.invariants import GroupHistory

OUTCOMES = {
    "done": Outcome.DONE,
    "dropped": Outcome.FAILED,
    "unknown": Outcome.UNKNOWN,
    "lost": Outcome.UNKNOWN,
    "read": Outcome.DONE,
    "unread": Outcome.FAILED,
}


@attrs.define(eq=False)
class Recorded:
    """One call. Times count what happened to calls: virtual time stands still within a pass."""

    kind: Kind
    name: bytes
    host: str
    called_s: float
    called: int
    outcome: Outcome = Outcome.UNKNOWN
    returned: int = 0
    returned_s: float = 0.0
    answer: State | Index | None = None
    """What a read saw; where a proposal is."""

    def __str__(self) -> str:
        what = "read" if self.kind is Kind.LIST else "proposal"
        times = f"called at {self.called_s:.6f} s, answered at {self.returned_s:.6f} s"
        return f"{what} {self.name.hex()} on {self.host}, {times} with {self.answer}"


class Recorder:
    """The histories of all groups."""

    def __init__(self) -> None:
        self._calls: dict[GroupId, list[Recorded]] = {}
        self._time = 0

    def called(self, group: GroupId, kind: Kind, name: bytes, host: str, now: float) -> Recorded:
        self._time += 1
        call = Recorded(kind, name, host, now, self._time)
        self._calls.setdefault(group, []).append(call)
        return call

    def ended(self, call: Recorded, outcome: str, now: float, answer: State | Index | None) -> None:
        self._time += 1
        call.outcome = OUTCOMES[outcome]
        call.returned, call.returned_s, call.answer = self._time, now, answer

    def check(self, group: GroupId, history: GroupHistory, last: State) -> None:
        """§6.4: every call has one moment between its call and its answer at which it took effect.

        Args:
            history: Says which proposals a digest stands for, and where in the list an index is.
            last: What all hosts have in the end, which counts as one more read.

        Raises:
            Violation: The history is not linearizable.
        """
        calls = self._calls.get(group, [])
        self._time += 1
        final = Recorded(Kind.LIST, b"", "all hosts", 0.0, self._time, Outcome.DONE, self._time, 0.0, last)
        verdict = check(self._operations([*calls, final], history), AppendList)
        if verdict.answer is not Answer.LINEARIZABLE:
            raise Violation(f"group {group}: {_described(verdict, [*calls, final])}")

    def _operations(self, calls: list[Recorded], history: GroupHistory) -> list[Operation]:
        names = tuple(history.applied[index][:ID_BYTES] for index in sorted(history.applied))
        operations = []
        for place, call in enumerate(calls):
            result: tuple[bytes, ...] | int | None = None
            if isinstance(call.answer, State):
                if history.states.get(call.answer.index) != call.answer:
                    raise Violation(f"{call}: a state that never was")
                result = names[: call.answer.count]
            elif call.answer is not None:
                result = history.states[call.answer].count - 1
            argument = call.name if call.kind is Kind.APPEND else None
            operations.append(
                Operation(
                    call.kind, call.called, call.returned, argument, result, call.outcome, note=f"{place}"
                )
            )
        return operations


def _described(verdict: Verdict, calls: list[Recorded]) -> str:
    if verdict.operation is None:
        return str(verdict)
    call = calls[int(verdict.operation.note)]
    counts = ", ".join(sorted(map(repr, verdict.states)))
    return f"not linearizable: nothing explains {call}; before it the list was {counts} long"
