"""A write is acknowledged when a majority has it on disk, and not before."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from multiraft import Group, open_host
from multiraft.interfaces import File
from multiraft.storage.files import OsFiles
from tests.engine.helpers import config, create, journals, leader_of, until


class Gate:
    """Lets every sync pass while it is open, and holds those that come while it is shut."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.waiting = 0

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        self.waiting += 1
        assert self._open.wait(20), "nobody opened the gate"
        self.waiting -= 1


class GatedFile:
    """A real file whose `sync` waits at a gate first."""

    def __init__(self, file: File, gate: Gate) -> None:
        self._file = file
        self._gate = gate
        self.read = file.read
        self.write = file.write
        self.allocate = file.allocate
        self.truncate = file.truncate
        self.size = file.size
        self.close = file.close

    def sync(self) -> None:
        self._gate.pass_through()
        self._file.sync()


class GatedFiles(OsFiles):
    """The real file system, with a gate before each fdatasync."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def open(self, path: str, *, create: bool = False) -> GatedFile:  # type: ignore[override] # a `File`
        return GatedFile(super().open(path, create=create), self._gate)


@asynccontextmanager
async def gated_group(folder: Path) -> AsyncIterator[tuple[list[Group], list[Gate]]]:
    """A group on three hosts, each with its own gate; elections are far off."""
    gates = [Gate() for _ in range(3)]
    async with AsyncExitStack() as stack:
        hosts = [
            await stack.enter_async_context(
                # A leader whose disk hangs steps down after an election timeout, and should: so
                # that timeout is longer than the test.
                open_host(
                    config(folder / str(place), tick_interval_s=0.02, election_ticks=100),
                    journals,
                    files=GatedFiles(gate),
                )
            )
            for place, gate in enumerate(gates)
        ]
        for gate in gates:
            stack.callback(gate.open)
        groups = await create(hosts, 3)
        await leader_of(groups).propose(b"settled")
        await until(lambda: all(group.status().applied == group.status().last_index for group in groups))
        await until(lambda: all(gate.waiting == 0 for gate in gates))
        yield groups, gates


@asynccontextmanager
async def proposing(group: Group) -> AsyncIterator[Callable[[], bool]]:
    """Propose in the background; says whether it was acknowledged."""
    done: list[object] = []

    async def propose() -> None:
        done.append(await group.propose(b"held"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(propose)
        yield lambda: bool(done)


@pytest.mark.slow
@pytest.mark.parametrize("released", ["leader", "follower"])
async def test_write_waits_for_syncs_of_a_majority(tmp_path: Path, released: str) -> None:
    """One of three disks has it: not acknowledged. A second one, whichever it is: acknowledged."""
    with trio.fail_after(30):
        async with gated_group(tmp_path) as (groups, gates):
            leader = groups.index(leader_of(groups))
            others = [place for place in range(3) if place != leader]
            free, held, last = (others[0], leader, others[1])
            if released == "follower":
                free, held, last = (leader, others[0], others[1])
            gates[held].shut()
            gates[last].shut()
            async with proposing(groups[leader]) as acknowledged:
                # All three have written it, and the free one has synced it and said so.
                index = groups[leader].status().last_index
                await until(lambda: gates[held].waiting == 1 and gates[last].waiting == 1)
                await until(lambda: groups[free].status().last_index > index)
                for _ in range(50):  # every task of every host has had many turns by then
                    await trio.sleep(0.01)
                    assert not acknowledged()
                assert groups[leader].status().commit == index
                gates[held].open()
                await until(acknowledged)
                assert gates[last].waiting == 1


@pytest.mark.slow
async def test_write_waits_while_only_the_leader_has_synced(tmp_path: Path) -> None:
    """Both followers' disks hang: no acknowledgement, however long, and none is lost later."""
    with trio.fail_after(30):
        async with gated_group(tmp_path) as (groups, gates):
            leader = groups.index(leader_of(groups))
            for place in range(3):
                if place != leader:
                    gates[place].shut()
            async with proposing(groups[leader]) as acknowledged:
                await until(lambda: sum(gate.waiting for gate in gates) == 2)
                for _ in range(50):
                    await trio.sleep(0.01)
                    assert not acknowledged()
                for gate in gates:
                    gate.open()
                await until(acknowledged)
            assert await groups[leader].query(None) == [b"settled", b"held"]
