"""What a host can be told. Values are checked once, here; everything below trusts them."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Callable
from typing import Any

import attrs

from multiraft.errors import ConfigError
from multiraft.types import ReadMode, RecoveryMode

MIB = 1 << 20

CLUSTER_ID_CHARS_MAX = 255
"""It goes into the head of every stream between hosts."""

# A name of labels, as the resolver takes it, or an IPv6 address with an optional zone.
_HOST = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?|\[[0-9a-fA-F:.]+(%[\w.-]+)?\]")

TOKEN_CHARS_MIN, TOKEN_CHARS_MAX = 16, 4096
"""Short enough for a header, and too long to be guessed."""

# What may stand behind "Bearer" (RFC 6750 §2.1).
_TOKEN = re.compile(rf"(?=.{{{TOKEN_CHARS_MIN},{TOKEN_CHARS_MAX}}}\Z)[A-Za-z0-9._~+/-]+=*")

Check = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def normalize_address(text: str, field: str = "address") -> str:
    """Return `text` as `host:port`, without its scheme.

    Raises:
        ConfigError: It is not `host:port`, `http://host:port` or `https://host:port`.
    """
    if not isinstance(text, str):
        raise ConfigError(field, f"{text!r} is not a string")
    rest = text
    for scheme in ("http://", "https://"):
        rest = rest.removeprefix(scheme)
    rest = rest.rstrip("/")
    host, separator, port = rest.rpartition(":")
    if not separator or not host or "/" in rest or not _is_port(port):
        raise ConfigError(field, f"{text!r} is not host:port (with or without http:// or https://)")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ConfigError(field, f"{text!r}: put an IPv6 address in brackets, as in [::1]:7001")
    if _HOST.fullmatch(host) is None:
        raise ConfigError(field, f"{text!r}: {host!r} is neither a host name nor an IP address")
    return f"{host.lower()}:{int(port)}"


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65535


def _at_least(minimum: float, *, finite: bool = False) -> Check:
    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        wants_integer = attribute.type in (int, "int")
        if isinstance(value, bool) or not isinstance(value, int if wants_integer else (int, float)):
            kind = "an integer" if wants_integer else "a number"
            raise ConfigError(attribute.name, f"{value!r} is not {kind}")
        if not value >= minimum:
            raise ConfigError(attribute.name, f"{value!r} is below the minimum, {minimum}")
        if finite and not math.isfinite(value):
            raise ConfigError(attribute.name, f"{value!r} is not a finite number")

    return check


def _kind(*kinds: type) -> Check:
    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigError(attribute.name, f"{value!r} is not a {names}")

    return check


def _address(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None and attribute.name != "listen":
        return
    normalize_address(value, attribute.name)


def _not_empty(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise ConfigError(attribute.name, "must be a non-empty string")


def _cluster_id(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= CLUSTER_ID_CHARS_MAX:
        raise ConfigError(attribute.name, f"must be a string of 1 to {CLUSTER_ID_CHARS_MAX} characters")


def _token(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    # Never the value itself: error messages end up in logs.
    if not isinstance(value, str) or _TOKEN.fullmatch(value) is None:
        raise ConfigError(
            attribute.name,
            f"must have {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} characters out of A-Z a-z 0-9 - . _ ~ + / =",
        )


def _path(value: str | os.PathLike[str]) -> str:
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else value
    if not isinstance(path, str) or not path:
        raise ConfigError("data_dir", "must be a non-empty path")
    try:
        usable = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise ConfigError("data_dir", f"{path!r} is no path: the system cannot take its characters")
    return path


def _file(value: str | os.PathLike[str]) -> str:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _read_mode(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return ReadMode(value)
        except ValueError:
            raise ConfigError("read_mode", f"{value!r} is neither 'quorum' nor 'lease'") from None
    return value


def _recovery_mode(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return RecoveryMode(value)
        except ValueError:
            known = ", ".join(repr(mode.value) for mode in RecoveryMode)
            raise ConfigError("recovery", f"{value!r} is none of {known}") from None
    return value


@attrs.frozen(kw_only=True)
class TlsConfig:
    """Paths of PEM files for mutual TLS: between hosts (`tls`), or with their clients (`http_tls`)."""

    cert: str = attrs.field(converter=_file, validator=_not_empty)
    key: str = attrs.field(converter=_file, validator=_not_empty)
    ca: str = attrs.field(converter=_file, validator=_not_empty)


@attrs.frozen(kw_only=True)
class HostConfig:
    """Everything a host can be told.

    Raises:
        ConfigError: On construction; names the field and what is wrong with it.
    """

    data_dir: str = attrs.field(converter=_path)
    """Folder for the log, snapshots and identity. Created if missing."""
    listen: str = attrs.field(validator=_address)
    """`host:port` to serve other hosts on, with or without a scheme. Port 0 picks one."""
    advertise: str | None = attrs.field(default=None, validator=_address)
    """What other hosts dial. Default: `listen`, with the port that was picked."""
    http: str | None = attrs.field(default=None, validator=_address)
    """`host:port` for people and programs. Default: not served."""
    cluster_id: str = attrs.field(default="multiraft", validator=_cluster_id)
    """Hosts with another id are refused. Default: "multiraft". At most 255 characters."""

    tick_interval_s: float = attrs.field(default=0.1, validator=_at_least(0.001, finite=True))
    """Raft's unit of time. Default: 0.1 s. Minimum: 0.001 s."""
    election_ticks: int = attrs.field(default=10, validator=_at_least(2))
    """Ticks without a leader before an election; each member draws from [n, 2n). Default: 10."""
    heartbeat_ticks: int = attrs.field(default=1, validator=_at_least(1))
    """Ticks between a leader's heartbeats; below `election_ticks`. Default: 1."""
    pre_vote: bool = attrs.field(default=True, validator=_kind(bool))
    """Ask before raising the term (thesis §9.6). Default: on."""
    check_quorum: bool = attrs.field(default=True, validator=_kind(bool))
    """A leader without a quorum for an election timeout steps down (thesis §6.2). Default: on."""
    read_mode: ReadMode = attrs.field(
        default=ReadMode.QUORUM, converter=_read_mode, validator=_kind(ReadMode)
    )
    """How reads are confirmed. LEASE needs `check_quorum`. Default: QUORUM."""
    forward_proposals: bool = attrs.field(default=True, validator=_kind(bool))
    """Send proposals made here on to the leader; off: `NotLeader`. Default: on."""
    leader_wait_s: float = attrs.field(default=10.0, validator=_at_least(0))
    """How long a call waits while its group has no leader, then `NoLeader`. Default: 10 s."""

    max_message_bytes: int = attrs.field(default=MIB, validator=_at_least(1024))
    """Entries in one append, by weight. Default: 1 MiB. Minimum: 1 KiB."""
    max_apply_bytes: int = attrs.field(default=MIB, validator=_at_least(1024))
    """Entries of a group handed to its state machine and not yet applied. Default: 1 MiB."""
    max_inflight_messages: int = attrs.field(default=256, validator=_at_least(1))
    """Appends sent to one follower and not acknowledged. Default: 256."""
    max_inflight_bytes: int = attrs.field(default=16 * MIB, validator=_at_least(1024))
    """The same in bytes of entries. Default: 16 MiB."""
    max_uncommitted_bytes: int = attrs.field(default=1 << 30, validator=_at_least(1024))
    """Payload of a group proposed and not yet applied; above it: `ProposalDropped`. Default: 1 GiB."""
    max_host_uncommitted_bytes: int = attrs.field(default=1 << 31, validator=_at_least(1024))
    """The same of all groups on this host together: what was proposed here and has no outcome yet, and
    what other members proposed to the leaders here. Above it: `ProposalDropped`. Default: 2 GiB."""
    max_proposal_bytes: int = attrs.field(default=MIB, validator=_at_least(1))
    """Size of one proposal; above it: `ProposalTooLarge`. Default: 1 MiB."""
    max_queued_proposals: int = attrs.field(default=65536, validator=_at_least(1))
    """Proposals of a group not yet handed to raft; above it: `ProposalDropped`. Default: 65536."""

    max_queued_events: int = attrs.field(default=65536, validator=_at_least(1))
    """Events that a reader of `Host.events` has not read; above it the oldest go. Default: 65536."""

    snapshot_interval_entries: int = attrs.field(default=10_000, validator=_at_least(1))
    """Applied entries between automatic snapshots of a group. Default: 10,000."""
    snapshot_interval_bytes: int = attrs.field(default=64 * MIB, validator=_at_least(1024))
    """The same in bytes of entries; whichever comes first. Default: 64 MiB."""
    snapshot_keep_entries: int = attrs.field(default=1_000, validator=_at_least(0))
    """Entries kept below a snapshot for slow followers. Default: 1,000."""
    max_snapshot_files: int = attrs.field(default=5, validator=_at_least(0))
    """Snapshot files of a group kept beyond the current one. Default: 5."""
    max_snapshots_sent: int = attrs.field(default=2, validator=_at_least(1))
    """Snapshots sent to other hosts at a time; others wait their turn. Default: 2."""
    max_snapshots_received: int = attrs.field(default=4, validator=_at_least(1))
    """Snapshots received at a time; other senders are told to come later. Default: 4."""

    segment_bytes: int = attrs.field(default=64 * MIB, validator=_at_least(64 * 1024))
    """Size of a log segment. Default: 64 MiB. Minimum: 64 KiB."""
    max_log_bytes: int = attrs.field(default=1 << 30, validator=_at_least(256 * 1024))
    """Size of the whole log above which stragglers are rewritten. Default: 1 GiB."""
    cache_bytes: int = attrs.field(default=64 * MIB, validator=_at_least(0))
    """Recent entries kept in memory, all groups together. Default: 64 MiB."""
    recovery: RecoveryMode = attrs.field(
        default=RecoveryMode.TORN_TAIL, converter=_recovery_mode, validator=_kind(RecoveryMode)
    )
    """What to do with a torn or damaged log. Default: TORN_TAIL."""
    slow_sync_s: float = attrs.field(default=1.0, validator=_at_least(0.001))
    """How long a write and sync of the log may take before `SyncSlow` is told. Default: 1 s."""
    max_pass_s: float = attrs.field(default=0.005, validator=_at_least(0.0001, finite=True))
    """Time a scheduler pass may take before it lets others run. Default: 5 ms."""
    drain_s: float = attrs.field(default=10.0, validator=_at_least(0))
    """How long closing waits for pending work. Default: 10 s."""
    tls: TlsConfig | None = attrs.field(default=None, validator=attrs.validators.optional(_kind(TlsConfig)))
    """Mutual TLS between hosts. Default: cleartext, for networks that may be trusted."""

    admin_token: str | None = attrs.field(default=None, validator=_token, repr=False)
    """What clients of the admin API send as `Authorization: Bearer …`; from 16 characters. Default: none."""
    admin_token_file: str | None = attrs.field(default=None, validator=attrs.validators.optional(_not_empty))
    """A file with that token alone, read when the host opens; instead of `admin_token`. Default: none."""
    http_tls: TlsConfig | None = attrs.field(
        default=None, validator=attrs.validators.optional(_kind(TlsConfig))
    )
    """Mutual TLS on `http`: only who has a certificate of its `ca` gets in. Default: cleartext."""

    def __attrs_post_init__(self) -> None:
        if self.heartbeat_ticks >= self.election_ticks:
            raise ConfigError(
                "heartbeat_ticks",
                f"{self.heartbeat_ticks} is not below election_ticks, {self.election_ticks}",
            )
        if self.max_inflight_bytes < self.max_message_bytes:
            raise ConfigError("max_inflight_bytes", "must hold at least one message (max_message_bytes)")
        if self.read_mode is ReadMode.LEASE and not self.check_quorum:
            raise ConfigError("read_mode", "lease reads need check_quorum")
        if self.max_log_bytes < 4 * self.segment_bytes:
            raise ConfigError("max_log_bytes", "must be at least four segments (segment_bytes)")
        if self.admin_token is not None and self.admin_token_file is not None:
            raise ConfigError("admin_token_file", "cannot be given together with admin_token")


