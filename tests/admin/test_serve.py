"""Where the admin API is served, and to whom: over real sockets, with real files."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
import trustme

from multiraft import AddressInUse, ConfigError, TlsConfig, open_host
from multiraft.kv.serve import open_kv
from multiraft.transport.tls import load_tls
from tests.admin.hosts import config, served, told
from tests.api.programs import Ledger
from tests.transport.certificates import make_files

TOKEN = "an-admin-token-of-some-length"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


async def test_without_http_nothing_is_served(tmp_path: Path) -> None:
    async with open_host(config(tmp_path, http=None), lambda _group: Ledger()) as host:
        assert host.http_address is None


async def test_a_busy_address_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressInUse, match=f"http: cannot listen on {address}"):
            async with open_host(config(tmp_path / "a", http=address), lambda _group: Ledger()):
                pass
    assert not (tmp_path / "a").exists(), "nothing was made"


async def test_the_address_is_free_again_afterwards(tmp_path: Path) -> None:
    async with served(config(tmp_path / "a")) as first:
        address = first.host.http_address
    async with served(config(tmp_path / "b", http=address)) as second:
        assert second.host.http_address == address


async def test_what_the_block_raises_comes_out_bare(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_host(config(tmp_path), lambda _group: Ledger()):
            raise ZeroDivisionError


async def test_closing_waits_for_an_answer_that_is_under_way(tmp_path: Path) -> None:
    statuses: list[int] = []
    sent = trio.Event()

    async def trace(event: str, _: object) -> None:
        if event == "http11.send_request_body.complete":
            sent.set()

    async def join(client: httpx.AsyncClient, address: str) -> None:
        answer = await client.post(
            f"http://{address}/admin/groups/9/join",
            json={"via": "127.0.0.1:9", "timeout_s": 0.3},
            extensions={"trace": trace},
        )
        statuses.append(answer.status_code)

    async with (
        httpx.AsyncClient(trust_env=False, timeout=10) as client,
        trio.open_nursery() as nursery,
        open_host(config(tmp_path), lambda _group: Ledger()) as host,
    ):
        assert host.http_address is not None
        nursery.start_soon(join, client, host.http_address)
        await sent.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert statuses == [504]


# --- addresses that are not loopback -----------------------------------------------------------------


async def test_an_open_address_without_credentials_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="admin_token_file or http_tls") as caught:
        async with open_host(config(tmp_path / "a", http="0.0.0.0:0"), lambda _group: Ledger()):
            pass
    assert caught.value.field == "http"
    assert not (tmp_path / "a").exists(), "nothing was made"


async def test_the_store_is_served_there_and_its_admin_api_is_closed(tmp_path: Path) -> None:
    """Also for those who come from this machine: nobody can tell a proxy from its own."""
    async with (
        open_kv(config(tmp_path, http="0.0.0.0:0"), groups=1) as kv,
        httpx.AsyncClient(trust_env=False, timeout=10) as client,
    ):
        url = f"http://127.0.0.1:{kv.http.rpartition(':')[2]}"
        answer = await client.get(f"{url}/admin/status", headers=HEADERS)
        assert told(answer) == (403, "Forbidden")
        assert "admin_token_file" in answer.json()["reason"]
        assert (await client.get(f"{url}/kv/a?consistency=stale")).status_code in (404, 503)


async def test_an_open_address_with_a_token_is_served(tmp_path: Path) -> None:
    async with open_host(
        config(tmp_path, http="0.0.0.0:0", admin_token=TOKEN), lambda _group: Ledger()
    ) as host:
        assert host.http_address is not None
        url = f"http://127.0.0.1:{host.http_address.rpartition(':')[2]}/admin/status"
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            assert told(await client.get(url)) == (401, "Unauthorized")
            assert (await client.get(url, headers=HEADERS)).status_code == 200


# --- tokens --------------------------------------------------------------------------------------------


async def test_every_operation_asks_for_the_token(tmp_path: Path) -> None:
    """From loopback as well, once there is one. In a file it may have a line's end behind it."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    settings = config(tmp_path / "a", admin_token_file=str(tmp_path / "token"))
    async with served(settings) as each:
        document = (await each.client.get("/admin/openapi.json", headers=HEADERS)).json()
        count = 0
        for path, methods in document["paths"].items():
            for method in methods:
                url = path.replace("{group}", "7")
                for wrong in ({}, {"Authorization": f"Bearer {TOKEN}x"}):
                    answer = await each.client.request(method, url, headers=wrong, content=b"{}")
                    assert told(answer) == (401, "Unauthorized"), url
                    assert answer.headers["www-authenticate"].startswith("Bearer")
                    count += 1
        assert count >= 38
        answer = await each.client.post("/admin/groups", headers=HEADERS, json={"id": 7})
        assert answer.status_code == 201


