"""What processes tell of each other while they die, stand still and come back, and of their snapshots."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.admin.listener import Listener
from tests.cluster.fleet import (
    GROUP,
    PATIENCE_S,
    FleetHost,
    command,
    fleet,
    join,
    leader_first,
    predefined,
    until,
    wait_leader,
    wait_same,
)

pytestmark = pytest.mark.slow

INTERVAL, KEEP, OLD_FILES = 20, 5, 2
SNAPSHOTS = (
    f"snapshot_interval_entries={INTERVAL}",
    f"snapshot_keep_entries={KEEP}",
    f"max_snapshot_files={OLD_FILES}",
)


class Heard:
    """All that a host has told since somebody began to listen."""

    def __init__(self, host: FleetHost) -> None:
        self.host = host
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._came = trio.Event()

    async def listen(self, listener: Listener) -> None:
        while True:
            event = await listener.next()
            self._events.append((event["event"], event["about"]))
            self._came.set()
            self._came = trio.Event()

    def all(self, name: str, **about: object) -> list[dict[str, Any]]:
        """The events of that name of which all that is true, in their order."""
        return [told for each, told in self._events if each == name and about.items() <= told.items()]

    async def wait(self, name: str, count: int = 1, **about: object) -> dict[str, Any]:
        """The `count`th of them, once it is there."""
        with trio.move_on_after(PATIENCE_S):
            while len(found := self.all(name, **about)) < count:
                await self._came.wait()
            return found[count - 1]
        raise AssertionError(f"{self.host} does not tell {name} {about}; what it told: {self._events}")


@asynccontextmanager
async def hearing(*hosts: FleetHost) -> AsyncIterator[list[Heard]]:
    """Listen to hosts that outlive the block."""
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        all_heard = [Heard(host) for host in hosts]
        for heard in all_heard:
            nursery.start_soon(heard.listen, await stack.enter_async_context(await heard.host.listen()))
        yield all_heard
        nursery.cancel_scope.cancel()


async def write(host: FleetHost, count: int) -> None:
    async def done() -> bool:
        await host.put("key", str(count))
        return True

    for _ in range(count):
        await until(done)


def snapshot_files(host: FleetHost) -> list[str]:
    """The newest last."""
    return sorted(path.name for path in (host.data_dir / "snapshots" / str(GROUP)).glob("*.snap"))


async def test_leaders_and_peers_that_are_lost_and_back_are_told(tmp_path: Path) -> None:
    """SIGSTOP takes away a leader, SIGKILL a host; each comes back, and each is told once."""
    async with fleet(tmp_path, 3) as hosts:
        listening = hosts[0]
        others = hosts[1:]
        async with hearing(listening) as [heard]:
            await predefined(hosts)
            assert (await heard.wait("GroupCreated"))["member"] == 1
            for other in others:
                await heard.wait("PeerUp", address=other.address)
            led = await leads_on(others[0], hosts)
            second = {"id": 2, "address": others[0].address, "role": "voter"}
            await heard.wait("LeaderChanged", group=GROUP, term=led["term"], leader=second)

            others[0].pause()
            await wait_leader([listening, others[1]])
            now = await listening.group()
            leader = {**now["leader"], "role": "voter"}
            assert leader["id"] != 2
            await heard.wait("LeaderChanged", group=GROUP, term=now["term"], leader=leader)
            others[0].go_on()
            await wait_leader(hosts)

            assert not heard.all("PeerDown", address=others[1].address)
            others[1].kill()
            assert (await heard.wait("PeerDown", address=others[1].address))["reason"]
            others[1].start()
            await heard.wait("PeerUp", 2, address=others[1].address)
            assert len(heard.all("PeerDown", address=others[1].address)) == 1, "not for each lane and try"
            await wait_leader(hosts)
            now = await listening.group()
            assert heard.all("LeaderChanged")[-1]["term"] == now["term"], (
                "the last one told is the present one"
            )


async def leads_on(host: FleetHost, hosts: Sequence[FleetHost]) -> dict[str, Any]:
    """Have that host lead; what it says of the group then."""

    async def asked() -> bool:
        if await wait_leader(hosts) is not host:
            await hosts[0].post(f"groups/{GROUP}/transfer", to=await host.member_id())
        return await wait_leader(hosts) is host

    await until(asked)
    return await host.group()


async def test_snapshots_are_taken_kept_sent_and_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By themselves and when asked; one that was away, and one that is new, are brought up by them."""
    async with fleet(tmp_path, 4, *SNAPSHOTS) as hosts:
        members, new = hosts[:3], hosts[3]
        await predefined(members)
        *there, away = await leader_first(members)
        await wait_same(members)
        away.kill()
        missed = (await there[0].group())["last_index"]
        async with hearing(*there) as all_heard:
            await write(there[0], 4 * INTERVAL)
            for heard in all_heard:
                taken = [each["index"] for each in heard.all("SnapshotTaken", group=GROUP)]
                assert len(taken) >= 3
                assert all(each["bytes"] > 0 for each in heard.all("SnapshotTaken"))
            assert (await there[0].group())["first_index"] > missed + 1, "the log has not what it missed"

            # When asked: the file is named, and there are so many older ones.
            capsys.readouterr()
            assert await command("snapshot", GROUP, "--host", there[1].http, "--json") == 0
            asked = json.loads(capsys.readouterr().out.splitlines()[-1])
            told = await all_heard[1].wait("SnapshotTaken", group=GROUP, index=asked["index"])
            assert told["bytes"] == asked["bytes"]

            async def kept() -> bool:
                return len(snapshot_files(there[1])) == OLD_FILES + 1

            await until(kept)
            assert snapshot_files(there[1])[-1] == asked["path"].rpartition("/")[2]

            # The others stand still until somebody listens to the one that comes back.
            for host in there:
                host.pause()
            away.start()
            await away.wait_up()
            assert (await away.group())["last_index"] <= missed
            async with hearing(away, new) as (returned, joined):
                for host in there:
                    host.go_on()
                installed = await returned.wait("SnapshotInstalled", group=GROUP)
                assert installed["index"] > missed
                sender = next(each for each in all_heard if each.host.address == installed["peer"])
                sent = await sender.wait("SnapshotSent", peer=away.address, index=installed["index"])
                assert sent["bytes"] == installed["bytes"]
                await write(away, 1)
                await join(new, away, "learner")
                installed = await joined.wait("SnapshotInstalled", group=GROUP)
                assert installed["peer"] in {each.address for each in members}
            await wait_same(hosts)
            assert await until(lambda: new.value("key")) == "1"


