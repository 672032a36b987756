"""What a host of the store is told: the host's own configuration, and how keys are divided.

In TOML the host's fields stand at the top and these in a table of their own:

    data_dir = "data/a"
    listen = "10.0.0.1:7001"
    http = "10.0.0.1:8001"

    [kv]
    groups = 64
    peers = ["10.0.0.1:7001", "10.0.0.2:7001", "10.0.0.3:7001"]
    sample = "keys.txt"
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from multiraft.config import HostConfig, config_from, normalize_address, read_toml
from multiraft.errors import ConfigError
from multiraft.kv.ranges import Ranges, decode_key
from multiraft.types import Member

DEFAULT_GROUPS = 16


def members_of(peers: Iterable[str]) -> list[Member]:
    """The members of every group: ids 1 to N in the order of the sorted addresses.

    So every host makes the same list out of the same addresses, in whatever order it got them.
    """
    return [
        Member(place, address)
        for place, address in enumerate(sorted({normalize_address(peer, "peers") for peer in peers}), 1)
    ]


@attrs.frozen(kw_only=True)
class ServeConfig:
    """A host of the store.

    Attributes:
        host: The host itself. `http` must be set.
        peers: Addresses (`advertise` or `listen`) of all hosts, this one among them; the same
            on every host. Default: this host alone.
        ranges: How keys are divided over groups; the same on every host.
            Default: 16 groups that divide the space of bytes evenly.
        join: Make no groups here: this host is not among the first ones, and joins theirs one by
            one over the admin API. Default: make those that are missing.
    """

    host: HostConfig
    peers: tuple[str, ...] = ()
    ranges: Ranges = attrs.field(factory=lambda: Ranges.even(DEFAULT_GROUPS))
    join: bool = False


def load_serve_config(path: str | os.PathLike[str]) -> ServeConfig:
    """Read a `ServeConfig` from a TOML file; see the head of this file.

    Raises:
        ConfigError: The file cannot be read, is not TOML, or a field is unknown or wrong.
    """
    values = read_toml(path)
    table = values.pop("kv", {})
    if not isinstance(table, dict):
        raise ConfigError("kv", "must be a table")
    for name in table:
        if name not in {"groups", "peers", "boundaries", "sample", "join"}:
            raise ConfigError(f"kv.{name}", "no such field")
    join = table.get("join", False)
    if not isinstance(join, bool):
        raise ConfigError("kv.join", f"{join!r} is neither true nor false")
    if join and "peers" in table:
        raise ConfigError("kv.peers", "cannot be given together with join: no groups are made here")
    return ServeConfig(
        host=config_from(values),
        peers=tuple(_strings(table, "peers") or ()),
        ranges=_ranges_from(table, os.path.dirname(os.path.abspath(path))),
        join=join,
    )


def _ranges_from(table: Mapping[str, Any], folder: str) -> Ranges:
    groups = table.get("groups")
    if groups is not None and (isinstance(groups, bool) or not isinstance(groups, int)):
        raise ConfigError("kv.groups", f"{groups!r} is not an integer")
    boundaries, sample = _strings(table, "boundaries"), table.get("sample")
    if boundaries is not None and sample is not None:
        raise ConfigError("kv.sample", "cannot be given together with boundaries")
    if sample is not None:
        if not isinstance(sample, str):
            raise ConfigError("kv.sample", f"{sample!r} is not a path")
        return ranges_for(DEFAULT_GROUPS if groups is None else groups, sample=os.path.join(folder, sample))
    if boundaries is None:
        return Ranges.even(DEFAULT_GROUPS if groups is None else groups)
    if groups is not None and groups != len(boundaries) + 1:
        raise ConfigError(
            "kv.groups", f"{len(boundaries)} boundaries make {len(boundaries) + 1} groups, not {groups}"
        )
    try:
        return Ranges(map(decode_key, boundaries))
    except ValueError as error:
        raise ConfigError("kv.boundaries", str(error)) from None


def ranges_for(groups: int, *, sample: str | os.PathLike[str] | None = None) -> Ranges:
    """Ranges for `groups` groups; with `sample`, a file of keys (one a line), equally full ones.

    Raises:
        ConfigError: The file cannot be read or has too few keys, or the number is out of bounds.
    """
    if sample is None:
        return Ranges.even(groups)
    try:
        with open(sample, "rb") as file:
            return Ranges.sampled(_lines(file), groups)
    except OSError as error:
        raise ConfigError("sample", f"cannot read {os.fspath(sample)}: {error.strerror}") from None


def _lines(file: Iterable[bytes]) -> Iterator[bytes]:
    for line in file:
        yield line.rstrip(b"\r\n")


def _strings(table: Mapping[str, Any], name: str) -> Sequence[str] | None:
    value = table.get(name)
    if value is not None and not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        raise ConfigError(f"kv.{name}", "must be a list of strings")
    return value
