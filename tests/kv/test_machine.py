"""The machines on a real SQLite file."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiraft.errors import SnapshotInvalid, StorageFailed
from multiraft.interfaces import Machines
from multiraft.kv import database
from multiraft.kv.commands import (
    Get,
    GetClaim,
    Page,
    Refused,
    Scan,
    encode_claim,
    encode_delete,
    encode_multi,
    encode_put,
)
from multiraft.kv.machine import KeyValueMachine, SqliteMachines
from multiraft.types import Entry


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[SqliteMachines]:
    made = SqliteMachines(str(tmp_path / "new" / "kv.sqlite3"))
    yield made
    made.close()


def entries(commands: Sequence[bytes], first: int = 1) -> list[Entry]:
    return [Entry(first + place, 1, command) for place, command in enumerate(commands)]


def rows(machine: KeyValueMachine) -> dict[bytes, bytes]:
    page = machine.query(Scan(b"", None, 1_000_000, 1 << 30))
    assert isinstance(page, Page)
    assert page.complete
    return dict(page.items)


def fill(machine: KeyValueMachine, count: int, size: int = 10) -> dict[bytes, bytes]:
    wanted = {b"key%05d" % i: (b"%d" % i).ljust(size) for i in range(count)}
    machine.apply(entries([encode_put(*item) for item in wanted.items()], machine.seen + 1))
    return wanted


def test_it_is_what_the_engine_asks_for(machines: SqliteMachines) -> None:
    assert isinstance(machines, Machines)
    assert machines(1).blocking


def test_writes_are_read_back(machines: SqliteMachines) -> None:
    machine = machines(1)
    results = machine.apply(
        entries(
            [
                encode_put(b"a", b"1"),
                encode_put(b"b", b""),
                encode_put(b"a", b"2"),
                encode_put(b"c", b"3"),
                encode_delete(b"c"),
                encode_multi([(b"d", b"4"), (b"e", b"5"), (b"d", None)]),
            ]
        )
    )
    assert results == [1, 2, 3, 4, 5, 6]
    assert rows(machine) == {b"a": b"2", b"b": b"", b"e": b"5"}
    assert machine.query(Get(b"b")) == b""
    assert machine.query(Get(b"c")) is None
    assert machine.applied_index == 6


def test_a_malformed_proposal_gets_an_error_and_the_rest_is_applied(machines: SqliteMachines) -> None:
    machine = machines(1)
    first, second, third = machine.apply(entries([encode_put(b"a", b"1"), b"\xff", encode_put(b"b", b"2")]))
    assert (first, third) == (1, 3)
    assert isinstance(second, Refused)
    assert rows(machine) == {b"a": b"1", b"b": b"2"}
    assert machine.applied_index == 3


def test_a_query_of_another_kind_is_the_callers_error(machines: SqliteMachines) -> None:
    with pytest.raises(TypeError, match="not a query"):
        machines(1).query("get a")


def test_groups_do_not_see_each_other(machines: SqliteMachines) -> None:
    one, two = machines(1), machines(2)
    one.apply(entries([encode_put(b"a", b"1"), encode_delete(b"b")]))
    two.apply(entries([encode_put(b"a", b"2"), encode_put(b"b", b"2")]))
    one.apply(entries([encode_delete(b"a")], 3))
    assert rows(one) == {}
    assert rows(two) == {b"a": b"2", b"b": b"2"}


def test_the_first_claim_stands(machines: SqliteMachines) -> None:
    machine = machines(1)
    assert machine.query(GetClaim()) is None
    with machines.batch():
        assert machine.apply(entries([encode_claim(b"x"), encode_claim(b"y")])) == [b"x", b"x"]
        assert machine.apply(entries([encode_claim(b"z")], 3)) == [b"x"]
    assert machine.apply(entries([encode_claim(b"z")], 4)) == [b"x"]
    assert machine.query(GetClaim()) == b"x"
    assert rows(machine) == {}, "users do not see it"


def test_a_batch_is_committed_as_a_whole(machines: SqliteMachines) -> None:
    one, two = machines(1), machines(2)
    with machines.batch():
        one.apply(entries([encode_put(b"a", b"1")]))
        two.apply(entries([encode_put(b"a", b"2")]))
        assert (one.applied_index, one.seen) == (0, 1)
        answers: list[object] = []
        other = threading.Thread(target=lambda: answers.append(one.query(Get(b"a"))))
        other.start()
        other.join()
        assert answers == [None], "others read what is committed"
        assert two.query(Get(b"a")) == b"2", "the thread of the batch reads what it applied"
    assert one.applied_index == two.applied_index == 1
    assert one.query(Get(b"a")) == b"1"


def test_a_lost_batch_changes_nothing_and_stops_the_machines(machines: SqliteMachines) -> None:
    """Its results may have been seen, so going on would contradict them."""
    machine = machines(1)
    machine.apply(entries([encode_put(b"a", b"1")]))

    def broken_batch() -> None:
        with machines.batch():
            machine.apply(entries([encode_put(b"a", b"2")], 2))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_batch()
    assert rows(machine) == {b"a": b"1"}
    assert machine.applied_index == 1
    with pytest.raises(StorageFailed, match="earlier batch was lost"):
        machine.apply(entries([encode_put(b"a", b"3")], 3))


def test_a_batch_that_cannot_be_written_raises(machines: SqliteMachines) -> None:
    """Here SQLite itself refuses: the file's pages are used up."""
    machine = machines(1)
    fill(machine, 10)
    machines.database._writer.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StorageFailed, match="full"), machines.batch():
        machine.apply(entries([encode_put(b"big", b"x" * 1_000_000)], 11))
    assert machine.applied_index == 10
    assert machine.query(Get(b"big")) is None


