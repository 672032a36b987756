"""The key-value store over HTTP, on the public API of a host. docs/ and README tell users more.

    PUT    /kv/<key>                      the body is the value; 204
    GET    /kv/<key>                      200 and the value, 404; ?consistency=linearizable|lease|stale
    DELETE /kv/<key>                      204, whether or not there was such a key
    GET    /kv?start=&end=&limit=         rows in key order, `next` to go on with; ?consistency= too
    POST   /kv                            many writes, each with its own outcome

The admin API (multiraft.admin) is served beside it.
Keys are percent-encoded bytes; slashes need no encoding. Answers other than values are JSON, or
CBOR where a client asks for it (`Accept: application/cbor`). What was not done says why: answers.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final, cast

import trio
from quart import Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from multiraft.admin import app as admin
from multiraft.admin.guard import Guard
from multiraft.admin.web import HttpApp
from multiraft.engine import Host
from multiraft.errors import MultiraftError
from multiraft.group import Group
from multiraft.kv.answers import Failure, failure_of, starting, timed_out
from multiraft.kv.bodies import JSON, BadRequest, Format, page_body, read_writes
from multiraft.kv.commands import (
    Get,
    Page,
    Refused,
    Scan,
    Write,
    encode_delete,
    encode_multi,
    encode_put,
)
from multiraft.kv.ranges import Ranges
from multiraft.kv.requests import (
    accepted_format,
    read_arguments,
    read_count,
    read_key,
    read_range_end,
    wants_stale,
)
from multiraft.types import GroupId

POST_BYTES_MAX: Final = 4 << 20
"""Body of one POST. It is decoded on the host's own thread, which must not be held up for long."""
PAGE_BYTES_MAX: Final = 4 << 20
PAGE_ROWS: Final = 100
PAGE_ROWS_MAX: Final = 10_000
REQUEST_TIMEOUT_S: Final = 30.0
WRITE_OVERHEAD_BYTES: Final = 16
"""Of a key and a value in an encoded command, at most."""

Answer = Response
Handler = Callable[..., Awaitable[Answer]]


class KeyConverter(BaseConverter):
    """Everything behind `/kv/`. The key is taken from the raw path, where %2F is not yet a slash."""

    regex = r"[\s\S]*"
    part_isolating = False


def make_app(
    host: Host,
    ranges: Ranges,
    guard: Guard,
    *,
    not_ready: Callable[[], str | None] = lambda: None,
    request_timeout_s: float = REQUEST_TIMEOUT_S,
) -> HttpApp:
    """The app that serves the store, and the admin API.

    Args:
        host: An open host, with `SqliteMachines`.
        ranges: Which group has which keys; its groups are the host's.
        guard: Who may use the admin API.
        not_ready: Says why keys cannot be served yet; None: they can.
        request_timeout_s: A write without an outcome by then is answered 503, `timeout`.
            Default: 30 s.
    """
    app = HttpApp(
        "multiraft.kv",
        body_bytes_max=max(POST_BYTES_MAX, host.config.max_proposal_bytes),
        body_timeout_s=request_timeout_s,
    )
    app.url_map.merge_slashes = False
    app.url_map.converters["key"] = KeyConverter
    store = _Store(host, ranges, not_ready, request_timeout_s)
    for rule, method, handler in (
        ("/kv/<key:_>", "GET", store.get),
        ("/kv/<key:_>", "PUT", store.put),
        ("/kv/<key:_>", "DELETE", store.delete),
        ("/kv", "GET", store.scan),
        ("/kv", "POST", store.write_many),
    ):
        app.add_url_rule(rule, f"{method} {rule}", _answering(handler), methods=[method])
    admin.install(app, host, guard)
    app.register_error_handler(HTTPException, cast("Any", _http_error))
    return app


