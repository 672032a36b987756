"""The answering side: hellos, streams of frames, and the sessions that tie them together.

A session belongs to whoever said hello on it. It is over when its answer's connection is,
when its stream breaks or carries what does not decode, when the same host opens the same lane
again, or when this host closes; its stream's task is cancelled in that same step, so that no
frame of an old session is received after one of a new session.
"""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any

import structlog
import trio
from quart import request
from quart.wrappers.response import Response, ResponseBody

from multiraft.interfaces import Receiver
from multiraft.messages import Hello, Lane
from multiraft.transport import handshake
from multiraft.transport.asgi import Disconnected, PullApp, PullBody, open_window
from multiraft.transport.bounds import Bounds
from multiraft.transport.frames import FrameSplitter, WireError
from multiraft.transport.handshake import Accepted, Ended, Event, StreamOpen
from multiraft.transport.wire import decode

logger = structlog.get_logger(__name__)

STRANGERS_REMEMBERED = 256
"""Hosts of other clusters whose refusal was logged already."""

StreamHandler = Callable[["ServerSession", PullBody], Awaitable[None]]


class ServerSession:
    """One session as the answering host sees it.

    `key` says what it is for; a newer session with the same key takes its place. `take` reads
    the stream; when it returns the session ends without a reason, which means success.
    """

    def __init__(self, key: tuple[object, ...], hello: Hello, take: StreamHandler, offset: int = 0) -> None:
        self.key = key
        self.hello = hello
        self.token = secrets.token_hex(16)
        self.offset = offset
        self.ended: Ended | None = None
        self.finished = trio.Event()
        """Its stream's task, if there ever was one, is over."""
        self.closed = trio.Event()
        """And so is all else; nothing of it is left."""
        self.streaming = False
        self._take = take
        self._scope = trio.CancelScope()
        self._events: deque[Event] = deque()
        self._news = trio.Event()

    def tell(self, event: Event) -> None:
        self._events.append(event)
        self._news.set()

    def end(self, reason: str, *, retry: bool = True) -> None:
        """Tell the client, and stop its stream. The first reason counts."""
        if self.ended is None:
            self.ended = Ended(reason, retry)
            self.tell(self.ended)
            self._scope.cancel()
            if not self.streaming:
                self.finished.set()

    async def next_event(self) -> Event | None:
        """The next event for the client; None after the last."""
        while not self._events:
            if self.ended is not None:
                return None
            self._news = trio.Event()
            await self._news.wait()
        return self._events.popleft()

    async def stream(self, body: PullBody) -> None:
        """Take the stream until it, or the session, ends."""
        self.streaming = True
        try:
            with self._scope:
                self.tell(StreamOpen())
                try:
                    await self._take(self, body)
                    self.end("", retry=False)
                except Disconnected:
                    self.end("the stream broke")
        finally:
            self.finished.set()


class _Answer(ResponseBody):
    """The answer to a hello: events, as they happen."""

    def __init__(self, session: ServerSession, close: Callable[[ServerSession], Awaitable[None]]) -> None:
        self._session = session
        self._close = close

    async def __aenter__(self) -> _Answer:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.end("the client is gone")
        with trio.CancelScope(shield=True):
            await self._close(self._session)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        event = await self._session.next_event()
        if event is None:
            raise StopAsyncIteration
        return handshake.encode_event(event)


