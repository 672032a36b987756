"""One group's log through the interface that its core reads."""

from __future__ import annotations

import gc
import sys

import pytest

from multiraft.errors import CorruptRecord, LogCompacted, LogUnavailable
from multiraft.messages import ConfState, EntryKind, HardState, Run
from multiraft.storage.group import READ_RUNS_MAX, StoredGroup
from multiraft.storage.memory import MemoryFiles
from multiraft.storage.store import Store
from tests.storage.helpers import WAL, created, point, reopen, run_of, write


def log_of(*runs: Run, cache_bytes: int = 1 << 20) -> tuple[Store, MemoryFiles]:
    files = MemoryFiles()
    store = reopen(files, cache_bytes=cache_bytes)
    created(store, index=10, term=1)
    for run in runs:
        write(store, lambda b, run=run: b.append(1, [run]))  # type: ignore[misc]
    return store, files


@pytest.mark.parametrize("cache_bytes", [0, 250, 1 << 20], ids=["uncached", "partly", "cached"])
class TestReading:
    def test_terms_and_bounds(self, cache_bytes: int) -> None:
        store, _ = log_of(run_of(11, [b"a", b"b"]), run_of(13, [b"c"], 2), cache_bytes=cache_bytes)
        log = store.groups()[1]
        assert (log.first_index(), log.last_index()) == (11, 13)
        assert [log.term(index) for index in range(10, 14)] == [1, 1, 1, 2]
        with pytest.raises(LogCompacted):
            log.term(9)
        with pytest.raises(LogUnavailable):
            log.term(14)
        with pytest.raises(LogCompacted):
            log.runs(10, 13, 100)
        with pytest.raises(LogUnavailable):
            log.runs(11, 14, 100)

    def test_runs_come_whole_up_to_the_weight(self, cache_bytes: int) -> None:
        runs = [run_of(11, [b"a" * 50]), run_of(12, [b"b" * 50]), run_of(13, [b"c" * 50])]
        store, _ = log_of(*runs, cache_bytes=cache_bytes)
        log = store.groups()[1]
        weight = runs[0].weight
        assert [r.first for r in log.runs(11, 13, 2 * weight)] == [11, 12]
        assert [r.first for r in log.runs(11, 13, 2 * weight - 1)] == [11]
        assert [r.blob for r in log.runs(11, 13, 10 * weight)] == [r.blob for r in runs]

    def test_a_run_too_heavy_is_cut_but_one_entry_comes(self, cache_bytes: int) -> None:
        payloads = [bytes([n]) * 50 for n in range(10)]
        store, _ = log_of(run_of(11, payloads), cache_bytes=cache_bytes)
        log = store.groups()[1]
        (cut,) = log.runs(11, 20, 200)
        assert cut.weight <= 200
        assert cut.payloads == payloads[: cut.count]
        assert cut.count == 3
        (cut,) = log.runs(13, 20, 0)
        assert (cut.first, cut.last, cut.payloads) == (13, 13, [payloads[2]])

    def test_ranges_inside_runs_are_cut(self, cache_bytes: int) -> None:
        store, _ = log_of(
            run_of(11, [b"a", b"b", b"c"]), run_of(14, [b"d", b"e", b"f"]), cache_bytes=cache_bytes
        )
        found = store.groups()[1].runs(12, 15, 1000)
        assert [(r.first, r.last, r.payloads) for r in found] == [
            (12, 13, [b"b", b"c"]),
            (14, 15, [b"d", b"e"]),
        ]

    def test_an_append_replaces_everything_from_its_first_index(self, cache_bytes: int) -> None:
        store, _ = log_of(
            run_of(11, [b"a", b"b", b"c"]),
            run_of(14, [b"d"]),
            run_of(12, [b"x"], 2),
            run_of(13, [b"y"], 2),
            cache_bytes=cache_bytes,
        )
        log = store.groups()[1]
        found = log.runs(11, 13, 1000)
        assert [(r.first, r.term, r.payloads) for r in found] == [
            (11, 1, [b"a"]),
            (12, 2, [b"x"]),
            (13, 2, [b"y"]),
        ]
        assert log.last_index() == 13

    def test_compaction_inside_a_run(self, cache_bytes: int) -> None:
        store, _ = log_of(run_of(11, [b"a", b"b", b"c"], 3), run_of(14, [b"d"], 4), cache_bytes=cache_bytes)
        write(store, lambda b: b.compact(1, point(14, 4, b"conf"), 12))
        log = store.groups()[1]
        assert (log.first_index(), log.last_index(), log.term(12)) == (13, 14, 3)
        assert [r.payloads for r in log.runs(13, 14, 1000)] == [[b"c"], [b"d"]]
        with pytest.raises(LogCompacted):
            log.term(11)
        assert log.snapshot_point == log.snapshot() == point(14, 4, b"conf")
        assert log.initial_state() == (HardState(), ConfState((1, 2, 3)))

    def test_a_received_snapshot_empties_the_log(self, cache_bytes: int) -> None:
        store, _ = log_of(run_of(11, [b"a", b"b", b"c"]), cache_bytes=cache_bytes)
        write(store, lambda b: b.snapshot(1, point(12, 5)))
        log = store.groups()[1]
        assert (log.first_index(), log.last_index(), log.term(12)) == (13, 12, 5)
        write(store, lambda b: b.append(1, [run_of(13, [b"z"], 5)]))
        assert log.runs(13, 13, 100)[0].payloads == [b"z"]

    def test_what_a_forwarded_run_carries_comes_back(self, cache_bytes: int) -> None:
        sent = Run.of([b"a", b"b"], first=11, term=1, origin=7, sequence=1 << 40)
        store, _ = log_of(sent, cache_bytes=cache_bytes)
        (whole,) = store.groups()[1].runs(11, 12, 100)
        assert (whole.origin, whole.sequence, whole.size, whole.kind) == (7, 1 << 40, 2, sent.kind)
        (cut,) = store.groups()[1].runs(12, 12, 100)
        assert cut.sequence == (1 << 40) + 1


