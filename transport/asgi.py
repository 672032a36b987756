"""Quart and hypercorn, made safe for streams that never end.

Three things the libraries do otherwise:

- Quart reads a request's body as fast as it comes and keeps what nobody has asked for yet, so
  a slow handler costs memory without bound. Here a body is pulled: what the handler does not
  take stays in hypercorn's short queue, then in the kernel, then with the sender.
- In hypercorn 0.18, DATA for a stream that was already answered raises KeyError out of the
  connection's task and takes the whole server with it: anyone who posts a body to an unknown
  path could stop a host. Here each connection's trouble ends with that connection.
- A hypercorn connection that is cancelled leaves its socket to the garbage collector.
"""

from __future__ import annotations

import ssl
from contextvars import ContextVar
from typing import Any, Final, cast

import h2.settings
import structlog
import trio
from hypercorn.config import Config
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ConnectionState,
    Framework,
    HTTPRequestEvent,
)
from hypercorn.utils import wrap_app
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioBody, TrioRequest

from multiraft.transport.entrance import Entrance, Stream

logger = structlog.get_logger(__name__)

STREAM_WINDOW_BYTES: Final = 4 << 20
"""HTTP/2's default of 64 KiB would hold a link with a round trip of 20 ms to 3 MB/s."""
FRAME_BYTES: Final = 256 << 10
"""HTTP/2 frames of up to this size: each costs both sides tens of microseconds."""
DRAIN_BYTES: Final = 16 << 20
DRAIN_S: Final = 1.0

_connection: ContextVar[TCPServer] = ContextVar("multiraft_connection")


class Disconnected(Exception):
    """The client is gone, or has reset the stream."""


class PullBody(TrioBody):
    """A request body that is read when the handler asks, and not before."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        # Deliberately not the base class's: it would make a buffer and asyncio events.
        del expected_content_length, max_content_length
        self._receive: ASGIReceiveCallable | None = None
        self._finished = False
        self.disconnected = False
        """The client is gone: there is nobody to answer."""

    def attach(self, receive: ASGIReceiveCallable) -> None:
        self._receive = receive

    def __aiter__(self) -> PullBody:
        return self

    async def __anext__(self) -> bytes:
        """The next bytes. Raises: Disconnected before the body's end."""
        if self._finished:
            raise StopAsyncIteration
        message = await self._next_message()
        if message is None:
            raise Disconnected
        self._finished = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        if not body and self._finished:
            raise StopAsyncIteration
        return body

    async def _next_message(self) -> HTTPRequestEvent | None:
        # hypercorn says once that the client is gone; a second `receive` would wait for ever.
        if self.disconnected:
            return None
        assert self._receive is not None
        message = await self._receive()
        if message["type"] == "http.request":
            return message
        self.disconnected = True
        return None

    async def read(self, max_bytes: int) -> bytes | None:
        """All of it, or None when it is longer than `max_bytes`. Raises: Disconnected."""
        whole = bytearray()
        async for chunk in self:
            whole += chunk
            if len(whole) > max_bytes:
                return None
        return bytes(whole)

    async def drain(self) -> None:
        """Forget the rest of a body that the handler did not want, within reason.

        An answer in the middle of a body makes hypercorn trip over the rest of it, and then
        the client never sees why it was refused.
        """
        size = 0
        with trio.move_on_after(DRAIN_S):
            while not self._finished and size < DRAIN_BYTES:
                message = await self._next_message()
                if message is None:
                    break
                size += len(message.get("body", b""))
                self._finished = not message.get("more_body", False)

    async def wait_disconnected(self) -> None:
        """Take and forget whatever still comes, until the client is gone."""
        while await self._next_message() is not None:
            pass


class PullRequest(TrioRequest):
    """A request with such a body."""

    body_class = PullBody