class Server:
    """The routes of a host, and its open sessions.

    Args:
        crash: Called with what a `Receiver` raised: a bug of the engine, which must stop it
            rather than end as an HTTP status.
    """

    def __init__(
        self, hello: Hello, receiver: Receiver, bounds: Bounds, crash: Callable[[Exception], None]
    ) -> None:
        self.hello = hello
        self.receiver = receiver
        self.bounds = bounds
        self.crash = crash
        self.app = PullApp(__name__)
        self.app.config["MAX_CONTENT_LENGTH"] = None
        self._sessions: dict[str, ServerSession] = {}
        self._by_key: dict[tuple[object, ...], ServerSession] = {}
        self._strangers: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._closing = False
        self.app.add_url_rule(handshake.HELLO_PATH, view_func=self._say_hello, methods=["POST"])
        self.app.add_url_rule(
            f"{handshake.STREAM_PATH}/<token>", view_func=self._take_stream, methods=["POST"]
        )

    # --- sessions -----------------------------------------------------------------------------

    def close(self) -> None:
        """End every session, and refuse new ones."""
        self._closing = True
        for session in list(self._sessions.values()):
            session.end(f"{self.hello.address} is closing")

    async def drained(self) -> None:
        """Return when nothing of the sessions is left."""
        for session in list(self._sessions.values()):
            await session.closed.wait()

    def open_session(
        self, session: ServerSession, close: Callable[[ServerSession], Awaitable[None]]
    ) -> Response:
        """Enter it in the books and answer with its events. `close` is called once at its end."""
        self._sessions[session.token] = session
        self._by_key[session.key] = session
        session.tell(Accepted(self.hello, session.token, session.offset))

        async def forget(session: ServerSession) -> None:
            await session.finished.wait()
            await close(session)
            del self._sessions[session.token]
            if self._by_key.get(session.key) is session:
                del self._by_key[session.key]
            session.closed.set()

        response = Response(content_type=handshake.CONTENT_TYPE)
        response.response = _Answer(session, forget)
        response.timeout = None
        return response

    def session_for(self, key: tuple[object, ...]) -> ServerSession | None:
        """The open session with that key."""
        return self._by_key.get(key)

    def refuse(self, status: int, reason: str, *, retry: bool = True) -> Response:
        """An answer that is one event: why not."""
        return Response(
            handshake.encode_event(Ended(reason, retry)), status, content_type=handshake.CONTENT_TYPE
        )

    async def read_opening(self) -> bytes | Response:
        """The request's body, or the refusal of one that is too long or too slow."""
        if self._closing:
            return self.refuse(503, f"{self.hello.address} is closing")
        with trio.move_on_after(self.bounds.handshake_timeout_s):
            body = await request_body().read(handshake.MAX_REQUEST_BYTES)
            if body is not None:
                return body
            return self.refuse(413, f"a request of more than {handshake.MAX_REQUEST_BYTES} bytes")
        return self.refuse(408, "the request did not arrive in time")

    def refuse_stranger(self, hello: Hello) -> Response | None:
        """A refusal for hosts of another cluster or version; logged once for each of them."""
        reason = handshake.mismatch(self.hello, hello)
        if reason is None:
            return None
        who = (hello.address, hello.cluster_id)
        if who not in self._strangers:
            self._strangers[who] = None
            if len(self._strangers) > STRANGERS_REMEMBERED:
                self._strangers.popitem(last=False)
            logger.error("host refused", peer=hello.address, reason=reason)
        return self.refuse(409, reason, retry=False)

    # --- routes -------------------------------------------------------------------------------

    async def _say_hello(self) -> Response:
        try:
            opening = await self.read_opening()
            if isinstance(opening, Response):
                return opening
            hello, lane = handshake.read_lane_request(opening)
        except WireError as error:
            return self.refuse(400, str(error), retry=False)
        except Disconnected:
            return self.refuse(400, "")
        refusal = self.refuse_stranger(hello)
        if refusal is not None:
            return refusal
        key = ("lane", hello.host_id, lane)
        older = self._by_key.get(key)
        if older is not None:
            if hello.epoch < older.hello.epoch:
                return self.refuse(409, f"epoch {hello.epoch} of {hello.address} is over")
            older.end("a newer session took its place")
        session = ServerSession(key, hello, _LaneReader(self, lane))
        return self.open_session(session, _nothing)

    async def _take_stream(self, token: str) -> Response:
        session = self._sessions.get(token)
        if session is None or session.ended is not None or session.streaming:
            return self.refuse(410, "no such session, or not any more")
        open_window()
        await session.stream(request_body())
        return self._verdict(session)

    def _verdict(self, session: ServerSession) -> Response:
        ended = session.ended
        assert ended is not None
        return self.refuse(400 if ended.reason else 200, ended.reason, retry=ended.retry)


class _LaneReader:
    """Takes the frames of one lane's stream."""

    def __init__(self, server: Server, lane: Lane) -> None:
        self._server = server
        self._lane = lane

    async def __call__(self, session: ServerSession, body: PullBody) -> None:
        splitter = FrameSplitter(self._server.bounds.max_frame_bytes)
        try:
            async for chunk in body:
                for frame in splitter.feed(chunk):
                    # `wait_room` need not be a checkpoint, so cancellation may come late.
                    if session.ended is not None:
                        return
                    await self._receive(session.hello, frame)
            session.end("the stream ended")
        except WireError as error:
            reason = f"{self._server.hello.address} cannot read a frame of {session.hello.address}: {error}"
            logger.warning(
                "stream refused", peer=session.hello.address, lane=self._lane.name, reason=str(error)
            )
            session.end(reason)

    async def _receive(self, hello: Hello, frame: bytes) -> None:
        items = decode(frame)
        try:
            self._server.receiver.receive(hello, self._lane, items)
            await self._server.receiver.wait_room()
        except Exception as error:
            self._server.crash(error)
            # The host is going down; there is nothing left to do on this stream.
            await trio.sleep(math.inf)


def request_body() -> PullBody:
    """The body of the request that is being handled."""
    body: Any = request.body
    assert isinstance(body, PullBody)
    return body


async def _nothing(_: ServerSession) -> None:
    pass
