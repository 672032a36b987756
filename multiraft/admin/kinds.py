"""What may stand in a request or an answer: each kind checks a value, and describes itself.

One object does both, so that the description (OpenAPI 3.1, JSON Schema 2020-12) cannot promise
what the check refuses. Pure: no HTTP here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import attrs

from multiraft.config import normalize_address
from multiraft.errors import ConfigError

Schema = dict[str, Any]

ID_MAX: Final = (1 << 63) - 1


class BadRequest(Exception):
    """The caller's mistake. `field` says where, as in `members[0].address`; `reason` what it is."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Kind(Protocol):
    """One kind of value."""

    def schema(self) -> Schema:
        """Its description. Records are referred to by name: `Record.component` has them."""

    def read(self, value: Any, where: str) -> Any:
        """What `value` means. Raises: BadRequest, with `where` for its field."""

    def parts(self) -> Sequence[Kind]:
        """The kinds that it is made of."""


@attrs.frozen
class Integer:
    """An integer from `minimum` to `maximum`, both included."""

    minimum: int = 0
    maximum: int = ID_MAX

    def schema(self) -> Schema:
        return {"type": "integer", "format": "int64", "minimum": self.minimum, "maximum": self.maximum}

    def read(self, value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadRequest(where, f"{_shown(value)} is not an integer")
        if not self.minimum <= value <= self.maximum:
            raise BadRequest(where, f"must be an integer from {self.minimum} to {self.maximum}")
        return value

    def read_text(self, text: str, where: str) -> int:
        """From a path or a query, where everything is text."""
        if not (text.isascii() and text.isdecimal() and len(text) <= 20):
            raise BadRequest(where, f"must be an integer from {self.minimum} to {self.maximum}")
        return self.read(int(text), where)

    def parts(self) -> Sequence[Kind]:
        return ()


ID: Final = Integer(1)
"""Of groups and members."""
COUNT: Final = Integer()


@attrs.frozen
class Number:
    """A number of up to `maximum`, above 0 or, with `zero`, from 0 on. No limit: infinity."""

    maximum: float
    zero: bool = False

    def schema(self) -> Schema:
        schema: Schema = {"type": "number", "minimum" if self.zero else "exclusiveMinimum": 0}
        return schema if math.isinf(self.maximum) else {**schema, "maximum": self.maximum}

    def read(self, value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise BadRequest(where, f"{_shown(value)} is not a number")
        if not (value > 0 or (self.zero and value == 0)) or value > self.maximum:
            raise BadRequest(where, f"must be above 0 and at most {self.maximum:g}")
        return float(value)

    def parts(self) -> Sequence[Kind]:
        return ()


@attrs.frozen
class Text:
    """A string of up to `longest` characters that is not empty unless `empty` says so."""

    longest: int = 4096
    empty: bool = False

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 0 if self.empty else 1, "maxLength": self.longest}

    def read(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise BadRequest(where, f"{_shown(value)} is not a string")
        if not (value or self.empty):
            raise BadRequest(where, "must not be empty")
        if len(value) > self.longest:
            raise BadRequest(where, f"has {len(value)} characters; at most {self.longest} are allowed")
        return value

    def parts(self) -> Sequence[Kind]:
        return ()


@attrs.frozen
class Address:
    """`host:port`, with or without a scheme, where hosts reach each other: port 0 is none."""

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 3, "examples": ["10.0.0.4:7001"]}

    def read(self, value: Any, where: str) -> str:
        try:
            address = normalize_address(value, where)
        except ConfigError as error:
            raise BadRequest(where, error.reason) from None
        if address.endswith(":0"):
            raise BadRequest(where, f"{_shown(value)}: nobody can dial port 0")
        return address

    def parts(self) -> Sequence[Kind]:
        return ()


@attrs.frozen
class Flag:
    """true or false."""

    def schema(self) -> Schema:
        return {"type": "boolean"}

    def read(self, value: Any, where: str) -> bool:
        if not isinstance(value, bool):
            raise BadRequest(where, f"{_shown(value)} is neither true nor false")
        return value

    def parts(self) -> Sequence[Kind]:
        return ()


@attrs.frozen
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.words)}

    def read(self, value: Any, where: str) -> str:
        if value not in self.words:
            raise BadRequest(where, f"{_shown(value)} is none of {', '.join(self.words)}")
        return str(value)

    def parts(self) -> Sequence[Kind]:
        return ()


