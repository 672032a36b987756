"""The log stays within its budget whatever a few groups do, and nothing needed goes."""

from __future__ import annotations

import random

import pytest

from multiraft.errors import CorruptRecord
from multiraft.messages import HardState
from multiraft.storage.memory import MemoryFiles
from multiraft.storage.store import Store
from tests.storage.helpers import (
    SEGMENT,
    WAL,
    Workload,
    created,
    held_store,
    ignore,
    observed,
    point,
    reopen,
    run_of,
    write,
)


def fill(store: Store, group: int, first: int, count: int, size: int = 300) -> None:
    for index in range(first, first + count):
        write(store, lambda b, i=index: b.append(group, [run_of(i, [b"x" * size])]))  # type: ignore[misc]


def settle(store: Store) -> list[tuple[int, int]]:
    laggards: list[tuple[int, int]] = []
    for _ in range(200):
        step = store.collect(max_bytes=2000, max_groups=10)
        laggards += step.laggards
        if not step.more and not step.laggards:
            break
    return laggards


def segments(files: MemoryFiles) -> list[str]:
    return [name for name in files.list(WAL) if name.endswith(".wal")]


def test_segments_without_anything_live_go_and_two_are_kept_for_reuse() -> None:
    files = MemoryFiles()
    store = reopen(files)
    created(store)
    fill(store, 1, 1, 100)
    many = len(segments(files))
    write(store, lambda b: b.remove(1))
    settle(store)
    assert many > 6
    assert len(segments(files)) == 1
    assert len(files.list(WAL)) == 3
    allocated = files.operations["allocate"]
    created(store)
    fill(store, 1, 1, 15)
    assert files.operations["allocate"] == allocated
    assert len(segments(files)) > 1
    assert len(files.list(WAL)) == 3


def test_a_segment_missing_at_the_front_is_noticed_after_collecting_too() -> None:
    files = MemoryFiles()
    store = reopen(files)
    created(store)
    fill(store, 1, 1, 50)
    write(store, lambda b: b.remove(1))
    settle(store)
    created(store)
    fill(store, 1, 1, 50)
    store.close()
    names = segments(files)
    assert names[0] != "0000000000000001.wal"
    files.remove(f"{WAL}/{names[0]}")
    with pytest.raises(CorruptRecord, match=f"{names[0]}.*missing"):
        reopen(files)


def test_a_straggler_is_copied_out_of_the_way() -> None:
    files = MemoryFiles()
    store = reopen(files, total_bytes=4 * SEGMENT)
    created(store, 1)
    created(store, 2)
    fill(store, 2, 1, 1, 20)
    at = 1
    for _ in range(30):
        fill(store, 1, at, 10)
        at += 10
        last = at - 1
        write(store, lambda b, last=last: b.compact(1, point(last), last))  # type: ignore[misc]
        settle(store)
        assert len(segments(files)) <= 6
    before = observed(store.groups())
    assert before[2].entries == [(1, 1, b"x" * 20)]
    assert store.statistics().bytes_copied > 0
    store.close()
    assert observed(reopen(files).groups()) == before


def test_copying_and_then_dropping_is_one_piece_of_work() -> None:
    """Whoever goes on while there is more gets the whole of it done, and need not come back later."""
    files = MemoryFiles()
    store = reopen(files, total_bytes=4 * SEGMENT)
    created(store, 1)
    created(store, 2)
    fill(store, 2, 1, 1, 20)
    fill(store, 1, 1, 60)
    write(store, lambda b: b.compact(1, point(60), 60))
    steps = 0
    while store.collect(max_bytes=2000, max_groups=10).more:
        steps += 1
        assert steps < 100
    assert store.statistics().bytes_copied > 0
    assert len(segments(files)) <= 2


def test_a_laggard_is_named_before_its_entries_are_copied() -> None:
    files = MemoryFiles()
    store = reopen(files, total_bytes=4 * SEGMENT)
    created(store, 1)
    created(store, 2)
    fill(store, 2, 1, 4, 300)
    fill(store, 1, 1, 60)
    write(store, lambda b: b.compact(1, point(60), 60))
    first = store.collect()
    assert [group for group, _ in first.laggards] == [2]
    assert first.laggards[0][1] > 4 * 300
    copied = store.statistics().bytes_copied
    assert copied < 1000
    assert store.collect().laggards == ()
    assert store.statistics().bytes_copied > copied + 4 * 300
    before = observed(store.groups())
    settle(store)
    assert segments(files)[0] != "0000000000000001.wal"
    files.crash(lambda _: 0)
    assert observed(reopen(files).groups()) == before


