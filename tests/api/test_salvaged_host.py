"""A host whose log was damaged: what runs on, what is stopped, and that it never votes again."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from multiraft import (
    ConfigError,
    CorruptRecord,
    GroupExists,
    GroupFailed,
    Member,
    NoLeader,
    RecoveryMode,
    open_host,
)
from tests.api.programs import (
    PATIENCE_S,
    Ledger,
    change,
    create_on,
    host_config,
    leader_of,
    open_hosts,
    until,
)

pytestmark = pytest.mark.slow  # real sockets, files and elections


def damage(folder: Path) -> None:
    """Flip a bit in the first batch, with later ones behind it."""
    segment = min((folder / "wal").glob("*.wal"))
    data = bytearray(segment.read_bytes())
    data[120] ^= 1
    segment.write_bytes(data)


def machine(_: int) -> Ledger:
    return Ledger()


async def test_a_salvaged_host_runs_what_is_whole_and_stops_the_rest(tmp_path: Path) -> None:
    config = host_config(tmp_path, "a")
    async with open_host(config, machines=machine) as host:
        for group_id in (1, 2):
            await (await host.create_group(group_id)).propose(change(ann=group_id))
    damage(tmp_path / "a")
    for mode in ("torn_tail", "strict"):
        with pytest.raises(CorruptRecord):
            async with open_host(host_config(tmp_path, "a", recovery=mode), machines=machine):
                raise AssertionError("a damaged log was opened")
    async with open_host(host_config(tmp_path, "a", recovery="salvage"), machines=machine) as host:
        # Group 2 was made behind the damage, so all of it is there.
        assert set(host.groups) == {1, 2}
        assert await host.group(2).query("ann") == 2
        stopped = host.group(1)
        for call in (stopped.propose(change(ann=1)), stopped.query("ann"), stopped.read_barrier()):
            with pytest.raises(GroupFailed, match="Remove the group here"):
                await call
        assert "byte 64" in str(stopped.status().failed)
        assert (tmp_path / "a" / "wal" / "backup-1").is_dir()
        with pytest.raises(GroupExists):
            await host.create_group(1, [Member(5, host.address)])
        with pytest.raises(GroupFailed, match="may have been on this host"):
            await host.create_group(9, [Member(5, host.address)])
        group = await host.create_group(10)
        assert await group.propose(change(bob=1)) == {"bob": 1}
    # It stays so at every later start, in any mode, until the group is removed.
    async with open_host(config, machines=machine) as host:
        assert host.group(1).status().failed is not None
        with trio.fail_after(PATIENCE_S):
            assert await host.group(10).query("bob") == 1
            await host.remove_group(1)
            again = await host.create_group(1)
            assert await again.propose(change(ann=1)) == {"ann": 1}
        with pytest.raises(GroupFailed, match="may have been on this host"):
            await host.create_group(9, [Member(5, host.address)])
    async with open_host(config, machines=machine) as host:
        with trio.fail_after(PATIENCE_S):
            assert await host.group(1).query("ann") == 1


async def test_a_member_whose_log_was_damaged_never_votes_or_acknowledges_again(tmp_path: Path) -> None:
    """Two of three go on without it; one of three and the damaged one are no majority."""
    async with AsyncExitStack() as others:
        hosts = await others.enter_async_context(open_hosts(tmp_path, "ab", leader_wait_s=2))
        async with AsyncExitStack() as third:
            host = await third.enter_async_context(open_host(host_config(tmp_path, "c"), machines=machine))
            address = host.address
            groups = await create_on([*hosts, host], 7)
            await leader_of(groups).propose(change(ann=1))
        damage(tmp_path / "c")
        config = host_config(tmp_path, "c", listen=address, recovery=RecoveryMode.SALVAGE)
        async with open_host(config, machines=machine) as host:
            assert host.group(7).status().failed is not None
            with trio.fail_after(PATIENCE_S):
                await until(lambda: groups[0].leader is not None)
                assert await groups[0].propose(change(ann=1)) == {"ann": 2}
            before = host.group(7).status()
            await hosts[1].remove_group(7)  # as if that host had gone
            await until(lambda: groups[0].leader is None)
            with trio.fail_after(PATIENCE_S), pytest.raises(NoLeader):
                await groups[0].propose(change(ann=1))
            after = host.group(7).status()
            assert (after.term, after.commit, after.last_index) == (
                before.term,
                before.commit,
                before.last_index,
            )


def test_a_mode_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'strict', 'torn_tail', 'salvage'"):
        host_config(tmp_path, "a", recovery="hope")
