"""The bodies of requests and answers, in JSON or CBOR. Pure: no HTTP here.

JSON has no bytes: keys are percent-encoded there as in URLs, and values are base64 (RFC 4648
§4). CBOR has them, so there they are what they are.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import cbor2

from multiraft.kv.commands import Write, check_key
from multiraft.kv.ranges import decode_key, encode_key

JSON: Final = "application/json"
CBOR: Final = "application/cbor"

WRITES_MAX: Final = 100_000
"""Writes in one request."""


class BadRequest(Exception):
    """The caller's mistake; the text says where and what."""


@attrs.frozen
class Format:
    """How a body is written."""

    content_type: str

    @classmethod
    def named(cls, content_type: str | None, *, field: str) -> Format:
        """JSON when none is named. Raises: BadRequest for another one than the two."""
        name = (content_type or JSON).partition(";")[0].strip().lower()
        if name in {"*/*", "application/*", ""}:
            name = JSON
        if name not in {JSON, CBOR}:
            raise BadRequest(f"{field}: {name!r} is neither {JSON} nor {CBOR}")
        return cls(name)

    def loads(self, body: bytes) -> Any:
        """Raises: BadRequest."""
        try:
            return json.loads(body) if self.content_type == JSON else cbor2.loads(body)
        except (ValueError, RecursionError, cbor2.CBORDecodeError) as error:
            raise BadRequest(f"the body is not {self.content_type}: {error}") from None

    def dumps(self, value: object) -> bytes:
        return json.dumps(value).encode() if self.content_type == JSON else cbor2.dumps(value)

    def key(self, key: bytes) -> object:
        return encode_key(key) if self.content_type == JSON else key

    def value(self, value: bytes) -> object:
        return base64.b64encode(value).decode() if self.content_type == JSON else value

    def read_key(self, value: object) -> bytes:
        """Raises: ValueError."""
        if self.content_type == JSON:
            if not isinstance(value, str):
                raise ValueError("must be a string")
            key = decode_key(value)
        elif isinstance(value, bytes):
            key = value
        else:
            raise ValueError("must be bytes")
        check_key(key)
        return key

    def read_value(self, value: object) -> bytes:
        """Raises: ValueError."""
        if self.content_type == JSON and isinstance(value, str):
            try:
                return base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError) as error:
                raise ValueError(f"is not base64: {error}") from None
        if self.content_type == CBOR and isinstance(value, bytes):
            return value
        raise ValueError("must be bytes" if self.content_type == CBOR else "must be a string of base64")


def read_writes(body: bytes, form: Format) -> list[Write]:
    """The writes of a request: a list of `{"op": "put", "key": …, "value": …}` or
    `{"op": "delete", "key": …}`.

    Raises:
        BadRequest: Names the first thing that is wrong.
    """
    items = form.loads(body)
    if not isinstance(items, list):
        raise BadRequest("the body must be a list of writes")
    if len(items) > WRITES_MAX:
        raise BadRequest(f"{len(items)} writes; at most {WRITES_MAX} are allowed in one request")
    return [_read_write(item, f"writes[{place}]", form) for place, item in enumerate(items)]


def _read_write(item: object, where: str, form: Format) -> Write:
    if not isinstance(item, Mapping):
        raise BadRequest(f"{where}: must be an object")
    kind = item.get("op")
    wanted = {"put": {"op", "key", "value"}, "delete": {"op", "key"}}.get(
        kind if isinstance(kind, str) else ""
    )
    if wanted is None:
        raise BadRequest(f"{where}.op: must be 'put' or 'delete'")
    for name in sorted(wanted - item.keys()):
        raise BadRequest(f"{where}.{name}: is missing")
    for name in sorted(map(str, item.keys() - wanted)):
        raise BadRequest(f"{where}.{name}: no such field")
    field = "key"
    try:
        key = form.read_key(item["key"])
        field = "value"
        return key, form.read_value(item["value"]) if kind == "put" else None
    except ValueError as error:
        raise BadRequest(f"{where}.{field}: {error}") from None


def page_body(items: Sequence[tuple[bytes, bytes]], following: bytes | None, form: Format) -> bytes:
    """`following`: where the next page starts; None: there is none."""
    return form.dumps(
        {
            "items": [{"key": form.key(key), "value": form.value(value)} for key, value in items],
            "next": None if following is None else form.key(following),
        }
    )
