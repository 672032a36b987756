"""Snapshot transfers: each one a session of its own, beside the lanes.

The offer goes out with the hello; the answer says how many bytes of that very file are there
already; the stream carries the rest, raw; the answer's last word is the verdict. There is no
limit on the whole, only on how long nothing may move.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import structlog
import trio
from quart.wrappers.response import Response

from multiraft.errors import HostClosed, MultiraftError
from multiraft.interfaces import SnapshotOffer, SnapshotSink
from multiraft.messages import Hello
from multiraft.transport import handshake
from multiraft.transport.asgi import Disconnected, PullBody
from multiraft.transport.client import ClientSession, Dialer
from multiraft.transport.frames import WireError
from multiraft.transport.handshake import Accepted, SnapshotNotSent
from multiraft.transport.server import Server, ServerSession

logger = structlog.get_logger(__name__)

BLOCK_BYTES = 256 << 10
"""Handed between the host's thread and a worker at a time."""

Chunks = Callable[[int], Iterator[bytes]]
Done = Callable[[BaseException | None], None]


# --- out ---------------------------------------------------------------------------------------


class SnapshotSender:
    """The transfers a host has under way or waiting."""

    def __init__(self, dialer: Dialer, nursery: trio.Nursery) -> None:
        self._dialer = dialer
        self._nursery = nursery
        self._turns = trio.Semaphore(dialer.bounds.max_snapshots_out)
        self._scopes: dict[trio.CancelScope, str] = {}
        self._closing = False

    def start(self, address: str, offer: SnapshotOffer, chunks: Chunks, done: Done) -> None:
        """See `Transport.send_snapshot`."""
        scope = trio.CancelScope()
        self._scopes[scope] = address
        self._nursery.start_soon(self._run, scope, address, offer, chunks, done)

    def release(self, address: str) -> None:
        """Give up what is under way or waiting for `address`."""
        for scope, target in self._scopes.items():
            if target == address:
                scope.cancel()

    def close(self) -> None:
        """Give everything up."""
        self._closing = True
        for scope in self._scopes:
            scope.cancel()

    async def _run(
        self, scope: trio.CancelScope, address: str, offer: SnapshotOffer, chunks: Chunks, done: Done
    ) -> None:
        error: BaseException | None = HostClosed("the transport closed during a snapshot transfer")
        try:
            with scope:
                async with self._turns:
                    error = await self._transfer(address, offer, chunks)
            if scope.cancelled_caught and not self._closing:
                error = SnapshotNotSent(address, "the link was released", retry=False)
        finally:
            del self._scopes[scope]
            done(error)

    async def _transfer(self, address: str, offer: SnapshotOffer, chunks: Chunks) -> SnapshotNotSent | None:
        opening = handshake.snapshot_request(self._dialer.hello, offer)
        bodies: list[_FileBody] = []

        def body(accepted: Accepted) -> httpx.AsyncByteStream:
            bodies.append(_FileBody(chunks, min(accepted.offset, offer.file_bytes)))
            return bodies[-1]

        session = ClientSession(self._dialer, address, handshake.SNAPSHOT_PATH, opening, body)
        try:
            ended = await session.run(lambda _: None)
        finally:
            with trio.CancelScope(shield=True):
                for each in bodies:
                    await trio.to_thread.run_sync(each.close)
        for each in bodies:
            if each.error is not None:
                return SnapshotNotSent(address, f"the file cannot be read: {each.error}")
        if ended.reason or ended.retry:
            return SnapshotNotSent(address, ended.reason, retry=ended.retry)
        return None


