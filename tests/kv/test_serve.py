"""Hosts of the store together: replication, restarts, and what keeps a host from serving."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import trio

from multiraft.config import HostConfig
from multiraft.errors import AddressInUse, ConfigError, NotMember
from multiraft.kv.config import members_of
from multiraft.kv.ranges import Ranges
from multiraft.kv.serve import open_kv
from multiraft.types import Member
from tests.kv.hosts import config, free_addresses, open_one, three_hosts, wait_ready

# --- one host --------------------------------------------------------------------------------


@pytest.mark.slow
async def test_data_survives_a_restart(tmp_path: Path) -> None:
    async with open_one(tmp_path, listen=(listen := free_addresses(1)[0])) as (_, client):
        await wait_ready(client)
        for key in "ahq":
            assert (await client.put(f"/kv/{key}", content=key.encode())).status_code == 204
        before = (await client.get("/admin/status")).json()
    assert (tmp_path / "kv.sqlite3").exists()
    async with open_one(tmp_path, listen=listen) as (_, client):
        await wait_ready(client)
        assert [(await client.get(f"/kv/{key}")).content for key in "ahq"] == [b"a", b"h", b"q"]
        after = (await client.get("/admin/status")).json()
    assert [group["id"] for group in after["groups"]] == [group["id"] for group in before["groups"]]
    for earlier, later in zip(before["groups"], after["groups"], strict=True):
        assert later["applied"] > earlier["applied"], "entries were not lost"


async def test_a_busy_address_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = HostConfig(data_dir=str(tmp_path / "a"), listen="127.0.0.1:0", http=address)
        with pytest.raises(AddressInUse, match=address):
            async with open_kv(settings):
                pass
    assert not (tmp_path / "a").exists(), "nothing was made"


async def test_a_host_without_http_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        async with open_kv(HostConfig(data_dir=str(tmp_path), listen="127.0.0.1:0")):
            pass
    assert caught.value.field == "http"


async def test_a_host_that_is_no_member_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotMember):
        async with open_kv(config(tmp_path), members=[Member(1, "127.0.0.1:1")]):
            pass


@pytest.mark.slow
async def test_one_more_host_joins_the_groups_of_the_first(tmp_path: Path) -> None:
    """It makes none of its own, says what it waits for, and finds its groups again after a restart."""
    listen = free_addresses(1)[0]
    async with open_one(tmp_path / "a") as (first, client):
        await wait_ready(client)
        await client.put("/kv/a", content=b"1")
        for joined in (False, True):
            settings = config(tmp_path / "b", listen=listen)
            async with (
                open_kv(settings, ranges=Ranges([b"g", b"p"]), join=True) as second,
                httpx.AsyncClient(base_url=f"http://{second.http}", trust_env=False) as other,
            ):
                if not joined:
                    assert not second.host.groups
                    answer = await other.get("/kv/a")
                    assert (answer.status_code, answer.json()["error"]) == (503, "starting")
                    assert "multiraft join" in answer.json()["reason"]
                    for group in (1, 2, 3):
                        body = {"via": first.host.address}
                        answer = await other.post(f"/admin/groups/{group}/join", json=body)
                        assert answer.status_code == 200, answer.text
                await wait_ready(other)
                assert (await other.get("/kv/a")).content == b"1"


@pytest.mark.slow
async def test_other_boundaries_than_the_first_time_are_refused(tmp_path: Path) -> None:
    """Keys would be looked for in groups that do not have them. The error comes bare."""
    listen = free_addresses(1)[0]
    async with open_one(tmp_path, listen=listen) as (_, client):
        await wait_ready(client)
        await client.put("/kv/a", content=b"1")
    for other in (Ranges([b"g", b"q"]), Ranges([b"g"]), Ranges.even(8)):
        with pytest.raises(ConfigError, match="another way"):
            async with open_kv(config(tmp_path, listen=listen), ranges=other):
                pass
    async with open_one(tmp_path, listen=listen) as (served, client):
        await wait_ready(client)
        assert (await client.get("/kv/a")).content == b"1"
        assert list(served.host.groups) == [1, 2, 3], "the others made no groups"


async def test_an_exception_of_the_program_comes_bare(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_kv(config(tmp_path)):
            raise ZeroDivisionError
    assert sys.getswitchinterval() == pytest.approx(0.005)


# --- three hosts -----------------------------------------------------------------------------


@pytest.mark.slow
async def test_any_host_answers_for_any_key_and_a_lost_one_is_not_missed(tmp_path: Path) -> None:
    settings = three_hosts(tmp_path)
    members = members_of(each.listen for each in settings)
    async with AsyncExitStack() as others:
        clients = [
            (await others.enter_async_context(open_one(each, members=members)))[1] for each in settings[:2]
        ]
        async with open_one(settings[2], members=members) as (_, third):
            await wait_ready(*clients, third)
            for place, key in enumerate("abhiqr"):
                writer = (*clients, third)[place % 3]
                assert (await writer.put(f"/kv/{key}", content=key.encode())).status_code == 204
            for client in (*clients, third):
                page = (await client.get("/kv")).json()
                assert [row["key"] for row in page["items"]] == list("abhiqr")
        for client in clients:
            for key in "ahq":
                assert (await client.put(f"/kv/{key}", content=b"later")).status_code == 204
        async with open_one(settings[2], members=members) as (_, third):
            await wait_ready(third)
            for key in "ahq":
                assert (await third.get(f"/kv/{key}")).content == b"later", "linearizable on any host"


@pytest.mark.slow
async def test_a_host_that_was_away_too_long_gets_snapshots(tmp_path: Path) -> None:
    """The others have compacted their logs past what it has; its other rows must go, too."""
    settings = three_hosts(tmp_path, snapshot_interval_entries=20, snapshot_keep_entries=2)
    members = members_of(each.listen for each in settings)
    async with (
        open_one(settings[0], members=members) as (first, client),
        open_one(settings[1], members=members) as (_, second),
    ):
        async with open_one(settings[2], members=members) as (_, third):
            await wait_ready(client, second, third)
            for key in "ahq":
                assert (await client.put(f"/kv/{key}-old", content=b"old")).status_code == 204
                assert (await third.get(f"/kv/{key}-old")).content == b"old"
        wanted = {f"{key}{i}": b"%d" % i for i in range(60) for key in "ahq"}
        for key in "ahq":
            await client.delete(f"/kv/{key}-old")
        for key, value in wanted.items():
            assert (await client.put(f"/kv/{key}", content=value)).status_code == 204
        last_seen = {group.id: group.status().first_index for group in first.host.groups.values()}
        assert min(last_seen.values()) > 40, "the logs were compacted"
        for _ in range(2):  # the second time from its own file and log
            async with open_one(settings[2], members=members) as (_, third):
                await wait_ready(third)
                page = (await third.get("/kv?limit=1000")).json()
                assert [row["key"] for row in page["items"]] == sorted(wanted)
                for key, value in list(wanted.items())[::17]:
                    assert (await third.get(f"/kv/{key}?consistency=stale")).content == value


@pytest.mark.slow
async def test_without_a_quorum_clients_are_told_so(tmp_path: Path) -> None:
    """No leader: certainly not applied, stale reads go on, and each of many writes says it."""
    settings = three_hosts(tmp_path, leader_wait_s=0.3)
    members = members_of(each.listen for each in settings)
    async with open_one(settings[0], members=members) as (_, client):
        answer = await client.put("/kv/a", content=b"1")
        assert (answer.status_code, answer.json()["error"], answer.json()["applied"]) == (
            503,
            "starting",
            "no",
        )
        async with open_one(settings[1], members=members) as (_, second):
            await wait_ready(client, second)
            assert (await client.put("/kv/a", content=b"1")).status_code == 204
        with trio.fail_after(20):
            while True:  # until the host has noticed
                answer = await client.get("/kv/a")
                if answer.status_code == 503:
                    break
        assert (answer.json()["error"], answer.json()["applied"]) == ("no_leader", "no")
        assert (await client.get("/kv/a?consistency=stale")).content == b"1"
        answer = await client.put("/kv/a", content=b"2")
        assert (answer.status_code, answer.json()["error"]) == (503, "no_leader")
        writes = [{"op": "put", "key": key, "value": ""} for key in "ahq"]
        answer = await client.post("/kv", json=writes)
        assert (answer.status_code, answer.json()["failed"]) == (207, 3)
        assert {result["error"] for result in answer.json()["results"]} == {"no_leader"}


@pytest.mark.slow
async def test_a_host_with_other_boundaries_does_not_serve(tmp_path: Path) -> None:
    settings = three_hosts(tmp_path)
    members = members_of(each.listen for each in settings)
    async with (
        open_one(settings[0], members=members) as (_, first),
        open_one(settings[1], members=members) as (_, second),
    ):
        await wait_ready(first, second)
        with trio.fail_after(20), pytest.raises(ConfigError, match="another way"):
            async with open_kv(settings[2], members=members, ranges=Ranges([b"h", b"p"])):
                await trio.sleep_forever()


# --- as a process ----------------------------------------------------------------------------

PROGRAM = """
import sys, trio
from multiraft.config import HostConfig
from multiraft.kv.serve import serve_kv

