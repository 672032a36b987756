"""`load_config` and `HostConfig`, with what people really write into them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

from multiraft import ConfigError, HostConfig, ReadMode, TlsConfig, load_config

WHOLE = """
data_dir = "data/a"
listen = "http://127.0.0.1:7001"
advertise = "orders-1.example:7001"
cluster_id = "orders"
tick_interval_s = 1
election_ticks = 20
read_mode = "lease"
forward_proposals = false
max_proposal_bytes = 4096

[tls]
cert = "host.pem"
key = "host.key"
ca = "ca.pem"
"""

LEAST = 'data_dir = "a"\nlisten = "127.0.0.1:7001"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "host.toml"
    path.write_text(text)
    return path


def test_a_file_has_the_fields_of_the_class(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, WHOLE)) == HostConfig(
        data_dir="data/a",
        listen="http://127.0.0.1:7001",
        advertise="orders-1.example:7001",
        cluster_id="orders",
        tick_interval_s=1,
        election_ticks=20,
        read_mode=ReadMode.LEASE,
        forward_proposals=False,
        max_proposal_bytes=4096,
        tls=TlsConfig(cert="host.pem", key="host.key", ca="ca.pem"),
    )
    assert load_config(str(write(tmp_path, LEAST))) == HostConfig(data_dir="a", listen="127.0.0.1:7001")


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("", "data_dir", "required"),
        ('data_dir = "a"', "listen", "required"),
        (LEAST + 'lissten = "x"', "lissten", "no such field"),
        (LEAST + '"cluster-id" = "x"', "cluster-id", "no such field"),
        (LEAST + "[host]\nlisten = 1", "host", "no such field"),
        ("data_dir = a", "config", "not TOML.*line 1"),
        (LEAST + LEAST, "config", "not TOML"),
        (LEAST + 'election_ticks = "10"', "election_ticks", "'10' is not an integer"),
        (LEAST + "election_ticks = 1", "election_ticks", "minimum, 2"),
        (LEAST + "election_ticks = 10.0", "election_ticks", "not an integer"),
        (LEAST + "heartbeat_ticks = 10", "heartbeat_ticks", "not below election_ticks"),
        (LEAST + "tick_interval_s = nan", "tick_interval_s", "below the minimum"),
        (LEAST + "tick_interval_s = inf", "tick_interval_s", "not a finite number"),
        (LEAST + 'pre_vote = "yes"', "pre_vote", "not a bool"),
        (LEAST + 'read_mode = "lesae"', "read_mode", "'lesae' is neither"),
        (LEAST + 'read_mode = "lease"\ncheck_quorum = false', "read_mode", "check_quorum"),
        (LEAST + 'tls = "x"', "tls", "'x' is not a TlsConfig"),
        (LEAST + '[tls]\ncert = "x"', "tls.key", "required"),
        (LEAST + '[tls]\ncert = "x"\nkey = "x"\nca = "x"\ncaa = "x"', "tls.caa", "no such field"),
        (LEAST + '[tls]\ncert = 1\nkey = "x"\nca = "x"', "cert", "string"),
    ],
)
def test_typos_are_named(tmp_path: Path, text: str, field: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(write(tmp_path, text))
    assert caught.value.field == field
    assert field in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\0")
    for path in (tmp_path / "missing.toml", tmp_path, binary):
        with pytest.raises(ConfigError, match=path.name):
            load_config(path)
    with pytest.raises(ConfigError, match="null byte"):
        load_config("a\0b")


def test_a_number_is_no_path() -> None:
    """open() would read from that descriptor and close it, whoever it belonged to."""
    reader, writer = os.pipe()
    no_paths: list[Any] = [reader, None, {}]
    for wrong in no_paths:
        with pytest.raises(TypeError, match=type(wrong).__name__):
            load_config(wrong)
    os.close(reader)  # still open
    os.close(writer)


ADDRESSES = [
    7001, None, b"a:1", "", "localhost", ":7001", "a:b", "a:99999", "a:-1", "a:1.5", "a:٣", "ftp://a:1",
    "http://a:1/path", "http://http://a:1", "::1:7001", "a b:1", "a\n:1", "user@a:1", "a,b:1", "..:7001",
    "x" * 64 + ":7001", "[::1:7001", "[]:1", "a:1:",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES, ids=repr)
def test_what_is_no_address_is_refused_at_once(address: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        HostConfig(data_dir="a", listen=address)
    assert caught.value.field == "listen"
    assert repr(address) in str(caught.value)


@pytest.mark.parametrize(
    "address", ["a:1", "http://a:1", "https://a:1/", "A-b.c_d.:0", "[::1]:7001", "[fe80::1%eth0]:1", "ü:1"]
)
def test_addresses_come_in_many_forms(address: str) -> None:
    assert HostConfig(data_dir="a", listen=address).listen == address


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data_dir", ""), ("data_dir", 3), ("data_dir", None), ("data_dir", b"a"), ("data_dir", "a\0b"),
        ("data_dir", "\ud800"), ("advertise", ""), ("advertise", 1), ("http", "x"),
        ("cluster_id", ""), ("cluster_id", 5), ("cluster_id", None), ("cluster_id", Path("x")),
        ("cluster_id", "x" * 256), ("tick_interval_s", "0.1"), ("tick_interval_s", 0),
        ("tick_interval_s", None), ("tick_interval_s", math.inf), ("election_ticks", True),
        ("heartbeat_ticks", 0), ("pre_vote", 1),
        ("read_mode", 3), ("read_mode", None), ("leader_wait_s", -1), ("leader_wait_s", math.nan),
        ("max_message_bytes", 1), ("max_proposal_bytes", 0), ("max_snapshot_files", -1), ("segment_bytes", 1),
        ("max_log_bytes", 1 << 20), ("cache_bytes", -1), ("max_pass_s", math.inf), ("tls", {"cert": "a"}),
    ],
)  # fmt: skip
def test_wrong_values_name_their_field(field: str, value: object) -> None:
    fields: dict[str, Any] = {"data_dir": "a", "listen": "127.0.0.1:0", field: value}
    with pytest.raises(ConfigError) as caught:
        HostConfig(**fields)
    assert caught.value.field == field
    assert caught.value.reason in str(caught.value)
