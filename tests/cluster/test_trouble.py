"""What is at a peer's address, on a port, or in a data folder is not always what was expected."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from multiraft import Host, Member
from multiraft.cli.ports import free_ports
from multiraft.transport.link import LinkStatistics
from tests.cli.helpers import assert_one_clear_line, multiraft
from tests.cluster.processes import HostProcess
from tests.engine.helpers import cluster, until


@pytest.fixture
def web_server() -> Iterator[str]:
    """A plain HTTP/1.1 server that knows no path; its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), QuietHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


class QuietHandler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing."""


@pytest.mark.slow
async def test_web_server_at_a_peers_address(tmp_path: Path, web_server: str) -> None:
    """The other two of three work on, and the statistics say what is wrong with the third."""
    with trio.fail_after(30):
        async with cluster(tmp_path, 2) as hosts:
            members = [
                Member(n, a) for n, a in enumerate([hosts[0].address, hosts[1].address, web_server], 1)
            ]
            groups = [await host.create_group(1, members) for host in hosts]
            assert await groups[0].propose(b"with two") is not None
            assert await groups[1].query(None) == [b"with two"]
            await until(lambda: all(link.reason for link in _links(hosts[0], web_server)))
            for link in _links(hosts[0], web_server):
                assert not link.up
                assert "answers, but is not a multiraft host" in link.reason


def _links(host: Host, address: str) -> list[LinkStatistics]:
    found = [link for link in host.statistics().transport if link.address == address]
    assert found, "it was never dialed"
    return found


@pytest.mark.slow
async def test_two_hosts_on_one_data_folder(tmp_path: Path) -> None:
    """The second one is told so, in one line, and the first one does not notice."""
    async with trio.open_nursery() as nursery:
        (port, other) = free_ports(2)
        host = HostProcess(1, tmp_path, port, nursery)
        try:
            await host.start()
            result = await trio.to_thread.run_sync(
                lambda: multiraft(
                    *("serve", "--listen", f"127.0.0.1:{other}", "--http", "127.0.0.1:0"),
                    *("--data-dir", tmp_path / "host1"),
                )
            )
            assert_one_clear_line(result, "host1", "held by another process", status=1)
            assert await host.call("leaders") == {}
        finally:
            await host.kill()
            nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--listen", "--http"])
def test_busy_port(tmp_path: Path, web_server: str, option: str) -> None:
    """Failing at once, with the address in the message."""
    addresses = {"--listen": "127.0.0.1:0", "--http": "127.0.0.1:0", option: web_server}
    given = [each for pair in addresses.items() for each in pair]
    result = multiraft("serve", *given, "--data-dir", tmp_path / "data")
    assert_one_clear_line(result, web_server, "in use", status=1)
