"""`members`, `create`, `join`, `leave`, `remove`, `transfer`, `step-down`, `snapshot`: on real hosts."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
import trio
import trustme

from multiraft import Host, open_host
from multiraft.cli import main
from tests.admin.hosts import GROUP, config, make_group, three
from tests.api.programs import PATIENCE_S, Ledger, change, until
from tests.cli.helpers import Result
from tests.transport.certificates import make_files

TOKEN = "an-admin-token-of-some-length"


async def run(capsys: pytest.CaptureFixture[str], host: Host | str, *arguments: object) -> Result:
    """A command line beside hosts that run in this thread."""
    address = host if isinstance(host, str) else host.http_address
    line = [str(each) for each in (*arguments, "--host", address)]
    status = await trio.to_thread.run_sync(main.run, line)
    captured = capsys.readouterr()
    return Result(status, captured.out, captured.err)


async def good(capsys: pytest.CaptureFixture[str], host: Host, *arguments: object) -> str:
    """What a command that succeeds prints."""
    result = await run(capsys, host, *arguments)
    assert (result.status, result.error) == (0, ""), (arguments, result)
    return result.out


async def fails(
    capsys: pytest.CaptureFixture[str], host: Host | str, *arguments: object, status: int = 1
) -> str:
    """The one line that a command ends with."""
    result = await run(capsys, host, *arguments)
    assert (result.status, result.out) == (status, ""), (arguments, result)
    assert result.error.startswith("multiraft: error: ")
    assert result.error.count("\n") == 1
    return result.error


def rows(table: str) -> list[list[str]]:
    """The cells of a table."""
    return [
        [cell.strip() for cell in line[1:-1].split("│")]
        for line in table.splitlines()
        if line.startswith("│")
    ]


@pytest.mark.slow
async def test_a_member_moves(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The page on operations, command by command."""
    async with three(tmp_path) as hosts:
        a, b, c = (each.host for each in hosts)
        await make_group(hosts[:2])
        out = await good(capsys, c, "join", GROUP, "--via", a.address)
        new = c.group(GROUP).member_id
        assert f"own member  {new}" in out
        out = await good(capsys, a, "transfer", GROUP, new)
        assert out.startswith(f"group {GROUP} is led by member {new} at {c.address}")
        listed = rows(await good(capsys, c, "members", "list", GROUP))
        assert [row[:4] for row in listed] == [
            ["1", a.address, "voter", ""],
            ["2", b.address, "voter", ""],
            [str(new), c.address, "voter", "leader"],
        ]
        assert all(re.fullmatch(r"to \d+", row[4]) for row in listed), "how far the leader knows them"
        out = await good(capsys, c, "members", "remove", GROUP, 1)
        assert "removed: 1" in out
        assert [row[0] for row in rows(out)] == ["2", str(new)]
        await until(lambda: a.group(GROUP).status().failed)
        assert "`multiraft remove`" in await fails(capsys, a, "join", GROUP, "--via", b.address)
        assert "--yes" in await fails(capsys, a, "remove", GROUP, status=2)
        assert GROUP in a.groups
        out = await good(capsys, a, "remove", GROUP, "--yes")
        assert out == f"group {GROUP} is gone from {a.http_address}\n"
        assert GROUP not in a.groups


@pytest.mark.slow
async def test_roles_and_several_changes_as_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    async with three(tmp_path) as hosts:
        await make_group(hosts)
        host = hosts[0].host
        out = await good(capsys, host, "members", "add", GROUP, "127.0.0.1:9", "--id", 9, "--role", "learner")
        assert out.startswith("added member 9 at 127.0.0.1:9 as learner\n")
        out = await good(capsys, host, "members", "update", GROUP, 9, "127.0.0.1:8")
        assert ["9", "127.0.0.1:8", "learner", ""] in rows(out)
        version = json.loads(await good(capsys, host, "members", "list", GROUP, "--json"))["version"]
        out = await good(
            capsys,
            host,
            *("members", "change", GROUP, "--remove", 9, "--demote", 3, "--add-learner", "127.0.0.1:7"),
            *("--expected", version, "--json"),
        )
        changed = json.loads(out)
        assert (len(changed["added"]), changed["removed"]) == (1, [9])
        error = await fails(capsys, host, "members", "promote", GROUP, 3, "--expected", version)
        assert f"not {version}" in error
        out = await good(capsys, host, "members", "promote", GROUP, 3)
        assert [row[2] for row in rows(out)] == ["voter", "voter", "voter", "learner"]
        out = await good(capsys, host, "members", "demote", GROUP, 3)
        assert "nothing to change" in await fails(capsys, host, "members", "change", GROUP, status=2)


