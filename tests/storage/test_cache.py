"""The entry cache keeps its budget, and each group's part is the tail of what was added."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from multiraft.storage.cache import RECORD_BYTES, CachedTail, EntryCache

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
    added: list[list[tuple[bytes, bytes]]] = [[], [], []]
    for step, group, size in script:
        tail, runs = tails[group], added[group]
        if step == "add":
            runs.append((b"head %d" % len(runs), b"x" * size))
            cache.add(tail, *runs[-1])
        elif step == "oldest":
            cache.drop_oldest(tail, min(size, len(tail)))
        else:
            keep = min(size % 3, len(tail))
            dropped = len(tail) - keep
            cache.drop_newest(tail, keep)
            del runs[len(runs) - dropped :]
        weights = [RECORD_BYTES + len(blob) for each in tails for blob in each.blobs[each.gone :]]
        assert cache.used == sum(weights) <= budget
        assert cache.count == len(weights)
        for each, all_runs in zip(tails, added, strict=True):
            assert 2 * each.gone <= len(each.heads)
            cached = list(zip(each.heads, each.blobs, strict=True))[each.gone :]
            assert len(each) == len(cached)
            assert cached == all_runs[len(all_runs) - len(cached) :]


def test_runs_leave_in_the_order_they_came_whatever_their_group() -> None:
    first, second = CachedTail(), CachedTail()
    cache = EntryCache(3 * (RECORD_BYTES + 1))
    for tail in (first, second, first, second):
        cache.add(tail, b"head", b"x")
    assert (len(first), len(second)) == (1, 2)


def test_turns_of_runs_that_are_gone_do_not_pile_up() -> None:
    cache = EntryCache(1 << 20)
    tail = CachedTail()
    for _ in range(10_000):
        cache.add(tail, b"head", b"x")
        cache.drop_oldest(tail, 0)
    assert len(cache._queue) <= 1025
    assert cache.used == 0
