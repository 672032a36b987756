"""Quorums lost for good, hosts that were wiped, groups from files: with the commands of the guide."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.fleet import (
    GROUP,
    FleetHost,
    Refused,
    command,
    fleet,
    leader_first,
    predefined,
    until,
    wait_leader,
    wait_ready,
)

pytestmark = pytest.mark.slow

KEYS = 20
IMPATIENT = "leader_wait_s=1"
"""Without a majority, calls say so after that."""


async def put(host: FleetHost, key: str, value: str) -> None:
    """Until it is acknowledged: a slow machine may lose its leader at any time."""

    async def done() -> bool:
        await host.put(key, value)
        return True

    await until(done)


async def values(host: FleetHost) -> list[str | None]:
    """What a linearizable read finds under each key."""

    async def read() -> list[str | None]:
        return [await host.value(f"key{number}") for number in range(KEYS)]

    return await until(read)


async def fill(hosts: Sequence[FleetHost]) -> list[str | None]:
    """Write every key, through all of `hosts` in turn; what must be there from then on."""
    for number in range(KEYS):
        await put(hosts[number % len(hosts)], f"key{number}", f"value {number}")
    return [f"value {number}" for number in range(KEYS)]


async def without_leader(host: FleetHost) -> None:
    async def lost() -> bool:
        return (await host.group())["leader"] is None

    await until(lost)


async def warned(hosts: Sequence[FleetHost], words: str) -> FleetHost:
    """The first of `hosts` that warns of it, where operators look: `multiraft group`, and the log."""

    async def told() -> FleetHost | None:
        for host in hosts:
            if any(words in text for text in (await host.group())["warnings"]):
                return host
        return None

    found = await until(told)
    assert found is not None
    return found


async def last_object(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """What a command that succeeds says with `--json`."""
    capsys.readouterr()
    assert await command(*arguments, "--json") == 0, capsys.readouterr()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert isinstance(found, dict)
    return found


async def come_back(dead: Sequence[FleetHost]) -> None:
    """A majority of the old group, with their old folders; what they write, nobody else may see."""
    for host in dead:
        host.start()
    for host in dead:
        await host.wait_up()
    await put(dead[0], "stray", "of the old generation")
    assert await dead[1].value("stray") == "of the old generation"


async def test_one_of_three_goes_on_and_the_dead_are_told_when_they_are_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything acknowledged is there; the old majority comes back, and disturbs nobody."""
    async with fleet(tmp_path, 5, IMPATIENT) as hosts:
        old, new = hosts[:3], hosts[3:]
        await predefined(old)
        expected = await fill(old)
        last, *dead = reversed(old)
        assert await values(last) == expected, "now all that was acknowledged is applied here"
        for host in dead:
            host.kill()
        await without_leader(last)
        with pytest.raises(Refused) as refused:
            await last.put("key0", "without a majority")
        assert (refused.value.status, refused.value.applied) == (503, "no")

        assert await command("recover", "force-new", GROUP, "--host", last.http) == 2, "it wants --yes"
        forced = await last_object(capsys, "recover", "force-new", GROUP, "--yes", "--host", last.http)
        assert forced["generation"] != 0
        assert forced["leader"]["id"] == forced["member_id"] == 3
        assert forced["removed"] == [1, 2]
        assert await values(last) == expected
        await put(last, "key0", "of the new generation")
        for host in new:
            assert await command("join", GROUP, "--via", last.address, "--host", host.http) == 0
        assert {(await host.group())["generation"] for host in (last, *new)} == {forced["generation"]}

        await come_back(dead)
        told = await warned(dead, "generation")
        assert "generation" in told.log
        await warned([last, *new], "shut out")
        expected[0] = "of the new generation"
        for host in (last, *new):
            assert await values(host) == expected
            assert await host.value("stray") is None
        await put(new[0], "key1", "again")
        expected[1] = "again"

        # What is left to do for a host that came back: give the old group up, and join.
        assert await command("remove", GROUP, "--yes", "--host", dead[0].http) == 0
        joined = await last_object(capsys, "join", GROUP, "--via", last.address, "--host", dead[0].http)
        assert joined["member_id"] not in (1, 2, 3)
        assert await values(dead[0]) == expected
        assert await dead[0].value("stray") is None


async def test_a_new_cluster_comes_from_a_snapshot_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the address of an old member, too: those that come back do not take it for the one it was."""
    async with fleet(tmp_path, 4, IMPATIENT) as hosts:
        old, (first, second) = hosts[:3], hosts[2:]
        await predefined(old)
        expected = await fill(old)
        assert await values(first) == expected
        taken = await last_object(capsys, "snapshot", GROUP, "--host", first.http)
        file = tmp_path / "kept.snap"
        shutil.copy(taken["path"], file)
        for host in old:
            host.kill()
        shutil.rmtree(first.data_dir)

        first.start()
        await first.wait_up()
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (tmp_path / "damaged.snap").write_bytes(damaged)
        restore = ("recover", "restore", GROUP, "--host", first.http, "--snapshot")
        assert await command(*restore, tmp_path / "damaged.snap") != 0
        assert "damaged.snap" in capsys.readouterr().err
        restored = await last_object(capsys, *restore, file)
        assert restored["generation"] != 0
        assert restored["removed"] == [1, 2, 3]
        assert await command("join", GROUP, "--via", first.address, "--host", second.http) == 0
        assert (await second.group())["generation"] == restored["generation"]
        for host in (first, second):
            assert await values(host) == expected
        await put(second, "key0", "of the new cluster")
        expected[0] = "of the new cluster"

        await come_back(old[:2])
        await warned(old[:2], "generation")
        for host in (first, second):
            assert await values(host) == expected
            assert await host.value("stray") is None
        await put(first, "key1", "again")


async def test_a_wiped_host_is_refused_with_advice_and_joins_under_a_new_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its folder is deleted and it is started as ever, with the list of all hosts: it cannot know."""
    async with fleet(tmp_path, 3, IMPATIENT, start=False) as hosts:
        everyone = [host.address for host in hosts]
        for host in hosts:
            host.start(peers=everyone)
        await wait_leader([host for host in hosts if await up(host)])
        for host in hosts:
            await wait_ready(host)
        expected = await fill(hosts)
        others = await leader_first(hosts)
        wiped = others.pop()
        old_id = await wiped.member_id()
        wiped.kill()
        shutil.rmtree(wiped.data_dir)
        wiped.start(peers=everyone)
        await wiped.wait_up()

        async def stopped() -> str | None:
            failed: str | None = (await wiped.group())["failed"]
            return failed

        advice = await until(stopped)
        assert advice is not None
        assert "remove the member from the group" in advice
        with pytest.raises(Refused):
            await wiped.put("key0", "by one that forgot")
        with pytest.raises(Refused):
            await wiped.value("key0")
        assert "remove the member from the group" in wiped.log
        assert await values(others[0]) == expected, "the others go on without it"

        # The advice, step by step.
        assert await command("members", "remove", GROUP, old_id, "--host", others[0].http) == 0
        assert await command("remove", GROUP, "--yes", "--host", wiped.http) == 0
        back = await last_object(capsys, "join", GROUP, "--via", others[0].address, "--host", wiped.http)
        assert back["member_id"] not in (1, 2, 3)
        assert back["removed"] == [old_id]
        await put(wiped, "key0", "by a member that remembers")
        expected[0] = "by a member that remembers"
        assert await values(wiped) == expected


async def up(host: FleetHost) -> bool:
    await host.wait_up()
    return True
