"""The HTTP app that whatever is served on a host's `http` address is added to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import trio
from quart import request
from quart_trio import QuartTrio
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody
from werkzeug.exceptions import RequestEntityTooLarge


class WholeBody(TrioBody):
    """A request's body; of one that is too long nothing is kept, but it is read to its end.

    Quart would answer at once. To an answer ahead of the body's end httpx and others react by
    going on, and hypercorn 0.18 then ends the connection: the client would never see the 413.
    """

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, None)
        self._max_bytes = max_content_length
        self._bytes = 0

    def append(self, data: bytes) -> None:
        self._bytes += len(data)
        if self.too_long:
            self.clear()
        else:
            super().append(data)

    @property
    def too_long(self) -> bool:
        return self._max_bytes is not None and self._bytes > self._max_bytes


class WholeRequest(TrioRequest):
    body_class = WholeBody


class HttpApp(QuartTrio):
    """Quart with bounded bodies, that knows when it has answered everything.

    Args:
        name: Of its logger.
        body_bytes_max: Longer bodies are refused with 413.
        body_timeout_s: How long a body may take to arrive.
    """

    request_class = WholeRequest

    def __init__(self, name: str, *, body_bytes_max: int, body_timeout_s: float) -> None:
        super().__init__(name)
        self.config["MAX_CONTENT_LENGTH"] = body_bytes_max
        self.config["BODY_TIMEOUT"] = body_timeout_s
        self.config["RESPONSE_TIMEOUT"] = None
        self.before_request(_take_body)
        self._under_way = 0
        self._idle = trio.lowlevel.ParkingLot()
        self._at_close: list[Callable[[], None]] = []

    def at_close(self, end: Callable[[], None]) -> None:
        """Have `end` called when the host closes: it brings answers to an end that have none."""
        self._at_close.append(end)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._under_way += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                self._idle.unpark_all()

    async def finish(self) -> None:
        """Return when no request is under way. Answers without an end are brought to one."""
        for end in self._at_close:
            end()
        while self._under_way:
            await self._idle.park()


async def _take_body() -> None:
    """Before every request, those that will be refused included: see `WholeBody`."""
    await request.get_data()
    if cast("WholeBody", request.body).too_long:
        raise RequestEntityTooLarge(f"the body has more than {request.max_content_length} bytes")
