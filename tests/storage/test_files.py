"""`OsFiles` and `MemoryFiles` keep the same promises; `MemoryFiles` also forgets as a disk may."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from multiraft.errors import DataDirInUse, StorageFailed, StorageFull
from multiraft.interfaces import Files
from multiraft.storage.files import OsFiles, storage_error
from multiraft.storage.memory import MemoryFiles


@pytest.fixture(params=["os", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Files, str]]:
    """A kind of files, and a folder in it."""
    if request.param == "os":
        yield OsFiles(), str(tmp_path)
    else:
        files = MemoryFiles()
        files.make_folder("/some/folder")
        yield files, "/some/folder"


def test_what_is_written_is_read(place: tuple[Files, str]) -> None:
    files, folder = place
    with pytest.raises(FileNotFoundError):
        files.open(f"{folder}/a")
    file = files.open(f"{folder}/a", create=True)
    file.write(3, b"abc")
    assert file.size() == 6
    assert file.read(0, 100) == b"\0\0\0abc"
    assert file.read(4, 1) == b"b"
    assert file.read(6, 10) == file.read(99, 10) == b""
    file.allocate(10)
    assert (file.size(), file.read(5, 100)) == (10, b"c\0\0\0\0")
    file.allocate(2)
    assert file.size() == 10
    file.truncate(4)
    file.truncate(6)
    assert file.read(0, 100) == b"\0\0\0a\0\0"
    file.sync()
    file.close()
    again = files.open(f"{folder}/a")
    assert again.read(3, 1) == b"a"
    again.close()


def test_names(place: tuple[Files, str]) -> None:
    files, folder = place
    for name in ("b", "a"):
        file = files.open(f"{folder}/{name}", create=True)
        file.write(0, name.encode())
        file.close()
    assert files.list(folder) == ["a", "b"]
    files.rename(f"{folder}/a", f"{folder}/b")
    assert files.list(folder) == ["b"]
    file = files.open(f"{folder}/b")
    assert file.read(0, 9) == b"a"
    file.close()
    files.make_folder(f"{folder}/x/y")
    files.make_folder(f"{folder}/x/y")
    assert files.list(folder) == ["b", "x"]
    assert files.exists(f"{folder}/x/y")
    files.sync_folder(folder)
    with pytest.raises(OSError, match="empty"):
        files.remove(f"{folder}/x")
    files.remove(f"{folder}/x/y")
    files.remove(f"{folder}/x")
    files.remove(f"{folder}/b")
    assert files.list(folder) == []
    assert not files.exists(f"{folder}/b")
    with pytest.raises(FileNotFoundError):
        files.remove(f"{folder}/b")
    with pytest.raises(FileNotFoundError):
        files.rename(f"{folder}/b", f"{folder}/c")
    with pytest.raises(FileNotFoundError):
        files.list(f"{folder}/x")


def test_a_lock_is_held_once(place: tuple[Files, str]) -> None:
    files, folder = place
    unlock = files.lock(f"{folder}/lock")
    with pytest.raises(DataDirInUse):
        files.lock(f"{folder}/lock")
    unlock()
    unlock()
    again = files.lock(f"{folder}/lock")
    unlock()  # the first holder has no say any more
    with pytest.raises(DataDirInUse):
        files.lock(f"{folder}/lock")
    again()


@pytest.mark.slow
def test_a_lock_is_held_against_other_processes(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    program = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        with pytest.raises(DataDirInUse):
            OsFiles().lock(path)
        other.communicate(b"\n")
    OsFiles().lock(path)()


def test_os_errors_become_ours() -> None:
    assert type(storage_error(OSError(errno.ENOSPC, "full"), "writing")) is StorageFull
    assert type(storage_error(OSError(errno.EDQUOT, "full"), "writing")) is StorageFull
    failed = storage_error(OSError(errno.EIO, "bad"), "writing")
    assert type(failed) is StorageFailed
    assert "writing" in str(failed)
    assert "bad" in str(failed)
    assert storage_error(failed, "again") is failed


def test_large_reads_and_writes_are_whole(tmp_path: Path) -> None:
    file = OsFiles().open(str(tmp_path / "big"), create=True)
    data = os.urandom(3 << 20)
    file.write(1, data)
    assert file.read(1, len(data) + 5) == data
    file.close()


# --- the forgetful disk ----------------------------------------------------------------------


def disk_with(data: bytes) -> MemoryFiles:
    files = MemoryFiles()
    files.make_folder("/d")
    file = files.open("/d/a", create=True)
    file.write(0, data)
    file.sync()
    file.close()
    files.sync_folder("/d")
    return files


def test_what_was_synced_survives_every_crash() -> None:
    for seed in range(50):
        files = disk_with(b"kept")
        files.crash(random.Random(seed).randrange)
        assert files.read_file("/d/a") == b"kept"


def test_an_unsynced_write_may_survive_in_any_part() -> None:
    seen = set()
    for seed in range(2000):
        files = disk_with(b"....")
        file = files.open("/d/a")
        file.write(0, b"abcd")
        files.crash(random.Random(seed).randrange)
        seen.add(files.read_file("/d/a"))
    assert len(seen) == 16


def test_of_unsynced_names_any_set_survives() -> None:
    seen = set()
    for seed in range(200):
        files = disk_with(b"x")
        files.rename("/d/a", "/d/b")
        files.open("/d/c", create=True)
        files.crash(random.Random(seed).randrange)
        seen.add(tuple(files.list("/d")))
    assert seen == {("a",), ("b",), ("a", "c"), ("b", "c")}


def test_a_name_without_its_data_reads_as_it_was_synced() -> None:
    files = disk_with(b"x")
    file = files.open("/d/new", create=True)
    file.write(0, b"data")
    files.sync_folder("/d")
    files.crash(lambda _: 0)
    assert files.read_file("/d/new") == b""


def test_after_a_failed_sync_the_next_one_lies() -> None:
    files = disk_with(b"old")
    file = files.open("/d/a")
    file.write(0, b"new")
    files.fail_nth(1, OSError(errno.EIO, "bad"))
    with pytest.raises(OSError, match="bad"):
        file.sync()
    file.sync()
    assert files.read_file("/d/a") == b"new"
    files.crash(lambda _: 1)
    assert files.read_file("/d/a") == b"old"


def test_a_dead_process_loses_nothing_but_its_locks() -> None:
    files = disk_with(b"x")
    files.lock("/d/lock")
    file = files.open("/d/a")
    file.write(0, b"y")
    files.process_died()
    files.lock("/d/lock")
    assert files.read_file("/d/a") == b"y"
    files.crash(lambda _: 0)
    assert files.read_file("/d/a") == b"x"


def test_an_old_handle_does_not_reach_the_disk_after_a_crash() -> None:
    files = disk_with(b"x")
    file = files.open("/d/a")
    files.crash(lambda _: 1)
    file.write(0, b"zombie")
    file.sync()
    file.close()
    assert files.read_file("/d/a") == b"x"
    assert files.open_files == 0


def test_faults_hit_what_they_are_meant_for() -> None:
    files = disk_with(b"....")
    files.fail_matching("write", "/a", OSError(errno.EIO, "bad"))
    file = files.open("/d/a")
    with pytest.raises(OSError, match="bad"):
        file.write(0, b"abcd")
    assert files.read_file("/d/a") == b"ab.."
    files.fail_nth(2, OSError(errno.EIO, "second"))
    file.sync()
    with pytest.raises(OSError, match="second"):
        file.sync()
    file.sync()
    assert files.operations["sync"] == 4
