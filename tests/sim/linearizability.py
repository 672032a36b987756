"""Is a recorded history linearizable? A search for an order that explains every answer.

A history is linearizable (Herlihy and Wing 1990) if every operation can be given one moment between
its call and its return at which it took effect at once, so that a sequential object would have given
the same answers. It is if every key's part is, so keys are checked one by one.

The search is that of Wing and Gong (1993) in the form of Lowe (2017): calls and returns are taken in
the order of time, and a *configuration* is a state of the object together with which of the open
operations took effect. They take effect just in time: only when an operation returns, and only as many
as it takes for that one to be among them. Equal configurations are looked at once. Besides that:

- A read takes effect as soon as some state gives its answer: it leaves that state as it is, so no later
  moment is better.
- What nobody knows the outcome of stays open for ever and need not take effect. Of two configurations that
  differ only in such operations, the one that used fewer can do all that the other can.
- Two such operations that do the same are used in the order of their calls.

Whether a history is linearizable is NP-complete in general, so the search counts the configurations it
looks at and gives up above a bound. This file knows neither simulator nor network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from enum import Enum, auto
from typing import Final, Protocol

import attrs

STATES_MAX: Final = 200_000
"""Configurations looked at for one key before giving up. That takes about a second."""


class Kind(Enum):
    """What an operation does, and what its result is."""

    PUT = auto()
    """`argument` is the value from now on. No result."""
    GET = auto()
    """The value; None: there is none."""
    DELETE = auto()
    """There is no value from now on. No result."""
    SWAP = auto()
    """If the value is `expected`, it is `argument` from now on. Whether it was."""
    APPEND = auto()
    """`argument` comes behind all others. Its position, from 0; or None: it was not told."""
    LIST = auto()
    """All elements, as a tuple."""


READS: Final = frozenset({Kind.GET, Kind.LIST})


class Outcome(Enum):
    """What the client knows when its call is over."""

    DONE = auto()
    """It took effect between call and return, with `result`."""
    UNKNOWN = auto()
    """It takes effect at any time after its call, be it long after, or never."""
    FAILED = auto()
    """It never took effect, and never will."""


class Answer(Enum):
    LINEARIZABLE = auto()
    VIOLATED = auto()
    UNDECIDED = auto()
    """The search would have taken too long."""


@attrs.frozen
class Operation:
    """One call of one client. Times are in any unit; equal ones count as at the same time."""

    kind: Kind
    called: float
    returned: float
    """Not looked at unless the outcome is DONE."""
    argument: Hashable = None
    result: Hashable = None
    outcome: Outcome = Outcome.DONE
    expected: Hashable = None
    key: Hashable = None
    note: str = ""
    """For whoever reads about a violation."""


@attrs.frozen
class Verdict:
    answer: Answer
    looked_at: int
    """Configurations."""
    operation: Operation | None = None
    """Violated: the first one, by its return, that nothing explains."""
    states: tuple[Hashable, ...] = ()
    """Violated: the states that were possible until then."""

    def __str__(self) -> str:
        if self.operation is None:
            return f"{self.answer.name.lower()} after {self.looked_at} configurations"
        states = ", ".join(sorted(map(repr, self.states))[:5])
        return f"not linearizable: nothing explains {self.operation}; possible before it: {states}"


class Impossible(Enum):
    IMPOSSIBLE = auto()


IMPOSSIBLE: Final = Impossible.IMPOSSIBLE
"""The state after an operation that could not have had its result."""


class Anything(Enum):
    ANYTHING = auto()


ANYTHING: Final = Anything.ANYTHING
"""Any argument."""


class Model(Protocol):
    """A sequential object, made for the history of one key."""

    initial: Hashable

    def useful(self, operation: Operation) -> bool:
        """Whether one of unknown outcome could explain anything that somebody saw."""
        ...

    def read_state(self, read: Operation) -> Hashable:
        """The one state in which a read has its result."""
        ...

    def step(self, state: Hashable, operation: Operation) -> Hashable | Impossible:
        """The state after an operation that is not a read, if it has its result in `state`.

        Of one whose outcome is unknown: `IMPOSSIBLE` if it would change nothing.
        """
        ...

    def next_argument(self, state: Hashable) -> Hashable | Anything:
        """What the next operation's argument has to be, where answers say so."""
        ...