# --- readers that are slow -----------------------------------------------------------------------------

MANY = 2000
LAST = MANY + 1


async def test_a_slow_reader_hears_how_much_it_missed(tmp_path: Path) -> None:
    """It reads nothing until the host has nowhere left to put what happens; another one reads all along."""
    async with (
        fleet(tmp_path, 1, "max_queued_events=100") as [host],
        await slow_listener(host) as slow,
        await host.listen() as quick,
    ):
        counts: dict[str, tuple[int, int]] = {}

        async def count(name: str, listener: Listener) -> None:
            counts[name] = await heard_and_missed(listener)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count, "quick", quick)
            own = [{"id": 1, "address": host.address}]
            await host.post("groups/batch", groups=[{"id": each, "members": own} for each in range(1, LAST)])

            async def all_led() -> bool:
                page = await host.get("groups", limit=LAST)
                return all(each["leader"] for each in page["groups"])

            await until(all_led)
            await host.post("groups", id=LAST)
            nursery.start_soon(count, "slow", slow)
        assert counts["slow"][1] > 0, "there was room for everything"
        assert sum(counts["slow"]) == sum(counts["quick"]) >= 2 * LAST, "and it knows how much that was"


async def slow_listener(host: FleetHost) -> Listener:
    """A listener with next to no room on its way to it."""
    narrow = trio.socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    name, _, port = host.http.rpartition(":")
    await narrow.connect((name, int(port)))
    stream = trio.SocketStream(narrow)
    await stream.send_all(b"GET /admin/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    listener = Listener(stream)
    assert await listener.status() == 200
    assert (await listener.next())["event"] == "Listening"
    return listener


async def heard_and_missed(listener: Listener) -> tuple[int, int]:
    """How many events came and did not come, up to the leader of the last group."""
    heard = missed = 0
    with trio.fail_after(PATIENCE_S):
        while True:
            event = await listener.next()
            name, about = event["event"], event["about"]
            if name == "EventsMissed":
                missed += about["count"]
            elif name != "KeepAlive":
                heard += 1
            if name == "LeaderChanged" and about["group"] == LAST and about["leader"]:
                return heard, missed
