"""Looking at a log that is whole, torn or damaged, without changing it."""

from __future__ import annotations

import pytest

from multiraft.errors import CorruptRecord
from multiraft.messages import HardState
from multiraft.storage.inspect import Item, Problem, inspect_log, verify_log
from multiraft.storage.memory import MemoryFiles
from tests.storage.helpers import DATA, WAL, Workload, created, ignore, observed, point, reopen, run_of, write


def worked(seed: int, batches: int) -> MemoryFiles:
    files = MemoryFiles()
    store = reopen(files)
    workload = Workload(seed)
    state = observed(store.groups())
    for _ in range(batches):
        batch = store.batch()
        state = workload.batch(state, state, batch)
        store.submit(batch, ignore)
    store.close()
    return files


def test_every_record_is_listed_with_its_place() -> None:
    files = MemoryFiles()
    store = reopen(files)
    created(store, 5, index=2, term=1)
    batch = store.batch()
    batch.append(5, [run_of(3, [b"a", b"b"], 4)])
    batch.hard_state(5, HardState(4, 1, 0))
    batch.meta(5, b"m")
    store.submit(batch, ignore)
    write(store, lambda b: b.compact(5, point(4, 4), 3))
    write(store, lambda b: b.snapshot(5, point(9, 4)))
    write(store, lambda b: b.remove(5))
    name = files.list(WAL)[0]
    data = files.read_file(f"{WAL}/{name}")
    found = list(inspect_log(files, DATA))
    assert all(isinstance(item, Item) for item in found)
    items = [item for item in found if isinstance(item, Item)]
    kinds = ["SEGMENT", "CREATE", "ENTRIES", "HARD_STATE", "META", "COMPACT", "SNAPSHOT", "REMOVE"]
    assert [item.kind for item in items] == kinds
    entries = items[2]
    assert (entries.group, entries.first, entries.last, entries.term) == (5, 3, 4, 4)
    assert data[entries.offset] == 1
    assert data[entries.offset : entries.offset + entries.bytes].endswith(b"a\x41b")
    assert verify_log(files, DATA) == []


def test_a_folder_without_a_log_holds_nothing() -> None:
    assert list(inspect_log(MemoryFiles(), DATA)) == []


def test_whole_logs_have_no_problems() -> None:
    for seed in range(10):
        assert verify_log(worked(seed, 60), DATA) == []


def test_every_damage_is_listed_and_what_lies_behind_it() -> None:
    files = worked(1, 60)
    before = {name: files.read_file(f"{WAL}/{name}") for name in files.list(WAL)}
    whole = [item for item in inspect_log(files, DATA) if isinstance(item, Item)]
    entries = [item for item in whole if item.kind == "ENTRIES"]
    hit = [entries[3], entries[len(entries) // 2], entries[-4]]
    for item in hit:
        files.damage(f"{WAL}/{item.segment}", item.offset + 20, b"\xee")
    problems = verify_log(files, DATA)
    assert len(problems) == 3
    for problem, item in zip(problems, hit, strict=True):
        assert problem.segment == item.segment
        assert item.offset - 600 < problem.offset < item.offset
    rest = [item for item in inspect_log(files, DATA) if isinstance(item, Item)]
    assert set(rest) < set(whole)
    assert len(rest) > len(whole) - 30
    after = {name: files.read_file(f"{WAL}/{name}") for name in files.list(WAL)}
    assert sum(before[name] != after[name] for name in before) <= 3


def test_bad_headers_and_missing_segments_are_listed() -> None:
    files = worked(2, 120)
    names = files.list(WAL)
    assert len(names) > 5
    files.damage(f"{WAL}/{names[1]}", 8, b"\xff")
    files.remove(f"{WAL}/{names[3]}")
    assert verify_log(files, DATA) == [
        Problem(names[1], 0, "bad segment header"),
        Problem(names[3], 0, "the segment is missing"),
    ]


def test_a_torn_tail_is_shown_and_is_no_problem() -> None:
    files = MemoryFiles()
    store = reopen(files)
    created(store)
    end = 64 + store.statistics().bytes_written
    write(store, lambda b: b.append(1, [run_of(1, [b"x" * 100])]))
    path = f"{WAL}/{files.list(WAL)[0]}"
    files.damage(path, end + 60, b"torn")
    files.damage(path, end + 32 + 163, bytes(32))  # the marker behind it
    found = list(inspect_log(files, DATA))
    torn = found[-1]
    assert isinstance(torn, Item)
    assert (torn.kind, torn.offset) == ("TORN_TAIL", end)
    assert verify_log(files, DATA) == []


@pytest.mark.slow
def test_verify_finds_what_keeps_the_log_from_opening() -> None:
    """A problem is listed exactly when opening is refused, and it is the same one."""
    whole = worked(3, 12)
    for name in whole.list(WAL):
        data = whole.read_file(f"{WAL}/{name}")
        for at in range(0, len(data.rstrip(b"\0")), 7):
            files = whole.copy()
            files.damage(f"{WAL}/{name}", at, bytes([data[at] ^ 4]))
            problems = [(p.segment, p.offset) for p in verify_log(files, DATA)]
            refusal = refused(files)
            assert problems[:1] == ([refusal] if refusal is not None else [])


def refused(files: MemoryFiles) -> tuple[str, int] | None:
    try:
        reopen(files).close()
    except CorruptRecord as error:
        return error.segment, error.offset
    return None