def test_a_log_that_is_all_live_is_not_copied_round_and_round() -> None:
    files = MemoryFiles()
    store = reopen(files, total_bytes=4 * SEGMENT)
    created(store)
    fill(store, 1, 1, 100)
    settle(store)
    assert store.statistics().bytes_copied == 0
    assert store.statistics().live_bytes > 0.8 * (store.statistics().bytes - SEGMENT)


def test_a_group_with_a_batch_under_way_is_left_for_the_next_round() -> None:
    """Else an older state would be written behind a newer one and win at the next start."""
    files = MemoryFiles()
    store, writer = held_store(files, total_bytes=4 * SEGMENT)
    write(store, lambda b: b.create(1, b"", HardState(1, 1, 0), point(0)))
    write(store, lambda b: b.create(2, b"", HardState(1, 1, 0), point(0)))
    writer.release()
    for index in range(1, 60):
        write(store, lambda b, i=index: b.append(1, [run_of(i, [b"x" * 300])]))  # type: ignore[misc]
    writer.release()
    write(store, lambda b: b.compact(1, point(59), 59))
    writer.release()
    write(store, lambda b: b.hard_state(2, HardState(9, 2, 0)))
    store.collect()
    writer.release()
    assert store.groups()[2].hard_state == HardState(9, 2, 0)
    for _ in range(10):
        store.collect()
        writer.release()
    assert segments(files)[0] != "0000000000000001.wal"
    store.close()
    assert reopen(files).groups()[2].hard_state == HardState(9, 2, 0)


def test_a_removed_group_stays_removed_whatever_is_collected() -> None:
    files = MemoryFiles()
    store = reopen(files, total_bytes=4 * SEGMENT)
    created(store, 1)
    created(store, 2)
    fill(store, 1, 1, 30)
    write(store, lambda b: b.remove(1))
    fill(store, 2, 1, 30)
    write(store, lambda b: b.compact(2, point(30), 30))
    for _ in range(60):
        step = store.collect(max_bytes=200, max_groups=1)
        disk = files.copy()
        disk.crash(lambda _: 0)
        assert set(reopen(disk).groups()) == {2}
        if not step.more:
            break
    assert segments(files)[0] > "0000000000000004.wal"


def test_damage_in_what_has_to_be_copied_is_reported() -> None:
    files = MemoryFiles()
    store = reopen(files, total_bytes=4 * SEGMENT, cache_bytes=0)
    created(store, 1)
    created(store, 2)
    fill(store, 2, 1, 1, 20)
    fill(store, 1, 1, 60)
    write(store, lambda b: b.compact(1, point(60), 60))
    path = f"{WAL}/0000000000000001.wal"
    files.damage(path, files.read_file(path).index(b"x" * 20), b"y")
    with pytest.raises(CorruptRecord):
        settle(store)
    assert segments(files)[0] == "0000000000000001.wal"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_live_bytes_are_the_same_after_a_restart(seed: int) -> None:
    """Live bytes are counted one by one while running, and all at once by a replay."""
    files = MemoryFiles()
    store = reopen(files, total_bytes=4 * SEGMENT)
    workload = Workload(seed)
    state = observed(store.groups())
    rng = random.Random(seed)
    for _ in range(150):
        batch = store.batch()
        state = workload.batch(state, state, batch)
        store.submit(batch, ignore)
        if rng.random() < 0.5:
            store.collect(max_bytes=1000, max_groups=3)
    live = {s.sequence: s.live for s in store._wal.shelf.segments.values()}
    store.close()
    again = reopen(files)
    found = {s.sequence: s.live for s in again._wal.shelf.segments.values()}
    assert observed(again.groups()) == state
    assert {s: n for s, n in found.items() if n} == {s: n for s, n in live.items() if n}
