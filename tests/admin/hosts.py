"""Hosts with an admin API for tests: real sockets on loopback, real files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio

from multiraft import Host, HostConfig, open_host
from tests.api.programs import PATIENCE_S, Ledger

GROUP = 7


@attrs.frozen(eq=False)
class Served:
    """A host, and a client of its admin API."""

    host: Host
    client: httpx.AsyncClient

    async def get(self, path: str, **arguments: Any) -> httpx.Response:
        return await self.client.get(f"/admin/{path}", params=arguments)

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.client.post(f"/admin/{path}", json=body)


def config(folder: Path, **fields: Any) -> HostConfig:
    """Fast ticks; everything else as by default."""
    given: dict[str, Any] = {
        "data_dir": str(folder),
        "listen": "127.0.0.1:0",
        "http": "127.0.0.1:0",
        "tick_interval_s": 0.03,
        **fields,
    }
    return HostConfig(**given)


@asynccontextmanager
async def served(settings: HostConfig, **client: Any) -> AsyncIterator[Served]:
    """One host. `client`: more arguments for its client."""
    async with open_host(settings, machines=lambda _group: Ledger()) as host:
        secure = settings.http_tls is not None
        async with httpx.AsyncClient(
            base_url=f"{'https' if secure else 'http'}://{host.http_address}",
            timeout=PATIENCE_S,
            trust_env=False,
            **client,
        ) as made:
            yield Served(host, made)


@asynccontextmanager
async def three(folder: Path) -> AsyncIterator[list[Served]]:
    """Three hosts, without groups."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(served(config(folder / name))) for name in "abc"]


def predefined(hosts: Sequence[Served]) -> list[dict[str, object]]:
    """Members of a predefined group, as requests have them."""
    return [{"id": number, "address": each.host.address} for number, each in enumerate(hosts, start=1)]


async def make_group(hosts: Sequence[Served]) -> None:
    """The group on all hosts; on return each of them knows a leader."""
    for each in hosts:
        answer = await each.post("groups", id=GROUP, members=predefined(hosts))
        assert answer.status_code == 201, answer.text
    with trio.fail_after(PATIENCE_S):
        for each in hosts:
            await each.host.group(GROUP).wait_leader()


def told(answer: httpx.Response) -> tuple[int, str]:
    """The status and the error's name."""
    body = answer.json()
    assert body["reason"]
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, body["error"]
