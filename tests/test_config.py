"""Configuration: what is wrong is named, with its field, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multiraft.config import HostConfig, config_from, load_config, normalize_address
from multiraft.errors import ConfigError
from multiraft.types import ReadMode

GOOD: dict[str, Any] = {"data_dir": "data/a", "listen": "127.0.0.1:7001"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7001", "127.0.0.1:7001"),
        ("http://127.0.0.1:7001", "127.0.0.1:7001"),
        ("https://Host.Example:7001/", "host.example:7001"),
        ("[::1]:7001", "[::1]:7001"),
        ("localhost:0", "localhost:0"),
    ],
)
def test_addresses_work_with_and_without_a_scheme(text: str, expected: str) -> None:
    assert normalize_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "host", ":7001", "host:", "host:x", "host:70000", "::1:7001", "h:1/path"]
)
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"host:port|brackets") as caught:
        normalize_address(text, "listen")
    assert caught.value.field == "listen"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data_dir", ""),
        ("data_dir", 7),
        ("listen", "nowhere"),
        ("listen", None),
        ("advertise", "x"),
        ("http", 80),
        ("admin_token", ""),
        ("admin_token", "x" * 15),
        ("admin_token", "x" * 4097),
        ("admin_token", "a token with spaces in it"),
        ("admin_token", "ein-schlüssel-mit-umlaut"),
        ("admin_token", b"0123456789abcdef"),
        ("admin_token_file", ""),
        ("http_tls", "certs"),
        ("cluster_id", ""),
        ("tick_interval_s", 0),
        ("tick_interval_s", "fast"),
        ("tick_interval_s", float("nan")),
        ("election_ticks", 1),
        ("election_ticks", 2.5),
        ("election_ticks", True),
        ("heartbeat_ticks", 10),
        ("pre_vote", "yes"),
        ("read_mode", "weak"),
        ("leader_wait_s", -1),
        ("max_message_bytes", 10),
        ("max_inflight_messages", 0),
        ("max_host_uncommitted_bytes", 100),
        ("max_snapshots_sent", 0),
        ("max_snapshots_received", 1.5),
        ("segment_bytes", 1000),
        ("max_log_bytes", 1 << 20),
        ("tls", "cert.pem"),
    ],
)
def test_a_wrong_value_is_refused_by_its_field(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        HostConfig(**{**GOOD, field: value})
    assert caught.value.field == field
    assert field in str(caught.value)


def test_lease_reads_need_check_quorum() -> None:
    with pytest.raises(ConfigError, match="check_quorum"):
        HostConfig(**GOOD, read_mode=ReadMode.LEASE, check_quorum=False)


def test_defaults_are_the_documented_ones() -> None:
    config = HostConfig(**GOOD)
    assert (config.tick_interval_s, config.election_ticks, config.heartbeat_ticks) == (0.1, 10, 1)
    assert config.pre_vote
    assert config.check_quorum
    assert config.max_message_bytes == 1 << 20
    assert config.max_uncommitted_bytes == 1 << 30
    assert config.max_host_uncommitted_bytes == 1 << 31
    assert (config.max_snapshots_sent, config.max_snapshots_received) == (2, 4)
    assert config.segment_bytes == 64 << 20
    assert config.max_snapshot_files == 5


def test_a_file_is_read_with_the_same_names(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_text(
        'data_dir = "d"\nlisten = "http://127.0.0.1:1"\nread_mode = "lease"\nelection_ticks = 5\n'
        '[tls]\ncert = "c"\nkey = "k"\nca = "a"\n[http_tls]\ncert = "c"\nkey = "k"\nca = "b"\n'
    )
    config = load_config(path)
    assert config.read_mode is ReadMode.LEASE
    assert config.election_ticks == 5
    assert config.tls is not None
    assert config.tls.ca == "a"
    assert config.http_tls is not None
    assert config.http_tls.ca == "b"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('listen = "127.0.0.1:1"', "data_dir"),
        ('data_dir = "d"\nlisten = "127.0.0.1:1"\nlisen = 1', "lisen"),
        ('data_dir = "d"\nlisten = "127.0.0.1:1"\n[tls]\ncert = "c"', "tls.key"),
        ('data_dir = "d"\nlisten = "127.0.0.1:1"\n[tls]\ncrt = "c"', "tls.crt"),
        ('data_dir = "d"\nlisten = "127.0.0.1:1"\n[http_tls]\ncert = "c"', "http_tls.key"),
        ("data_dir = ", "config"),
    ],
)
def test_a_wrong_file_is_refused_by_its_field(tmp_path: Path, text: str, field: str) -> None:
    path = tmp_path / "host.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.field == field


def test_an_admin_token_is_not_shown_and_not_given_twice() -> None:
    token = "0123456789-._~+/=="
    assert token not in repr(HostConfig(**GOOD, admin_token=token))
    with pytest.raises(ConfigError) as caught:
        HostConfig(**GOOD, admin_token=f"{token} x")
    assert token not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        HostConfig(**GOOD, admin_token=token, admin_token_file="token")
    assert caught.value.field == "admin_token_file"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_config(tmp_path / "absent.toml")


def test_values_may_come_from_a_dictionary() -> None:
    assert config_from(dict(GOOD)).listen == "127.0.0.1:7001"
