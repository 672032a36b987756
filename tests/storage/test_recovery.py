"""What recovery makes of a log that was cut, damaged, or lost parts of its tail."""

from __future__ import annotations

import random

import pytest

from multiraft.errors import CorruptRecord, DataDirInUse
from multiraft.messages import HardState
from multiraft.storage.format import BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES
from multiraft.storage.memory import MemoryFiles
from multiraft.storage.recovery import TornTail
from multiraft.storage.segment import segment_name
from tests.storage.helpers import (
    SEGMENT,
    WAL,
    Model,
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


def path_of(sequence: int) -> str:
    return f"{WAL}/{segment_name(sequence)}"


def written(batches: int, *, seed: int = 5, close: bool) -> tuple[MemoryFiles, list[Model], list[int]]:
    """A disk with a small log; the state after each batch, and the end of each in its segment."""
    files = MemoryFiles()
    store = reopen(files)
    workload = Workload(seed)
    states: list[Model] = [{}]
    ends = []
    for _ in range(batches):
        batch = store.batch()
        states.append(workload.batch(states[-1], states[-1], batch))
        store.submit(batch, ignore)
        ends.append(store.statistics().bytes_written + SEGMENT_HEADER_BYTES)
    if close:
        store.close()
    files.process_died()
    return files, states, ends


def test_an_empty_folder_is_an_empty_log() -> None:
    files = MemoryFiles()
    store = reopen(files)
    assert dict(store.groups()) == {}
    assert store.recovery.segments == 0
    store.close()
    assert files.open_files == 0


@pytest.mark.parametrize("seed", range(8))
def test_a_replayed_log_is_what_the_running_one_was(seed: int) -> None:
    """To the byte: what is replayed in long strides and what record by record, in any mixture."""
    files = MemoryFiles()
    store = reopen(files, segment_bytes=1 << 16)
    workload = Workload(seed, groups=3)
    state: Model = {}
    for _ in range(60):
        batch = store.batch()
        durable = state
        # Several rounds to a batch, so that a group's runs are overwritten within it as well.
        for _ in range(4):
            state = workload.batch(state, durable, batch)
        store.submit(batch, ignore)
    before = store.statistics()
    store.close()
    store = reopen(files, segment_bytes=1 << 16)
    assert observed(store.groups()) == state
    assert store.statistics().live_bytes == before.live_bytes
    assert store.recovery.records == before.records


def test_opening_again_and_again_leaves_one_empty_segment() -> None:
    files = MemoryFiles()
    for _ in range(5):
        reopen(files).close()
    assert files.list(WAL) == [segment_name(1)]


@pytest.mark.slow
def test_a_log_cut_at_any_byte_opens_with_whole_batches() -> None:
    """Cut without a trace of what followed, all whole batches before the cut are there."""
    files, states, ends = written(5, close=False)
    assert files.list(WAL) == [segment_name(1)]
    for cut in range(ends[0], ends[-1] + 1):
        disk = files.copy()
        file = disk.open(path_of(1))
        file.truncate(cut)
        file.close()
        store = reopen(disk)
        whole = sum(end <= cut for end in ends)
        assert observed(store.groups()) == states[whole]
        begin = ends[whole - 1]
        torn = store.recovery.torn
        if cut - begin >= BATCH_HEADER_BYTES:
            assert torn == TornTail(segment_name(1), begin, torn.bytes if torn else 0)
        else:
            assert torn is None


@pytest.mark.slow
def test_a_log_torn_at_any_byte_opens_with_all_that_was_acknowledged() -> None:
    """The last batch, never synced, reached the disk up to any byte."""
    files = MemoryFiles()
    store, writer = held_store(files, on_failure=lambda _: None)
    write(store, lambda b: b.create(1, b"meta", HardState(), point(0)))
    write(store, lambda b: b.append(1, [run_of(1, [b"one", b"two"])]))
    writer.release()
    before = observed(store.groups())
    begin = SEGMENT_HEADER_BYTES + store.statistics().bytes_written
    write(store, lambda b: b.append(1, [run_of(3, [b"three" * 20]), run_of(4, [b"four"])]))
    files.fault = lambda op, _: OSError("no power") if op == "sync" else None
    writer.release()
    files.fault = None
    data = files.read_file(path_of(1))
    end = SEGMENT_HEADER_BYTES + store.statistics().bytes_written
    files.crash(lambda _: 0)
    for cut in range(begin, end + 1):
        disk = files.copy()
        disk.damage(path_of(1), begin, data[begin:cut])
        again = reopen(disk)
        if cut == end:
            assert again.groups()[1].last_index() == 4
        else:
            assert observed(again.groups()) == before


def refusal_of(files: MemoryFiles) -> CorruptRecord | None:
    try:
        reopen(files).close()
    except CorruptRecord as error:
        return error
    return None


def flipped(data: bytes, at: int, mask: int) -> bytes:
    return bytes([data[at] ^ mask])


@pytest.mark.slow
@pytest.mark.parametrize("close", [True, False], ids=["closed", "killed"])
def test_damage_anywhere_is_refused_or_harmless(close: bool) -> None:
    """Every batch was acknowledged; a flipped bit never makes one disappear silently."""
    files, states, _ = written(25, close=close)
    rng = random.Random(1)
    harmless = 0
    names = files.list(WAL)
    assert len(names) > 2
    for name in names:
        path = f"{WAL}/{name}"
        data = files.read_file(path)
        used = len(data.rstrip(b"\0"))
        for at in range(min(used + 40, SEGMENT)):
            disk = files.copy()
            disk.damage(path, at, flipped(data, at, 1 << rng.randrange(8)))
            refusal = refusal_of(disk)
            if refusal is None:
                assert observed(reopen(disk).groups()) == states[-1]
                harmless += 1
            else:
                assert refusal.segment in names
                assert refusal.offset <= at
    # A marker at the end of each segment, and the 40 bytes beyond.
    assert harmless <= len(names) * (BATCH_HEADER_BYTES + 40)


def test_a_refused_log_is_left_as_it_was() -> None:
    files, _, ends = written(12, close=True)
    files.damage(path_of(1), ends[3] + 40, b"\xff\xff\xff")
    before = {name: files.read_file(f"{WAL}/{name}") for name in files.list(WAL)}
    for _ in range(2):
        with pytest.raises(CorruptRecord) as caught:
            reopen(files)
        assert (caught.value.segment, caught.value.offset) == (segment_name(1), ends[3])
    assert {name: files.read_file(f"{WAL}/{name}") for name in files.list(WAL)} == before
    assert files.open_files == 0
    assert files.operations["lock"] == 3


def test_a_missing_segment_is_named() -> None:
    files, _, _ = written(80, close=True)
    names = files.list(WAL)
    assert len(names) >= 4
    for missing in names[:-1]:
        disk = files.copy()
        disk.remove(f"{WAL}/{missing}")
        with pytest.raises(CorruptRecord) as caught:
            reopen(disk)
        assert caught.value.segment == missing


def test_a_batch_written_to_the_wrong_place_is_damage() -> None:
    """Both are valid alone and equally long; only the chain tells that they changed places."""
    files = MemoryFiles()
    store = reopen(files)
    created(store)
    ends = []
    for payload in (b"one", b"two", b"six"):
        write(store, lambda b, data=payload: b.meta(1, data))  # type: ignore[misc]
        ends.append(SEGMENT_HEADER_BYTES + store.statistics().bytes_written)
    store.close()
    data = files.read_file(path_of(1))
    first, second = data[ends[0] : ends[1]], data[ends[1] : ends[2]]
    files.damage(path_of(1), ends[0], second + first)
    refusal = refusal_of(files)
    assert refusal is not None
    assert refusal.offset == ends[0]


def test_a_foreign_segment_does_not_fit_in() -> None:
    files, _, _ = written(80, close=True)
    other, _, _ = written(80, seed=6, close=True)
    files.damage(path_of(2), 0, other.read_file(path_of(2)))
    with pytest.raises(CorruptRecord):
        reopen(files)


def test_bytes_of_an_earlier_life_are_not_part_of_the_log() -> None:
    """A used segment is used again; a crash leaves its old batches behind the new ones."""
    files = MemoryFiles()
    store = reopen(files)
    created(store)
    for index in range(1, 200):
        write(store, lambda b, i=index: b.append(1, [run_of(i, [b"old" * 20])]))  # type: ignore[misc]
    write(store, lambda b: b.compact(1, point(199), 199))
    write(store, lambda b: b.meta(1, b"moved"))
    write(store, lambda b: b.hard_state(1, HardState(2, 1, 199)))
    while store.collect().more:
        pass
    spares = [name for name in files.list(WAL) if name.endswith(".free")]
    assert len(spares) == 2
    index = 200
    while len([name for name in files.list(WAL) if name.endswith(".free")]) == 2:
        write(store, lambda b, i=index: b.append(1, [run_of(i, [b"new"], 2)]))  # type: ignore[misc]
        index += 1
    write(store, lambda b: b.append(1, [run_of(index, [b"new"], 2)]))
    newest = files.list(WAL)[-1]
    assert b"oldold" in files.read_file(f"{WAL}/{newest}")
    before = observed(store.groups())
    files.crash(lambda _: 0)
    again = reopen(files)
    assert observed(again.groups()) == before
    assert again.recovery.torn is None


def test_a_later_batch_on_disk_does_not_make_the_lost_one_before_it_damage() -> None:
    """Pages reach the disk in any order: of two unsynced batches only the second one did."""
    files, states, _ = written(3, close=False)
    store, writer = held_store(files, on_failure=lambda _: None)
    workload = Workload(99)
    newest = states[-1]
    for _ in range(2):
        batch = store.batch()
        newest = workload.batch(newest, states[-1], batch)
        store.submit(batch, ignore)
    first = writer.jobs[0].length + BATCH_HEADER_BYTES
    files.fault = lambda op, _: OSError("no power") if op == "sync" else None
    writer.release()
    files.fault = None
    data = files.read_file(path_of(2))
    files.crash(lambda _: 0)
    begin = SEGMENT_HEADER_BYTES + first
    files.damage(path_of(2), begin, data[begin:])
    again = reopen(files)
    assert observed(again.groups()) == states[-1]
    assert again.recovery.torn is not None
    assert again.recovery.torn.offset == SEGMENT_HEADER_BYTES


def test_what_only_the_system_had_in_memory_is_durable_after_opening() -> None:
    """A process died between write and sync; the next one must not build on sand."""
    files = MemoryFiles()
    store = reopen(files)
    created(store)
    files.fault = lambda op, _: OSError("disk gone") if op == "sync" else None
    with pytest.raises(AssertionError):
        write(store, lambda b: b.append(1, [run_of(1, [b"seen"])]))
    files.fault = None
    files.process_died()
    again = reopen(files)
    assert again.groups()[1].last_index() == 1
    files.crash(lambda _: 0)
    assert reopen(files).groups()[1].last_index() == 1


def test_a_group_whose_earlier_records_are_gone_is_not_half_recovered() -> None:
    """A segment that was still needed is collected by a bug or by hand: that is damage."""
    files = MemoryFiles()
    store = reopen(files)
    created(store)
    store._wal.start = 2
    write(store, lambda b: b.append(1, [run_of(1, [b"x" * 3000])]))
    write(store, lambda b: b.append(1, [run_of(2, [b"y" * 3000])]))
    store.close()
    files.remove(path_of(1))
    with pytest.raises(CorruptRecord, match="group 1 has no meta"):
        reopen(files)


def test_a_second_open_is_refused_and_leaves_the_first_alone() -> None:
    files = MemoryFiles()
    store = reopen(files)
    with pytest.raises(DataDirInUse):
        reopen(files)
    created(store)
    store.close()
    assert 1 in reopen(files).groups()


def test_progress_reaches_the_whole() -> None:
    files, _, _ = written(80, close=True)
    seen: list[tuple[int, int]] = []
    reopen(files, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 0
