"""Logs that were torn or damaged: which processes start, which do not, and how it is mended."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from multiraft.storage.files import OsFiles
from multiraft.storage.format import pack_batch_header
from multiraft.storage.segment import Scan, read_header
from tests.cluster.fleet import (
    GROUP,
    FleetHost,
    Refused,
    command,
    fleet,
    members_of,
    predefined,
    until,
    wait_ready,
)

pytestmark = pytest.mark.slow

SECOND, THIRD = 2, 3
"""Groups that are made later, and have no keys."""


def tear(data_dir: Path) -> tuple[str, int]:
    """Put behind the log what a power cut in the middle of a write leaves; which segment, and where."""
    path = max((data_dir / "wal").glob("*.wal"))
    with closing(OsFiles().open(str(path))) as file:
        header = read_header(file)
        scan = Scan(file, header)
        for _ in scan:
            pass
        end = scan.end
        head, _ = pack_batch_header((header.mark, 400, 1, end.chain, end.offset, 0), header.seed)
        file.write(end.offset, head + b"\xee" * 100)
    return path.name, end.offset


async def damage(
    capsys: pytest.CaptureFixture[str], host: FleetHost, older: int, newer: int
) -> tuple[str, int]:
    """Flip a bit of the last entries of a group before a newer one was made; where, as `verify` says."""
    status, found = await wal(capsys, "inspect", host, "--records")
    assert status == 0
    records = found["records"]
    made = next(n for n, each in enumerate(records) if (each["kind"], each["group"]) == ("CREATE", newer))
    hit = [each for each in records[:made] if (each["kind"], each["group"]) == ("ENTRIES", older)][-1]
    path = host.data_dir / "wal" / hit["segment"]
    data = bytearray(path.read_bytes())
    data[hit["offset"] + hit["bytes"] - 1] ^= 1
    path.write_bytes(data)
    status, found = await wal(capsys, "verify", host)
    assert status == 1
    problem = found["problems"][0]
    assert problem["segment"] == hit["segment"]
    assert 0 < problem["offset"] < hit["offset"], "the batch that it is in"
    return problem["segment"], problem["offset"]


async def assert_refuses(host: FleetHost, place: tuple[str, int], *settings: str) -> None:
    """It ends at once, and its last words say where the log is wrong."""
    host.start(*settings)
    assert await host.ended() == 1
    segment, offset = place
    last = host.log.splitlines()[-1]
    assert last.startswith("multiraft: error: ")
    assert segment in last
    assert f"byte {offset}" in last


async def wal(capsys: pytest.CaptureFixture[str], name: str, host: FleetHost, *more: str) -> tuple[int, Any]:
    """The exit status of `multiraft wal …`, and what it found."""
    capsys.readouterr()
    status = await command("wal", name, host.data_dir, *more, "--json")
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


async def put(host: FleetHost, key: str, value: str) -> None:
    async def done() -> bool:
        await host.put(key, value)
        return True

    await until(done)


async def replace_member(host: FleetHost, other: FleetHost) -> None:
    """The member whose log lost something goes, and its host joins under a new id."""
    told = await other.get(f"groups/{GROUP}/members")
    (old,) = [each["id"] for each in told["members"] if each["address"] == host.address]
    assert await command("members", "remove", GROUP, old, "--host", other.http) == 0
    assert await command("remove", GROUP, "--yes", "--host", host.http) == 0
    assert await command("join", GROUP, "--via", other.address, "--host", host.http) == 0
    assert await host.member_id() != old
    await wait_ready(host)


async def assert_runs_what_is_whole(host: FleetHost, whole: int) -> None:
    """Its first group is stopped and says why; the one that was made behind the damage goes on."""
    assert "Remove the group here" in (await host.group())["failed"]
    with pytest.raises(Refused):
        await host.value("key")

    async def led() -> bool:
        told = await host.group(whole)
        assert told["failed"] is None
        return told["leader"] is not None

    await until(led)


async def test_torn_damaged_repaired_and_salvaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of three hosts, first one and then another has trouble with its disk; the store goes on."""
    async with fleet(tmp_path, 3) as (first, second, third):
        hosts = [first, second, third]
        await predefined(hosts)
        await put(first, "key", "before")

        # A torn tail was never acknowledged: it is cut, unless somebody wants to look at it first.
        assert await third.stop() == 0
        place = tear(third.data_dir)
        await assert_refuses(third, place, "recovery=strict")
        assert "torn tail" in third.log
        assert (await wal(capsys, "verify", third))[0] == 0
        third.start()
        await wait_ready(third)
        assert "cut a torn tail" in third.log
        await put(third, "key", "after a torn tail")

        # Damage is refused with its place, and repaired by hand.
        await predefined(hosts, SECOND)
        assert await third.stop() == 0
        place = await damage(capsys, third, GROUP, SECOND)
        await assert_refuses(third, place)
        status, found = await wal(capsys, "repair", third)
        assert (status, found["repaired"]) == (1, False)
        await assert_refuses(third, place)
        status, found = await wal(capsys, "repair", third, "--yes")
        assert (status, found["repaired"], found["whole"]) == (0, True, [SECOND])
        assert [each["group"] for each in found["damaged"]] == [GROUP]
        assert (await wal(capsys, "verify", third))[0] == 0
        third.start()
        await third.wait_up()
        await assert_runs_what_is_whole(third, SECOND)
        await put(first, "key", "without it")
        await replace_member(third, first)
        assert await third.value("key") == "without it"

        # The same, by a host that was told to go on with what is whole.
        with pytest.raises(Refused, match="may have been on this host before its log was damaged"):
            await third.post("groups", id=THIRD, members=members_of(hosts))
        await predefined([first, second], THIRD)
        assert await second.stop() == 0
        place = await damage(capsys, second, GROUP, THIRD)
        await assert_refuses(second, place, "recovery=strict")
        second.start("recovery=salvage")
        await second.wait_up()
        await assert_runs_what_is_whole(second, THIRD)
        assert (second.data_dir / "wal" / "backup-1").is_dir()
        await put(third, "key", "without the other")
        await replace_member(second, third)
        assert await third.value("key") == await second.value("key") == "without the other"
