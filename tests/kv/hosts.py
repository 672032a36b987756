"""Hosts of the store for tests: real sockets on loopback, real files."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from multiraft.config import HostConfig
from multiraft.kv.ranges import Ranges
from multiraft.kv.serve import Served, open_kv
from multiraft.types import Member

RANGES = Ranges([b"g", b"p"])


def config(folder: Path, *, listen: str = "127.0.0.1:0", **fields: Any) -> HostConfig:
    """Fast ticks; everything else as by default."""
    return HostConfig(
        data_dir=str(folder), listen=listen, http="127.0.0.1:0", **{"tick_interval_s": 0.03, **fields}
    )


def free_addresses(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


@asynccontextmanager
async def open_one(
    where: Path | HostConfig, *, members: Sequence[Member] = (), ranges: Ranges = RANGES, **fields: Any
) -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
    """A host, and a client that speaks HTTP/2 to it. It may not be ready yet: `wait_ready`."""
    settings = where if isinstance(where, HostConfig) else config(where, **fields)
    async with (
        open_kv(settings, members=members, ranges=ranges) as served,
        httpx.AsyncClient(
            base_url=f"http://{served.http}", http1=False, http2=True, timeout=30, trust_env=False
        ) as client,
    ):
        yield served, client


async def wait_ready(*clients: httpx.AsyncClient) -> None:
    """Return when each host serves keys."""
    for client in clients:
        with trio.fail_after(30):
            while True:
                if (await client.get("/kv/x")).status_code != 503:
                    break
                await trio.sleep(0.01)


def three_hosts(folder: Path, **fields: Any) -> list[HostConfig]:
    """Configurations of three hosts that will know each other."""
    return [
        config(folder / str(place), listen=each, **fields) for place, each in enumerate(free_addresses(3))
    ]
