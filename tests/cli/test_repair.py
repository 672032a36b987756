"""`multiraft wal repair`: says what it would do, does it with `--yes`, and nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from multiraft.cli import main
from tests.cli.helpers import Result
from tests.cli.test_looking import _damage, store


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Result:
    status = main.run([str(each) for each in arguments])
    captured = capsys.readouterr()
    return Result(status, captured.out, captured.err)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.wal")}


async def test_repair_of_a_damaged_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    async with store(tmp_path):
        pass
    folder = tmp_path / "data"
    wal = folder / "wal"
    before = contents(wal)
    result = run(capsys, "wal", "repair", folder, "--yes")
    assert (result.status, result.error) == (0, "")
    assert "the log is whole, nothing was changed" in result.out
    assert contents(wal) == before

    _damage(next(wal.glob("*.wal")))
    before = contents(wal)
    result = run(capsys, "wal", "repair", folder)
    assert result.status == 1
    assert "nothing was changed; run it again with --yes" in result.out
    assert "byte 64" in result.out
    assert contents(wal) == before

    result = run(capsys, "wal", "repair", folder, "--yes", "--json")
    assert result.status == 0, result
    found = result.last_object()
    assert found["repaired"] is True
    (damage,) = found["damages"]
    assert (damage["segment"], damage["offset"]) == (next(iter(before)), 64)
    assert damage["bytes"] > 0
    assert {each["group"] for each in found["damaged"]} | set(found["whole"]) == {1, 2, 3}
    assert contents(Path(found["backup"])) == before
    assert Path(found["backup"]) == wal / "backup-1"

    assert run(capsys, "wal", "verify", folder).status == 0
    result = run(capsys, "wal", "repair", folder, "--yes", "--json")
    assert (result.status, result.last_object()["ok"]) == (0, True)
    assert not (wal / "backup-2").exists()


async def test_repair_is_refused_while_the_host_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with store(tmp_path):
        result = run(capsys, "wal", "repair", tmp_path / "data", "--yes")
    assert result.status == 1
    assert result.out == ""
    assert "is held by another open host" in result.error


def test_repair_of_a_folder_without_a_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = run(capsys, "wal", "repair", tmp_path)
    assert result.status != 0
    assert "is no data folder of a host" in result.error
