"""The log and the snapshots of a host stay within their bounds, whoever is down and however long."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from multiraft import Entry, Group, Member
from multiraft.cli.ports import free_ports
from multiraft.snapshots import INITIAL_INDEX
from tests.engine.helpers import cluster, leader_of, until
from tests.engine.machines import Counter

pytestmark = pytest.mark.slow

KIB, MIB = 1 << 10, 1 << 20
SEGMENT_BYTES = 128 * KIB
LOG_BYTES_MAX = 2 * MIB
WRITTEN_BYTES = 8 * LOG_BYTES_MAX
OVERSHOOT_BYTES = 2 * LOG_BYTES_MAX
"""The collector looks at the bound every election timeout: what is written meanwhile may exceed it."""
ROUNDS = 4
BOUNDED: dict[str, Any] = {
    "segment_bytes": SEGMENT_BYTES,
    "max_log_bytes": LOG_BYTES_MAX,
    "snapshot_interval_entries": 100_000,  # only the bound asks for snapshots, or bytes do
    "snapshot_interval_bytes": 256 * KIB,
    "snapshot_keep_entries": 20,
    "max_snapshot_files": 2,
}


def folder_bytes(folder: Path) -> int:
    """What the files take on the disk, preallocated or not."""
    return sum(each.stat().st_blocks * 512 for each in folder.rglob("*") if each.is_file())


class Watch:
    """The most that a host's log and snapshots ever took."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.log_bytes_max = 0
        self.snapshot_files_max = 0

    async def run(self) -> None:
        while True:
            with contextlib.suppress(FileNotFoundError):  # deleted between being listed and looked at
                self.look()
            await trio.sleep(0.005)

    def look(self) -> None:
        self.log_bytes_max = max(self.log_bytes_max, folder_bytes(self._data_dir / "wal"))
        for group in (self._data_dir / "snapshots").iterdir():
            self.snapshot_files_max = max(self.snapshot_files_max, len(list(group.glob("*.snap"))))


async def write(group: Group, size: int) -> None:
    """So many bytes, in proposals of 4 KiB."""
    for _ in range(size // (64 * KIB)):
        await group.propose_many([bytes(4 * KIB)] * 16)
        await trio.sleep(0.02)  # a pace, so that what is written between two looks is known


async def test_the_log_stays_bounded_with_one_member_down_for_good(tmp_path: Path) -> None:
    """Eight times the bound is written by busy groups, while others keep a few old entries alive that
    nothing but the collector will ever move; a third of the members never comes back."""
    (port,) = free_ports(1)
    async with cluster(tmp_path, 2, machines=lambda _: Counter(), **BOUNDED) as hosts:
        everyone = [
            *(Member(n, host.address) for n, host in enumerate(hosts, 1)),
            Member(3, f"127.0.0.1:{port}"),
        ]
        groups = {}
        for group_id in (1, 2, 3, 4, 5, 6):
            made = [await host.create_group(group_id, everyone) for host in hosts]
            await made[0].propose(b"old")
            groups[group_id] = made
        watches = [Watch(tmp_path / "0"), Watch(tmp_path / "1")]
        async with trio.open_nursery() as nursery:
            for watch in watches:
                nursery.start_soon(watch.run)
            for _ in range(ROUNDS):
                async with trio.open_nursery() as writing:
                    for group_id in (1, 2):
                        writing.start_soon(write, groups[group_id][0], WRITTEN_BYTES // ROUNDS // 2)
                # Stragglers: one more entry, and then nothing for a whole round.
                for group_id in (3, 4, 5, 6):
                    await groups[group_id][0].propose(b"rare")
            nursery.cancel_scope.cancel()
        folders = [tmp_path / "0" / "wal", tmp_path / "1" / "wal"]
        await until(
            lambda: all(folder_bytes(folder) <= LOG_BYTES_MAX + 2 * SEGMENT_BYTES for folder in folders)
        )
        for host, watch in zip(hosts, watches, strict=True):
            written = host.statistics().log.bytes_written
            assert written > WRITTEN_BYTES
            assert watch.log_bytes_max <= LOG_BYTES_MAX + OVERSHOOT_BYTES, watch.log_bytes_max
            # The next one may be there, or under way, before the oldest is deleted.
            assert watch.snapshot_files_max <= 3 + BOUNDED["max_snapshot_files"]
        for group_id, made in groups.items():
            expected = 1 + (
                WRITTEN_BYTES // ROUNDS // 2 // (64 * KIB) * 16 * ROUNDS if group_id < 3 else ROUNDS
            )
            assert [await group.query(None) for group in made] == [expected] * 2
            assert leader_of(made).status().progress[3].match == 0
    for place in (0, 1):
        left = [len(list(each.glob("*.snap"))) for each in (tmp_path / str(place) / "snapshots").iterdir()]
        assert max(left) <= 1 + BOUNDED["max_snapshot_files"], "the current one and those that are kept"
    async with cluster(tmp_path, 1, machines=lambda _: Counter(), **BOUNDED) as (host,):
        machine = host.group(1).machine
        assert isinstance(machine, Counter)
        assert machine.count > 100, "what is left of log and snapshots is enough to restart from"


class Careful(Counter):
    """Durable state: only what was there at the last `sync` survives a power cut."""

    def __init__(self, group_id: int, disk: dict[int, tuple[int, int]]) -> None:
        super().__init__()
        self._id = group_id
        self._disk = disk
        self.applied_index, self.count = disk.get(group_id, (0, 0))
        self.syncs = 0

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        results = super().apply(entries)
        self.applied_index = entries[-1].index
        return results

    def sync(self) -> None:
        self.syncs += 1
        self._disk[self._id] = (self.applied_index, self.count)

    @property
    def durable(self) -> int:
        """At least where a new group starts: its empty state there needs nothing on disk."""
        return max(INITIAL_INDEX, self._disk.get(self._id, (0, 0))[0])


async def test_nothing_is_compacted_that_the_machine_has_not_made_durable(tmp_path: Path) -> None:
    """Looked at after every round of writes; and a host whose machines fall back to what they had
    synced, as after a power cut, finds everything else in its log."""
    disk: dict[int, tuple[int, int]] = {}
    settings: dict[str, Any] = {**BOUNDED, "snapshot_interval_entries": 50, "snapshot_keep_entries": 0}
    async with cluster(tmp_path, 1, machines=lambda g: Careful(g, disk), **settings) as (host,):
        group = await host.create_group(7)
        machine = group.machine
        assert isinstance(machine, Careful)
        for _ in range(40):
            await group.propose_many([b"x"] * 37)
            status = group.status()
            assert status.first_index - 1 <= machine.durable
            assert status.snapshot_index <= machine.durable
        await until(lambda: group.status().first_index > 1000)
        assert machine.syncs > 5
        while machine.durable == group.status().applied:
            await group.propose(b"never synced")
        written = machine.count
    async with cluster(tmp_path, 1, machines=lambda g: Careful(g, disk), **settings) as (host,):
        assert await host.group(7).query(None) == written >= 40 * 37
