"""Histories to check a checker with: clients of a real atomic object, and a search without any cleverness."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence

import attrs

from tests.sim.linearizability import Kind, Operation, Outcome

LENGTH_MAX = 4.0
"""Of a call, in units of the mean time between two calls."""


def perform(state: Hashable, op: Operation) -> tuple[Hashable, Hashable]:
    """The next state of the sequential object, and the result. Lists are tuples here."""
    if op.kind is Kind.GET or op.kind is Kind.LIST:
        return state, state
    if op.kind is Kind.PUT:
        return op.argument, None
    if op.kind is Kind.DELETE:
        return None, None
    if op.kind is Kind.SWAP:
        return (op.argument, True) if state == op.expected else (state, False)
    assert isinstance(state, tuple)
    return (*state, op.argument), len(state)


def first_state(operations: Sequence[Operation]) -> Hashable:
    lists = any(op.kind in (Kind.APPEND, Kind.LIST) for op in operations)
    return () if lists else None


def linearizable_by_brute_force(operations: Sequence[Operation]) -> bool:
    """Try every order of every choice. For a single key, and a handful of operations."""
    counted = [op for op in operations if op.outcome is not Outcome.FAILED]
    return _extends(first_state(operations), counted)


def _extends(state: Hashable, left: Sequence[Operation]) -> bool:
    must = [op for op in left if op.outcome is Outcome.DONE]
    if not must:
        return True
    first_return = min(op.returned for op in must)
    for place, op in enumerate(left):
        if op.called > first_return:
            continue  # something else returned before this one was called
        after, result = perform(state, op)
        told = op.outcome is Outcome.DONE and not (op.kind is Kind.APPEND and op.result is None)
        if told and result != op.result:
            continue
        if _extends(after, [*left[:place], *left[place + 1 :]]):
            return True
    return False


def atomic_history(
    source: random.Random, kinds: Sequence[Kind], length: int, *, keys: int = 1, values: int | None = None
) -> list[Operation]:
    """What clients of an atomic object see: linearizable, for each has a moment of effect.

    Args:
        values: How many different ones are written. None: each one once.
    """
    moments: list[tuple[float, int]] = []
    operations: list[Operation] = []
    for place in range(length):
        called = source.uniform(0, length / 2)
        effect = called + source.uniform(0, LENGTH_MAX / 2)
        returned = effect + source.uniform(0, LENGTH_MAX / 2)
        kind = source.choice(kinds)
        writes = kind in (Kind.PUT, Kind.SWAP, Kind.APPEND)
        drawn = place if values is None else source.randrange(values)
        outcome = source.choices(list(Outcome), (8, 1, 1))[0]
        if outcome is Outcome.UNKNOWN and source.random() < 0.5:
            effect += length  # long after everybody has given up on it
        expected = source.choice([None, source.randrange(place + 1 if values is None else values)])
        operations.append(
            Operation(
                kind,
                called,
                returned,
                argument=drawn if writes else None,
                expected=expected if kind is Kind.SWAP else None,
                outcome=outcome,
                key=source.randrange(keys),
            )
        )
        moments.append((effect, place))
    states = dict.fromkeys(range(keys), first_state(operations))
    for _, place in sorted(moments):
        op = operations[place]
        if op.outcome is Outcome.FAILED or (op.outcome is Outcome.UNKNOWN and source.random() < 0.3):
            continue
        key = op.key
        assert isinstance(key, int)
        states[key], result = perform(states[key], op)
        if op.outcome is Outcome.DONE:
            operations[place] = attrs.evolve(op, result=result)
    return operations
