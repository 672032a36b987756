"""Processes of `multiraft serve`, and HTTP clients that remember what they asked and were told."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from multiraft.cli.ports import free_ports
from tests.cluster.fleet import Body
from tests.cluster.forked import Command
from tests.sim.linearizability import Kind, Operation, Outcome

TICK_S = 0.05
ELECTION_S = 20 * TICK_S
"""The longest election timeout."""

KEYS = ("a", "b", "%F0", "%F1")
"""Two of each of two groups."""

ABSENT_STATUS, ANSWERED_STATUS, DONE_STATUS = 404, 200, 204


class ServeHost:
    """One host at fixed addresses with a fixed folder, whether or not it runs."""

    def __init__(self, number: int, folder: Path, listen: int, http: int) -> None:
        self.address = f"127.0.0.1:{listen}"
        self.url = f"http://127.0.0.1:{http}"
        self._log = folder / f"host{number}.log"
        self._arguments = ["--listen", self.address, "--http", self.url, "--groups", "2"]
        self._arguments += ["--data-dir", str(folder / f"host{number}")]
        self._process: Command | None = None

    def start(self, peers: str, settings: Sequence[str]) -> None:
        given = [each for setting in settings for each in ("--set", setting)]
        command = ["serve", *self._arguments, "--watch-stdin", "--peers", peers, *given]
        self._process = Command(command, str(self._log))

    def kill(self) -> None:
        """SIGKILL, which works on a stopped process too."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.signal(signal.SIGCONT)


class Cluster:
    """Three hosts that serve two groups."""

    def __init__(self, folder: Path, settings: Sequence[str]) -> None:
        ports = free_ports(6)
        self.hosts = [ServeHost(n, folder, ports[n], ports[n + 3]) for n in range(3)]
        self._peers = ",".join(host.address for host in self.hosts)
        self._settings = [f"tick_interval_s={TICK_S}", *settings]

    def start(self, host: ServeHost) -> None:
        host.start(self._peers, self._settings)

    async def leader(self, *, besides: ServeHost | None = None) -> ServeHost:
        """The host that leads the first group, as another one says; `besides` no longer does."""
        async with httpx.AsyncClient(trust_env=False, timeout=1.0) as client:
            while True:
                for host in self.hosts:
                    if host is not besides:
                        with contextlib.suppress(httpx.TransportError):
                            answer = await client.get(f"{host.url}/admin/status")
                            found = self._named(answer.json()["groups"][0]["leader"])
                            if found is not None and found is not besides:
                                return found
                await trio.sleep(TICK_S)

    def _named(self, leader: dict[str, Any] | None) -> ServeHost | None:
        return next((host for host in self.hosts if leader and host.address == leader["address"]), None)

    async def wait_ready(self) -> None:
        """Until every key can be read on every host."""
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
            for url in [f"{host.url}/kv/{key}" for host in self.hosts for key in KEYS]:
                while not await _answers(client, url):  # noqa: ASYNC110 - in another process
                    await trio.sleep(TICK_S)


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code in (ANSWERED_STATUS, ABSENT_STATUS)
    except httpx.TransportError:
        return False


@asynccontextmanager
async def serving(folder: Path, *settings: str) -> AsyncIterator[Cluster]:
    """A cluster that is ready; killed at the end."""
    cluster = Cluster(folder, settings)
    try:
        for host in cluster.hosts:
            cluster.start(host)
        with trio.fail_after(40):
            await cluster.wait_ready()
        yield cluster
    finally:
        for host in cluster.hosts:
            host.kill()


class Clients:
    """Each asks one thing after another: any key, any host. `history` is what they were told."""

    def __init__(self, cluster: Cluster, *, consistency: str = "linearizable", seed: int = 1) -> None:
        self.history: list[Operation] = []
        self._cluster = cluster
        self._consistency = consistency
        self._random = random.Random(seed)
        self._values = 0

    @property
    def done(self) -> int:
        return sum(op.outcome is Outcome.DONE for op in self.history)

    async def one(self) -> None:
        """One client, for ever. It gives up on a host that does not answer, and goes on with others."""
        timeout = httpx.Timeout(1.5 * ELECTION_S, connect=0.5)
        source = self._random
        async with httpx.AsyncClient(trust_env=False, timeout=timeout) as client:
            while True:
                kind = source.choices((Kind.GET, Kind.PUT, Kind.DELETE), (50, 40, 10))[0]
                await self.ask(client, source.choice(self._cluster.hosts), kind, source.choice(KEYS))
                await trio.sleep(source.random() * 0.01)

    async def read_everything(self) -> None:
        """The last word on every key, from every host."""
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            for host in self._cluster.hosts:
                for key in KEYS:
                    await self.ask(client, host, Kind.GET, key)

    async def ask(self, client: httpx.AsyncClient, host: ServeHost, kind: Kind, key: str) -> None:
        url = f"{host.url}/kv/{key}"
        value = None
        called = trio.current_time()
        try:
            if kind is Kind.GET:
                answer = await client.get(url, params={"consistency": self._consistency})
            elif kind is Kind.DELETE:
                answer = await client.delete(url)
            else:
                self._values += 1
                value = str(self._values)
                answer = await put(client, url, value)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            outcome, result, said = Outcome.FAILED, None, "no connection"
        except httpx.TransportError as error:
            outcome, result, said = Outcome.UNKNOWN, None, type(error).__name__
        except trio.Cancelled:
            self._remember(kind, key, called, value, None, Outcome.UNKNOWN, host, "the end")
            raise
        else:
            outcome, result = _told(kind, answer)
            said = str(answer.status_code) if outcome is Outcome.DONE else answer.text
        self._remember(kind, key, called, value, result, outcome, host, said)

    def _remember(
        self,
        kind: Kind,
        key: str,
        called: float,
        value: str | None,
        result: str | None,
        outcome: Outcome,
        host: ServeHost,
        said: str,
    ) -> None:
        note = f"{host.url}: {said}"
        now = trio.current_time()
        self.history.append(Operation(kind, called, now, value, result, outcome, key=key, note=note))


async def put(client: httpx.AsyncClient, url: str, value: str) -> httpx.Response:
    """With a body that may be left in the middle: by a cancelled client, or a host that dies."""
    request = client.build_request("PUT", url, content=value)
    request.stream = Body(value.encode())
    return await client.send(request)


def _told(kind: Kind, answer: httpx.Response) -> tuple[Outcome, str | None]:
    """What an answer says came of the operation, and the result."""
    if kind is not Kind.GET and answer.status_code == DONE_STATUS:
        return Outcome.DONE, None
    if kind is Kind.GET and answer.status_code == ANSWERED_STATUS:
        return Outcome.DONE, answer.text
    body = answer.json()
    if kind is Kind.GET and body["error"] == "no_such_key":
        return Outcome.DONE, None
    assert answer.status_code == 503, answer.text
    return (Outcome.FAILED if body["applied"] == "no" else Outcome.UNKNOWN), None


def described(history: Sequence[Operation], wrong: Operation) -> str:
    """The key's operations that came before the one that nothing explains, and those around it."""
    of_key = sorted((op for op in history if op.key == wrong.key), key=lambda op: op.called)
    told = [op for op in of_key if op.called <= wrong.returned][-60:]
    return "\n".join(
        f"{op.called:.6f} to {op.returned:.6f} {op.kind.name} {op.argument} -> "
        f"{op.outcome.name} {op.result}  ({op.note})"
        for op in told
    )