def test_a_run_damaged_on_disk_is_not_handed_out() -> None:
    store, files = log_of(run_of(11, [b"precious"]), cache_bytes=0)
    (name,) = files.list(WAL)
    data = files.read_file(f"{WAL}/{name}")
    at = data.index(b"precious")
    files.damage(f"{WAL}/{name}", at, b"P")
    with pytest.raises(CorruptRecord) as caught:
        store.groups()[1].runs(11, 11, 100)
    assert (caught.value.segment, caught.value.offset) == (name, at - 62)


def test_the_cache_serves_what_was_just_written() -> None:
    store, files = log_of(run_of(11, [b"a"]), run_of(12, [b"b"]))
    before = files.operations["read"]
    assert len(store.groups()[1].runs(11, 12, 100)) == 2
    assert files.operations["read"] == before
    assert store.statistics().cache_hits == 2


def test_the_collector_of_garbage_does_not_see_what_is_cached() -> None:
    store, _ = log_of(run_of(11, [b"a"]))
    before = len(gc.get_objects())
    for index in range(12, 1012):
        write(store, lambda b, index=index: b.append(1, [run_of(index, [b"b", b"c"])]))  # type: ignore[misc]
    assert store.statistics().cache_runs == 1001
    assert len(gc.get_objects()) - before < 500


def test_an_idle_group_is_small() -> None:
    """The promise is 1 KiB a group; this counts all objects but the interpreter's shared ones."""
    files = MemoryFiles()
    store = reopen(files, segment_bytes=1 << 20)
    created(store)
    write(store, lambda b: b.hard_state(1, HardState(5, 1 << 40, 3)))
    write(store, lambda b: b.append(1, [run_of(1, [b"x"])]))
    log = store.groups()[1]
    assert isinstance(log, StoredGroup)
    parts = [
        getattr(log, name)
        for name in log.__slots__
        if name not in ("_shelf", "_meta_at", "_hard_at", "_point_at")
    ]
    state = log.hard_state
    objects = [log, *parts, state.term, state.vote, state.commit]
    assert sum(map(sys.getsizeof, objects)) < 900


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20], ids=["uncached", "cached"])
def test_only_so_many_runs_are_read_at_once(cache_bytes: int) -> None:
    """However little they weigh: it is by runs that reading takes its time."""
    last = 10 + READ_RUNS_MAX + 5
    store, _ = log_of(*(run_of(index, [b"x"]) for index in range(11, last + 1)), cache_bytes=cache_bytes)
    log = store.groups()[1]
    found = log.runs(11, last, 1 << 20)
    assert len(found) == READ_RUNS_MAX
    assert [run.first for run in log.runs(found[-1].last + 1, last, 1 << 20)] == list(
        range(last - 4, last + 1)
    )


def test_the_log_knows_where_configuration_changes_end() -> None:
    """Running, and when it is read back. Where one was replaced it may say too much, but never too little."""
    change = Run.of([b"c"], EntryKind.CONF_CHANGE_V2, first=12, term=1)
    store, files = log_of(run_of(11, [b"a"]))
    assert store.groups()[1].changed_at() <= 10
    write(store, lambda b: b.append(1, [change, run_of(13, [b"b"])]))
    assert store.groups()[1].changed_at() == 12
    store.close()
    store = reopen(files)
    assert store.groups()[1].changed_at() == 12
    write(store, lambda b: b.append(1, [run_of(12, [b"d"], 2)]))
    assert store.groups()[1].changed_at() >= 10
