"""The configuration of a host of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from multiraft.errors import ConfigError
from multiraft.kv.config import load_serve_config, members_of, ranges_for
from multiraft.kv.ranges import Ranges
from multiraft.types import Member

HOST = 'data_dir = "data"\nlisten = "127.0.0.1:7001"\nhttp = "127.0.0.1:8001"\n'


def written(folder: Path, table: str) -> Path:
    path = folder / "host.toml"
    path.write_text(HOST + table)
    return path


def test_members_are_numbered_by_their_sorted_addresses() -> None:
    expected = [Member(1, "a:1"), Member(2, "b:1"), Member(3, "b:2")]
    assert members_of(["b:2", "http://a:1", "b:1"]) == expected
    assert members_of(["b:1", "b:2/", "A:1", "b:1"]) == expected


def test_a_file_without_the_table_has_the_defaults(tmp_path: Path) -> None:
    loaded = load_serve_config(written(tmp_path, ""))
    assert (loaded.host.listen, loaded.host.http) == ("127.0.0.1:7001", "127.0.0.1:8001")
    assert (loaded.peers, loaded.ranges) == ((), Ranges.even(16))


def test_a_host_that_joins_says_so(tmp_path: Path) -> None:
    assert load_serve_config(written(tmp_path, "[kv]\njoin = true\ngroups = 4")).join
    assert not load_serve_config(written(tmp_path, "[kv]\ngroups = 4")).join


def test_boundaries_are_percent_encoded_keys(tmp_path: Path) -> None:
    loaded = load_serve_config(written(tmp_path, '[kv]\nboundaries = ["a%2Fb", "ü", "%FF"]\npeers = ["h:1"]'))
    assert loaded.ranges == Ranges([b"a/b", "ü".encode(), b"\xff"])
    assert loaded.peers == ("h:1",)


def test_boundaries_can_be_sampled_from_a_file_of_keys(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_bytes(b"".join(b"k%03d\r\n" % i for i in range(100)))
    loaded = load_serve_config(written(tmp_path, '[kv]\ngroups = 4\nsample = "keys.txt"'))
    assert loaded.ranges == Ranges([b"k025", b"k050", b"k075"])
    assert ranges_for(4, sample=tmp_path / "keys.txt") == loaded.ranges


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ("kv = 1", "kv"),
        ("[kv]\ngroup = 1", "kv.group"),
        ('[kv]\ngroups = "4"', "kv.groups"),
        ("[kv]\ngroups = true", "kv.groups"),
        ("[kv]\ngroups = 0", "groups"),
        ('[kv]\ngroups = 4\nboundaries = ["a"]', "kv.groups"),
        ('[kv]\nboundaries = ["b", "a"]', "boundaries"),
        ('[kv]\nboundaries = ["%"]', "kv.boundaries"),
        ("[kv]\nboundaries = [1]", "kv.boundaries"),
        ('[kv]\nsample = "keys"\nboundaries = ["a"]', "kv.sample"),
        ("[kv]\nsample = 1", "kv.sample"),
        ('[kv]\nsample = "missing"', "sample"),
        ('[kv]\npeers = "a:1"', "kv.peers"),
        ('[kv]\njoin = true\npeers = ["a:1"]', "kv.peers"),
        ("[kv]\njoin = 1", "kv.join"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, table: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_serve_config(written(tmp_path, table))
    assert caught.value.field == field
