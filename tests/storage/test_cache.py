"""The entry cache keeps its budget, and each group's part is the tail of what was added."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from multiraft.messages import Run
from multiraft.storage.cache import CachedTail, EntryCache, cost
from tests.storage.helpers import run_of

steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "oldest", "newest"]), st.integers(0, 2), st.integers(0, 600)
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(steps, st.integers(0, 4000))
def test_the_cache_holds_tails_within_its_budget(script: list[tuple[str, int, int]], budget: int) -> None:
    cache = EntryCache(budget)
    tails = [CachedTail() for _ in range(3)]
    added: list[list[Run]] = [[], [], []]
    for step, group, size in script:
        tail, runs = tails[group], added[group]
        if step == "add":
            runs.append(run_of(1, [b"x" * size]))
            cache.add(tail, runs[-1])
        elif step == "oldest":
            cache.drop_oldest(tail, min(size, len(tail.runs)))
        else:
            keep = min(size % 3, len(tail.runs))
            dropped = len(tail.runs) - keep
            cache.drop_newest(tail, keep)
            del runs[len(runs) - dropped :]
        assert cache.used == sum(cost(run) for each in tails for run in each.runs) <= budget
        assert cache.count == sum(len(each.runs) for each in tails)
        for each, all_runs in zip(tails, added, strict=True):
            assert all(a is b for a, b in zip(reversed(each.runs), reversed(all_runs), strict=False))


def test_runs_leave_in_the_order_they_came_whatever_their_group() -> None:
    first, second = CachedTail(), CachedTail()
    run = run_of(1, [b"x"])
    cache = EntryCache(3 * cost(run))
    for tail in (first, second, first, second):
        cache.add(tail, run)
    assert (len(first.runs), len(second.runs)) == (1, 2)


def test_turns_of_runs_that_are_gone_do_not_pile_up() -> None:
    cache = EntryCache(1 << 20)
    tail = CachedTail()
    for _ in range(10_000):
        cache.add(tail, run_of(1, [b"x"]))
        cache.drop_oldest(tail, 0)
    assert len(cache._queue) <= 1025
    assert cache.used == 0