@pytest.mark.slow
async def test_groups_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    async with three(tmp_path) as hosts:
        a, b, _ = (each.host for each in hosts)
        assert f"group {GROUP} on" in await good(capsys, a, "create", GROUP)
        with trio.fail_after(PATIENCE_S):
            await a.group(GROUP).wait_leader()
        assert "already exists" in await fails(capsys, a, "create", GROUP)
        taken = json.loads(await good(capsys, a, "snapshot", GROUP, "--json"))
        assert await trio.Path(taken["path"]).exists()
        assert f"bytes in {tmp_path}" in await good(capsys, a, "snapshot", GROUP)
        assert "no other voter" in await fails(capsys, a, "step-down", GROUP)
        members = ["--member", f"1={a.address}", "--member", f"2={b.address}"]
        for host in (a, b):
            found = json.loads(await good(capsys, host, "create", 8, *members, "--json"))
            assert [member["id"] for member in found["members"]] == [1, 2]
        with trio.fail_after(PATIENCE_S):
            leader = await a.group(8).wait_leader()
        led = a if leader.id == 1 else b
        out = json.loads(await good(capsys, led, "step-down", 8, "--json"))
        assert out["leader"]["id"] == 3 - leader.id
        out = await good(capsys, b, "leave", 8)
        assert "removed: 2" in out
        assert "ID=HOST:PORT" in await fails(capsys, a, "create", 9, "--member", "x", status=2)
        assert "address" in await fails(capsys, a, "create", 9, "--member", "1=x", status=2)


@pytest.mark.slow
async def test_expected_failures_are_one_clear_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with three(tmp_path) as hosts:
        await make_group(hosts)
        host = hosts[0].host
        assert f"group 9 is not on the host at {host.http_address}" in await fails(
            capsys, host, "members", "list", 9
        )
        assert "group 9 is not" in await fails(capsys, host, "transfer", 9, 1)
        assert "member 77 is not a voter" in await fails(capsys, host, "transfer", GROUP, 77)
        assert "is a voter already" in await fails(capsys, host, "members", "promote", GROUP, 1)
        error = await fails(capsys, host, "join", 9, "--via", "127.0.0.1:9", "--timeout", 0.1)
        assert "no outcome within 0.1 s; it may have been done all the same" in error
        assert "host:port" in await fails(capsys, host, "members", "add", GROUP, "nowhere", status=2)
        assert "MEMBER" in await fails(capsys, host, "members", "remove", GROUP, "x", status=2)
        assert "--timeout" in await fails(capsys, host, "snapshot", GROUP, "--timeout", 0, status=2)
        assert "speak TLS" in await fails(
            capsys, f"https://{host.http_address}", "status", *_files(tmp_path / "any", trustme.CA())
        )


def _files(folder: Path, authority: trustme.CA) -> list[str]:
    files = make_files(folder, authority)
    return ["--cert", files.cert, "--key", files.key, "--ca", files.ca]


async def test_a_token(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "wrong").write_text(f"{TOKEN}x")
    settings = config(tmp_path / "a", admin_token_file=str(tmp_path / "token"))
    async with open_host(settings, lambda _group: Ledger()) as host:
        await good(capsys, host, "create", GROUP, "--token-file", tmp_path / "token")
        assert "asks for a token" in await fails(capsys, host, "groups")
        error = await fails(capsys, host, "groups", "--token-file", tmp_path / "wrong")
        assert "the token is not this host's (--token-file)" in error
        error = await fails(capsys, host, "groups", "--token-file", tmp_path / "none", status=2)
        assert f"cannot read {tmp_path / 'none'}" in error


