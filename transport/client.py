"""The dialing side of a session: an answer that lasts, and a stream beside it.

A session takes two requests on two connections of their own. The first says hello; its answer
goes on for as long as the session does and carries the other side's events: its hello, that
our stream has arrived, and why it ended. The second is the stream, a request body without end.
Two, because an HTTP/2 client of httpx hears nothing while it writes a body, so a stream alone
would not notice that the other side is gone, nor learn why; and on connections of their own,
because httpx loses a wake-up when one request reads while another waits for its window.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import attrs
import h2.exceptions
import httpcore
import httpx
import hyperframe.exceptions
import structlog
import trio

from multiraft.messages import Hello
from multiraft.transport import handshake
from multiraft.transport.bounds import Bounds
from multiraft.transport.frames import FrameSplitter, WireError
from multiraft.transport.handshake import Accepted, Ended, StreamOpen
from multiraft.transport.tls import ONLY_TLS, why_refused

logger = structlog.get_logger(__name__)

# Beside httpx's own: what its parsers let through when the other side sends garbage.
NETWORK_ERRORS: Final = (
    httpx.HTTPError,
    httpx.StreamError,
    h2.exceptions.H2Error,
    hyperframe.exceptions.HyperframeError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)
REASON_GRACE_S: Final = 0.25
"""How long a broken stream waits for the other side's word on why."""
PROBE_S: Final = 1.0
"""For a second look at what does not answer in HTTP/2."""