def test_a_batch_larger_than_one_statement(machines: SqliteMachines) -> None:
    count = 2 * database.ROWS_MAX + 1
    with machines.batch():
        wanted = fill(machines(1), count)
    assert rows(machines(1)) == wanted
    assert machines(1).applied_index == count


def test_machines_stand_where_the_file_says(tmp_path: Path) -> None:
    path = str(tmp_path / "kv.sqlite3")
    first = SqliteMachines(path)
    wanted = fill(first(7), 20)
    first.close()
    second = SqliteMachines(path)
    assert second(7).applied_index == second(7).seen == 20
    assert second(8).applied_index == 0
    assert rows(second(7)) == wanted
    second.close()


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "kv.sqlite3")
    made = SqliteMachines(path)
    made.database._writer.execute("PRAGMA user_version = 99")
    made.close()
    with pytest.raises(StorageFailed, match="format 99"):
        SqliteMachines(path)(1)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kv.sqlite3"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StorageFailed, match="not a database"):
        SqliteMachines(str(path))(1)


# --- scans -----------------------------------------------------------------------------------


def test_scans_are_ordered_and_bounded(machines: SqliteMachines) -> None:
    machine = machines(1)
    items = sorted(fill(machine, 100).items())
    assert machine.query(Scan(b"", None, 10)) == Page(items[:10], complete=False)
    assert machine.query(Scan(b"key00090", None, 10)) == Page(items[90:], complete=True)
    assert machine.query(Scan(b"key00010", b"key00020", 50)) == Page(items[10:20], complete=True)
    assert machine.query(Scan(b"key00010", b"key00020", 10)) == Page(items[10:20], complete=True)
    assert machine.query(Scan(b"z", None, 10)) == Page([], complete=True)


def test_a_scan_stops_at_its_bytes_but_returns_a_row(machines: SqliteMachines) -> None:
    machine = machines(1)
    items = sorted(fill(machine, 4, size=1000).items())
    assert machine.query(Scan(b"", None, 10, max_bytes=2100)) == Page(items[:2], complete=False)
    assert machine.query(Scan(b"", None, 10, max_bytes=1)) == Page(items[:1], complete=False)