class Register:
    """PUT, GET, DELETE and SWAP on one value. The state is the value."""

    initial: Hashable = None

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._seen = {op.result for op in operations if op.kind is Kind.GET and op.outcome is Outcome.DONE}
        self._seen |= {op.expected for op in operations if op.kind is Kind.SWAP}
        # That a swap failed says of every value but one that it may have been there.
        self._all_seen = any(
            op.kind is Kind.SWAP and op.outcome is Outcome.DONE and not op.result for op in operations
        )

    def useful(self, operation: Operation) -> bool:
        return self._all_seen or operation.argument in self._seen  # that of DELETE is None, as it should be

    def read_state(self, read: Operation) -> Hashable:
        return read.result

    def step(self, state: Hashable, operation: Operation) -> Hashable | Impossible:
        if operation.kind is not Kind.SWAP:
            return operation.argument
        swapped = state == operation.expected
        if operation.outcome is Outcome.DONE and swapped != operation.result:
            return IMPOSSIBLE
        if swapped:
            return operation.argument
        return state if operation.outcome is Outcome.DONE else IMPOSSIBLE

    def next_argument(self, state: Hashable) -> Hashable | Anything:  # noqa: ARG002 - any value follows any
        return ANYTHING


class AppendList:
    """APPEND and LIST. What was seen says which element is where, so that the state is a length."""

    initial: Hashable = 0

    def __init__(self, operations: Sequence[Operation]) -> None:
        done = [op for op in operations if op.outcome is Outcome.DONE]
        lists = [op.result for op in done if op.kind is Kind.LIST and isinstance(op.result, tuple)]
        self._longest: tuple[Hashable, ...] = max(lists, key=len, default=())
        self._order: dict[int, Hashable] = dict(enumerate(self._longest))
        for op in done:
            if op.kind is Kind.APPEND and isinstance(op.result, int):
                self._order.setdefault(op.result, op.argument)
        self._elements = set(self._order.values())
        self._gaps = len(self._order) <= max(self._order, default=-1)

    def useful(self, operation: Operation) -> bool:
        return self._gaps or operation.argument in self._elements

    def read_state(self, read: Operation) -> Hashable:
        """-1, which no state is, for a list that contradicts the longest one."""
        result = read.result
        assert isinstance(result, tuple)
        return len(result) if self._longest[: len(result)] == result else -1

    def step(self, state: Hashable, operation: Operation) -> Hashable | Impossible:
        assert isinstance(state, int)
        if operation.outcome is Outcome.DONE and operation.result not in (None, state):
            return IMPOSSIBLE
        fits = self._order.get(state, operation.argument) == operation.argument
        return state + 1 if fits else IMPOSSIBLE

    def next_argument(self, state: Hashable) -> Hashable | Anything:
        assert isinstance(state, int)
        return self._order.get(state, ANYTHING)


def check(
    history: Iterable[Operation],
    model: type[Register] | type[AppendList] = Register,
    *,
    states_max: int = STATES_MAX,
) -> Verdict:
    """Whether `history` is linearizable.

    Args:
        history: Operations of any number of keys, in any order.
        model: What the object behind each key is.
        states_max: Configurations to look at for one key before giving up on it.
    """
    by_key: dict[Hashable, list[Operation]] = {}
    for operation in history:
        by_key.setdefault(operation.key, []).append(operation)
    looked_at = 0
    answer = Answer.LINEARIZABLE
    for operations in by_key.values():
        verdict = _Search(model(operations), operations, states_max).run()
        looked_at += verdict.looked_at
        if verdict.answer is Answer.VIOLATED:
            return verdict
        if verdict.answer is Answer.UNDECIDED:
            answer = Answer.UNDECIDED
    return Verdict(answer, looked_at)


class _GaveUp(Exception):
    pass


class _Configurations:
    """States, each with a bit for every open operation that took effect; none that another covers."""

    def __init__(self) -> None:
        self._by_known: dict[tuple[Hashable, int], list[int]] = {}

    def add(self, state: Hashable, effects: int, unknown: int) -> bool:
        """False: this one, or one that can do all that it can, is there.

        Args:
            unknown: The bits of operations that need not take effect.
        """
        used = effects & unknown
        others = self._by_known.setdefault((state, effects & ~unknown), [])
        if any(other & used == other for other in others):
            return False
        others[:] = [other for other in others if other & used != used]
        others.append(used)
        return True

    def all(self) -> Iterator[tuple[Hashable, int]]:
        for (state, known), others in self._by_known.items():
            for used in others:
                yield state, known | used