@attrs.frozen
class Maybe:
    """Null, or what `kind` takes."""

    kind: Kind

    def schema(self) -> Schema:
        return {"anyOf": [self.kind.schema(), {"type": "null"}]}

    def read(self, value: Any, where: str) -> Any:
        return None if value is None else self.kind.read(value, where)

    def parts(self) -> Sequence[Kind]:
        return (self.kind,)


@attrs.frozen
class Many:
    """A list of at most `longest`."""

    kind: Kind
    longest: int
    shortest: int = 0

    def schema(self) -> Schema:
        return {
            "type": "array",
            "items": self.kind.schema(),
            "minItems": self.shortest,
            "maxItems": self.longest,
        }

    def read(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise BadRequest(where, f"{_shown(value)} is not a list")
        if not self.shortest <= len(value) <= self.longest:
            raise BadRequest(where, f"has {len(value)} items; {self.shortest} to {self.longest} are allowed")
        return [self.kind.read(each, f"{where}[{place}]") for place, each in enumerate(value)]

    def parts(self) -> Sequence[Kind]:
        return (self.kind,)


@attrs.frozen
class Table:
    """An object whose keys are no fixed names: ids, for one."""

    kind: Kind

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": self.kind.schema()}

    def read(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise BadRequest(where, f"{_shown(value)} is not an object")
        return {name: self.kind.read(each, f"{where}.{name}") for name, each in value.items()}

    def parts(self) -> Sequence[Kind]:
        return (self.kind,)


@attrs.frozen
class Open:
    """An object of which nothing more is promised."""

    def schema(self) -> Schema:
        return {"type": "object"}

    def read(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise BadRequest(where, f"{_shown(value)} is not an object")
        return value

    def parts(self) -> Sequence[Kind]:
        return ()


REQUIRED: Final = object()


@attrs.frozen
class Field:
    """One field of a record, or one argument of a query.

    Left out, it is `default`, which is described only if JSON has it and it is not None.
    """

    name: str
    kind: Kind
    about: str
    default: object = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    def schema(self) -> Schema:
        schema = {**self.kind.schema(), "description": self.about}
        if not self.required and self.default not in (None, ()):
            schema["default"] = self.default
        return schema


@attrs.frozen
class Record:
    """An object with known fields, and no others.

    Args:
        name: Of its description among the document's components.
        make: Makes the value of the fields, each an argument by its name. Default: a dictionary.
    """

    name: str
    fields: tuple[Field, ...]
    make: Callable[..., Any] = dict

    def schema(self) -> Schema:
        return {"$ref": f"#/components/schemas/{self.name}"}

    def component(self) -> Schema:
        """The description that `schema` refers to."""
        return {
            "type": "object",
            "properties": {field.name: field.schema() for field in self.fields},
            "required": [field.name for field in self.fields if field.required],
            "additionalProperties": False,
        }

    def read(self, value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise BadRequest(where or "body", f"{_shown(value)} is not an object")
        known = [field.name for field in self.fields]
        for name in value:
            if name not in known:
                raise BadRequest(
                    _joined(where, name), f"no such field; there are: {', '.join(known) or 'none'}"
                )
        return self.make(**{field.name: self._field(field, value, where) for field in self.fields})

    def _field(self, field: Field, value: Mapping[str, Any], where: str) -> Any:
        place = _joined(where, field.name)
        if field.name in value:
            return field.kind.read(value[field.name], place)
        if field.required:
            raise BadRequest(place, "is missing")
        return field.default

    def parts(self) -> Sequence[Kind]:
        return tuple(field.kind for field in self.fields)


def records_in(kind: Kind) -> dict[str, Record]:
    """All records that `kind` is made of, itself included, by name."""
    found: dict[str, Record] = {kind.name: kind} if isinstance(kind, Record) else {}
    for part in kind.parts():
        found |= records_in(part)
    return found


def _joined(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