class PullConnection(TrioASGIHTTPConnection):
    """One request; its handler runs in hypercorn's task, without a second one beside it."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        request = cast("PullRequest", self._create_request_from_scope(send))
        body = cast("PullBody", request.body)
        body.attach(receive)
        response = await self.app.handle_request(request)
        await body.drain()
        if body.disconnected:
            # hypercorn's sending task went with the connection; an answer would wait for it.
            return
        # An answer may last as long as a session; its end must not wait for our next word. And
        # while it is sent the queue must be drained, or hypercorn's own tasks block on it.
        async with trio.open_nursery() as nursery:

            async def until_disconnected() -> None:
                await body.wait_disconnected()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_disconnected)
            await self._send_response(send, cast("Any", response))
            nursery.cancel_scope.cancel()


class PullApp(QuartTrio):
    """Quart with pulled bodies."""

    asgi_http_class = PullConnection
    request_class = PullRequest


class ErrorLog:
    """hypercorn's log, kept to what an operator can act on: its errors, in our words' form."""

    def __init__(self, config: Config) -> None:
        del config

    async def access(self, *_: object) -> None: ...

    async def exception(self, message: str, *_: object, **__: object) -> None:
        logger.exception("error while serving", detail=message)

    async def _nothing(self, *_: object, **__: object) -> None: ...

    critical = error = warning = info = debug = log = _nothing


class HttpServer:
    """Serves an app on listeners that are bound already, until its task is cancelled.

    Args:
        max_connections: Further ones are closed at once.
        ssl_context: None: cleartext HTTP/2 (and HTTP/1.1).
        handshake_timeout_s: For a connection's first bytes, and TLS. Default: 5 s.
    """

    def __init__(
        self,
        app: QuartTrio,
        listeners: list[trio.SocketListener],
        *,
        max_connections: int,
        ssl_context: ssl.SSLContext | None = None,
        handshake_timeout_s: float = 5.0,
    ) -> None:
        self._config = Config()
        self._config.logger_class = cast("Any", ErrorLog)
        self._config.keep_alive_max_requests = 1 << 62
        self._config.h2_max_inbound_frame_size = FRAME_BYTES
        self._app = wrap_app(cast("Framework", app), self._config.wsgi_max_body_size, "asgi")
        self._context = WorkerContext(None)
        self._listeners = listeners
        self._max_connections = max_connections
        self._entrance = Entrance(ssl_context, handshake_timeout_s)
        self.connections = 0
        """Open now."""
        self._idle = trio.Event()

    async def serve(self) -> None:
        """Accept and serve. Cancelling it closes every connection at once."""
        await trio.serve_listeners(self._serve_one, self._listeners)

    async def let_go(self) -> None:
        """Tell connections without requests to close, and take no further requests."""
        self._entrance.close()
        await self._context.terminated.set()

    async def wait_idle(self) -> None:
        """Return when no connection is open."""
        while self.connections:
            self._idle = trio.Event()
            await self._idle.wait()

    async def _serve_one(self, raw: trio.SocketStream) -> None:
        try:
            if self.connections < self._max_connections:
                self.connections += 1
                try:
                    stream = await self._entrance.admit(raw)
                    if stream is not None:
                        await self._talk(stream)
                finally:
                    self.connections -= 1
                    if not self.connections:
                        self._idle.set()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except* Exception as errors:
            logger.info("connection ended by an error", error=_first(errors))
        finally:
            await trio.aclose_forcefully(raw)

    async def _talk(self, stream: Stream) -> None:
        # hypercorn tells the two kinds apart by what they can do
        secure = cast("trio.SSLStream[trio.SocketStream]", stream)
        server = TCPServer(self._app, self._config, self._context, ConnectionState({}), secure)
        _connection.set(server)
        await server


def open_window() -> None:
    """Widen the flow-control window of the connection whose request this task handles.

    Neither hypercorn nor quart has a setting for it. Measured on loopback: frames of 1 MiB go
    five times as fast as with HTTP/2's defaults, frames of 50 KiB twice.
    """
    protocol = _connection.get().protocol.protocol
    if not isinstance(protocol, H2Protocol):
        return
    protocol.connection.update_settings(
        {
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
            h2.settings.SettingCodes.MAX_FRAME_SIZE: FRAME_BYTES,
        }
    )
    protocol.connection.increment_flow_control_window(STREAM_WINDOW_BYTES)


def _first(errors: BaseException) -> str:
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return f"{type(errors).__name__}: {errors}"