class _Search:
    """Of one key."""

    def __init__(self, model: Model, operations: Sequence[Operation], states_max: int) -> None:
        self._model = model
        self._states_max = states_max
        self._looked_at = 0
        self._operations = [op for op in operations if self._counts(op)]
        self._configurations: list[tuple[Hashable, int]] = [(model.initial, 0)]
        self._bits: dict[int, int] = {}
        """Of the open operations, by their place in the list."""
        self._allocated = 0
        self._free: list[int] = []
        """Bits of operations that have returned. Few bits make small numbers."""
        self._unknown = 0
        self._reads_at: dict[Hashable, int] = {}
        """Bits of the open reads, by the state that gives their result."""
        self._writes: dict[Hashable, dict[int, Operation]] = {}
        """The other open operations: argument, bit."""
        self._twin: dict[int, int] = {}
        """By bit: the operation called before it that does the same, if both outcomes are unknown."""
        self._last_of: dict[tuple[Hashable, ...], int] = {}

    def _counts(self, op: Operation) -> bool:
        if op.outcome is Outcome.UNKNOWN:
            return op.kind not in READS and self._model.useful(op)
        return op.outcome is Outcome.DONE

    def run(self) -> Verdict:
        events = [(op.called, 0, place) for place, op in enumerate(self._operations)]
        events += [
            (op.returned, 1, place) for place, op in enumerate(self._operations) if op.outcome is Outcome.DONE
        ]
        for _, returns, place in sorted(events):  # at the same time: calls first, so that they overlap
            if not returns:
                self._call(place)
                continue
            before = self._configurations
            try:
                self._return(place)
            except _GaveUp:
                return Verdict(Answer.UNDECIDED, self._looked_at)
            if not self._configurations:
                states = tuple({state for state, _ in before})
                return Verdict(Answer.VIOLATED, self._looked_at, self._operations[place], states)
        return Verdict(Answer.LINEARIZABLE, self._looked_at)

    def _call(self, place: int) -> None:
        op = self._operations[place]
        bit = self._bits[place] = self._free.pop() if self._free else self._allocate()
        if op.kind in READS:
            at = self._model.read_state(op)
            self._reads_at[at] = self._reads_at.get(at, 0) | bit
            self._configurations = [
                (state, effects | bit if state == at else effects) for state, effects in self._configurations
            ]
            return
        self._writes.setdefault(op.argument, {})[bit] = op
        if op.outcome is Outcome.UNKNOWN:
            self._unknown |= bit
            does = (op.kind, op.argument, op.expected)
            if does in self._last_of:
                self._twin[bit] = self._last_of[does]
            self._last_of[does] = bit

    def _allocate(self) -> int:
        self._allocated += 1
        return 1 << self._allocated

    def _return(self, place: int) -> None:
        """Keep the configurations in which it took effect, and those that lead there."""
        bit = self._bits.pop(place)
        found, seen = _Configurations(), _Configurations()
        waiting = deque(self._configurations)
        while waiting:
            state, effects = waiting.popleft()  # those first that used fewest: they cover others
            self._looked_at += 1
            if self._looked_at > self._states_max:
                raise _GaveUp
            if effects & bit:
                found.add(state, effects & ~bit, self._unknown)
            elif seen.add(state, effects, self._unknown):
                waiting += self._following(state, effects)
        self._close(place, bit)
        self._configurations = list(found.all())

    def _following(self, state: Hashable, effects: int) -> Iterator[tuple[Hashable, int]]:
        """One more operation takes effect, and the reads that have waited for its state."""
        wanted = self._model.next_argument(state)
        groups = self._writes.values() if wanted is ANYTHING else [self._writes.get(wanted, {})]
        for group in groups:
            for bit, op in group.items():
                twin = self._twin.get(bit, 0)
                if effects & bit or effects & twin != twin:
                    continue
                after = self._model.step(state, op)
                if after is not IMPOSSIBLE:
                    yield after, effects | bit | self._reads_at.get(after, 0)

    def _close(self, place: int, bit: int) -> None:
        op = self._operations[place]
        if op.kind in READS:
            at = self._model.read_state(op)
            self._reads_at[at] &= ~bit
            if not self._reads_at[at]:
                del self._reads_at[at]
        else:
            del self._writes[op.argument][bit]
            if not self._writes[op.argument]:
                del self._writes[op.argument]
        self._free.append(bit)
