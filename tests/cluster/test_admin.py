"""Managing hosts that run in processes of their own: docs/admin.md as it stands, and restarts."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_examples_run_as_they_stand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every `sh` block of the page, line by line."""
    lines = "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)).splitlines()
    (tmp_path / ".curlrc").write_text("fail-with-body\n")
    async with serving(tmp_path) as cluster:
        for line in lines:
            here = _with_addresses(line, cluster)
            if here.startswith("multiraft "):
                status = await command(*shlex.split(here)[1:])
            else:
                assert here.startswith("curl ")
                status = (
                    await trio.run_process(
                        ["sh", "-c", here], check=False, env={**os.environ, "CURL_HOME": str(tmp_path)}
                    )
                ).returncode
            assert status == 0, (here, capsys.readouterr())
    assert len(lines) >= 17


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
