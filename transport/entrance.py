"""Where connections come in: TLS where it is wanted, and a clear no to whoever speaks the other way."""

from __future__ import annotations

import ssl
from collections import OrderedDict
from typing import Final

import structlog
import trio

from multiraft.transport.tls import CUT_OFF, NOT_TLS, ONLY_TLS, why_refused

logger = structlog.get_logger(__name__)

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

TLS_HANDSHAKE: Final = 0x16
"""First byte of whoever speaks TLS (RFC 8446 §5.1), and of no request in HTTP."""
REFUSALS_REMEMBERED: Final = 256
REPEAT_S: Final = 600.0
"""A refusal is logged once in that time for each address and reason: links try again for ever."""
LINGER_S: Final = 1.0
LINGER_BYTES: Final = 1 << 20


class Entrance:
    """Makes streams of connections, or turns them away.

    Args:
        ssl_context: None: cleartext.
        limit_s: How long the first bytes, and the handshake, may take.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None, limit_s: float) -> None:
        self._ssl_context = ssl_context
        self._limit_s = limit_s
        self._waiting: set[trio.CancelScope] = set()
        self._logged: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def admit(self, stream: trio.SocketStream) -> Stream | None:
        """The stream to serve. None: the connection is of no use, and may be closed.

        Raises:
            OSError, trio.BrokenResourceError: It broke.
        """
        with trio.move_on_after(self._limit_s) as scope:
            self._waiting.add(scope)
            try:
                return await self._admit(stream)
            finally:
                self._waiting.discard(scope)
        return None

    def close(self) -> None:
        """Give up connections that have not said yet what they want."""
        for scope in self._waiting:
            scope.cancel()

    async def _admit(self, stream: trio.SocketStream) -> Stream | None:
        first = await stream.socket.recv(1, trio.socket.MSG_PEEK)
        if not first:
            return None
        speaks_tls = first[0] == TLS_HANDSHAKE
        if self._ssl_context is not None and speaks_tls:
            return await self._shake_hands(stream, self._ssl_context)
        if self._ssl_context is None and not speaks_tls:
            return stream
        self._refuse(_peer(stream), ONLY_TLS if speaks_tls else NOT_TLS)
        # Either side can tell from this what it has met: it is no TLS, and it names HTTPS.
        await stream.send_all(_answer("plain HTTP, not HTTPS" if speaks_tls else "HTTPS only"))
        await _linger(stream)
        return None

    async def _shake_hands(self, stream: trio.SocketStream, context: ssl.SSLContext) -> Stream | None:
        address = _peer(stream)  # one that is gone by then has none any more
        secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await secure.do_handshake()
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            if not isinstance(cause, ssl.SSLError) or isinstance(cause, ssl.SSLEOFError):
                self._refuse(address, CUT_OFF)
            else:
                self._refuse(address, why_refused(cause) or f"the TLS handshake failed: {cause}")
                await _linger(stream)
            return None
        return secure

    def _refuse(self, address: str, reason: str) -> None:
        now = trio.current_time()
        if now < self._logged.get((address, reason), now):
            return
        self._logged[address, reason] = now + REPEAT_S
        self._logged.move_to_end((address, reason))
        if len(self._logged) > REFUSALS_REMEMBERED:
            self._logged.popitem(last=False)
        logger.warning("connection refused", peer=address, reason=reason)


def _peer(stream: trio.SocketStream) -> str:
    """Raises: OSError when the connection is gone."""
    return str(stream.socket.getpeername()[0])


def _answer(speaks: str) -> bytes:
    body = f"This port speaks {speaks}.\n"
    return (
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def _linger(stream: trio.SocketStream) -> None:
    """Closing on unread bytes would reset the connection, and our last word might be lost by it."""
    size = 0
    with trio.move_on_after(LINGER_S):
        await stream.send_eof()
        while size < LINGER_BYTES and (data := await stream.receive_some(65536)):
            size += len(data)