class _Store:
    def __init__(
        self, host: Host, ranges: Ranges, not_ready: Callable[[], str | None], timeout_s: float
    ) -> None:
        self.host = host
        self.ranges = ranges
        self.not_ready = not_ready
        self.timeout_s = timeout_s

    # --- one key -----------------------------------------------------------------------------

    async def get(self) -> Answer:
        key = read_key(request.scope["raw_path"])
        stale = wants_stale(read_arguments(request.query_string, "consistency"))
        self._check_ready()
        with self._time_limit():
            value = await _ask(self._group(key), Get(key), stale=stale)
        if value is None:
            return _failed(Failure(404, "no_such_key", "there is no such key", "no"))
        return Response(
            cast("bytes", value),
            content_type="application/octet-stream",
            headers={"Cache-Control": "no-store"},
        )

    async def put(self) -> Answer:
        key = read_key(request.scope["raw_path"])
        return await self._write(key, encode_put(key, await _body()))

    async def delete(self) -> Answer:
        key = read_key(request.scope["raw_path"])
        return await self._write(key, encode_delete(key))

    async def _write(self, key: bytes, command: bytes) -> Answer:
        self._check_ready()
        with self._time_limit():
            result = await self._group(key).propose(command)
        if isinstance(result, Refused):
            raise BadRequest(result.reason)
        return Response(b"", 204)

    # --- ranges ------------------------------------------------------------------------------

    async def scan(self) -> Answer:
        """Group after group, as each needs a barrier of its own, until the page is full."""
        form = accepted_format(request.headers.get("Accept"))
        arguments = read_arguments(request.query_string, "start", "end", "limit", "consistency")
        start = read_range_end(arguments, "start") or b""
        end = read_range_end(arguments, "end")
        limit = read_count(arguments, "limit", default=PAGE_ROWS, minimum=1, maximum=PAGE_ROWS_MAX)
        stale = wants_stale(arguments)
        self._check_ready()
        items: list[tuple[bytes, bytes]] = []
        room = PAGE_BYTES_MAX
        following: bytes | None = None
        with self._time_limit():
            for part in self.ranges.parts(start, end):
                if len(items) == limit or room <= 0:
                    following = part.start
                    break
                wanted = Scan(part.start, part.end, limit - len(items), room)
                page = cast("Page", await _ask(self.host.group(part.group), wanted, stale=stale))
                items += page.items
                room -= sum(len(key) + len(value) for key, value in page.items)
                if not page.complete:
                    following = items[-1][0] + b"\0"  # the smallest key above the last one
                    break
        return Response(page_body(items, following, form), content_type=form.content_type)

    # --- many writes -------------------------------------------------------------------------

    async def write_many(self) -> Answer:
        form = Format.named(request.headers.get("Content-Type"), field="Content-Type")
        writes = read_writes(await _body(), form)
        self._check_ready()
        outcomes: list[Failure | None] = [None] * len(writes)
        by_group: dict[GroupId, list[int]] = {}
        for place, (key, _) in enumerate(writes):
            by_group.setdefault(self.ranges.group_of(key), []).append(place)
        async with trio.open_nursery() as nursery:
            for group, places in by_group.items():
                nursery.start_soon(self._write_group, group, places, writes, outcomes)
        failed = sum(outcome is not None for outcome in outcomes)
        results = [{"ok": True} if each is None else {"ok": False, **each.body()} for each in outcomes]
        return Response(
            form.dumps({"failed": failed, "results": results}),
            207 if failed else 200,
            content_type=form.content_type,
        )

    async def _write_group(
        self, group: GroupId, places: list[int], writes: Sequence[Write], outcomes: list[Failure | None]
    ) -> None:
        """One proposal after the other: two writes of the same key must not change places."""
        failure: Failure | None = None
        limit = self.host.config.max_proposal_bytes
        for part in _proposals(places, writes, limit):
            if failure is None:
                failure = await self._propose_part([writes[place] for place in part], group)
                mine = failure
            else:
                mine = Failure(503, "not_tried", "an earlier write of the same group failed", "no")
            for place in part:
                outcomes[place] = mine
            if failure is not None and failure.error == "too_large":
                failure = None  # it concerns one value and not the group

    async def _propose_part(self, part: list[Write], group: GroupId) -> Failure | None:
        try:
            with self._time_limit():
                result = await self.host.group(group).propose(encode_multi(part))
        except MultiraftError as error:
            return failure_of(error)
        except _Failed as error:
            return error.failure
        return Failure(400, "bad_request", result.reason, "no") if isinstance(result, Refused) else None

    # --- helpers -----------------------------------------------------------------------------

    def _group(self, key: bytes) -> Group:
        return self.host.group(self.ranges.group_of(key))

    def _check_ready(self) -> None:
        if (reason := self.not_ready()) is not None:
            raise _Failed(starting(reason))

    @contextmanager
    def _time_limit(self) -> Iterator[None]:
        """Timeouts are the caller's: this is the end of an HTTP client's patience, not the engine's."""
        try:
            with trio.fail_after(self.timeout_s):
                yield
        except trio.TooSlowError:
            raise _Failed(timed_out(self.timeout_s)) from None


class _Failed(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def _answering(handler: Callable[[], Awaitable[Answer]]) -> Handler:
    """Turn what `handler` raises into an answer."""

    @wraps(handler)
    async def answer(**_: str) -> Answer:
        try:
            return await handler()
        except BadRequest as error:
            return _failed(Failure(400, "bad_request", str(error), "no"))
        except _Failed as error:
            return _failed(error.failure)
        except MultiraftError as error:
            return _failed(failure_of(error))

    return answer


def _failed(failure: Failure) -> Answer:
    return Response(Format(JSON).dumps(failure.body()), failure.status, content_type=JSON)


async def _http_error(error: HTTPException) -> Answer:
    """What Quart refuses by itself: an unknown path, a wrong method, a body that is too long."""
    if admin.is_admin_path(request.path):
        return await admin.http_error(error)
    status = error.code or 500
    code = {404: "no_such_path", 405: "method_not_allowed", 413: "too_large"}.get(status, "http_error")
    answer = _failed(Failure(status, code, error.description or error.name, "no"))
    for name, value in error.get_headers():
        if name.lower() == "allow":
            answer.headers[name] = value
    return answer


def _proposals(places: Sequence[int], writes: Sequence[Write], limit: int) -> Iterator[list[int]]:
    """Cut a group's writes into proposals below `limit` bytes; one too large stands alone."""
    part: list[int] = []
    size = WRITE_OVERHEAD_BYTES
    for place in places:
        key, value = writes[place]
        weight = len(key) + len(value or b"") + WRITE_OVERHEAD_BYTES
        if part and size + weight > limit:
            yield part
            part, size = [], WRITE_OVERHEAD_BYTES
        part.append(place)
        size += weight
    if part:
        yield part


async def _body() -> bytes:
    return cast("bytes", await request.get_data(as_text=False))


async def _ask(group: Group, wanted: object, *, stale: bool) -> object:
    if not stale:
        return await group.query(wanted)
    await trio.lowlevel.checkpoint()
    return group.stale_query(wanted)
