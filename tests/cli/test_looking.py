"""`status`, `groups`, `group` and `wal`: looking at a host that runs, and at the log of one that does not."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from multiraft import HostConfig
from multiraft.cli import main
from multiraft.kv.serve import open_kv
from tests.cli.helpers import Result

SEGMENT_BYTES = 1 << 16


def config(folder: Path) -> HostConfig:
    return HostConfig(
        data_dir=folder / "data",
        listen="127.0.0.1:0",
        http="127.0.0.1:0",
        cluster_id="looked at",
        tick_interval_s=0.01,
        segment_bytes=SEGMENT_BYTES,
        drain_s=2.0,
    )


@asynccontextmanager
async def store(folder: Path) -> AsyncIterator[str]:
    """A host of the store with three groups, each led by it; its http address."""
    async with open_kv(config(folder), groups=3) as served:
        with trio.fail_after(10):
            for group in served.host.groups.values():
                await group.wait_leader()
                await group.read_barrier()
        yield served.http


async def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """A command line beside a host that runs in this thread."""
    status = await trio.to_thread.run_sync(main.run, [str(each) for each in arguments])
    captured = capsys.readouterr()
    return Result(status, captured.out, captured.err)


@pytest.fixture
def web_server() -> Iterator[str]:
    """A web server with nothing but a page; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"hello": "world"}')

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_status_of_a_host(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """For people and for programs."""
    async with store(tmp_path) as address:
        result = await run(capsys, "status", "--host", address)
        assert result.status == 0, result
        assert "of cluster looked at" in result.out
        assert "3, 3 led here" in result.out
        result = await run(capsys, "status", "--host", f"http://{address}/", "--json")
        assert result.last_object()["groups_total"] == 3


async def test_groups_of_a_host(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A line for each; in a pipe no cell is cut."""
    async with store(tmp_path) as address:
        result = await run(capsys, "groups", "--host", address)
        assert result.status == 0, result
        assert (
            len([line for line in result.out.splitlines() if " leader " in line and "(member 1)" in line])
            == 3
        )
        assert "…" not in result.out
        result = await run(capsys, "groups", "--host", address, "--json")
        assert [row["id"] for row in result.last_object()["groups"]] == [1, 2, 3]


async def test_one_group(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The one that was asked for; one that is not there is a failure, not an empty answer."""
    async with store(tmp_path) as address:
        result = await run(capsys, "group", 2, "--host", address)
        assert result.status == 0, result
        assert f"group 2 on {address}" in result.out
        result = await run(capsys, "group", 2, "--host", address, "--json")
        assert result.last_object()["role"] == "leader"
        result = await run(capsys, "group", 4, "--host", address)
        assert (result.status, result.out) == (1, "")
        assert result.error == f"multiraft: error: group 4 is not on the host at {address}\n"


async def test_web_server_is_no_host(capsys: pytest.CaptureFixture[str], web_server: str) -> None:
    """Whatever it answers."""
    result = await run(capsys, "status", "--host", web_server)
    assert result.status == 1
    assert result.error.startswith(f"multiraft: error: what answers at {web_server} is no multiraft host")


async def test_listen_address_instead_of_http(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An easy mistake: the message says which address is meant."""
    async with open_kv(config(tmp_path), groups=1) as served:
        result = await run(capsys, "status", "--host", served.host.address)
    assert result.status == 1
    assert "give the host's http address" in result.error


async def test_log_of_a_host(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What it holds, that it is whole, and where it is damaged once it is."""
    async with store(tmp_path):
        pass
    folder = tmp_path / "data"
    result = await run(capsys, "wal", "verify", folder)
    assert result.status == 0, result
    assert "all whole" in result.out
    result = await run(capsys, "wal", "inspect", folder, "--json")
    found = result.last_object()
    assert found["groups"] == 3
    assert found["records_by_kind"]["CREATE"] == 3
    assert found["problems"] == []
    result = await run(capsys, "wal", "inspect", folder, "--records")
    assert result.status == 0
    assert result.out.count("CREATE") == 4

    (segment,) = (folder / "wal").glob("*.wal")
    _damage(segment)
    result = await run(capsys, "wal", "verify", folder)
    assert result.status == 1
    assert segment.name in result.out
    result = await run(capsys, "wal", "verify", folder, "--json")
    assert result.status == 1
    assert json.loads(result.out)["problems"][0]["segment"] == segment.name
    result = await run(capsys, "wal", "inspect", folder)
    assert result.status == 1


def _damage(segment: Path) -> None:
    """Flip a bit in an early record, with later ones behind it."""
    data = bytearray(segment.read_bytes())
    data[200] ^= 1
    segment.write_bytes(data)
