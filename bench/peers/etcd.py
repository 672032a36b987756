"""etcd: three members on loopback, over the JSON gateway of its gRPC API.

Debian: apt-get install etcd-server etcd-client (the packages also start a service of their own, which
nothing here needs). Its settings are left alone. The gateway turns each request into a gRPC call
inside the member and so costs it CPU that a gRPC client would spend itself; `check_perf` has etcd's
own load generator, which is such a client, for comparison.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.measure import Missing, RunFailed
from bench.peers.processes import Servers, started, wait_ready
from multiraft.cli.ports import free_ports

MEMBERS = 3
PATIENCE_S = 30.0
HOW_TO_INSTALL = "apt-get install etcd-server etcd-client"
CHECK_PERF_PATIENCE_S = 180


def request(key: bytes, payload: int, address: str = "etcd") -> bytes:
    fields = {"key": base64.b64encode(key).decode(), "value": base64.b64encode(bytes(payload)).decode()}
    body = json.dumps(fields).encode()
    head = f"POST /v3/kv/put HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@asynccontextmanager
async def open_etcd(folder: str) -> AsyncIterator[Servers]:
    """Raises: Missing, RunFailed."""
    binary = shutil.which("etcd")
    if binary is None:
        raise Missing(f"etcd is not installed ({HOW_TO_INSTALL})")
    ports = free_ports(2 * MEMBERS)
    clients = [f"127.0.0.1:{port}" for port in ports[:MEMBERS]]
    peers = [f"http://127.0.0.1:{port}" for port in ports[MEMBERS:]]
    everybody = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
    commands = {
        f"{folder}/etcd{number}.log": (
            *(binary, "--name", f"m{number}", "--data-dir", f"{folder}/etcd{number}"),
            *("--listen-client-urls", f"http://{client}", "--advertise-client-urls", f"http://{client}"),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", everybody, "--initial-cluster-state", "new", "--log-level", "error"),
        )
        for number, (client, peer) in enumerate(zip(clients, peers, strict=True))
    }
    async with started(commands) as processes:
        await wait_ready({client: request(b"ready", 1) for client in clients}, list(commands), PATIENCE_S)
        yield Servers(clients, processes)


def check_perf(servers: Servers) -> float:
    """Writes per second by `etcdctl check perf --load xl`: 1,000 clients, at most 15,000/s, 60 s.

    Raises: Missing, RunFailed.
    """
    binary = shutil.which("etcdctl")
    if binary is None:
        raise Missing(f"etcdctl is not installed ({HOW_TO_INSTALL})")
    done = subprocess.run(
        [binary, "--endpoints", ",".join(servers.addresses), "check", "perf", "--load", "xl"],
        env={"ETCDCTL_API": "3"},
        capture_output=True,
        text=True,
        timeout=CHECK_PERF_PATIENCE_S,
        check=False,  # it fails if the cluster is slower than it should be
    )
    found = re.search(r"(\d+) writes/s", done.stdout)
    if found is None:
        raise RunFailed(f"etcdctl check perf said: {(done.stdout + done.stderr)[-300:]}")
    return float(found[1])