class _FileBody(httpx.AsyncByteStream):
    """The file from an offset on, read in a worker thread block by block as the link takes it."""

    def __init__(self, chunks: Chunks, offset: int) -> None:
        self._chunks = chunks
        self._offset = offset
        self._iterator: Iterator[bytes] | None = None
        self._rest = b""
        self.error: Exception | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            block = await trio.to_thread.run_sync(self._next_block)
        except Exception as error:
            self.error = error
            raise OSError(f"reading the snapshot: {error}") from error
        if not block:
            raise StopAsyncIteration
        return block

    def _next_block(self) -> bytes:
        if self._iterator is None:
            self._iterator = iter(self._chunks(self._offset))
        parts = [self._rest]
        size = len(self._rest)
        while size < BLOCK_BYTES:
            chunk = next(self._iterator, None)
            if chunk is None:
                break
            parts.append(chunk)
            size += len(chunk)
        whole = b"".join(parts)
        self._rest = whole[BLOCK_BYTES:]
        return whole[:BLOCK_BYTES]

    def close(self) -> None:
        """Let go of the file. Runs in a worker thread."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()


# --- in ----------------------------------------------------------------------------------------


class SnapshotReceiver:
    """Takes snapshots that other hosts send: one route of the server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._open = 0
        server.app.add_url_rule(handshake.SNAPSHOT_PATH, view_func=self._take_offer, methods=["POST"])

    async def _take_offer(self) -> Response:
        server = self._server
        try:
            opening = await server.read_opening()
            if isinstance(opening, Response):
                return opening
            hello, offer = handshake.read_snapshot_request(opening)
        except WireError as error:
            return server.refuse(400, str(error), retry=False)
        except Disconnected:
            return server.refuse(400, "")
        refusal = server.refuse_stranger(hello)
        if refusal is None:
            refusal = await self._make_way(hello, offer)
        if refusal is not None:
            return refusal
        try:
            sink = server.receiver.snapshot_sink(hello, offer)
        except MultiraftError as error:
            return server.refuse(409, str(error))
        self._open += 1
        incoming = _Incoming(server, offer, sink)

        async def close(_: ServerSession) -> None:
            self._open -= 1
            await incoming.close()

        return server.open_session(ServerSession(_key(offer), hello, incoming.take, sink.offset), close)

    async def _make_way(self, hello: Hello, offer: SnapshotOffer) -> Response | None:
        """Two transfers never write one file: the older is stopped, or the newer refused."""
        older = self._server.session_for(_key(offer))
        if older is not None and older.hello.host_id != hello.host_id:
            reason = f"another snapshot of group {offer.group} is coming from {older.hello.address}"
            return self._server.refuse(503, reason)
        if older is not None:
            older.end("the same host began again")
            with trio.move_on_after(self._server.bounds.handshake_timeout_s / 2):
                await older.closed.wait()
            if not older.closed.is_set():
                return self._server.refuse(503, "an earlier try has not ended yet")
        if self._open >= self._server.bounds.max_snapshots_in:
            return self._server.refuse(503, f"{self._open} snapshots are coming in; try again later")
        return None


class _Incoming:
    """One snapshot on its way in. Whatever may block runs in a worker thread."""

    def __init__(self, server: Server, offer: SnapshotOffer, sink: SnapshotSink) -> None:
        self._server = server
        self._offer = offer
        self._sink = sink
        self._complete = False

    async def take(self, session: ServerSession, body: PullBody) -> None:
        """The stream's handler: write, verify, say so."""
        try:
            if await self._write_all(session, body):
                await trio.to_thread.run_sync(self._sink.finish)
                self._complete = True
        except Disconnected:
            raise
        except (MultiraftError, OSError) as error:
            self._fail(session, str(error))
        except Exception as error:
            self._server.crash(error)
            self._fail(session, f"{self._server.hello.address} failed")
        if self._complete:
            try:
                self._server.receiver.snapshot_received(session.hello, self._offer, self._sink)
            except Exception as error:
                self._server.crash(error)

    async def close(self) -> None:
        """The session is over, and so is `take`."""
        if not self._complete:
            await trio.to_thread.run_sync(self._abort)

    def _abort(self) -> None:
        try:
            self._sink.abort()
        except (MultiraftError, OSError) as error:
            logger.warning("unfinished snapshot not put away", group=self._offer.group, reason=str(error))

    async def _write_all(self, session: ServerSession, body: PullBody) -> bool:
        """True when every byte of the file is here."""
        missing = self._offer.file_bytes - self._sink.offset
        stall_s = self._server.bounds.stall_timeout_s
        block = bytearray()
        chunk: bytes | None = b""
        while chunk is not None:
            with trio.move_on_after(stall_s) as scope:
                chunk = await anext(body, None)
            if scope.cancelled_caught:
                self._fail(session, f"nothing came for {stall_s:g} s")
                return False
            block += chunk or b""
            missing -= len(chunk or b"")
            if missing < 0:
                self._fail(session, f"more than the {self._offer.file_bytes} bytes that were offered")
                return False
            if len(block) >= BLOCK_BYTES or (chunk is None and block):
                await trio.to_thread.run_sync(self._sink.write, bytes(block))
                block.clear()
        if missing:
            self._fail(session, f"{missing} of {self._offer.file_bytes} bytes are missing")
        return not missing

    def _fail(self, session: ServerSession, reason: str) -> None:
        group, peer = self._offer.group, session.hello.address
        logger.warning("snapshot not taken", group=group, peer=peer, reason=reason)
        session.end(reason)


def _key(offer: SnapshotOffer) -> tuple[object, ...]:
    return ("snapshot", offer.group, offer.to)
