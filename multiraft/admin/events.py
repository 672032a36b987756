"""`/admin/events`: what happens on a host, a line of JSON for each event, for as long as a client listens.

Its first line is sent at once, so that a client that reads the state afterwards misses nothing in
between. A client that is slow is told how many events it missed, as every reader of the API is.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Final

import attrs
import trio
from quart import Response
from quart.wrappers.response import ResponseBody

from multiraft.admin.failures import Failure, Refused
from multiraft.admin.kinds import Field, Open, Record, Text
from multiraft.admin.status import plain
from multiraft.engine import Host
from multiraft.errors import MultiraftError
from multiraft.events import Event, EventReader

NDJSON: Final = "application/x-ndjson"
KEEP_ALIVE_S: Final = 15.0
"""A line is sent at least this often: proxies end connections on which nothing happens."""
STREAMS_MAX: Final = 64
"""Clients of one host that listen at once."""

LISTENING, KEEP_ALIVE, CLOSED = "Listening", "KeepAlive", "Closed"

EVENT: Final = Record(
    "Event",
    (
        Field("event", Text(), f"Its name; also {LISTENING} (first), {KEEP_ALIVE} and {CLOSED} (last)."),
        Field("about", Open(), "What it says of itself, by the names of the API."),
    ),
)


class Streams:
    """Those who listen now."""

    def __init__(self) -> None:
        # Weakly, as one whose client goes before its first line is never entered nor left.
        self._open: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._closing = False

    def start(self, host: Host) -> Response:
        """Raises: Refused when too many listen already."""
        if self._closing or len(self._open) >= STREAMS_MAX:
            raise Refused(Failure(503, "TooManyStreams", f"{STREAMS_MAX} clients listen already"))
        stream = EventStream(host.events(), self._open.discard)
        self._open.add(stream)
        response = Response(content_type=NDJSON, headers={"Cache-Control": "no-store"})
        response.response = stream
        response.timeout = None
        return response

    def end(self) -> None:
        """The host closes: every client gets its last line."""
        self._closing = True
        for stream in list(self._open):
            stream.end("the host is closing")


class EventStream(ResponseBody):
    """One answer: lines, as things happen."""

    def __init__(self, reader: EventReader, left: Callable[[EventStream], None]) -> None:
        self._reader = reader
        self._left = left
        self._first = True
        self._over = False
        self._ended: str | None = None
        self._waiting = trio.CancelScope()

    def end(self, reason: str) -> None:
        self._ended = self._ended or reason
        self._waiting.cancel()

    async def __aenter__(self) -> EventStream:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left(self)
        with trio.CancelScope(shield=True):
            await self._reader.aclose()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        if self._first:
            self._first = False
            return _line(LISTENING, {})
        event = None
        with trio.move_on_after(KEEP_ALIVE_S) as self._waiting:
            if self._ended is None:
                try:
                    event = await anext(self._reader)
                except (MultiraftError, StopAsyncIteration) as error:
                    self._ended = str(error)
        if event is not None:
            return _line(type(event).__name__, _about(event))
        if self._ended is None:
            return _line(KEEP_ALIVE, {})
        self._over = True
        return _line(CLOSED, {"reason": self._ended})


def _about(event: Event) -> dict[str, object]:
    return {name: _shown(value) for name, value in attrs.asdict(event, recurse=False).items()}


def _shown(value: object) -> object:
    if isinstance(value, MultiraftError):
        return {"error": type(value).__name__, "reason": str(value)}
    return plain(value)


def _line(name: str, about: dict[str, object]) -> bytes:
    return json.dumps({"event": name, "about": about}).encode() + b"\n"
