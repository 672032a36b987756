"""multiraft as a server: the key-value store of `multiraft serve`, over HTTP like the others."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.measure import ROOT
from bench.peers.processes import Servers, started, wait_ready
from multiraft.cli.ports import free_ports

MEMBERS = 3
PATIENCE_S = 60.0


def request(key: bytes, payload: int, address: str = "store") -> bytes:
    """A request that writes."""
    head = f"PUT /kv/{key.decode()} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {payload}\r\n\r\n"
    return head.encode() + bytes(payload)


@asynccontextmanager
async def open_store(folder: str, groups: int) -> AsyncIterator[Servers]:
    """Raises: RunFailed."""
    ports = free_ports(2 * MEMBERS)
    hosts = [f"127.0.0.1:{port}" for port in ports[:MEMBERS]]
    https = [f"127.0.0.1:{port}" for port in ports[MEMBERS:]]
    sample = f"{folder}/sample"
    with open(sample, "w", encoding="ascii") as file:  # noqa: ASYNC230 - nothing is under way yet
        file.writelines(f"{number:08d}\n" for number in range(10_000))
    commands = {
        f"{folder}/store{number}.log": (
            *(sys.executable, "-m", "multiraft", "serve", "--listen", host, "--http", http),
            *("--data-dir", f"{folder}/store{number}", "--peers", ",".join(hosts)),
            *("--groups", str(groups), "--sample", sample, "--cluster-id", "bench"),
        )
        for number, (host, http) in enumerate(zip(hosts, https, strict=True))
    }
    assert ROOT.is_dir()
    async with started(commands) as processes:
        await wait_ready({http: request(b"ready", 1) for http in https}, list(commands), PATIENCE_S)
        yield Servers(https, processes)
