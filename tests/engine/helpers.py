"""Clusters of real hosts in one process: real sockets, real files, one trio run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from multiraft import Group, Host, HostConfig, Member, open_host
from multiraft.interfaces import MachineFactory
from tests.engine.machines import Journal


def config(folder: Path, **changes: Any) -> HostConfig:
    values: dict[str, Any] = {
        "data_dir": folder,
        "listen": "127.0.0.1:0",
        "tick_interval_s": 0.02,
        "segment_bytes": 1 << 20,
        "max_log_bytes": 16 << 20,
        "drain_s": 2.0,
    }
    return HostConfig(**{**values, **changes})


def journals(_: int) -> Journal:
    return Journal()


@asynccontextmanager
async def cluster(
    folder: Path, count: int = 3, machines: MachineFactory = journals, **changes: Any
) -> AsyncIterator[list[Host]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(open_host(config(folder / str(i), **changes), machines))
            for i in range(count)
        ]


def members(hosts: Sequence[Host]) -> list[Member]:
    return [Member(number, host.address) for number, host in enumerate(hosts, 1)]


async def create(hosts: Sequence[Host], group_id: int, **limits: int) -> list[Group]:
    """The same group on every host, led by somebody."""
    groups: list[Group] = [await host.create_group(group_id, members(hosts), **limits) for host in hosts]
    with trio.fail_after(10):
        for group in groups:
            await group.wait_leader()
    return groups


def leader_of(groups: Sequence[Group]) -> Group:
    leading = [group for group in groups if group.status().role == "leader"]
    assert leading, "nobody leads"
    return max(leading, key=lambda group: group.status().term)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll for a state; fails when it does not come."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - states of several hosts have no one event
            await trio.sleep(0.005)
