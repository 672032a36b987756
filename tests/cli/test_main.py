"""The command line's frame: exit statuses, one clear line for each expected failure."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import click
import pytest

from multiraft.cli import main
from multiraft.cli.interrupt import Interrupted
from multiraft.errors import ConfigError, StorageFailed
from tests.cli.helpers import Result


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """One command line in this process."""
    status = main.run([str(each) for each in arguments])
    captured = capsys.readouterr()
    return Result(status, captured.out, captured.err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], ["nonsense"]),
        (["bench", "--mode", "fast"], ["--mode", "fast"]),
        (["bench", "--hosts", "0"], ["--hosts"]),
        (["bench", "--set", "election_ticks"], ["FIELD=VALUE"]),
        (["bench", "--set", "election_ticks=1"], ["election_ticks", "minimum"]),
        (["bench", "--set", "no_such_field=1"], ["no_such_field"]),
        (["demo", "--payload", "0"], ["--payload"]),
        (["demo", "--hosts", "2", "--kill-leader"], ["three hosts"]),
        (["serve", "--http", "127.0.0.1:1", "--data-dir", "x"], ["--listen"]),
        (
            ["serve", "--listen", "a:1", "--http", "a:2", "--data-dir", "x", "--join", "--peers", "a:1"],
            ["--join", "--peers"],
        ),
        (["serve", "--config", "x", "--listen", "127.0.0.1:1"], ["--config", "--listen"]),
        (["serve", "--config", "/nonexistent.toml"], ["/nonexistent.toml"]),
        (["serve", "--listen", "here", "--http", "127.0.0.1:1", "--data-dir", "x"], ["listen", "'here'"]),
        (["status"], ["--host"]),
        (["status", "--host", "nowhere"], ["host", "'nowhere'"]),
        (["group", "x", "--host", "127.0.0.1:1"], ["ID"]),
        (["wal", "verify", "/nonexistent"], ["/nonexistent"]),
        (["wal", "mend", "x"], ["mend"]),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]) -> None:
    """Status 2, and one line that names what is wrong."""
    result = run(capsys, *arguments)
    assert result.status == 2
    assert result.out == ""
    assert result.error.startswith("multiraft: error: ")
    assert result.error.count("\n") == 1
    for word in words:
        assert word in result.error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StorageFailed("the disk\nis gone"), 1),
        (OSError(errno.EADDRINUSE, "Address already in use"), 1),
        (ConfigError("listen", "'x' is not host:port"), 2),
        (click.ClickException("no"), 1),
        (Interrupted(15), 143),
        (KeyboardInterrupt(), 130),
    ],
)
def test_failures_become_exit_statuses(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
) -> None:
    """Nothing that can be expected ends in a traceback, and a message is one line."""

    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(main.multiraft, "get_command", lambda *_: failing)
    result = run(capsys, "failing")
    assert result.status == status
    assert result.out == ""
    lines = result.error.strip().splitlines()
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        assert lines == []
    else:
        assert len(lines) == 1
        assert lines[0].startswith("multiraft: error: ")


def test_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What we did not expect keeps its traceback."""

    @click.command()
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(main.multiraft, "get_command", lambda *_: broken)
    with pytest.raises(ZeroDivisionError):
        main.run(["broken"])


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Without importing any of them."""
    result = run(capsys, "--help")
    assert result.status == 0
    for name in main.COMMANDS:
        assert f"\n  {name} " in result.out


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_has_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Every place in the table leads to a command."""
    result = run(capsys, name, "--help")
    assert result.status == 0
    assert result.out.startswith(f"Usage: multiraft {name}")


@pytest.mark.parametrize("arguments", [[], ["wal"], ["members"], ["recover"]])
def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """The help goes where errors go."""
    result = run(capsys, *arguments)
    assert result.status == 2
    assert result.out == ""
    assert result.error.startswith("Usage: multiraft")


@pytest.mark.parametrize("command", [["status"], ["groups"], ["group", "1"]])
def test_nobody_answers(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    """A port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        result = run(capsys, *command, "--host", address)
    assert result.status == 1
    assert result.error.startswith(f"multiraft: error: nobody answers at {address}")


def test_data_dir_that_cannot_be_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file where a folder should be."""
    (tmp_path / "file").write_text("")
    result = run(capsys, "bench", "--data-dir", tmp_path / "file" / "data")
    assert result.status == 2
    assert "data_dir: cannot make" in result.error
