"""The description of the admin API (OpenAPI 3.1), made from the table of routes that serves it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from multiraft.admin.calls import Call
from multiraft.admin.events import NDJSON
from multiraft.admin.failures import ERROR
from multiraft.admin.kinds import Kind, Open, Record, Schema, records_in
from multiraft.admin.routes import GROUP_ARGUMENT, PREFIX, ROUTES, Route

JSON: Final = "application/json"
VERSION: Final = "1"
"""Of this API. Raised when something that worked works differently."""

ABOUT: Final = (
    "Everything that a program can do with a host. GET looks, POST changes; arguments of a POST are one "
    "JSON object. Ids are integers of up to 63 bits. Clients send a token (`admin_token`, "
    "`admin_token_file`), or come over mutual TLS (`http_tls`), or from the host's own machine."
)

FAILURES: Final = {
    400: "The request is wrong; `field` says where.",
    401: "The token is missing or wrong.",
    403: "Not from here: see `reason`.",
    404: "The group is not on this host.",
    409: "Refused; nothing was changed.",
    413: "The body is too long.",
    415: "The body is not declared as JSON.",
    500: "The group, its state machine or the host's storage has failed.",
    503: "Not now: no leader, or the host is closing.",
    504: "No outcome in time; `applied` says whether it may have been done all the same.",
    507: "The disk is full.",
}
_LOOKING: Final = (400, 401, 403)
_CHANGING: Final = (*_LOOKING, 409, 413, 415, 500, 503, 504, 507)


async def get_openapi(_: Call) -> object:
    return document(ALL_ROUTES)


ALL_ROUTES: Final = (
    Route(
        name="getOpenapi",
        path=f"{PREFIX}/openapi.json",
        summary="This description.",
        answer=Open(),
        run=get_openapi,
    ),
    *ROUTES,
)


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, dict[str, Any]] = {}
    records: dict[str, Record] = records_in(ERROR)
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
        for kind in (route.answer, route.body):
            records |= {} if kind is None else records_in(kind)
    return {
        "openapi": "3.1.0",
        "info": {"title": "multiraft admin API", "version": VERSION, "description": ABOUT},
        "servers": [{"url": "/", "description": "The host's `http` address."}],
        "security": [{"token": []}, {"certificate": []}, {}],
        "paths": paths,
        "components": {
            "schemas": {name: record.component() for name, record in sorted(records.items())},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": {
            str(route.status): {
                "description": "Done.",
                "content": _content(route.answer, JSON if route.run else NDJSON),
            },
            **{
                str(status): {"description": FAILURES[status], "content": _content(ERROR)}
                for status in _statuses(route)
            },
        },
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body)}
    return operation


def _parameters(route: Route) -> list[Schema]:
    in_path = (GROUP_ARGUMENT,) if route.of_group else ()
    return [
        {
            "name": field.name,
            "in": place,
            "required": field.required,
            "description": field.about,
            "schema": field.kind.schema() | ({} if field.required else {"default": field.default}),
        }
        for place, fields in (("path", in_path), ("query", route.query))
        for field in fields
    ]


def _statuses(route: Route) -> list[int]:
    always = _LOOKING if route.body is None else _CHANGING
    return sorted({*always, *((404,) if route.of_group else ()), *(() if route.run else (503,))})


def _content(kind: Kind, content_type: str = JSON) -> Schema:
    return {content_type: {"schema": kind.schema()}}
