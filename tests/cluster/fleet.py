"""A fleet of `multiraft serve`: hosts in processes of their own, met over HTTP as users meet them.

    async with fleet(tmp_path, 3) as hosts:
        await predefined(hosts)                      # one group on all of them, with a leader
        leader, *others = await leader_first(hosts)
        leader.kill()                                # or pause(), go_on(), await stop(), start()
        await others[0].post("groups/1/members/remove", member=1)
        await others[0].put("key", "value")

Hosts keep their addresses and folders whether or not they run. Nothing here waits for a time:
`until` polls for a state, and says what it saw last. Logs are printed when a test fails.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import trio

from multiraft.cli import main
from multiraft.cli.ports import free_ports
from tests.admin.listener import Listener, listen_at
from tests.cluster.forked import Command

TICK_S = 0.05
PATIENCE_S = 60.0
"""For what takes a second or two on an idle machine."""
GROUP = 1
"""Has all keys: hosts of a fleet do not divide them."""
SETTINGS = (f"tick_interval_s={TICK_S}", "segment_bytes=1048576", "leader_wait_s=30")
LOG_LINES = 60

T = TypeVar("T")


class Refused(Exception):
    """A host answered that something was not done: the admin API's words, or the store's."""

    def __init__(self, answer: httpx.Response) -> None:
        body = answer.json()
        self.status = answer.status_code
        self.error: str = body["error"]
        self.reason: str = body["reason"]
        self.applied: str = body["applied"]
        self.leader: str | None = body.get("leader")
        super().__init__(f"{self.status} {self.error}: {self.reason}")


class Body(httpx.AsyncByteStream):
    """What httpx makes of `content` is a generator; one that is left in the middle, by a host that
    breaks the connection, is a warning when it is collected, and a test that fails."""

    def __init__(self, data: bytes) -> None:
        self._left = [data]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


class FleetHost:
    """One host at fixed addresses with a folder of its own, whether or not it runs.

    Attributes:
        address: Where other hosts reach it: `listens_at`, or a proxy before that.
        listens_at: Where it listens for them.
        http: Where its admin API and its keys are served: the `--host` of commands.
        data_dir: Its folder.
        settings: `FIELD=VALUE` of its configuration, from its next start on.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        ports: tuple[int, int],
        settings: Sequence[str],
        client: httpx.AsyncClient,
        scheme: str = "http",
    ) -> None:
        self.name = name
        self.address = self.listens_at = f"127.0.0.1:{ports[0]}"
        self.http = f"127.0.0.1:{ports[1]}"
        self.data_dir = folder / name
        self.settings = list(settings)
        self._log = folder / f"{name}.log"
        self._url = f"{scheme}://{self.http}"
        self._client = client
        self._process: Command | None = None

    def __repr__(self) -> str:
        return f"<{self.name} at {self.address}>"

    # --- the process -------------------------------------------------------------------------

    def start(self, *more: str, peers: Sequence[str] | None = None) -> None:
        """Start it; `wait_up` waits for its answers.

        Args:
            more: Settings for this life of it.
            peers: All hosts of the store. Default: none, groups are made and joined over the API.
        """
        assert self._process is None, f"{self.name} runs"
        given = ["--join"] if peers is None else ["--peers", ",".join(peers)]
        given += [part for setting in (*self.settings, *more) for part in ("--set", setting)]
        fixed = ["--listen", self.listens_at, "--http", self.http, "--data-dir", self.data_dir]
        fixed += [] if self.address == self.listens_at else ["--advertise", self.address]
        command = ["serve", *fixed, "--groups", 1, "--watch-stdin", *given]
        self._process = Command(command, str(self._log))

    @property
    def runs(self) -> bool:
        """Paused or not."""
        return self._process is not None and self._process.status is None

    @property
    def log(self) -> str:
        """What it wrote to standard error, over all its lives."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def _running(self) -> Command:
        assert self._process is not None, f"{self.name} does not run"
        return self._process

    def signal(self, number: int) -> None:
        self._running.signal(number)

    def pause(self) -> None:
        """SIGSTOP: its connections stay open, and nobody answers."""
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, which works on a paused process too."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    async def stop(self) -> int:
        """SIGTERM; its exit status."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Wait until it has ended by itself; its exit status."""
        with trio.fail_after(PATIENCE_S):
            status = await self._running.ended()
        self._process = None
        return status

    async def wait_up(self) -> None:
        """Until its admin API answers."""

        async def answers() -> bool:
            assert self.runs, f"{self.name} ended: {self.log}"
            return bool(await self.get("status"))

        await until(answers)

    # --- the admin API -----------------------------------------------------------------------

    async def get(self, path: str, **arguments: Any) -> dict[str, Any]:
        """Raises: Refused, httpx.TransportError."""
        return self._answered(await self._client.get(f"{self._url}/admin/{path}", params=arguments))

    async def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Raises: Refused, httpx.TransportError."""
        return self._answered(
            await self._client.post(f"{self._url}/admin/{path}", json=body, timeout=PATIENCE_S)
        )

    async def group(self, group: int = GROUP) -> dict[str, Any]:
        """What it says of a group."""
        return await self.get(f"groups/{group}")

    async def member_id(self, group: int = GROUP) -> int:
        return int((await self.group(group))["member_id"])

    async def roles(self, group: int = GROUP) -> dict[int, str]:
        """The members as this host knows them, and what they may do."""
        return {each["id"]: each["role"] for each in (await self.group(group))["members"]}

    async def listen(self) -> Listener:
        """Its events, from now on; whoever asks closes them (`async with`)."""
        return await listen_at(self.http)

    @staticmethod
    def _answered(answer: httpx.Response) -> dict[str, Any]:
        if answer.is_error:
            raise Refused(answer)
        body = answer.json()
        assert isinstance(body, dict)
        return body

    # --- the store -----------------------------------------------------------------------------

    async def put(self, key: str, value: str) -> None:
        """Raises: Refused, httpx.TransportError."""
        request = self._client.build_request(
            "PUT", f"{self._url}/kv/{key}", content=value, timeout=PATIENCE_S
        )
        request.stream = Body(value.encode())
        answer = await self._client.send(request)
        if answer.is_error:
            raise Refused(answer)

    async def value(self, key: str, consistency: str = "linearizable") -> str | None:
        """None: no such key. Raises: Refused, httpx.TransportError."""
        answer = await self._client.get(
            f"{self._url}/kv/{key}", params={"consistency": consistency}, timeout=PATIENCE_S
        )
        if answer.status_code == 404:
            return None
        if answer.is_error:
            raise Refused(answer)
        return answer.text


async def until(check: Callable[[], Awaitable[T]], patience_s: float = PATIENCE_S) -> T:
    """What `check` returns once that is true; refusals and broken connections count as false."""
    last: object = "nothing"
    with trio.move_on_after(patience_s):
        while True:
            try:
                result = await check()
            except (Refused, httpx.TransportError) as error:
                last = repr(error)
            else:
                if result:
                    return result
                last = result
            await trio.sleep(TICK_S / 2)
    raise AssertionError(f"not within {patience_s:g} s; last seen: {last}")


async def command(*arguments: object) -> int:
    """The exit status of a command line, run here: a process of its own would take a second to start."""
    return await trio.to_thread.run_sync(main.run, [str(each) for each in arguments])


# --- several hosts -----------------------------------------------------------------------------------


@asynccontextmanager
async def fleet(
    folder: Path, count: int = 3, *settings: str, start: bool = True, client: dict[str, Any] | None = None
) -> AsyncIterator[list[FleetHost]]:
    """Hosts that run and have no groups; killed at the end, their logs printed if a test failed.

    Args:
        folder: For their folders and logs.
        count: How many.
        settings: `FIELD=VALUE` for all of them, beyond `SETTINGS`.
        start: Whether they run already.
        client: Arguments of the HTTP client; with `verify`, hosts are asked over HTTPS.
    """
    given = {"trust_env": False, "timeout": 10.0, **(client or {})}
    scheme = "https" if "verify" in given else "http"
    ports = free_ports(2 * count)
    async with httpx.AsyncClient(**given) as http:
        hosts = [
            FleetHost(f"host{n}", folder, (ports[n], ports[n + count]), (*SETTINGS, *settings), http, scheme)
            for n in range(count)
        ]
        try:
            if start:
                for host in hosts:
                    host.start()
                for host in hosts:
                    await host.wait_up()
            yield hosts
        except BaseException:
            for host in hosts:
                print_log(host)
            raise
        finally:
            for host in hosts:
                host.kill()


def print_log(host: FleetHost) -> None:
    """The end of a host's log, for whoever looks into a failure."""
    lines = host.log.splitlines()[-LOG_LINES:]
    sys.stderr.write("\n".join((f"--- the end of the log of {host}", *lines, "")))


