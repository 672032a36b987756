"""A cluster of `multiraft serve` processes on this machine, and its HTTP interface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import trio

from multiraft.cli.children import Child, start_child
from multiraft.cli.ports import free_ports

REQUEST_TIMEOUT_S = 45.0
"""Longer than a host tries: its answer says more than our own timeout would."""
POLL_S = 0.05
CONNECTIONS_PER_HOST = 32


@attrs.define(eq=False)
class ClusterHost:
    """One host process. `child` is None while it is down."""

    name: str
    listen: str
    http: str
    data_dir: str
    log: str
    client: httpx.AsyncClient
    child: Child | None = None


class Cluster:
    """Its hosts, started, killed and started again."""

    def __init__(self, hosts: Sequence[ClusterHost], arguments: Sequence[str]) -> None:
        self.hosts = hosts
        self._arguments = arguments

    @property
    def up(self) -> list[ClusterHost]:
        return [host for host in self.hosts if host.child is not None]

    async def start(self, host: ClusterHost) -> None:
        """Start its process; it does not answer yet."""
        assert host.child is None
        host.child = await start_child(
            host.name,
            "multiraft",
            [
                *("serve", "--watch-stdin", "--listen", host.listen, "--http", host.http),
                *("--data-dir", host.data_dir, *self._arguments),
            ],
            host.log,
        )

    async def kill(self, host: ClusterHost) -> None:
        """SIGKILL. On return nothing of it is left."""
        child, host.child = host.child, None
        if child is not None:
            await child.kill()

    async def status(self, host: ClusterHost) -> Mapping[str, Any] | None:
        """All of its `/admin/status`; None: it does not answer.

        Raises:
            ChildFailed: Its process has ended although nobody killed it.
        """
        if host.child is not None:
            host.child.check_running()
        try:
            response = await host.client.get("/admin/status", params={"limit": 10_000})
        except httpx.TransportError:
            return None
        return dict(response.json()) if response.status_code == 200 else None

    async def wait_leaders(self, groups: int) -> None:
        """Return when every host has all the groups and knows a leader of each."""
        for host in self.hosts:
            while not _complete(await self.status(host), groups):  # noqa: ASYNC110 - in another process
                await trio.sleep(POLL_S)


def _complete(status: Mapping[str, Any] | None, groups: int) -> bool:
    rows = [] if status is None else status["groups"]
    return len(rows) == groups and all(row["leader"] is not None for row in rows)


@asynccontextmanager
async def open_cluster(
    folder: str, count: int, groups: int, sample: str, cluster_id: str = "demo"
) -> AsyncIterator[Cluster]:
    """Start `count` hosts with `groups` groups, in folders below `folder`; kill them at the end.

    Args:
        sample: A file of keys by which the groups divide the key space.
    """
    ports = free_ports(2 * count)
    hosts = [
        ClusterHost(
            name=f"host {number}",
            listen=f"127.0.0.1:{ports.pop()}",
            http=(http := f"127.0.0.1:{ports.pop()}"),
            data_dir=f"{folder}/host{number}",
            log=f"{folder}/host{number}.log",
            client=httpx.AsyncClient(
                base_url=f"http://{http}",
                timeout=REQUEST_TIMEOUT_S,
                limits=httpx.Limits(
                    max_connections=CONNECTIONS_PER_HOST, max_keepalive_connections=CONNECTIONS_PER_HOST
                ),
                trust_env=False,
            ),
        )
        for number in range(1, count + 1)
    ]
    peers = ",".join(host.listen for host in hosts)
    cluster = Cluster(
        hosts,
        ["--peers", peers, "--groups", str(groups), "--sample", sample, "--cluster-id", cluster_id],
    )
    try:
        for host in hosts:
            await cluster.start(host)
        yield cluster
    finally:
        with trio.CancelScope(shield=True):
            for host in hosts:
                await cluster.kill(host)
                await host.client.aclose()
