"""Which group a key belongs to. Pure: no files, no network, no state machine.

Keys are bytes and compared as bytes. N groups need N - 1 boundaries, ascending: group 0 holds
what sorts before the first, group i what is at or above boundary i - 1 and below boundary i.
Every host must be given the same boundaries; serve.py has the cluster check it.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from urllib.parse import quote_from_bytes, unquote_to_bytes

import attrs
import cbor2

from multiraft.errors import ConfigError
from multiraft.types import GroupId

FIRST_GROUP: GroupId = 1
GROUPS_MAX = 1 << 16

_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def _as_tuple(values: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(values)


def _checked_boundaries(
    _: object, attribute: attrs.Attribute[tuple[bytes, ...]], value: tuple[bytes, ...]
) -> None:
    if any(not isinstance(each, bytes) or not each for each in value):
        raise ConfigError(attribute.name, "each boundary must be a key, which has at least one byte")
    for lower, upper in pairwise(value):
        if lower >= upper:
            raise ConfigError(
                attribute.name,
                f"{encode_key(upper)!r} comes after {encode_key(lower)!r} and does not sort after it",
            )
    if len(value) >= GROUPS_MAX:
        raise ConfigError(attribute.name, f"there can be at most {GROUPS_MAX} groups")


@attrs.frozen
class Part:
    """A piece of a key range that lies in one group: `start` and what follows, below `end`."""

    group: GroupId
    start: bytes
    end: bytes | None
    """None: to the end of the group."""


@attrs.frozen
class Ranges:
    """The partition of all keys over the groups 1 to N.

    Attributes:
        boundaries: N - 1 keys, ascending. Empty: one group holds everything.

    Raises:
        ConfigError: The boundaries are not ascending, or one is empty.
    """

    boundaries: tuple[bytes, ...] = attrs.field(
        default=(), converter=_as_tuple, validator=_checked_boundaries
    )

    @classmethod
    def even(cls, groups: int) -> Ranges:
        """Divide the space of all byte strings evenly.

        Fits keys that are hashes or random bytes. Keys of a narrower alphabet, ASCII text for
        one, fall into few of the groups; take `sampled` for those.
        """
        _check_groups(groups)
        points = ((i << 32) // groups for i in range(1, groups))
        return cls(point.to_bytes(4, "big").rstrip(b"\0") for point in points)

    @classmethod
    def sampled(cls, keys: Iterable[bytes], groups: int) -> Ranges:
        """Choose boundaries under which the distinct `keys` spread evenly, to within one key.

        Raises:
            ConfigError: There are fewer distinct keys than groups.
        """
        _check_groups(groups)
        distinct = sorted({key for key in keys if key})
        if len(distinct) < groups:
            raise ConfigError(
                "sample", f"{len(distinct)} distinct keys cannot be divided over {groups} groups"
            )
        return cls(distinct[len(distinct) * i // groups] for i in range(1, groups))

    @property
    def groups(self) -> Sequence[GroupId]:
        return range(FIRST_GROUP, FIRST_GROUP + len(self.boundaries) + 1)

    def group_of(self, key: bytes) -> GroupId:
        return FIRST_GROUP + bisect_right(self.boundaries, key)

    def parts(self, start: bytes = b"", end: bytes | None = None) -> Iterator[Part]:
        """The range from `start`, included, to `end`, excluded, group by group in key order."""
        place = bisect_right(self.boundaries, start)
        while end is None or start < end:
            upper = self.boundaries[place] if place < len(self.boundaries) else None
            if upper is None or (end is not None and end <= upper):
                yield Part(FIRST_GROUP + place, start, end)
                return
            yield Part(FIRST_GROUP + place, start, upper)
            start, place = upper, place + 1

    def fingerprint(self) -> bytes:
        """What two hosts compare to know that they divide the keys in the same way."""
        return hashlib.sha256(cbor2.dumps([1, FIRST_GROUP, list(self.boundaries)])).digest()


def _check_groups(groups: int) -> None:
    if not 1 <= groups <= GROUPS_MAX:
        raise ConfigError("groups", f"{groups} is not between 1 and {GROUPS_MAX}")


def encode_key(key: bytes) -> str:
    """Percent-encode `key` for a URL or JSON (RFC 3986 §2): letters, digits and `-._~` stay."""
    return quote_from_bytes(key, safe="")


def decode_key(text: str | bytes) -> bytes:
    """Undo `encode_key`. Characters that need no encoding may come as they are, as UTF-8.

    Raises:
        ValueError: A percent sign is not followed by two hexadecimal digits. urllib lets that
            pass, and two spellings would then be one key.
    """
    raw = text.encode() if isinstance(text, str) else text
    if (bad := _BAD_PERCENT.search(raw)) is not None:
        raise ValueError(f"'%' at byte {bad.start()} of the key is not followed by two hexadecimal digits")
    return unquote_to_bytes(raw)