def members_of(hosts: Sequence[FleetHost]) -> list[dict[str, object]]:
    """The members of a predefined group on `hosts`: ids from 1, in their order."""
    return [{"id": number, "address": host.address} for number, host in enumerate(hosts, start=1)]


async def predefined(hosts: Sequence[FleetHost], group: int = GROUP, **limits: int) -> None:
    """Make a group on all of `hosts`; on return all of them agree on a leader, and take keys."""
    for host in hosts:
        await host.post("groups", id=group, members=members_of(hosts), limits=limits)
    await wait_leader(hosts, group)
    if group == GROUP:
        for host in hosts:
            await wait_ready(host)


async def wait_ready(host: FleetHost) -> None:
    """Until keys can be read on it."""

    async def reads() -> bool:
        await host.value("a key that nobody writes")
        return True

    await until(reads)


async def wait_leader(hosts: Sequence[FleetHost], group: int = GROUP) -> FleetHost:
    """The host that leads, once all of `hosts` name it, and it is one of them."""

    async def agreed() -> FleetHost | None:
        told = [await host.group(group) for host in hosts]
        named = {each["leader"]["address"] if each["leader"] else None for each in told}
        leads = [host for host, each in zip(hosts, told, strict=True) if each["role"] == "leader"]
        return leads[0] if len(leads) == 1 and named == {leads[0].address} else None

    found = await until(agreed)
    assert found is not None
    return found