@given(st.dictionaries(st.binary(min_size=1, max_size=4), st.binary(max_size=4), max_size=30))
@settings(max_examples=25, deadline=None)
def test_any_bytes_come_back_in_key_order(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[bytes, bytes]
) -> None:
    machines = SqliteMachines(str(tmp_path_factory.mktemp("kv") / "kv.sqlite3"))
    machine = machines(1)
    machine.apply(entries([encode_put(*item) for item in wanted.items()] or [encode_delete(b"x")]))
    page = machine.query(Scan(b"", None, 100))
    assert page == Page(sorted(wanted.items()), complete=True)
    machines.close()


# --- snapshots -------------------------------------------------------------------------------


def test_a_snapshot_is_the_state_as_of_the_call(machines: SqliteMachines) -> None:
    """Its chunks are read in another thread, after the state has gone on."""
    machine, other = machines(1), machines(2)
    wanted = fill(machine, 3000)
    fill(other, 10)
    stream = machine.snapshot()
    machine.apply(entries([encode_put(b"key00000", b"later"), encode_delete(b"key02999")], 3001))
    machine.apply(entries([encode_put(b"key%05da" % i, b"") for i in range(1000)], 3003))
    chunks: list[bytes] = []
    reader = threading.Thread(target=lambda: chunks.extend(stream))
    reader.start()
    reader.join()
    assert len(chunks) > 2
    target = machines(3)
    target.restore(chunks)
    assert rows(target) == wanted
    assert target.applied_index == 3000
    assert len(rows(other)) == 10


def test_a_snapshot_in_a_batch_has_what_was_applied_before_it(machines: SqliteMachines) -> None:
    machine = machines(1)
    with machines.batch():
        machine.apply(entries([encode_put(b"a", b"1")]))
        stream = machine.snapshot()
        machine.apply(entries([encode_put(b"a", b"2")], 2))
    target = machines(2)
    target.restore(stream)
    assert (rows(target), target.applied_index) == ({b"a": b"1"}, 1)


def test_a_snapshot_needs_memory_for_a_block_only(machines: SqliteMachines) -> None:
    machine = machines(1)
    fill(machine, 30, size=200_000)
    sizes = [len(chunk) for chunk in machine.snapshot()]
    assert sum(sizes) > 6_000_000
    assert max(sizes) < 600_000


def test_a_restore_replaces_this_group_alone(machines: SqliteMachines) -> None:
    source, target, other = machines(1), machines(2), machines(3)
    wanted = fill(source, 5)
    target.apply(entries([encode_put(b"old", b"1"), encode_put(b"key00001", b"old")]))
    other.apply(entries([encode_put(b"other", b"1")]))
    target.restore(b"".join(source.snapshot())[i : i + 1] for i in range(10_000))
    assert rows(target) == wanted
    assert rows(other) == {b"other": b"1"}
    assert target.applied_index == 5
    assert target.apply(entries([encode_put(b"new", b"1")], 6)) == [6]


def test_an_empty_group_has_a_snapshot_too(machines: SqliteMachines) -> None:
    target = machines(2)
    fill(target, 5)
    target.restore(machines(1).snapshot())
    assert (rows(target), target.applied_index) == ({}, 0)