async def test_the_token_guards_the_admin_api_of_a_store_and_not_its_keys(tmp_path: Path) -> None:
    async with (
        open_kv(config(tmp_path, admin_token=TOKEN), groups=1) as kv,
        httpx.AsyncClient(base_url=f"http://{kv.http}", trust_env=False, timeout=10) as client,
    ):
        assert told(await client.get("/admin/groups")) == (401, "Unauthorized")
        assert (await client.get("/admin/groups", headers=HEADERS)).json()["groups_total"] == 1
        assert (await client.get("/kv/a?consistency=stale")).status_code in (404, 503)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read"),
        ("", "one token"),
        ("short", "16 to 4096"),
        ("two tokens in one file", "one token"),
    ],
)
async def test_a_token_file_that_cannot_be_used(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        async with open_host(config(tmp_path / "a", admin_token_file=str(path)), lambda _group: Ledger()):
            pass
    assert caught.value.field == "admin_token_file"
    assert str(path) in caught.value.reason
    assert not (tmp_path / "a").exists()


# --- web pages -----------------------------------------------------------------------------------------


async def test_web_pages_get_nowhere(tmp_path: Path) -> None:
    """DNS rebinding and cross-site requests, as a browser sends them."""
    async with served(config(tmp_path)) as each:
        answer = await each.client.get("/admin/status", headers={"Host": "evil.example"})
        assert told(answer) == (403, "Forbidden")
        for headers in (
            {"Content-Type": "text/plain"},
            {"Content-Type": "application/x-www-form-urlencoded"},
            {"Content-Type": "application/json", "Origin": "https://evil.example"},
        ):
            answer = await each.client.post("/admin/groups", content=b'{"id": 7}', headers=headers)
            assert told(answer)[0] in (403, 415), headers
            assert "access-control-allow-origin" not in answer.headers
        assert not each.host.groups, "nothing was made"
        preflight = await each.client.options(
            "/admin/groups",
            headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
        )
        assert preflight.status_code == 405


# --- certificates ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours() -> trustme.CA:
    return trustme.CA()


def verify(files: TlsConfig) -> ssl.SSLContext:
    return load_tls(files).client


def unknown(files: TlsConfig) -> ssl.SSLContext:
    """Somebody who trusts the host and has no certificate."""
    return ssl.create_default_context(cafile=files.ca)


@pytest.mark.slow
async def test_a_certificate_gets_in_and_nobody_else(tmp_path: Path, ours: trustme.CA) -> None:
    """On an address that is open to others, without a token."""
    server = make_files(tmp_path / "server", ours)
    client = make_files(tmp_path / "client", ours, name="operator.example")
    theirs = make_files(tmp_path / "theirs", trustme.CA(), trusts=(ours,))
    settings = config(tmp_path / "a", http="127.0.0.1:0", http_tls=server)
    for http2 in (False, True):
        async with served(settings, verify=verify(client), http1=not http2, http2=http2) as each:
            answer = await each.get("status")
            assert (answer.status_code, answer.http_version) == (200, "HTTP/2" if http2 else "HTTP/1.1")
            headers = {"Host": "localhost"}
            assert (await each.client.get("/admin/status", headers=headers)).status_code == 200
            assert (await each.post("groups", id=7 + http2)).status_code == 201
            url = str(each.client.base_url)
            for stranger in (unknown(server), verify(theirs)):
                async with httpx.AsyncClient(verify=stranger, trust_env=False, timeout=10) as other:
                    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError)):
                        await other.get(f"{url}/admin/status")
            async with httpx.AsyncClient(trust_env=False, timeout=10) as plain:
                answer = await plain.get(f"{url.replace('https', 'http')}/admin/status")
                assert (answer.status_code, "HTTPS only" in answer.text) == (400, True)


@pytest.mark.slow
async def test_with_both_the_token_is_asked_for_as_well(tmp_path: Path, ours: trustme.CA) -> None:
    """Clients of the store have certificates, too, and are no administrators by it."""
    files = make_files(tmp_path / "files", ours)
    settings = config(tmp_path / "a", http_tls=files, admin_token=TOKEN)
    async with served(settings, verify=verify(files)) as each:
        assert told(await each.get("status")) == (401, "Unauthorized")
        assert (await each.client.get("/admin/status", headers=HEADERS)).status_code == 200


async def test_files_that_cannot_be_used_are_named(tmp_path: Path, ours: trustme.CA) -> None:
    good = make_files(tmp_path / "good", ours)
    for name in ("cert", "key", "ca"):
        fields: dict[str, Any] = {"cert": good.cert, "key": good.key, "ca": good.ca, name: "/nowhere"}
        with pytest.raises(ConfigError, match="/nowhere") as caught:
            async with served(config(tmp_path / "a", http_tls=TlsConfig(**fields))):
                pass
        assert caught.value.field == f"http_tls.{name}"
