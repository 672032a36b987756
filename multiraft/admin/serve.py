"""`http`: the address for people and programs. Opens it, and serves an app there beside a host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs
import structlog
import trio

from multiraft import engine
from multiraft.admin.app import make_app
from multiraft.admin.guard import OPEN_ADDRESS, Guard, is_loopback
from multiraft.admin.web import HttpApp
from multiraft.config import HostConfig, normalize_address, read_token
from multiraft.engine import Host
from multiraft.errors import AddressInUse, ConfigError
from multiraft.interfaces import Files, MachineFactory
from multiraft.transport.asgi import HttpServer
from multiraft.transport.tls import Tls, load_tls

CONNECTIONS_MAX: Final = 4096
DRAIN_S: Final = 5.0
"""How long closing waits for requests that are under way."""
PROTOCOLS: Final = ("h2", "http/1.1")

log = structlog.get_logger("multiraft.admin")


@attrs.frozen
class Door:
    """The address, bound, and who may come in."""

    listeners: list[trio.SocketListener]
    tls: Tls | None
    guard: Guard

    @property
    def address(self) -> str:
        """`host:port`, with the real port."""
        name, port = self.listeners[0].socket.getsockname()[:2]
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


@asynccontextmanager
async def open_host(
    config: HostConfig, machines: MachineFactory, *, files: Files | None = None
) -> AsyncIterator[Host]:
    """Open a host: restart every group found in its data folder, and serve its peers.

    If `config.http` is set, the admin API is served there for as long as the block runs.
    Otherwise as `multiraft.engine.open_host`, which does all the rest.

    Raises:
        ConfigError: As there; also when `http` is no loopback address, and there is neither a token
            nor TLS to know the admin API's clients by.
        AddressInUse: As there, or `http` cannot be bound.
    """
    if not isinstance(config, HostConfig) or config.http is None:
        async with engine.open_host(config, machines, files=files) as host:
            yield host
        return
    async with open_door(config) as door:
        if door.guard.closed:
            raise ConfigError("http", f"{config.http} is open to others: {OPEN_ADDRESS}")
        async with (
            # This lets exceptions out bare, those of the nursery below included.
            engine.open_host(config, machines, files=files) as host,
            serving(host, make_app(host, door.guard), door),
        ):
            yield host


@asynccontextmanager
async def open_door(config: HostConfig) -> AsyncIterator[Door]:
    """Bind `config.http`, and read what lets clients in. Connections wait until they are served.

    Raises:
        ConfigError: A file of `http_tls`, or `admin_token_file`, cannot be used.
        AddressInUse: The address cannot be bound.
    """
    assert config.http is not None
    tls, token = None, config.admin_token
    if config.http_tls is not None:
        tls = await trio.to_thread.run_sync(partial(load_tls, config.http_tls, "http_tls", PROTOCOLS))
    if config.admin_token_file is not None:
        token = await trio.to_thread.run_sync(read_token, config.admin_token_file)
    listeners = await _listen(config.http)
    try:
        loopback = all(is_loopback(each.socket.getsockname()[0]) for each in listeners)
        yield Door(listeners, tls, Guard.of(config, token, loopback=loopback))
    finally:
        for listener in listeners:
            listener.socket.close()


@asynccontextmanager
async def serving(host: Host, app: HttpApp, door: Door) -> AsyncIterator[None]:
    """Serve `app` while the block runs; then what is under way may finish, for a while."""
    server = HttpServer(
        app,
        door.listeners,
        max_connections=CONNECTIONS_MAX,
        ssl_context=None if door.tls is None else door.tls.server,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        host.http_address = door.address
        log.info("http open", address=door.address, tls=door.tls is not None, admin=not door.guard.closed)
        yield
        with trio.move_on_after(DRAIN_S):
            await server.let_go()
            await app.finish()
        nursery.cancel_scope.cancel()


async def _listen(address: str) -> list[trio.SocketListener]:
    """Raises: AddressInUse."""
    name, _, port = normalize_address(address, "http").rpartition(":")
    try:
        listeners = await trio.open_tcp_listeners(int(port), host=name.strip("[]"))
    except OSError as error:
        raise AddressInUse(f"http: cannot listen on {address}: {error}") from error
    # With port 0 each address of a name would get a port of its own; one is enough then.
    extra = [] if int(port) else listeners[1:]
    for listener in extra:
        listener.socket.close()
    return listeners[: len(listeners) - len(extra)]
