"""What the engine relies on: visibility, order, one sync for many groups, refusals, failures."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest

from multiraft.errors import (
    DataDirInUse,
    GroupExists,
    GroupNotFound,
    HostClosed,
    LogUnavailable,
    StorageFailed,
    StorageFull,
)
from multiraft.messages import HardState
from multiraft.storage.files import OsFiles
from multiraft.storage.memory import MemoryFiles
from multiraft.storage.store import open_store
from tests.storage.helpers import (
    SEGMENT,
    WAL,
    created,
    held_store,
    ignore,
    no_failure,
    observed,
    point,
    reopen,
    run_of,
    write,
)


def test_nothing_is_visible_before_it_is_durable() -> None:
    store, writer = held_store(MemoryFiles())
    write(store, lambda b: b.create(1, b"meta", HardState(), point(0)))
    assert 1 not in store.groups()
    writer.release()
    log = store.groups()[1]
    assert not write(store, lambda b: b.append(1, [run_of(1, [b"a"])]))
    assert not write(store, lambda b: b.hard_state(1, HardState(2, 1, 1)))
    assert (log.last_index(), log.hard_state) == (0, HardState())
    writer.release(1)
    assert (log.last_index(), log.hard_state) == (1, HardState())
    writer.release()
    assert log.hard_state == HardState(2, 1, 1)
    assert store.statistics().batches_under_way == 0


def test_a_thousand_groups_share_one_sync() -> None:
    files = MemoryFiles()
    store = reopen(files, segment_bytes=1 << 20)
    batch = store.batch()
    for group in range(1000):
        batch.create(group, b"m", HardState(), point(0))
    store.submit(batch, ignore)
    before = files.operations["sync"], files.operations["write"]
    batch = store.batch()
    for group in range(1000):
        batch.append(group, [run_of(1, [b"x"])])
    store.submit(batch, ignore)
    # The second write is the marker, which nobody waits for.
    assert (files.operations["sync"], files.operations["write"]) == (before[0] + 1, before[1] + 2)


def test_batches_that_wait_share_a_write_and_a_sync() -> None:
    files = MemoryFiles()
    store, writer = held_store(files)
    done: list[int] = []
    for group in range(5):
        batch = store.batch()
        batch.create(group, b"", HardState(), point(0))
        store.submit(batch, lambda group=group: done.append(group))  # type: ignore[misc]
    before = files.operations["sync"], files.operations["write"]
    writer.release()
    assert done == [0, 1, 2, 3, 4]
    assert (files.operations["sync"], files.operations["write"]) == (before[0] + 1, before[1] + 1)


def test_an_empty_batch_is_done_in_turn_and_writes_nothing() -> None:
    files = MemoryFiles()
    store, writer = held_store(files)
    order: list[str] = []
    batch = store.batch()
    assert not batch
    batch.create(1, b"", HardState(), point(0))
    assert batch
    store.submit(batch, lambda: order.append("full"))
    store.submit(store.batch(), lambda: order.append("empty"))
    writer.release()
    assert order == ["full", "empty"]
    before = files.operations["write"]
    store.submit(store.batch(), ignore)
    writer.release()
    assert files.operations["write"] == before


def test_a_group_is_created_removed_and_created_again() -> None:
    files = MemoryFiles()
    store = reopen(files)
    created(store)
    write(store, lambda b: b.append(1, [run_of(1, [b"old"])]))
    with pytest.raises(GroupExists):
        write(store, lambda b: b.create(1, b"", HardState(), point(0)))
    write(store, lambda b: b.remove(1))
    assert 1 not in store.groups()
    for refused in (
        lambda b: b.append(1, [run_of(2, [b"x"])]),
        lambda b: b.hard_state(1, HardState()),
        lambda b: b.meta(1, b""),
        lambda b: b.compact(1, point(1), 1),
        lambda b: b.snapshot(1, point(1)),
        lambda b: b.remove(1),
    ):
        with pytest.raises(GroupNotFound):
            write(store, refused)
    created(store, index=7, term=3)
    found = observed(store.groups())
    assert found[1].base == (7, 3)
    assert found[1].entries == []
    store.close()
    assert observed(reopen(files).groups()) == found


def test_groups_of_batches_under_way_count_already() -> None:
    store, writer = held_store(MemoryFiles())
    write(store, lambda b: b.create(1, b"", HardState(), point(0)))
    with pytest.raises(GroupExists):
        write(store, lambda b: b.create(1, b"", HardState(), point(0)))
    write(store, lambda b: b.append(1, [run_of(1, [b"x"])]))
    write(store, lambda b: b.remove(1))
    with pytest.raises(GroupNotFound):
        write(store, lambda b: b.append(1, [run_of(2, [b"x"])]))
    late = store.batch()
    late.create(1, b"late", HardState(), point(0))
    write(store, lambda b: b.create(1, b"", HardState(), point(0)))
    with pytest.raises(GroupExists):
        store.submit(late, ignore)
    assert store._wal._pending == {1: True}
    writer.release()
    assert store.groups()[1].meta == b""
    assert store._wal._pending == {}, "or every later batch looks there first"


def test_compaction_asks_for_an_entry_that_is_durable() -> None:
    store, writer = held_store(MemoryFiles())
    write(store, lambda b: b.create(1, b"", HardState(), point(0)))
    with pytest.raises(LogUnavailable):
        store.batch().compact(1, point(5), 3)
    writer.release()
    write(store, lambda b: b.append(1, [run_of(1, [b"a", b"b", b"c"])]))
    with pytest.raises(LogUnavailable):
        store.batch().compact(1, point(3), 2)
    writer.release()
    write(store, lambda b: b.compact(1, point(3), 2))
    writer.release()
    assert store.groups()[1].first_index() == 3


def test_a_compaction_that_comes_late_does_not_undo_a_later_one() -> None:
    files = MemoryFiles()
    store, writer = held_store(files)
    write(store, lambda b: b.create(1, b"", HardState(), point(0)))
    write(store, lambda b: b.append(1, [run_of(n, [b"x"]) for n in range(1, 10)]))
    writer.release()
    write(store, lambda b: b.compact(1, point(9), 8))
    write(store, lambda b: b.compact(1, point(5), 4))
    writer.release()
    # Now the durable compaction point is known, and is written in place of a lower one.
    write(store, lambda b: b.compact(1, point(7), 3))
    writer.release()
    before = observed(store.groups())
    assert (before[1].base, before[1].snapshot) == ((8, 1), point(7))
    store.close()
    assert observed(reopen(files).groups()) == before


def test_a_batch_above_a_segment_gets_one_of_its_own() -> None:
    files = MemoryFiles()
    store = reopen(files)
    created(store)
    big = b"x" * (3 * SEGMENT)
    write(store, lambda b: b.append(1, [run_of(1, [big])]))
    write(store, lambda b: b.append(1, [run_of(2, [b"small"])]))
    assert len(files.list(WAL)) == 3
    store.close()
    again = reopen(files)
    assert again.groups()[1].runs(1, 1, 1 << 20)[0].payloads == [big]
    assert again.groups()[1].last_index() == 2


def test_a_batch_fills_a_segment_to_its_last_byte_or_goes_to_the_next() -> None:
    for size in range(3700, 3800):
        files = MemoryFiles()
        store = reopen(files)
        created(store)
        write(store, lambda b, size=size: b.append(1, [run_of(1, [b"x" * size])]))  # type: ignore[misc]
        assert all(len(files.read_file(f"{WAL}/{name}")) == SEGMENT for name in files.list(WAL))
        files.process_died()
        assert reopen(files).groups()[1].last_index() == 1


def test_a_batch_is_spent_once_it_was_submitted() -> None:
    """A write added too late would be shown without ever having been on disk."""
    store, writer = held_store(MemoryFiles())
    batch = store.batch()
    batch.create(1, b"", HardState(), point(0))
    store.submit(batch, ignore)
    with pytest.raises(AttributeError):
        batch.append(1, [run_of(1, [b"late"])])
    with pytest.raises(AssertionError):
        store.submit(batch, ignore)
    writer.release()
    assert store.groups()[1].last_index() == 0


def test_a_closed_log_takes_nothing() -> None:
    store = reopen(MemoryFiles())
    store.close()
    store.close()
    with pytest.raises(HostClosed):
        store.submit(store.batch(), ignore)


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.EIO, StorageFailed), (errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull)]
)
@pytest.mark.parametrize("operation", ["write", "sync", "allocate", "rename", "sync_folder"])
def test_after_one_failure_nothing_is_ever_done(operation: str, code: int, kind: type[StorageFailed]) -> None:
    """A failed sync is not tried again: the kernel may have dropped the pages."""
    files = MemoryFiles()
    failures: list[StorageFailed] = []
    store, writer = held_store(files, on_failure=failures.append)
    write(store, lambda b: b.create(1, b"", HardState(), point(0)))
    writer.release()
    done: list[int] = []
    files.fail_matching(operation, WAL, OSError(code, "broken"))
    for index in range(1, 4):
        batch = store.batch()
        batch.append(1, [run_of(index, [b"x" * 2000])])
        store.submit(batch, lambda: done.append(1))
    writer.release()
    files.fault = None
    syncs = files.operations["sync"]
    assert [type(error) for error in failures] == [kind]
    with pytest.raises(kind):
        store.submit(store.batch(), ignore)
    writer.release()
    assert store.collect() == store.collect()
    store.close()
    assert done == []
    assert len(failures) == 1
    assert files.operations["sync"] == syncs
    assert files.open_files == 0
    assert store.groups()[1].last_index() == 0


def test_the_writer_thread_writes_to_real_files(tmp_path: Path) -> None:
    calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
    data_dir = str(tmp_path / "data")
    files = OsFiles()

    def opened() -> object:
        return open_store(
            files,
            data_dir,
            random=lambda n: n - 1,
            on_failure=no_failure,
            deliver=calls.put,
            segment_bytes=1 << 16,
        )

    store = open_store(
        files,
        data_dir,
        random=lambda n: n - 1,
        on_failure=no_failure,
        deliver=calls.put,
        segment_bytes=1 << 16,
    )
    with pytest.raises(DataDirInUse):
        opened()
    threads: set[str] = set()
    left = 200
    batch = store.batch()
    batch.create(1, b"meta", HardState(), point(0))
    store.submit(batch, ignore)

    def done() -> None:
        nonlocal left
        left -= 1
        threads.add(threading.current_thread().name)

    for index in range(1, 201):
        batch = store.batch()
        batch.append(1, [run_of(index, [b"x" * 500])])
        store.submit(batch, done)
    while left:
        calls.get(timeout=10)()
    assert threads == {threading.current_thread().name}
    assert store.statistics().syncs <= 201 + 3 * store.statistics().segments
    store.close()
    again = open_store(files, data_dir, random=lambda n: n - 1, on_failure=no_failure, deliver=calls.put)
    assert again.groups()[1].last_index() == 200
    assert again.groups()[1].runs(1, 1, 1000)[0].payloads == [b"x" * 500]
    again.close()


def test_the_writer_thread_tells_of_a_failure_once(tmp_path: Path) -> None:
    class Broken(OsFiles):
        def sync_folder(self, path: str) -> None:
            if path.endswith("wal") and self.broken:
                raise OSError(errno.EIO, "broken")
            super().sync_folder(path)

        broken = False

    calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
    failures: list[StorageFailed] = []
    files = Broken()
    store = open_store(
        files,
        str(tmp_path),
        random=lambda n: n - 1,
        on_failure=failures.append,
        deliver=calls.put,
        segment_bytes=SEGMENT,
    )
    files.broken = True
    batch = store.batch()
    batch.create(1, b"x" * SEGMENT, HardState(), point(0))
    store.submit(batch, ignore)
    calls.get(timeout=10)()
    assert len(failures) == 1
    store.close()
    assert calls.empty()
