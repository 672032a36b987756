"""The checker of histories: classic ones by hand, random ones by the thousand, and brute force beside it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Hashable, Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.atomic import atomic_history, linearizable_by_brute_force
from tests.sim.linearizability import Answer, AppendList, Kind, Operation, Outcome, Register, check

REGISTER = (Kind.PUT, Kind.GET, Kind.DELETE, Kind.SWAP)
LIST = (Kind.APPEND, Kind.LIST)
INFINITE = float("inf")


def put(called: float, returned: float, value: Hashable) -> Operation:
    return Operation(Kind.PUT, called, returned, value)


def get(called: float, returned: float, value: Hashable) -> Operation:
    return Operation(Kind.GET, called, returned, result=value)


def delete(called: float, returned: float) -> Operation:
    return Operation(Kind.DELETE, called, returned)


def swap(called: float, returned: float, expected: Hashable, value: Hashable, done: bool) -> Operation:
    return Operation(Kind.SWAP, called, returned, value, done, expected=expected)


def append(called: float, returned: float, element: Hashable, at: int | None = None) -> Operation:
    return Operation(Kind.APPEND, called, returned, element, at)


def listed(called: float, returned: float, *elements: Hashable) -> Operation:
    return Operation(Kind.LIST, called, returned, result=elements)


def unknown(op: Operation) -> Operation:
    return attrs.evolve(op, outcome=Outcome.UNKNOWN, returned=INFINITE, result=None)


def failed(op: Operation) -> Operation:
    return attrs.evolve(op, outcome=Outcome.FAILED)


GOOD: dict[str, list[Operation]] = {
    "nothing": [],
    "absent at first": [get(0, 1, None)],
    "overlapping: the new value, then": [put(0, 9, 1), get(1, 2, 1), get(3, 4, 1)],
    "overlapping: the old value until then": [put(0, 9, 1), get(1, 2, None), get(3, 4, 1)],
    "a write returns after it was overwritten": [put(0, 9, 1), put(1, 2, 2), get(3, 4, 2)],
    "returned and called at the same time": [put(0, 1, 1), get(1, 2, None)],
    "deleted": [put(0, 1, 1), delete(2, 3), get(4, 5, None)],
    "unknown and never seen": [put(0, 1, 1), unknown(put(2, 3, 2)), get(4, 5, 1)],
    "unknown and seen late": [unknown(put(0, 1, 1)), get(2, 3, None), get(4, 5, 1)],
    "unknown delete, late": [put(0, 1, 1), unknown(delete(2, 3)), get(4, 5, 1), get(6, 7, None)],
    "failed": [put(0, 1, 1), failed(put(2, 3, 2)), get(4, 5, 1)],
    "one of two swaps": [swap(0, 3, None, 1, True), swap(1, 2, None, 2, False), get(4, 5, 1)],
    "a failed swap tells of an unknown write": [
        put(0, 1, 1),
        unknown(put(2, 3, 2)),
        swap(4, 5, 1, 3, False),
        get(6, 7, 2),
    ],
    "a failed swap tells of an unknown write that nothing else shows": [
        put(0, 1, 1),
        unknown(put(2, 3, 2)),
        swap(4, 5, 1, 3, False),
        put(6, 7, 4),
    ],
    "the same value twice": [unknown(put(0, 1, 1)), unknown(put(0, 1, 1)), put(2, 3, 2), get(4, 5, 1)],
    "the same value twice, seen twice": [
        unknown(put(0, 1, 1)),
        unknown(put(0, 1, 1)),
        get(2, 3, 1),
        put(4, 5, 2),
        get(6, 7, 1),
    ],
    "either unknown write explains the first read, one of them the second": [
        unknown(put(0, 1, 1)),
        unknown(swap(0, 1, 0, 1, True)),
        put(2, 3, 0),
        get(4, 5, 1),
        put(6, 7, 5),
        get(8, 9, 1),
    ],
    "likewise, called in the other order": [
        unknown(swap(0, 1, 0, 1, True)),
        unknown(put(0.5, 1, 1)),
        put(2, 3, 0),
        get(4, 5, 1),
        put(6, 7, 5),
        get(8, 9, 1),
    ],
    # Herlihy and Wing 1990, figure 1, with a register in the place of the queue.
    "two writers, readers agree": [put(0, 5, 1), put(1, 6, 2), get(7, 8, 1), get(9, 10, 1)],
}

BAD: dict[str, list[Operation]] = {
    "stale read": [put(0, 1, 1), put(2, 3, 2), get(4, 5, 1)],
    "lost write": [put(0, 1, 1), get(2, 3, None)],
    "read of what nobody wrote": [put(0, 1, 1), get(2, 3, 7)],
    "new, then old": [put(0, 9, 1), get(1, 2, 1), get(3, 4, None)],
    "readers disagree": [put(0, 5, 1), put(1, 6, 2), get(7, 8, 1), get(9, 10, 2)],
    "back from the dead": [
        unknown(put(0, 1, 1)),
        get(2, 3, 1),
        put(4, 5, 2),
        get(6, 7, 2),
        get(8, 9, 1),
    ],
    "twice unknown, seen three times": [
        unknown(put(0, 1, 1)),
        unknown(put(0, 1, 1)),
        get(2, 3, 1),
        put(4, 5, 2),
        get(6, 7, 1),
        put(8, 9, 3),
        get(10, 11, 1),
    ],
    "seen before it was written": [get(0, 1, 1), put(2, 3, 1)],
    "unknown, seen before it was called": [get(0, 1, 1), unknown(put(2, 3, 1))],
    "failed, and yet seen": [failed(put(0, 1, 1)), get(2, 3, 1)],
    "undeleted": [put(0, 1, 1), delete(2, 3), get(4, 5, 1)],
    "unknown delete, undone": [put(0, 1, 1), unknown(delete(2, 3)), get(4, 5, None), get(6, 7, 1)],
    "both swaps": [swap(0, 3, None, 1, True), swap(1, 2, None, 2, True)],
    "a swap fails without a reason": [put(0, 1, 1), swap(2, 3, 1, 2, False)],
    "a swap of what is not there": [put(0, 1, 1), swap(2, 3, 2, 3, True)],
}

GOOD_LISTS: dict[str, list[Operation]] = {
    "nothing": [listed(0, 1)],
    "one after the other": [append(0, 1, "a", 0), append(2, 3, "b", 1), listed(4, 5, "a", "b")],
    "overlapping": [append(0, 3, "a", 1), append(1, 2, "b", 0), listed(4, 5, "b", "a")],
    "unknown in between": [unknown(append(0, 1, "a")), append(2, 3, "b", 1)],
    "unknown and late": [unknown(append(0, 1, "a")), listed(2, 3), append(4, 5, "b"), listed(6, 7, "b", "a")],
    "unknown and never": [unknown(append(0, 1, "a")), append(2, 3, "b", 0), listed(6, 7, "b")],
    "the same element twice": [
        append(0, 9, "a"),
        append(0, 1, "a"),
        listed(2, 3, "a"),
        listed(4, 5, "a", "a"),
    ],
}

BAD_LISTS: dict[str, list[Operation]] = {
    "stale": [append(0, 1, "a", 0), listed(2, 3)],
    "shrinks": [append(0, 9, "a"), listed(1, 2, "a"), listed(3, 4)],
    "lost": [append(0, 1, "a", 0), append(2, 3, "b", 0)],
    "twice": [append(0, 1, "a", 0), listed(2, 3, "a", "a")],
    "in another order": [append(0, 1, "a"), append(2, 3, "b"), listed(4, 5, "b", "a")],
    "in two orders": [
        append(0, 9, "a"),
        append(0, 9, "b"),
        listed(10, 11, "a", "b"),
        listed(10, 11, "b", "a"),
    ],
    "another position": [append(0, 3, "a", 0), append(1, 2, "b", 1), listed(4, 5, "b", "a")],
    "a gap": [append(0, 1, "a", 1)],
    "failed, and yet seen": [failed(append(0, 1, "a")), listed(2, 3, "a")],
    "unknown, before it was called": [listed(0, 1, "a"), unknown(append(2, 3, "a"))],
    "unknown, twice": [unknown(append(0, 1, "a")), listed(2, 3, "a", "a")],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_register(name: str) -> None:
    assert check(GOOD[name]).answer is Answer.LINEARIZABLE
    assert linearizable_by_brute_force(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_bad_register(name: str) -> None:
    verdict = check(BAD[name])
    assert verdict.answer is Answer.VIOLATED
    assert "nothing explains" in str(verdict)
    assert not linearizable_by_brute_force(BAD[name])


@pytest.mark.parametrize("name", GOOD_LISTS)
def test_good_list(name: str) -> None:
    assert check(GOOD_LISTS[name], AppendList).answer is Answer.LINEARIZABLE
    assert linearizable_by_brute_force(GOOD_LISTS[name])


@pytest.mark.parametrize("name", BAD_LISTS)
def test_bad_list(name: str) -> None:
    assert check(BAD_LISTS[name], AppendList).answer is Answer.VIOLATED
    assert not linearizable_by_brute_force(BAD_LISTS[name])


def test_keys_are_checked_one_by_one() -> None:
    """What is wrong with one key is found, whatever the others are like."""
    good, bad = GOOD["deleted"], BAD["stale read"]
    keyed = [attrs.evolve(op, key=key) for key, ops in enumerate((good, bad, good)) for op in ops]
    verdict = check(keyed)
    assert verdict.operation == attrs.evolve(bad[-1], key=1)
    assert verdict.states == (2,)
    assert check(op for op in keyed if op.key != 1).answer is Answer.LINEARIZABLE


def test_gives_up_above_its_bound() -> None:
    """Twenty overlapping writes whose order nobody saw have millions of configurations."""
    hard = [put(n / 100, 50 + n, n) for n in range(20)]
    hard += [get(1, 49, n) for n in range(20)]
    hard += [get(100, 101, "what nobody wrote")]
    started = time.process_time()
    verdict = check(hard, states_max=5_000)
    assert verdict.answer is Answer.UNDECIDED
    assert verdict.looked_at <= 5_001
    assert time.process_time() - started < 5


def test_a_violation_is_not_hidden_by_giving_up_on_another_key() -> None:
    hard = [attrs.evolve(put(0, 50 + n, n), key="hard") for n in range(20)]
    verdict = check([*hard, *BAD["stale read"]], states_max=1_000)
    assert verdict.answer is Answer.VIOLATED
    assert check(hard, states_max=1_000).answer is Answer.UNDECIDED


def test_many_unknown_writes_cost_little() -> None:
    """They are open for ever; those that nobody saw are left out, the others cover each other."""
    history: list[Operation] = []
    for n in range(0, 600, 3):
        history += [unknown(put(n, n, -n)), put(n + 1, n + 1.5, n), get(n + 2, n + 2.5, -n if n % 2 else n)]
    verdict = check(history)
    assert verdict.answer is Answer.LINEARIZABLE
    assert verdict.looked_at < 60_000


def test_unknown_writes_that_are_seen_much_later_cost_little() -> None:
    """Which of them took effect before is of no account; there would be a million combinations."""
    history = [unknown(put(0, 1, -n)) for n in range(1, 21)]
    for n in range(1, 21):
        history += [
            put(10 * n, 10 * n + 1, n),
            get(10 * n + 2, 10 * n + 3, n),
            get(10 * n + 4, 10 * n + 5, -n),
        ]
    verdict = check(history, states_max=20_000)
    assert verdict.answer is Answer.LINEARIZABLE
    assert check([*history, get(900, 901, -1)], states_max=20_000).answer is Answer.VIOLATED


# --- random histories ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("model", [Register, AppendList])
def test_histories_of_an_atomic_object_pass(model: type[Register] | type[AppendList]) -> None:
    kinds = REGISTER if model is Register else LIST
    for seed in range(150):
        source = random.Random(seed)
        history = atomic_history(source, kinds, source.randrange(1, 60), keys=source.choice((1, 2, 3)))
        verdict = check(history, model)
        assert verdict.answer is Answer.LINEARIZABLE, (seed, verdict)


def stale_read(source: random.Random, history: list[Operation]) -> list[Operation] | None:
    """A read is given the value of a write that was overwritten before the read was called."""
    after: list[list[Operation]] = []
    writes = [op for op in history if op.kind is Kind.PUT and op.outcome is Outcome.DONE]
    for old in writes:
        for new in writes:
            if old.returned < new.called:
                reads = [op for op in _reads(history) if op.called > new.returned]
                after += [_with(history, read, result=old.argument) for read in reads]
    return source.choice(after) if after else None


def lost_update(source: random.Random, history: list[Operation]) -> list[Operation] | None:
    """A write that somebody saw was never made."""
    seen = {op.result for op in _reads(history)}
    writes = [op for op in history if op.kind is Kind.PUT and op.argument in seen]
    return _with(history, source.choice(writes), outcome=Outcome.FAILED) if writes else None


def reordering(source: random.Random, history: list[Operation]) -> list[Operation] | None:
    """Two reads, one after the other, of different values: their results are exchanged and more
    reads follow that saw them in the first order."""
    reads = sorted(_reads(history), key=lambda op: op.called)
    pairs = [(a, b) for a in reads for b in reads if a.returned < b.called and a.result != b.result]
    if not pairs:
        return None
    first, second = source.choice(pairs)
    end = 1 + max(op.returned for op in history) * 2
    again = [get(end + n, end + n + 0.5, value) for n, value in enumerate((second.result, first.result))]
    return [*history, *again, get(end + 3, end + 4, second.result)]


def resurrected(source: random.Random, history: list[Operation]) -> list[Operation] | None:
    """An unknown write is seen, overwritten by one that is seen too, and then seen again."""
    writes = [op for op in history if op.kind is Kind.PUT and op.outcome is Outcome.UNKNOWN]
    if not writes:
        return None
    old = source.choice(writes)
    end = 1 + max(op.returned for op in history) * 2
    seen = [get(end, end + 1, old.argument), put(end + 2, end + 3, "new"), get(end + 4, end + 5, "new")]
    return [*history, *seen, get(end + 6, end + 7, old.argument)]


def _reads(history: Sequence[Operation]) -> list[Operation]:
    return [op for op in history if op.kind is Kind.GET and op.outcome is Outcome.DONE]


def _with(history: Sequence[Operation], op: Operation, **changes: object) -> list[Operation]:
    return [attrs.evolve(each, **changes) if each is op else each for each in history]  # type: ignore[arg-type] # any field


@pytest.mark.slow
@pytest.mark.parametrize("mutate", [stale_read, lost_update, reordering, resurrected])
def test_a_mutated_history_fails(mutate: object) -> None:
    """Values are unique and there are no swaps, so each of these mutations is a violation."""
    assert callable(mutate)
    mutated = 0
    for seed in range(150):
        source = random.Random(seed)
        history = atomic_history(source, (Kind.PUT, Kind.GET, Kind.GET), 25)
        worse = mutate(source, history)
        if worse is not None:
            mutated += 1
            verdict = check(worse)
            assert verdict.answer is Answer.VIOLATED, (seed, verdict)
    assert mutated > 40


def changed(source: random.Random, op: Operation) -> Operation:
    """It may be another result, or a shorter call."""
    if op.kind is Kind.GET:
        return attrs.evolve(op, result=source.choice((None, 0, 1)))
    if op.kind is Kind.SWAP:
        return attrs.evolve(op, result=not op.result)
    if op.kind is Kind.LIST and isinstance(op.result, tuple):
        return attrs.evolve(op, result=op.result[:-1])
    if op.kind is Kind.APPEND and isinstance(op.result, int):
        return attrs.evolve(op, result=op.result + source.choice((-1, 1)))
    return attrs.evolve(op, returned=op.called)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [REGISTER, LIST])
def test_the_same_answers_as_brute_force(kinds: tuple[Kind, ...]) -> None:
    """On tiny histories, most of them with something changed at random."""
    model = Register if kinds is REGISTER else AppendList
    answers: Counter[bool] = Counter()
    for seed in range(1500):
        source = random.Random(seed)
        history = atomic_history(source, kinds, source.randrange(2, 7), values=source.choice((None, 2)))
        for _ in range(seed % 3):
            place = source.randrange(len(history))
            history[place] = changed(source, history[place])
        expected = linearizable_by_brute_force(history)
        answers[expected] += 1
        assert (check(history, model).answer is Answer.LINEARIZABLE) == expected, (seed, history)
    assert min(answers.values()) > 100


VALUES = st.one_of(st.none(), st.integers(0, 2))
TIMES = st.tuples(st.integers(0, 8), st.integers(0, 5)).map(lambda t: (t[0], t[0] + t[1]))
OUTCOMES = st.sampled_from([Outcome.DONE] * 4 + [Outcome.UNKNOWN, Outcome.FAILED])


@st.composite
def register_operations(draw: st.DrawFn) -> Operation:
    kind = draw(st.sampled_from(REGISTER))
    called, returned = draw(TIMES)
    result: Hashable = {Kind.GET: draw(VALUES), Kind.SWAP: draw(st.booleans())}.get(kind)
    argument = draw(st.integers(0, 2)) if kind in (Kind.PUT, Kind.SWAP) else None
    expected = draw(VALUES) if kind is Kind.SWAP else None
    return Operation(kind, called, returned, argument, result, draw(OUTCOMES), expected)


@st.composite
def list_operations(draw: st.DrawFn) -> Operation:
    called, returned = draw(TIMES)
    outcome = draw(OUTCOMES)
    if draw(st.booleans()):
        at = draw(st.one_of(st.none(), st.integers(0, 3)))
        return Operation(Kind.APPEND, called, returned, draw(st.integers(0, 2)), at, outcome)
    elements = tuple(draw(st.lists(st.integers(0, 2), max_size=3)))
    return Operation(Kind.LIST, called, returned, result=elements, outcome=outcome)


@pytest.mark.slow
@settings(max_examples=800, deadline=None)
@given(st.lists(register_operations(), max_size=6))
def test_any_register_history(history: list[Operation]) -> None:
    linearizable = check(history).answer is Answer.LINEARIZABLE
    assert linearizable == linearizable_by_brute_force(history)


@pytest.mark.slow
@settings(max_examples=800, deadline=None)
@given(st.lists(list_operations(), max_size=6))
def test_any_list_history(history: list[Operation]) -> None:
    linearizable = check(history, AppendList).answer is Answer.LINEARIZABLE
    # An object is a list from the first, whatever a history without operations would have it be.
    assert linearizable == linearizable_by_brute_force([*history, listed(-1, -1)])
