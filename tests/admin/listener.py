"""A client of `/admin/events`."""

from __future__ import annotations

import json
from typing import Any

import trio

from multiraft.admin.events import EVENT
from tests.admin.hosts import Served


class Listener:
    """A client that reads the stream as it comes: httpx warns of streams that nobody reads to the end."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._data = b""

    async def status(self) -> int:
        return int((await self._line()).split()[1])

    async def next(self) -> dict[str, Any]:
        """The next event; what HTTP says between them is left out."""
        while not (line := await self._line()).startswith(b"{"):
            pass
        event: dict[str, Any] = json.loads(line)
        EVENT.read(event, "event")
        return event

    async def until(self, name: str) -> dict[str, Any]:
        """What the next event of that name is about."""
        while (event := await self.next())["event"] != name:
            pass
        return dict(event["about"])

    async def __aenter__(self) -> Listener:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stream.aclose()

    async def _line(self) -> bytes:
        while b"\n" not in self._data:
            data = await self._stream.receive_some()
            assert data, "the stream has ended"
            self._data += data
        line, _, self._data = self._data.partition(b"\n")
        return line


async def ask(each: Served) -> Listener:
    """Ask for the events; whoever asks closes the listener."""
    assert each.host.http_address is not None
    return await _ask_at(each.host.http_address)


async def listen(each: Served) -> Listener:
    """A stream that has begun."""
    assert each.host.http_address is not None
    return await listen_at(each.host.http_address)


async def listen_at(address: str) -> Listener:
    """A stream of the host at `address` that has begun."""
    listener = await _ask_at(address)
    assert await listener.status() == 200
    assert await listener.next() == {"event": "Listening", "about": {}}
    return listener


async def _ask_at(address: str) -> Listener:
    host, _, port = address.rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    await stream.send_all(b"GET /admin/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return Listener(stream)
