"""Temporary folders on a disk, ports that stay free, settings, signals."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from pathlib import Path

import click
import pytest
import trio

from multiraft.cli import scratch
from multiraft.cli.deadline import TookTooLong, deadline
from multiraft.cli.interrupt import Interrupted, run_async
from multiraft.cli.ports import free_ports
from multiraft.cli.scratch import file_system_type, scratch_folder
from multiraft.cli.settings import settings_option
from multiraft.errors import ConfigError

MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
25 22 0:23 / /dev/shm rw,nosuid - tmpfs tmpfs rw
26 22 0:24 / /tmp rw shared:1 master:2 - tmpfs tmpfs rw
27 26 254:1 / /tmp/real\040disk rw - xfs /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/home/x", "ext4"),
        ("/tmp", "tmpfs"),
        ("/tmp/a/b", "tmpfs"),
        ("/tmpfoo", "ext4"),
        ("/tmp/real disk/x", "xfs"),
        ("/dev/shm", "tmpfs"),
    ],
)
def test_file_system_of_a_path(path: str, kind: str) -> None:
    """The mount point nearest above it; names with spaces are escaped in the table."""
    assert file_system_type(path, MOUNTS) == kind


def test_folder_is_deleted_with_what_is_in_it(tmp_path: Path) -> None:
    """However the block ends."""

    def use() -> None:
        with scratch_folder("x", str(tmp_path)) as folder:
            assert os.path.dirname(folder) == str(tmp_path)
            (Path(folder) / "a").mkdir()
            (Path(folder) / "a" / "b").write_text("c")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert list(tmp_path.iterdir()) == []


def test_memory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """fdatasync means nothing there: not by default, and not on request either."""
    monkeypatch.setattr(scratch, "file_system_type", lambda _: "tmpfs")
    with pytest.raises(ConfigError, match="in memory"), scratch_folder("x", str(tmp_path)):
        pass
    with pytest.raises(ConfigError, match="--data-dir"), scratch_folder("x"):
        pass


def test_default_passes_over_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where temporary folders are in memory, the current folder is taken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/dev")
    monkeypatch.setattr(scratch, "file_system_type", lambda path: "tmpfs" if path == "/dev" else "ext4")
    with scratch_folder("x") as folder:
        assert os.path.dirname(folder) == str(tmp_path)


def test_free_ports_are_free_and_stay_so() -> None:
    """Different ones, and below those the system gives to outgoing connections."""
    ports = free_ports(8)
    assert len(set(ports)) == 8
    with socket.socket() as outgoing:
        outgoing.bind(("127.0.0.1", 0))
        assert max(ports) < 61_000
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("a=1", 1),
        ("a=0.5", 0.5),
        ("a=false", False),
        ("a='x'", "x"),
        ("a=127.0.0.1:1", "127.0.0.1:1"),
        ("a==", "="),
        ("a=", ""),
    ],
)
def test_settings_are_toml_values_or_strings(given: str, value: object) -> None:
    """Quotes are not needed for a string that is no TOML value."""

    @click.command()
    @settings_option
    def command(settings: dict[str, object]) -> dict[str, object]:
        return settings

    assert command.main(["--set", given], standalone_mode=False) == {"a": value}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_cancels_and_cleans_up(number: signal.Signals) -> None:
    """What was begun is ended in order, and then the signal is reported."""
    steps: list[str] = []

    async def main() -> None:
        try:
            os.kill(os.getpid(), number)
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                steps.append("cleaned up")

    with pytest.raises(Interrupted) as caught:
        run_async(main)
    assert caught.value.signal == number
    assert steps == ["cleaned up"]


def test_errors_leave_bare() -> None:
    """Out of nurseries, the cancellations they caused aside."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ConfigError("x", "y")

    with pytest.raises(ConfigError):
        run_async(main)


def test_result_is_returned() -> None:
    """Of what ran to its end."""

    async def main() -> int:
        await trio.lowlevel.checkpoint()
        return 7

    assert run_async(main) == 7


async def test_deadline_says_what_did_not_happen(autojump_clock: trio.testing.MockClock) -> None:
    """The message ends a sentence; in time there is none."""
    assert autojump_clock.rate == 0
    with deadline(5, "the cows to come home"):
        await trio.sleep(4)
    with (
        pytest.raises(TookTooLong, match="waited 5 s for the cows to come home"),
        deadline(5, "the cows to come home"),
    ):
        await trio.sleep(6)
