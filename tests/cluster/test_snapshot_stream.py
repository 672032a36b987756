"""Snapshots of states that are larger than what hosts may hold in memory, over links that break.

`MULTIRAFT_STATE_MIB` sets the size of the large one. `-o log_cli=true --log-level=INFO` shows the growth.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from multiraft.cli.ports import free_ports
from tests.cluster.memory import MIB, peak_mib, start_peak
from tests.cluster.processes import HostProcess
from tests.cluster.proxy import Proxy, open_proxy
from tests.cluster.state_host import BLOCK_BYTES, PIECE_BYTES

pytestmark = pytest.mark.slow
logger = logging.getLogger(__name__)

STATE_MIB = int(os.environ.get("MULTIRAFT_STATE_MIB", "256"))
GROWTH_MIB_MAX = 64
SETTINGS: dict[str, Any] = {"snapshot_keep_entries": 0}
GROUP = 7


@asynccontextmanager
async def late_host(
    folder: Path, **settings: Any
) -> AsyncIterator[tuple[list[HostProcess], HostProcess, Proxy]]:
    """Two hosts that run, and a third one, not started yet, behind a proxy."""
    ports = free_ports(3)
    async with trio.open_nursery() as nursery, open_proxy(f"127.0.0.1:{ports[2]}") as proxy:
        program = "tests.cluster.state_host"
        hosts = [
            HostProcess(n, folder, port, nursery, program=program) for n, port in enumerate(ports[:2], 1)
        ]
        late = HostProcess(3, folder, ports[2], nursery, advertise=proxy.address, program=program)
        try:
            for host in hosts:
                await host.start(**SETTINGS, **settings)
            yield hosts, late, proxy
        finally:
            with trio.CancelScope(shield=True):
                for host in (*hosts, late):
                    await host.kill()
            nursery.cancel_scope.cancel()


async def grown(
    hosts: list[HostProcess], late: HostProcess, state_mib: int, group: int = GROUP
) -> tuple[HostProcess, int]:
    """A group whose log starts behind a snapshot of such a state: its leader, the file's size."""
    everyone = [host.address for host in (*hosts, late)]
    for host in hosts:
        await host.call("create", groups=[group], members=everyone)
    await hosts[0].call("propose", group=group, data=f"grow {state_mib * MIB // BLOCK_BYTES}")
    leading = (await hosts[0].call("leaders"))[str(group)]
    leader = next(host for host in hosts if host.address == leading)
    _, index, size = await leader.call("snapshot", group=group)
    while (await leader.call("status", group=group))["first_index"] <= index:  # noqa: ASYNC110 - another process
        await trio.sleep(0.01)
    assert isinstance(size, int)
    return leader, size


async def joins(hosts: list[HostProcess], late: HostProcess) -> list[int]:
    """Have the third host make its member of the group; what its machine has, once it has something."""
    await late.call("create", groups=[GROUP], members=[host.address for host in (*hosts, late)])
    found = await late.call("query", group=GROUP)
    assert isinstance(found, list)
    return found


@pytest.mark.timeout(60 + STATE_MIB)
async def test_a_large_state_goes_to_another_host_in_bounded_memory(tmp_path: Path) -> None:
    """Written, sent, received, verified and restored, in chunks: no process ever holds it."""
    with trio.fail_after(30 + STATE_MIB):
        async with late_host(tmp_path) as (hosts, late, _):
            before = {host: start_peak(host.pid) for host in hosts}
            leader, size = await grown(hosts, late, STATE_MIB)
            assert size >= STATE_MIB * MIB
            await late.start(**SETTINGS, leader_wait_s=STATE_MIB)
            before[late] = start_peak(late.pid)
            assert await joins(hosts, late) == [STATE_MIB * MIB // BLOCK_BYTES, 1]
            growth = {host.address: peak_mib(host.pid) - before[host] for host in (leader, late)}
    logger.info("a state of %d MiB: sender and receiver grew by %s MiB", STATE_MIB, list(growth.values()))
    assert max(growth.values()) < GROWTH_MIB_MAX, growth


async def test_a_transfer_that_was_cut_goes_on_where_it_broke(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with late_host(tmp_path) as (hosts, late, proxy):
            _, size = await grown(hosts, late, 48)
            proxy.cut_above = 24 * MIB
            await late.start(**SETTINGS)
            assert (await joins(hosts, late))[0] == 48 * MIB // BLOCK_BYTES
    first, second = [each.bytes_in for each in proxy.connections if each.bytes_in > MIB]
    assert first >= 24 * MIB
    assert second < size - 16 * MIB, "it began anew"
    assert first + second < size + 8 * MIB


async def test_a_damaged_snapshot_is_refused_before_it_is_installed(tmp_path: Path) -> None:
    """One byte changed on the way: the receiver notices, installs nothing, and gets it whole next time."""
    with trio.fail_after(60):
        async with late_host(tmp_path) as (hosts, late, proxy):
            await grown(hosts, late, 16)
            damaged = 0

            def damage(chunk: bytes) -> bytes | None:
                nonlocal damaged
                changed = _flip_in_a_block(chunk)
                damaged += changed is not None
                return changed

            proxy.damage = damage
            await late.start(**SETTINGS)
            assert (await joins(hosts, late))[0] == 16 * MIB // BLOCK_BYTES
            assert damaged == 1
            assert "snapshot not taken" in late.log
            assert (await late.call("status", group=GROUP))["failed"] is None
    large = [each.bytes_in for each in proxy.connections if each.bytes_in > MIB]
    assert len(large) == 2, "sent a second time, whole"
    assert min(large) >= 16 * MIB


@pytest.mark.parametrize(
    ("limits", "at_once"),
    [
        ({"max_snapshots_sent": 1}, 2),  # two hosts lead some of the groups
        ({"max_snapshots_received": 1}, 1),
    ],
    ids=["sent", "received"],
)
async def test_transfers_at_once_are_capped_at_both_ends(
    tmp_path: Path, limits: dict[str, int], at_once: int
) -> None:
    """Six groups have a state for the third host; those beyond the cap come later, and all of them come."""
    groups = range(1, 7)
    with trio.fail_after(60):
        async with late_host(tmp_path, **limits) as (hosts, late, proxy):
            proxy.delay_s = 0.02
            for group in groups:
                await grown(hosts, late, 4, group)
            await late.start(**SETTINGS, **limits)
            everyone = [host.address for host in (*hosts, late)]
            await late.call("create", groups=list(groups), members=everyone)
            for group in groups:
                assert (await late.call("query", group=group))[0] == 4 * MIB // BLOCK_BYTES
    assert 0 < proxy.large_at_once <= at_once
    whole = [each for each in proxy.connections if each.bytes_in >= 4 * MIB]
    assert len(whole) == len(groups), "each was sent once"


def _flip_in_a_block(chunk: bytes) -> bytes | None:
    """Changed where it is certainly the state's own; None: not here."""
    middle = len(chunk) // 2
    here, before = chunk[middle : middle + PIECE_BYTES], chunk[middle - PIECE_BYTES : middle]
    if len(here) < PIECE_BYTES or here != before:
        return None
    return chunk[:middle] + bytes([chunk[middle] ^ 1]) + chunk[middle + 1 :]
