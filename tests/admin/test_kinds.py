"""What may stand in a request: what is wrong is named, with its place."""

from __future__ import annotations

import math
from typing import Any

import pytest

from multiraft.admin.kinds import (
    ID,
    ID_MAX,
    Address,
    BadRequest,
    Choice,
    Field,
    Flag,
    Integer,
    Kind,
    Many,
    Maybe,
    Number,
    Record,
    Table,
    Text,
    records_in,
)

INNER = Record("Inner", (Field("id", ID, "An id."), Field("tags", Many(Text(3), 2), "Words.", default=())))
OUTER = Record(
    "Outer",
    (
        Field("inner", Many(INNER, 4, shortest=1), "Some."),
        Field("limits", Maybe(Table(Integer(0, 9))), "By name.", default=None),
    ),
)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ID, ID_MAX),
        (Integer(0, 3), 0),
        (Number(600), 0.5),
        (Number(600), 600),
        (Number(math.inf, zero=True), 0),
        (Text(3), "abc"),
        (Text(3, empty=True), ""),
        (Flag(), False),
        (Choice(("a", "b")), "b"),
        (Maybe(ID), None),
        (Many(ID, 2), [1, 2]),
        (Table(ID), {"x": 1}),
    ],
)
def test_what_fits_is_taken_as_it_is(kind: Kind, value: Any) -> None:
    assert kind.read(value, "x") == value


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (ID, 0, "from 1 to 9223372036854775807"),
        (ID, ID_MAX + 1, "from 1 to"),
        (ID, True, "True is not an integer"),
        (ID, 1.0, "1.0 is not an integer"),
        (ID, "1", "'1' is not an integer"),
        (ID, None, "None is not an integer"),
        (Number(600), 0, "above 0 and at most 600"),
        (Number(600), 600.5, "at most 600"),
        (Number(600), float("nan"), "not a number"),
        (Number(600), float("inf"), "not a number"),
        (Number(600), True, "not a number"),
        (Text(3), "", "must not be empty"),
        (Text(3), "abcd", "4 characters; at most 3"),
        (Text(3), 1, "not a string"),
        (Flag(), 1, "neither true nor false"),
        (Choice(("a", "b")), "c", "none of a, b"),
        (Choice(("a", "b")), ["a"], "none of a, b"),
        (Address(), "nowhere", "host:port"),
        (Address(), "a:0", "port 0"),
        (Address(), 7, "not a string"),
        (Many(ID, 2), {"a": 1}, "not a list"),
        (Many(ID, 2), [1, 2, 3], "3 items; 0 to 2"),
        (Table(ID), [1], "not an object"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(kind: Kind, value: Any, reason: str) -> None:
    with pytest.raises(BadRequest) as caught:
        kind.read(value, "place")
    assert caught.value.field == "place"
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ([], "body", "not an object"),
        ({}, "inner", "is missing"),
        ({"inner": [{"id": 1}], "outer": 1}, "outer", "no such field; there are: inner, limits"),
        ({"inner": [{"id": 1}, {"id": 0}]}, "inner[1].id", "from 1"),
        ({"inner": [{"id": 1, "tags": ["a", "abcd"]}]}, "inner[0].tags[1]", "4 characters"),
        ({"inner": [{"id": 1, "name": "x"}]}, "inner[0].name", "no such field"),
        ({"inner": [7]}, "inner[0]", "not an object"),
        ({"inner": [{"id": 1}], "limits": {"a": 10}}, "limits.a", "from 0 to 9"),
    ],
)
def test_the_place_inside_a_record_is_named(value: Any, field: str, reason: str) -> None:
    with pytest.raises(BadRequest) as caught:
        OUTER.read(value, "")
    assert caught.value.field == field
    assert reason in caught.value.reason


def test_fields_that_are_left_out_have_their_defaults() -> None:
    read = OUTER.read({"inner": [{"id": 1}]}, "")
    assert read == {"inner": [{"id": 1, "tags": ()}], "limits": None}


def test_an_address_loses_its_scheme() -> None:
    assert Address().read("http://Host:7001/", "x") == "host:7001"


@pytest.mark.parametrize("text", ["", "-1", "1e3", "٣", "1" * 21, "0", "x"])
def test_numbers_in_paths_are_digits(text: str) -> None:
    assert ID.read_text("42", "x") == 42
    with pytest.raises(BadRequest, match="x: must be an integer from 1"):
        ID.read_text(text, "x")


def test_a_long_value_is_not_repeated_whole() -> None:
    with pytest.raises(BadRequest) as caught:
        ID.read("x" * 10_000, "x")
    assert len(caught.value.reason) < 100


def test_records_are_found_wherever_they_are() -> None:
    assert records_in(Maybe(Many(OUTER, 1))) == {"Outer": OUTER, "Inner": INNER}


def test_descriptions_say_what_the_checks_say() -> None:
    assert OUTER.component() == {
        "type": "object",
        "properties": {
            "inner": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/Inner"},
                "minItems": 1,
                "maxItems": 4,
                "description": "Some.",
            },
            "limits": {
                "anyOf": [
                    {
                        "type": "object",
                        "additionalProperties": {
                            "type": "integer",
                            "format": "int64",
                            "minimum": 0,
                            "maximum": 9,
                        },
                    },
                    {"type": "null"},
                ],
                "description": "By name.",
            },
        },
        "required": ["inner"],
        "additionalProperties": False,
    }
