"""`demo` and `bench`, as users run them: host processes, sockets, files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from multiraft.cli.scratch import MEMORY_FILE_SYSTEMS, file_system_type
from tests.cli.helpers import ROOT, assert_one_clear_line, command_line, multiraft

KEYS = {
    "mode",
    "hosts",
    "groups",
    "payload",
    "inflight",
    "seconds",
    "operations",
    "per_second",
    "latency_ms",
    "cpu_us_per_operation",
    "cpu_percent_per_host",
    "rss_mib_per_host",
    "fdatasync_per_second",
}


def processes_in(folder: Path) -> list[int]:
    """Processes whose command line or open files name `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                links = [os.readlink(link) for link in (entry / "fd").iterdir()]
                named = str(folder) in (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue  # it is gone, or not ours
            if named or any(str(folder) in link for link in links):
                found.append(int(entry.name))
    return found


def wait_gone(folder: Path, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while processes_in(folder):
        assert time.monotonic() < end, f"still there: {processes_in(folder)}"
        time.sleep(0.05)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk: where temporary ones are in memory, one beside this file."""
    if file_system_type(str(tmp_path)) not in MEMORY_FILE_SYSTEMS:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=Path(__file__).parent) as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["write", "read", "lease-read", "mixed", "idle"])
def test_bench_prints_the_promised_object(disk: Path, mode: str) -> None:
    """Every mode, few groups: the keys of the object, and figures that fit together."""
    result = multiraft(
        *("bench", "--groups", 5, "--inflight", 16, "--seconds", 1, "--warmup", 0.3),
        *("--mode", mode, "--data-dir", disk, "--json"),
    )
    assert result.status == 0, result
    found = result.last_object()
    assert found.keys() == KEYS
    assert found["mode"] == mode
    assert (found["hosts"], found["groups"], found["payload"]) == (3, 5, 16)
    assert found["seconds"] == pytest.approx(1, abs=0.5)
    assert len(found["cpu_percent_per_host"]) == len(found["rss_mib_per_host"]) == 3
    assert all(10 < each < 1000 for each in found["rss_mib_per_host"])
    if mode == "idle":
        assert found["operations"] == 0
        assert found["cpu_us_per_operation"] is None
    else:
        assert found["per_second"] == pytest.approx(found["operations"] / found["seconds"], rel=0.1)
        latency = found["latency_ms"]
        assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
        assert found["cpu_us_per_operation"] > 0
    assert (found["fdatasync_per_second"] > 0) == (mode in {"write", "mixed"})
    assert result.error == "", "silent in a pipe"
    assert list(disk.iterdir()) == []
    wait_gone(disk)


@pytest.mark.slow
def test_bench_says_what_it_measured(disk: Path) -> None:
    """Without `--json`: a summary for people."""
    result = multiraft(
        "bench",
        "--hosts",
        1,
        "--groups",
        2,
        "--inflight",
        4,
        "--seconds",
        0.5,
        "--warmup",
        0,
        "--data-dir",
        disk,
    )
    assert result.status == 0, result
    assert "operations/s" in result.out
    assert "µs per operation" in result.out


@pytest.mark.slow
def test_demo_verifies_every_acknowledged_write(disk: Path) -> None:
    """A kill in the middle, and the last line says that all is there."""
    result = multiraft("demo", "--groups", 12, "--seconds", 3, "--data-dir", disk, timeout_s=100)
    assert result.status == 0, result
    last = re.fullmatch(r"verified (\d+) of (\d+) acknowledged writes", result.out.splitlines()[-1])
    assert last is not None
    assert last[1] == last[2]
    assert int(last[1]) > 30_000
    assert "SIGKILL" in result.out
    assert "without a leader" in result.out
    assert result.error == "", "silent in a pipe"
    assert list(disk.iterdir()) == []
    wait_gone(disk)


@pytest.mark.slow
def test_demo_without_a_kill_prints_an_object(disk: Path) -> None:
    """One host, nobody killed: `--json` ends with one object."""
    result = multiraft(
        *("demo", "--hosts", 1, "--groups", 3, "--seconds", 0.5, "--no-kill-leader"),
        *("--data-dir", disk, "--json"),
    )
    assert result.status == 0, result
    found = result.last_object()
    assert found["ok"] is True
    assert found["verified"] == found["acknowledged"] > 30_000
    assert found["killed"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"), [("bench", signal.SIGINT), ("bench", signal.SIGTERM), ("demo", signal.SIGINT)]
)
def test_signal_leaves_no_process_and_no_folder(disk: Path, name: str, number: int) -> None:
    """Ctrl-C while three hosts are under load: all of it is gone."""
    process = _running(name, disk)
    process.send_signal(number)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 128 + number, error
    assert (out, error) == ("", "")
    assert processes_in(disk) == []
    assert list(disk.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bench", "demo"])
def test_hosts_end_with_a_parent_that_is_killed(disk: Path, name: str) -> None:
    """SIGKILL to the parent, which can clean up nothing: its hosts end by themselves."""
    process = _running(name, disk)
    process.kill()
    process.communicate(timeout=30)
    wait_gone(disk)


@pytest.mark.slow
def test_a_bench_host_ends_with_its_parent_whatever_it_is_doing(tmp_path: Path) -> None:
    """Also while it waits for a leader, of whom the others have none to offer: they ended first."""
    command = [sys.executable, "-m", "multiraft.cli.bench_host"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def say(**line: object) -> None:
            assert process.stdin is not None
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()

        say(data_dir=str(tmp_path / "host"), mode="write", payload=16, settings={})
        address = json.loads(process.stdout.readline())["address"]
        say(do="create", first=1, last=1, members=[address, "127.0.0.1:1", "127.0.0.1:2"])
        assert json.loads(process.stdout.readline()) == {"created": 1}
        say(do="leaders")
        process.stdin.close()
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()
        assert process.stdout.read() == ""


@pytest.mark.slow
@pytest.mark.parametrize("said", ["", "{"])
def test_a_bench_host_that_is_told_nothing_does_nothing(said: str) -> None:
    command = [sys.executable, "-m", "multiraft.cli.bench_host"]
    ended = subprocess.run(command, input=said, capture_output=True, text=True, cwd=ROOT, timeout=20)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def _running(name: str, disk: Path) -> subprocess.Popen[str]:
    """A command whose three hosts have written to their logs."""
    process = subprocess.Popen(
        command_line(name, "--groups", 5, "--seconds", 60, "--data-dir", disk),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    end = time.monotonic() + 30
    while len(list(disk.glob("*/host*/wal/*.wal"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_failure_of_a_host_process_is_one_clear_line(disk: Path) -> None:
    """What a host says of its failure is what the command says; the other hosts are gone, too."""
    result = multiraft("bench", "--groups", 2, "--data-dir", disk, "--set", "listen=192.0.2.1:1")
    assert_one_clear_line(result, "host 1", "192.0.2.1:1", status=1)
    assert list(disk.iterdir()) == []
    wait_gone(disk)