SOCKET_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A host that lost its power is noticed within eleven seconds on a link that carries nothing."""


class NotOurs(Exception):
    """Something answers, but it is not a multiraft host."""


class HalfDialed:
    """Closes the connection of a request that is cancelled in the middle of the TLS handshake.

    httpcore leaves that one to the garbage collector. This is its `trace` extension: told of each step
    of a request, with what came of it.
    """

    def __init__(self) -> None:
        self._connection: httpcore.AsyncNetworkStream | None = None

    async def __call__(self, step: str, told: Mapping[str, Any]) -> None:
        if step == "connection.connect_tcp.complete":
            self._connection = told["return_value"]
        elif step == "connection.start_tls.complete":
            self._connection = None
        elif step == "connection.start_tls.failed" and self._connection is not None:
            with trio.CancelScope(shield=True):
                await self._connection.aclose()


@attrs.frozen
class Dialer:
    """How this host dials others: who it says it is, and what it waits for."""

    hello: Hello
    bounds: Bounds
    ssl_context: ssl.SSLContext | None = None

    def transport(self) -> httpx.AsyncHTTPTransport:
        """One connection; HTTP/2 by prior knowledge, or by ALPN with TLS."""
        # Even `verify=True` would read the system's certificates, twenty milliseconds' work.
        verify = self.ssl_context if self.ssl_context is not None else False
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        return httpx.AsyncHTTPTransport(
            verify=verify,
            http1=False,
            http2=True,
            limits=limits,
            trust_env=False,
            socket_options=self._socket_options(),
        )

    def request(
        self, address: str, path: str, body: httpx.AsyncByteStream, read_timeout_s: float | None
    ) -> httpx.Request:
        scheme = "http" if self.ssl_context is None else "https"
        timeout = httpx.Timeout(
            connect=self.bounds.handshake_timeout_s,
            write=self.bounds.stall_timeout_s,
            read=read_timeout_s,
            pool=None,
        )
        extensions: dict[str, Any] = {"timeout": timeout.as_dict()}
        if self.ssl_context is not None:
            extensions["trace"] = HalfDialed()
        return httpx.Request(
            "POST",
            f"{scheme}://{address}{path}",
            headers={
                "host": address,
                "content-type": handshake.CONTENT_TYPE,
                "transfer-encoding": "chunked",
            },
            stream=body,
            extensions=extensions,
        )

    def _socket_options(self) -> list[tuple[int, int, int]]:
        user_timeout = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.bounds.stall_timeout_s * 1000))
        return [*SOCKET_OPTIONS, user_timeout]


class OneChunk(httpx.AsyncByteStream):
    """A body of known bytes."""

    def __init__(self, body: bytes) -> None:
        self._rest = [body]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._rest:
            raise StopAsyncIteration
        return self._rest.pop()


class ClientSession:
    """One session with the host at `address`. Used once.

    Args:
        path: `HELLO_PATH` or `SNAPSHOT_PATH`.
        body: Makes the stream's body once the other side has accepted. Not an async generator:
            those are left unfinished when a write is cancelled.
    """

    def __init__(
        self,
        dialer: Dialer,
        address: str,
        path: str,
        opening: bytes,
        body: Callable[[Accepted], httpx.AsyncByteStream],
    ) -> None:
        self._dialer = dialer
        self._address = address
        self._path = path
        self._opening = opening
        self._body = body
        self._accepted: Accepted | None = None
        self._open = trio.Event()
        self._ended: Ended | None = None
        self._scope = trio.CancelScope()
        self._broke = False
        """The connection was made, and then broke."""

    def end(self, reason: str, *, retry: bool = True) -> None:
        """Break it off. The first reason counts."""
        if self._ended is None:
            self._ended = Ended(reason, retry)
        self._scope.cancel()

    async def run(self, on_open: Callable[[Hello], None]) -> Ended:
        """Dial, call `on_open` when the stream is open, and return when and why it ended.

        Raises nothing for the other side's sake; what `on_open` raises comes in an ExceptionGroup.
        """
        self._scope.deadline = trio.current_time() + self._dialer.bounds.handshake_timeout_s
        with self._scope:
            async with (
                self._dialer.transport() as answers,
                self._dialer.transport() as streams,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._listen, answers, streams, nursery)
                await self._open.wait()
                self._scope.deadline = float("inf")
                assert self._accepted is not None
                on_open(self._accepted.hello)
        limit_s = self._dialer.bounds.handshake_timeout_s
        if self._ended is None:  # only the deadline cancels without a reason
            return await self._who_is_there(f"{self._address} gave no answer in {limit_s:g} s")
        if self._broke and self._accepted is None:
            return await self._who_is_there(self._ended.reason)
        return self._ended

    async def _who_is_there(self, nothing: str) -> Ended:
        """Put a name to what gave no answer to HTTP/2, or else say `nothing`.

        Other programs answer its preface with bytes that parse as the head of a frame of
        megabytes, so HTTP/2 alone only ever waits for more, or they hang up.
        """
        limit_s = self._dialer.bounds.handshake_timeout_s
        if self._accepted is not None or self._dialer.ssl_context is not None:
            return Ended(nothing)
        answer = b""
        with trio.move_on_after(min(limit_s, PROBE_S)):
            answer = await _ask_in_http_1(self._address)
        if _wants_tls(answer):
            return Ended(f"{self._address}: {ONLY_TLS}", retry=False)
        if answer.startswith(b"HTTP/1."):
            return Ended(self._not_ours(_summary_of_http_1(answer)), retry=False)
        if answer:
            return Ended(self._not_ours(f"it says {answer[:20]!r}"), retry=False)
        return Ended(nothing)

    # --- the answer ---------------------------------------------------------------------------

    async def _listen(
        self,
        transport: httpx.AsyncHTTPTransport,
        streams: httpx.AsyncHTTPTransport,
        nursery: trio.Nursery,
    ) -> None:
        request = self._dialer.request(self._address, self._path, OneChunk(self._opening), None)
        splitter = FrameSplitter(handshake.MAX_EVENT_BYTES)
        try:
            response = await transport.handle_async_request(request)
            try:
                self._check_answer(response)
                # Never left half-way: what is not wanted any more ends by cancellation, which
                # passes through httpx's generators; leaving the loop would abandon them.
                async for chunk in response.aiter_raw():
                    for frame in splitter.feed(chunk):
                        self._handle(handshake.decode_event(frame), streams, nursery)
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + REASON_GRACE_S):
                    await response.aclose()
            self.end(f"{self._address} ended the session without a reason")
        except NotOurs as error:
            self.end(str(error), retry=False)
        except WireError as error:
            self.end(f"{self._address} sent what is no event: {error}", retry=False)
        except NETWORK_ERRORS as error:
            refusal = why_refused(error) if self._accepted is None else None
            if refusal is None:
                self.end(self._explain(error))
            else:
                self.end(f"{self._address}: {refusal}", retry=False)
        except Exception as error:
            self.end(self._surprised(error))

    def _handle(
        self, event: handshake.Event, streams: httpx.AsyncHTTPTransport, nursery: trio.Nursery
    ) -> None:
        if self._ended is not None:
            return
        if isinstance(event, Ended):
            self.end(event.reason, retry=event.retry)
        elif isinstance(event, StreamOpen):
            if self._accepted is None:
                raise WireError("a stream that was never asked for")
            self._open.set()
        else:
            if self._accepted is not None:
                raise WireError("a second hello")
            reason = handshake.mismatch(self._dialer.hello, event.hello)
            if reason is not None:
                self.end(reason, retry=False)
                return
            self._accepted = event
            nursery.start_soon(self._stream, streams, event)

    def _check_answer(self, response: httpx.Response) -> None:
        if response.headers.get("content-type") != handshake.CONTENT_TYPE:
            raise NotOurs(self._not_ours(_summary(response)))

    def _not_ours(self, detail: str) -> str:
        cluster = self._dialer.hello.cluster_id
        return f"{self._address} answers, but is not a multiraft host of cluster {cluster!r} ({detail})"

    # --- the stream ---------------------------------------------------------------------------

    async def _stream(self, transport: httpx.AsyncHTTPTransport, accepted: Accepted) -> None:
        path = f"{handshake.STREAM_PATH}/{accepted.session}"
        timeout_s = self._dialer.bounds.stall_timeout_s
        request = self._dialer.request(self._address, path, self._body(accepted), timeout_s)
        try:
            response = await transport.handle_async_request(request)
            await response.aclose()
            if response.status_code == 200:
                # All was taken; the verdict comes as an event.
                return
            reason = f"{self._address} broke the stream off (HTTP {response.status_code})"
        except NETWORK_ERRORS as error:
            reason = self._explain(error)
        except Exception as error:
            reason = self._surprised(error)
        await trio.sleep(REASON_GRACE_S)
        self.end(reason)

    def _surprised(self, error: Exception) -> str:
        # Parsers of other projects meet bytes of other programs here; a host with thousands of
        # groups does not stop for what comes out. Nothing of the engine runs inside this `try`.
        logger.exception("unexpected error in a link", peer=self._address)
        return f"unexpected {type(error).__name__} in the link to {self._address}: {error}"

    def _explain(self, error: Exception) -> str:
        """One line for a log and a person."""
        where = self._address
        if isinstance(error, httpx.ConnectTimeout):
            return f"{where} cannot be reached in {self._dialer.bounds.handshake_timeout_s:g} s"
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return f"{where} cannot be reached: {_innermost(error)}"
        if isinstance(error, httpx.TimeoutException):
            return f"{where} took nothing for {self._dialer.bounds.stall_timeout_s:g} s"
        if isinstance(error, (httpx.NetworkError, OSError, trio.BrokenResourceError)):
            self._broke = True
            return f"the connection to {where} broke: {_innermost(error)}"
        if str(error) == "Server disconnected":
            self._broke = True
            return f"{where} closed the connection"
        if self._accepted is None:
            return self._not_ours(f"it does not speak HTTP/2: {_innermost(error)}")
        return f"the connection to {where} broke: {_innermost(error)}"


def _summary(response: httpx.Response) -> str:
    kind: str = response.headers.get("content-type", "no content type")
    return f"HTTP {response.status_code}, {kind.partition(';')[0][:80]}"


async def _ask_in_http_1(address: str) -> bytes:
    """The first bytes of whatever answers a plain HTTP/1.1 request, or nothing."""
    host, _, port = address.rpartition(":")
    try:
        async with await trio.open_tcp_stream(host.strip("[]"), int(port)) as stream:
            await stream.send_all(f"GET / HTTP/1.1\r\nhost: {address}\r\n\r\n".encode())
            return bytes(await stream.receive_some(4096))
    except (OSError, trio.BrokenResourceError):
        return b""


def _wants_tls(answer: bytes) -> bool:
    """Whether this is what a port of TLS answers to HTTP: a 400 that says so, or an alert."""
    is_refusal = answer.startswith(b"HTTP/1.") and answer[8:12] == b" 400"
    return answer.startswith(b"\x15\x03") or (is_refusal and b"https" in answer.lower())


def _summary_of_http_1(answer: bytes) -> str:
    lines = answer.decode("latin-1").split("\r\n")
    status = lines[0].split(" ")[1:2] or ["?"]
    kinds = [line[13:] for line in lines if line.lower().startswith("content-type:")]
    kind = kinds[0].partition(";")[0].strip() if kinds else "no content type"
    return f"HTTP {status[0][:3]}, {kind[:80]}"


def _innermost(error: BaseException) -> str:
    """What the operating system said, where it said anything."""
    seen: BaseException = error
    while True:
        inner = seen.__cause__ or seen.__context__
        if isinstance(seen, BaseExceptionGroup):
            inner = seen.exceptions[0]
        if inner is None or isinstance(inner, trio.Cancelled):
            break
        seen = inner
    return str(seen) or str(error) or type(error).__name__