@pytest.mark.slow
async def test_certificates(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    settings = config(tmp_path / "a", http_tls=make_files(tmp_path / "server", authority))
    async with open_host(settings, lambda _group: Ledger()) as host:
        ours = _files(tmp_path / "ours", authority)
        assert "0 groups" in await good(capsys, host, "groups", *ours)
        theirs = make_files(tmp_path / "theirs", other, trusts=(authority,))
        stranger = ["--cert", theirs.cert, "--key", theirs.key, "--ca", theirs.ca]
        error = await fails(capsys, host, "groups", *stranger)
        assert "it refuses the certificate in --cert" in error
        assert "http_tls.ca" in error
        error = await fails(capsys, host, "groups", *_files(tmp_path / "both", other))
        assert "its certificate is refused here: no authority in --ca has issued it" in error
        assert "speaks HTTPS only: give --cert, --key and --ca" in await fails(capsys, host, "groups")
        assert "--key: is required" in await fails(capsys, host, "groups", *ours[:2], status=2)
        error = await fails(capsys, host, "groups", *ours[:4], "--ca", "/nowhere", status=2)
        assert "--ca: cannot read /nowhere" in error


async def test_a_host_that_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody accepts the connection and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def hang_up() -> None:
            listener.accept()[0].close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, hang_up)
            error = await fails(capsys, address, "transfer", 1, 2)
    assert f"what answers at {address} is no multiraft host" in error


async def test_events_are_shown_as_they_happen(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Until the host closes, which is no success: a program that listens has to notice."""
    ended: list[int] = []
    out = ""

    async def listen(address: str) -> None:
        line = ["events", "--host", address]
        ended.append(await trio.to_thread.run_sync(main.run, line))

    async with trio.open_nursery() as nursery, open_host(config(tmp_path), lambda _group: Ledger()) as host:
        assert host.http_address is not None
        nursery.start_soon(listen, host.http_address)
        made = 0
        with trio.fail_after(PATIENCE_S):
            while "GroupCreated" not in out:  # the command does not say when it has begun to listen
                made += 1
                await host.create_group(made)
                await trio.sleep(0.02)
                out += capsys.readouterr().out
    captured = capsys.readouterr()
    assert ended == [1]
    assert re.search(r"^\d\d:\d\d:\d\d  GroupCreated  group \d+, member \d+$", out, re.MULTILINE), out
    assert captured.out.endswith("Closed  reason the host is closing\n")
    assert captured.err == ""


@pytest.mark.slow
async def test_a_group_is_recovered(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """From a file on another host, and alone once its majority is gone."""
    async with three(tmp_path) as hosts:
        a, b, c = (each.host for each in hosts)
        await make_group(hosts)
        await a.group(GROUP).propose(change(ann=1))
        path = json.loads(await good(capsys, a, "snapshot", GROUP, "--json"))["path"]
        out = await good(capsys, c, "recover", "restore", 8, "--snapshot", path)
        assert f"group 8 on {c.http_address}" in out
        assert await c.group(8).query("ann") == 1
        error = await fails(capsys, c, "recover", "restore", 9, "--snapshot", "/nowhere.snap")
        assert "/nowhere.snap" in error
        assert "already exists" in await fails(capsys, c, "recover", "restore", 8, "--snapshot", path)
        for host in (b, c):
            await good(capsys, host, "remove", GROUP, "--yes")
        assert "--yes" in await fails(capsys, a, "recover", "force-new", GROUP, status=2)
        out = await good(capsys, a, "recover", "force-new", GROUP, "--yes")
        assert [row[1] for row in rows(out)] == [a.address]
        assert await a.group(GROUP).query("ann") == 1
        await good(capsys, b, "join", GROUP, "--via", a.address)
        assert "group 9 is not on" in await fails(capsys, a, "recover", "force-new", 9, "--yes")