async def main():
    config = HostConfig(data_dir=sys.argv[1], listen="127.0.0.1:0", http="127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        served = await nursery.start(lambda task_status: serve_kv(config, task_status=task_status))
        print(served.http, flush=True)

trio.run(main)
print("stopped")
"""


@contextmanager
def started(folder: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A host in a process of its own, and a client of it; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        try:
            assert process.stdout is not None
            address = next(line for line in process.stdout if line.startswith("127.")).strip()
            with httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=30) as client:
                while client.get("/kv/x").status_code == 503:
                    pass
                yield process, client
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_host_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path / "data") as (process, client):
        assert client.put("/kv/a", content=b"1").status_code == 204
        process.send_signal(number)
        assert process.stdout is not None
        rest = process.stdout.read()
        assert process.wait(30) == 0, rest
    assert rest.splitlines()[-1] == "stopped"
    assert "Traceback" not in rest


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """Whatever SQLite had not written yet comes again from the log, and once only."""
    writes = [{"op": "put", "key": f"%{i:02X}", "value": "MQ=="} for i in range(256)]
    with started(tmp_path / "data") as (process, client):
        assert client.post("/kv", json=writes).status_code == 200
        for i in range(40):
            assert client.put(f"/kv/%{i:02X}", content=b"2").status_code == 204
        process.kill()
    with started(tmp_path / "data") as (_, client):
        items = client.get("/kv?limit=1000").json()["items"]
    assert [row["value"] for row in items] == ["Mg=="] * 40 + ["MQ=="] * 216