def read_token(path: str | os.PathLike[str], field: str = "admin_token_file") -> str:
    """The token in the file at `path`, without the white space around it. Blocks on the disk.

    Raises:
        ConfigError: The file cannot be read, or what it holds is no token. Names `field`, and the file.
    """
    try:
        with open(path, "rb") as file:
            token = file.read(TOKEN_CHARS_MAX + 1024).decode("ascii", "replace").strip()
    except OSError as error:
        raise ConfigError(field, f"cannot read {os.fspath(path)}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path
        raise ConfigError(field, f"cannot read {path!r}: {error}") from None
    if _TOKEN.fullmatch(token) is None:
        raise ConfigError(
            field,
            f"{os.fspath(path)} must hold one token of {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} characters "
            "out of A-Z a-z 0-9 - . _ ~ + / =",
        )
    return token


def load_config(path: str | os.PathLike[str]) -> HostConfig:
    """Read a `HostConfig` from a TOML file with the same field names.

    Raises:
        ConfigError: The file cannot be read, is not TOML, or a field is unknown or wrong.
    """
    return config_from(read_toml(path))


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Raises: ConfigError when `path` cannot be read or is not TOML."""
    path = os.fspath(path)  # open() takes a number for a descriptor, reads from it and closes it
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError("config", f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("config", f"{path} is not TOML: {error}") from None
    except ValueError as error:  # a NUL in the path
        raise ConfigError("config", f"cannot read {path!r}: {error}") from None


def config_from(values: dict[str, Any]) -> HostConfig:
    """Make a `HostConfig` from plain values; `tls` and `http_tls` are tables of their own.

    Raises:
        ConfigError: A field is unknown, missing or wrong.
    """
    known = {field.name: field for field in attrs.fields(HostConfig)}
    for name in values:
        if name not in known:
            raise ConfigError(name, "no such field")
    for name, field in known.items():
        if field.default is attrs.NOTHING and name not in values:
            raise ConfigError(name, "is required")
    tables: dict[str, Any] = {
        name: _tls_from(name, values[name]) for name in ("tls", "http_tls") if name in values
    }
    return HostConfig(**{**values, **tables})


def _tls_from(field: str, table: Any) -> Any:
    """What is no table is left to the check of the field itself."""
    if not isinstance(table, dict):
        return table
    for name in table:
        if name not in {"cert", "key", "ca"}:
            raise ConfigError(f"{field}.{name}", "no such field")
    for name in ("cert", "key", "ca"):
        if name not in table:
            raise ConfigError(f"{field}.{name}", "is required")
    return TlsConfig(**table)
