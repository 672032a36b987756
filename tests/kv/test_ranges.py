"""The partition of keys over groups."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft.errors import ConfigError
from multiraft.kv.ranges import Ranges, decode_key, encode_key

boundary_lists = st.lists(st.binary(min_size=1, max_size=3), unique=True, max_size=8).map(sorted)


def test_without_boundaries_one_group_holds_everything() -> None:
    ranges = Ranges()
    assert list(ranges.groups) == [1]
    assert ranges.group_of(b"") == ranges.group_of(b"\xff" * 9) == 1


def test_a_boundary_is_the_first_key_of_the_upper_group() -> None:
    ranges = Ranges([b"g", b"p"])
    assert [ranges.group_of(key) for key in (b"a", b"fz", b"g", b"g\0", b"o", b"p", b"z")] == [
        1,
        1,
        2,
        2,
        2,
        3,
        3,
    ]


@pytest.mark.parametrize("boundaries", [[b"b", b"a"], [b"a", b"a"], [b""], ["a"]])
def test_boundaries_that_do_not_divide_are_refused(boundaries: list[bytes]) -> None:
    with pytest.raises(ConfigError) as caught:
        Ranges(boundaries)
    assert caught.value.field == "boundaries"


@pytest.mark.parametrize("groups", [1, 2, 3, 256, 1000])
def test_even_ranges_divide_the_space_of_bytes(groups: int) -> None:
    ranges = Ranges.even(groups)
    assert list(ranges.groups) == list(range(1, groups + 1))
    counts = Counter(ranges.group_of(point.to_bytes(2, "big")) for point in range(1 << 16))
    assert max(counts.values()) - min(counts[group] for group in ranges.groups) <= 1


@given(st.sets(st.binary(min_size=1, max_size=6), min_size=1, max_size=200), st.integers(1, 20))
def test_sampled_ranges_hold_equal_numbers_of_the_sample(keys: set[bytes], groups: int) -> None:
    if len(keys) < groups:
        with pytest.raises(ConfigError, match="distinct keys"):
            Ranges.sampled(keys, groups)
        return
    ranges = Ranges.sampled([*keys, *keys, b""], groups)
    counts = Counter(map(ranges.group_of, keys))
    assert len(ranges.groups) == groups
    assert max(counts.values()) - min(counts[group] for group in ranges.groups) <= 1


@pytest.mark.parametrize("groups", [0, -1, (1 << 16) + 1])
def test_numbers_of_groups_out_of_bounds_are_refused(groups: int) -> None:
    with pytest.raises(ConfigError):
        Ranges.even(groups)


@given(boundary_lists, st.binary(max_size=3), st.none() | st.binary(max_size=3), st.binary(max_size=3))
def test_parts_cover_a_range_once_and_in_order(
    boundaries: list[bytes], start: bytes, end: bytes | None, key: bytes
) -> None:
    """A key lies in exactly one part if it is in the range, in none otherwise, in its own group."""
    ranges = Ranges(boundaries)
    parts = list(ranges.parts(start, end))
    holding = [part for part in parts if part.start <= key and (part.end is None or key < part.end)]
    inside = start <= key and (end is None or key < end)
    assert [part.group for part in holding] == ([ranges.group_of(key)] if inside else [])
    assert [part.group for part in parts] == sorted({part.group for part in parts})


def test_fingerprints_tell_partitions_apart() -> None:
    assert Ranges([b"a", b"b"]).fingerprint() == Ranges([b"a", b"b"]).fingerprint()
    assert len({Ranges(each).fingerprint() for each in ([], [b"a"], [b"ab"], [b"a", b"b"])}) == 4


@given(st.binary(max_size=40))
def test_any_key_survives_percent_encoding(key: bytes) -> None:
    text = encode_key(key)
    assert decode_key(text) == key
    assert all(c.isalnum() or c in "-._~%" for c in text)


def test_unicode_and_slashes_may_come_unencoded() -> None:
    assert decode_key("a/ü") == decode_key("a%2F%C3%BC") == b"a/\xc3\xbc"


@pytest.mark.parametrize("text", ["%", "a%2", "%zz", "100%"])
def test_a_stray_percent_sign_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        decode_key(text)