def test_a_bad_snapshot_leaves_the_state_alone(machines: SqliteMachines) -> None:
    source, target = machines(1), machines(2)
    fill(source, 2000)
    wanted = fill(target, 3)
    whole = b"".join(source.snapshot())
    bad = [b"", b"x", b"x" * 100, whole[:20], whole[:-1], whole[:-13], whole[: len(whole) // 2]]
    bad += [whole[:30] + b"\xff\xff\xff" + whole[33:], whole[:-1] + b"\0"]
    for each in bad:
        with pytest.raises(SnapshotInvalid):
            target.restore([each])
        assert (rows(target), target.applied_index) == (wanted, 3)


def test_a_snapshot_that_nobody_reads_lets_go(machines: SqliteMachines) -> None:
    """Otherwise the -wal file could never be reused."""
    machine = machines(1)
    fill(machine, 5)
    stream = machine.snapshot()
    fill_size = len(list(machine.snapshot()))
    assert fill_size == 2
    del stream
    machine.apply(entries([encode_put(b"a", b"1")], 6))
    busy, frames, moved = machines.database._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, frames, moved) == (0, 0, 0)


def test_a_discarded_group_leaves_nothing(machines: SqliteMachines) -> None:
    """A later group of that id must start from nothing."""
    machine, other = machines(1), machines(2)
    fill(machine, 5)
    wanted = fill(other, 5)
    machine.discard()
    again = machines(1)
    assert (again.applied_index, rows(again)) == (0, {})
    assert rows(other) == wanted


# --- power cuts ------------------------------------------------------------------------------


def batches_of_two_groups(machines: SqliteMachines, count: int) -> dict[int, dict[bytes, bytes]]:
    """Write batches; what group 1 must look like by its applied index. Group 2 goes in step."""
    one, two = machines(1), machines(2)
    history: dict[int, dict[bytes, bytes]] = {0: {}}
    state: dict[bytes, bytes] = {}
    for batch in range(count):
        first = one.seen + 1
        commands: list[bytes] = []
        for i in range(3):
            key = b"key%d" % ((batch * 7 + i) % 11)
            if (batch + i) % 5 == 0:
                commands.append(encode_delete(key))
                state.pop(key, None)
            else:
                state[key] = b"%d.%d" % (batch, i) * 100
                commands.append(encode_put(key, state[key]))
        with machines.batch():
            one.apply(entries(commands, first))
            two.apply(entries(commands, first))
        history[one.seen] = dict(state)
    return history


@pytest.mark.slow
def test_a_torn_wal_file_leaves_an_earlier_commit(machines: SqliteMachines, tmp_path: Path) -> None:
    """Cut it anywhere, or damage a page: never between two commits, never corrupt."""
    machines.database.sync()
    history = batches_of_two_groups(machines, 12)
    source = Path(machines.database.path)
    main, wal = source.read_bytes(), Path(f"{source}-wal").read_bytes()
    torn = [wal[:cut] for cut in range(0, len(wal) + 1, 1301)]
    torn += [wal[:at] + b"\0" * 512 + wal[at + 512 :] for at in range(0, len(wal), 8192)]
    stood: set[int] = set()
    for number, damaged in enumerate(torn):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "kv.sqlite3").write_bytes(main)
        (folder / "kv.sqlite3-wal").write_bytes(damaged)
        after = SqliteMachines(str(folder / "kv.sqlite3"))
        one, two = after(1), after(2)
        assert one.applied_index == two.applied_index, "groups of a batch stand or fall together"
        assert rows(one) == rows(two) == history[one.applied_index]
        assert after.database._writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        stood.add(one.applied_index)
        after.close()
        shutil.rmtree(folder)
    assert stood == set(history), "every commit was seen, and nothing else"
    assert all(later - earlier == 3 for earlier, later in pairwise(sorted(stood)))


def test_what_was_synced_is_in_the_files_that_were_synced(machines: SqliteMachines) -> None:
    """After `sync` nothing is left to write: a copy of the files has it all."""
    machine = machines(1)
    wanted = fill(machine, 100)
    machine.sync()
    source = Path(machines.database.path)
    copy = source.parent / "copy.sqlite3"
    shutil.copy(source, copy)
    shutil.copy(f"{source}-wal", f"{copy}-wal")
    after = SqliteMachines(str(copy))
    assert (rows(after(1)), after(1).applied_index) == (wanted, 100)
    after.close()
