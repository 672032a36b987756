"""Managing hosts that run in processes of their own: docs/admin.md as it stands, and restarts."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import httpx
import pytest
import trio

from multiraft.admin.openapi import ALL_ROUTES
from multiraft.cli import main
from tests.cli.helpers import ROOT, multiraft
from tests.cluster.serving import Cluster, serving

PAGE = (ROOT / "docs" / "admin.md").read_text(encoding="utf-8")


def test_every_operation_is_on_the_page() -> None:
    rows = set(re.findall(r"^\| (GET|POST) `([^`]+)` \|", PAGE, re.MULTILINE))
    assert rows == {(route.method, route.path) for route in ALL_ROUTES}


async def command(*arguments: object) -> int:
    """The exit status of a command line, run here: a process would take a second to start."""
    return await trio.to_thread.run_sync(main.run, [str(each) for each in arguments])


EXAMPLES = "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)).splitlines()


@pytest.mark.slow
async def test_the_examples_run_as_they_stand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every `sh` block of the page, line by line; where there is no curl, what it would have sent."""
    (tmp_path / ".curlrc").write_text("fail-with-body\n")
    async with serving(tmp_path) as cluster:
        for line in EXAMPLES:
            here = _with_addresses(line, cluster)
            if here.startswith("multiraft "):
                status = await command(*shlex.split(here)[1:])
            elif shutil.which("curl") is None:
                status = await _sent_otherwise(here)
            else:
                status = (
                    await trio.run_process(
                        ["sh", "-c", here], check=False, env={**os.environ, "CURL_HOME": str(tmp_path)}
                    )
                ).returncode
            assert status == 0, (here, capsys.readouterr())
    assert len(EXAMPLES) >= 17


def test_without_curl_the_same_is_sent() -> None:
    """Every line of curl on the page is understood, and asks for an operation that there is."""
    requests = [request_of(line) for line in EXAMPLES if line.startswith("curl ")]
    assert len(requests) >= 8
    operations = {(each.method, re.sub(r"{\w+}", r"\\d+", each.path)) for each in ALL_ROUTES}
    for request in requests:
        path = urlsplit(request.url).path
        assert any(request.method == method and re.fullmatch(rule, path) for method, rule in operations)
    assert request_of("curl -s 'http://127.0.0.1:1/a?b=1&c=2'") == Request(
        "GET", "http://127.0.0.1:1/a?b=1&c=2", {}, None
    )
    assert request_of("""curl -s --json '{"to": 2}' http://127.0.0.1:1/a""") == Request(
        "POST",
        "http://127.0.0.1:1/a",
        {"Content-Type": "application/json", "Accept": "application/json"},
        '{"to": 2}',
    )


@attrs.frozen
class Request:
    """What a line of curl sends."""

    method: str
    url: str
    headers: dict[str, str]
    body: str | None


def request_of(line: str) -> Request:
    """The options that the page uses, and no other: `--json` is a POST of JSON that wants JSON."""
    name, *words = shlex.split(line)
    assert name == "curl"
    body, headers, urls = None, dict[str, str](), []
    rest = iter(words)
    for word in rest:
        if word == "--json":
            body = next(rest)
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
        elif word != "-s":
            assert word.startswith("http"), f"what does curl do with {word}? {line}"
            urls.append(word)
    (url,) = urls
    return Request("GET" if body is None else "POST", url, headers, body)


async def _sent_otherwise(line: str) -> int:
    """What curl's exit status would be, with `fail-with-body`."""
    request = request_of(line)
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.request(
            request.method, request.url, headers=request.headers, content=request.body
        )
    sys.stdout.write(answer.text)
    return 0 if answer.is_success else 22


def _with_addresses(line: str, cluster: Cluster) -> str:
    """Members are numbered in the order of their addresses, as those on the page are."""
    for number, host in enumerate(sorted(cluster.hosts, key=lambda host: host.address), start=1):
        line = line.replace(f"127.0.0.1:700{number}", host.address)
        line = line.replace(f"127.0.0.1:800{number}", host.url.removeprefix("http://"))
    return line


@pytest.mark.slow
async def test_a_host_of_the_store_starts_without_members_that_were_taken_from_it(tmp_path: Path) -> None:
    """Also without the first group, which remembers how keys are divided; and it can join them again."""
    async with serving(tmp_path) as cluster:
        first, last = cluster.hosts[0], cluster.hosts[2]
        number = sorted(host.address for host in cluster.hosts).index(last.address) + 1
        for group in (1, 2):
            assert await command("members", "remove", group, number, "--host", first.url) == 0
        await _restart(cluster)
        assert await command("group", 1, "--host", last.url) == 0, "it is there, and stopped"
        for group in (1, 2):
            assert await command("remove", group, "--yes", "--host", last.url) == 0
        await _restart(cluster)
        for group in (1, 2):
            assert await command("group", group, "--host", last.url) == 1
            assert await command("join", group, "--via", first.address, "--host", last.url) == 0
        with trio.fail_after(20):
            await cluster.wait_ready()


async def _restart(cluster: Cluster) -> None:
    last = cluster.hosts[2]
    last.kill()
    cluster.start(last)
    with trio.fail_after(30):
        while await command("groups", "--host", last.url):  # noqa: ASYNC110 - in another process
            await trio.sleep(0.1)


@pytest.mark.slow
def test_commands_in_processes_of_their_own(tmp_path: Path) -> None:
    """What is wrong is one line, for a host that cannot start and for a command that finds none."""
    done = multiraft(
        *("serve", "--listen", "127.0.0.1:0", "--http", "0.0.0.0:0", "--data-dir", tmp_path / "a"),
        *("--set", f"admin_token_file={tmp_path / 'token'}"),
    )
    assert done.status == 2
    assert f"multiraft: error: admin_token_file: cannot read {tmp_path / 'token'}" in done.error
    done = multiraft("transfer", 1, 2, "--host", "127.0.0.1:1")
    assert (done.status, done.out) == (1, "")
    assert done.error.startswith("multiraft: error: nobody answers at 127.0.0.1:1")
    assert "Traceback" not in done.error