async def leader_first(hosts: Sequence[FleetHost], group: int = GROUP) -> list[FleetHost]:
    """`hosts`, the one that leads before the others."""
    leader = await wait_leader(hosts, group)
    return [leader, *(host for host in hosts if host is not leader)]


async def join(host: FleetHost, via: FleetHost, role: str = "voter", group: int = GROUP) -> int:
    """Have `host` join a group through a member's host; its member id."""
    return int((await host.post(f"groups/{group}/join", via=via.address, role=role))["member_id"])


async def lead(host: FleetHost, group: int = GROUP) -> None:
    """Have `host` lead. On a busy machine a transfer may fail and has to be asked for again."""
    member = await host.member_id(group)
    await until(lambda: host.post(f"groups/{group}/transfer", to=member))


async def wait_same(hosts: Sequence[FleetHost], group: int = GROUP) -> dict[str, Any]:
    """Until all of `hosts` have applied the same, members included; what the first one says then."""

    async def same() -> dict[str, Any] | None:
        told = [await host.group(group) for host in hosts]
        seen = {(each["applied"], each["last_index"], each["version"], str(each["members"])) for each in told}
        return told[0] if len(seen) == 1 and told[0]["applied"] == told[0]["last_index"] else None

    found = await until(same)
    assert found is not None
    return found
