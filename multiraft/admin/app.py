"""The admin API over HTTP: finds the route, asks the guard, checks the arguments, answers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

import structlog
import trio
from quart import Response, request
from werkzeug.exceptions import HTTPException

from multiraft.admin.calls import Call
from multiraft.admin.events import Streams
from multiraft.admin.failures import Failure, Refused, bad_request, failure_of, timed_out
from multiraft.admin.guard import Guard
from multiraft.admin.kinds import BadRequest, Integer
from multiraft.admin.openapi import ALL_ROUTES, JSON
from multiraft.admin.routes import GROUP_ARGUMENT, PREFIX, TIMEOUT_S, Route
from multiraft.admin.web import HttpApp
from multiraft.engine import Host
from multiraft.errors import MultiraftError

BODY_BYTES_MAX: Final = 4 << 20
"""Of one request. It is decoded on the host's own thread, which must not be held up for long."""

log = structlog.get_logger("multiraft.admin")


def make_app(host: Host, guard: Guard) -> HttpApp:
    """An app with the admin API and nothing else."""
    app = HttpApp("multiraft.admin", body_bytes_max=BODY_BYTES_MAX, body_timeout_s=TIMEOUT_S)
    install(app, host, guard)
    app.register_error_handler(HTTPException, cast("Any", http_error))
    return app


def install(app: HttpApp, host: Host, guard: Guard) -> None:
    """Add the admin API to `app`, which sends errors of paths that are ours to `http_error`."""
    streams = Streams()
    app.at_close(streams.end)
    for route in ALL_ROUTES:
        rule = route.path.replace("{group}", "<group>")
        app.add_url_rule(
            rule,
            route.name,
            _serving(route, host, guard, streams),
            methods=[route.method],
            provide_automatic_options=False,
        )


def is_admin_path(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")


async def http_error(error: HTTPException) -> Response:
    """What Quart refuses by itself: an unknown path, a wrong method, a body that is too long."""
    status = error.code or 500
    name, reason = type(error).__name__, error.description or error.name
    if status == 404:
        reason = f"there is nothing at {request.path}; {PREFIX}/openapi.json says what there is"
    elif status == 405:
        reason = f"{request.path} does not take {request.method}"
    elif status == 413:
        name = "TooLarge"
    answer = _failed(Failure(status, name, reason))
    for header, value in error.get_headers():
        if header.lower() == "allow":
            answer.headers[header] = value
    return answer


def _serving(route: Route, host: Host, guard: Guard, streams: Streams) -> Callable[..., Awaitable[Response]]:
    async def serve(group: str = "") -> Response:
        try:
            guard.check(request.headers.get, changes=route.body is not None)
            if route.run is None:
                _read_query(route)
                return streams.start(host)
            return _answer(await _run(route, host, group), route.status)
        except Refused as refused:
            failure = refused.failure
        except BadRequest as error:
            failure = bad_request(error)
        except MultiraftError as error:
            failure = failure_of(error)
        return _failed(failure)

    return serve


async def _run(route: Route, host: Host, group: str) -> object:
    assert route.run is not None
    kind = GROUP_ARGUMENT.kind
    assert isinstance(kind, Integer)
    group_id = kind.read_text(group, GROUP_ARGUMENT.name) if route.of_group else 0
    arguments = _read_query(route)
    if route.body is None:
        return await route.run(Call(host, group_id, arguments))
    values = dict(route.body.read(_parsed(cast("bytes", await request.get_data())), ""))
    timeout_s = values.pop("timeout_s")
    log.info("admin call", call=route.name, group=group_id or None, by=request.remote_addr)
    # The end of a client's patience: the API itself leaves timeouts to its callers.
    with trio.move_on_after(timeout_s):
        return await route.run(Call(host, group_id, values))
    raise Refused(timed_out(timeout_s, changes=True))


def _read_query(route: Route) -> Mapping[str, object]:
    known = {field.name: field for field in route.query}
    values: dict[str, object] = {field.name: field.default for field in route.query}
    for name, texts in request.args.lists():
        if name not in known:
            where = "the arguments of a POST go into its body" if route.body is not None else "none"
            raise BadRequest(name, f"no such argument; there are: {', '.join(known) or where}")
        if len(texts) > 1:
            raise BadRequest(name, "is there twice")
        kind = known[name].kind
        assert isinstance(kind, Integer)
        values[name] = kind.read_text(texts[0], name)
    return values


def _parsed(body: bytes) -> object:
    """No body counts as an empty object. Raises: BadRequest."""
    if len(body) > BODY_BYTES_MAX:
        raise Refused(Failure(413, "TooLarge", f"the body has more than {BODY_BYTES_MAX} bytes"))
    if not body:
        return {}
    try:
        return json.loads(body, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise BadRequest("body", f"is not JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("an object has a field twice")
    return made


def _answer(value: object, status: int) -> Response:
    return Response(
        json.dumps(value),
        status,
        content_type=JSON,
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )


def _failed(failure: Failure) -> Response:
    answer = _answer(failure.body(), failure.status)
    if failure.status == 401:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="multiraft"'
    return answer
