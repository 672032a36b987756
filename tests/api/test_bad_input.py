"""What careless programs pass: each gets an error that says what was wrong, at once, and nothing changes."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from multiraft import (
    AddressInUse,
    ConfigError,
    Entry,
    GroupNotFound,
    HostConfig,
    Member,
    MembershipRejected,
    NotMember,
    ProposalDropped,
    ProposalTooLarge,
    Role,
    StateMachineFailed,
    StorageFailed,
    TlsConfig,
    open_host,
)
from tests.api.programs import PATIENCE_S, Ledger, change, host_config

pytestmark = pytest.mark.slow  # real sockets, files and elections

HERE = "@"
"""Stands for the host's own address in the tables below."""


async def opens(config: Any, machines: Any = lambda _group: Ledger()) -> None:
    with trio.fail_after(PATIENCE_S):
        async with open_host(config, machines):
            pass


# --- opening -------------------------------------------------------------------------------------


async def test_what_is_no_config_or_no_factory(tmp_path: Path) -> None:
    configs: list[Any] = [None, {}, "host.toml"]
    for config in configs:
        with pytest.raises(ConfigError, match="is not a HostConfig"):
            await opens(config)
    factories: list[Any] = [None, Ledger(), {}]
    for machines in factories:
        with pytest.raises(ConfigError, match="machines"):
            await opens(host_config(tmp_path, "a"), machines)


async def test_a_data_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("file", "file/below", "x" * 300):
        with pytest.raises(StorageFailed, match=name[:200]):
            await opens(host_config(tmp_path, name))
    with pytest.raises(StorageFailed, match="/proc/nobody"):  # not even root may make it
        await opens(HostConfig(data_dir="/proc/nobody", listen="127.0.0.1:0"))


async def test_an_unwritable_folder(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write anywhere, nobody may not
    try:
        with pytest.raises(StorageFailed, match="locked"):
            await opens(host_config(locked, "a"))
    finally:
        os.seteuid(user)


async def test_addresses_that_cannot_be_listened_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        taken = f"127.0.0.1:{busy.getsockname()[1]}"
        for listen in (taken, "no.such.host.invalid:7001", "192.0.2.1:7001"):
            with pytest.raises(AddressInUse, match=listen):
                await opens(host_config(tmp_path, "a", listen=listen))
    await opens(host_config(tmp_path, "a"))  # none of them kept the folder


async def test_tls_is_never_cleartext(tmp_path: Path) -> None:
    files = TlsConfig(cert="/no/cert.pem", key="/no/key.pem", ca="/no/ca.pem")
    with pytest.raises(ConfigError, match=r"tls\.cert: cannot read /no/cert\.pem"):
        await opens(host_config(tmp_path, "a", tls=files))


# --- groups --------------------------------------------------------------------------------------


async def test_ids_and_limits_that_are_none(tmp_path: Path) -> None:
    wrong_ids: list[Any] = [None, "7", 0, -1, 1.0, True, 1 << 63, [1], b"1"]
    wrong_groups: list[Any] = [None, [], [5], 5, "abc"]
    not_here: list[Any] = [None, "7", 7, [1], {}]
    wrong_limits: list[dict[str, Any]] = [
        {"snapshot_interval": 5},
        {"max_proposal_bytes": "1"},
        {"max_proposal_bytes": 0},
        {"max_proposal_bytes": None},
        {"snapshot_interval_entries": 1.5},
        {"max_uncommitted_bytes": True},
        {"leader_wait_s": 1},
    ]
    async with open_host(host_config(tmp_path, "a"), lambda _group: Ledger()) as host:
        for group_id in wrong_ids:
            with pytest.raises(ConfigError, match="group_id"):
                await host.create_group(group_id)
        for limits in wrong_limits:
            with pytest.raises(ConfigError) as caught:
                await host.create_group(5, **limits)
            assert caught.value.field in limits
        for wrong in wrong_groups:
            with pytest.raises(ConfigError, match="groups"):
                await host.create_groups(wrong)
        assert await host.create_groups({}) == {}
        for missing in not_here:
            with pytest.raises(GroupNotFound) as lost:
                host.group(missing)
            assert repr(missing) in str(lost.value)
            with pytest.raises(GroupNotFound):
                await host.remove_group(missing)
        assert not host.groups


MEMBERS: list[tuple[Any, str]] = [
    ([], "at least one voter"),
    (5, "not a list of Members"),
    (Member(1, HERE), "not a list of Members"),
    ("abc", "'a' is not a Member"),
    ([1], "1 is not a Member"),
    ([(1, "a:1")], "is not a Member"),
    ({1: "a:1"}, "1 is not a Member"),
    ([Member(1, HERE), Member(1, "a:1")], "member id 1 is there twice"),
    ([Member(1, HERE), Member(2, HERE)], "is there twice: 1 and 2"),
    ([Member(1, HERE), Member(2, "http://" + HERE)], "is there twice: 1 and 2"),
    ([Member(0, HERE)], "member id 0"),
    ([Member(-1, HERE)], "member id -1"),
    ([Member(1 << 63, HERE)], "member id 9223372036854775808"),
    ([Member("1", HERE)], "member id '1'"),  # type: ignore[arg-type]  # refused, that is the test
    ([Member(1.5, HERE)], r"member id 1\.5"),  # type: ignore[arg-type]  # the same
    ([Member(True, HERE)], "member id True"),
    ([Member(1, None)], "None is not a string"),  # type: ignore[arg-type]  # the same
    ([Member(1, b"a:1")], "b'a:1' is not a string"),  # type: ignore[arg-type]  # the same
    ([Member(1, "nowhere")], "'nowhere' is not host:port"),
    ([Member(1, HERE), Member(2, "other:0")], "nobody can dial port 0"),
    ([Member(1, HERE, "voter")], "'voter' is not a Role"),  # type: ignore[arg-type]  # the same
    ([Member(1, HERE, Role.LEARNER)], "at least one voter"),
    ([Member(1, HERE, Role.REMOVED)], "cannot start as removed"),
]


async def test_lists_of_members_that_make_no_group(tmp_path: Path) -> None:
    async with open_host(host_config(tmp_path, "a"), lambda _group: Ledger()) as host:

        def named(member: Any) -> Any:
            if isinstance(member, Member) and isinstance(member.address, str):
                return Member(member.id, member.address.replace(HERE, host.address), member.role)
            return member

        for members, says in MEMBERS:
            given = [named(each) for each in members] if isinstance(members, list) else members
            with pytest.raises(ConfigError, match=says) as caught:
                await host.create_group(5, members=given)
            assert caught.value.field == "members"
        with pytest.raises(NotMember, match=rf"{host.address}.*a:1"):
            await host.create_groups({5: [Member(1, host.address)], 6: [Member(1, "a:1")]})
        assert not host.groups, "all or nothing"


async def test_proposals_that_are_none(tmp_path: Path) -> None:
    async with open_host(host_config(tmp_path, "a"), lambda _group: Ledger()) as host:
        group = await host.create_group(5)
        wrong: list[Any] = ["text", None, 5, bytearray(b"{}"), memoryview(b"{}"), [b"{}"]]
        for data in wrong:
            with pytest.raises(TypeError, match=f"bytes, not {type(data).__name__}"):
                await group.propose(data)
        many: list[tuple[Any, str]] = [
            (None, "NoneType"),
            (5, "int"),
            ("abc", "not as str"),
            (b"abc", "not as bytes"),
            ([b"{}", "x"], "not str"),
            ([None], "not NoneType"),
        ]
        for several, says in many:
            with pytest.raises(TypeError, match=says):
                await group.propose_many(several)
        with pytest.raises(ProposalTooLarge) as large:
            await group.propose(bytes(2 << 20))
        assert (large.value.size, large.value.limit) == (2 << 20, 1 << 20)
        with pytest.raises(ProposalDropped, match="max_queued_proposals"):
            await group.propose_many([b"{}"] * 100_000)
        targets: list[Any] = [None, "1", 99, [1], group.leader]
        for to in targets:
            with pytest.raises(MembershipRejected, match="voter"):
                await group.transfer_leadership(to)
        assert await group.propose(change(ann=1)) == {"ann": 1}, "none of it was proposed"
        assert await group.propose_many(iter([change(ann=1)])) == [{"ann": 2}]  # type: ignore[arg-type]  # works


async def test_a_proposal_larger_than_a_segment_of_the_log(tmp_path: Path) -> None:
    config = host_config(
        tmp_path, "a", segment_bytes=1 << 16, max_log_bytes=1 << 20, max_proposal_bytes=4 << 20
    )
    for expected in (1, 2):
        async with open_host(config, lambda _group: Ledger()) as host:
            group = host.groups.get(5) or await host.create_group(5)
            assert await group.propose(change(ann=1) + b" " * (3 << 20)) == {"ann": expected}


# --- state machines ------------------------------------------------------------------------------


async def test_a_factory_that_fails_leaves_no_group_behind(tmp_path: Path) -> None:
    broken: list[Any] = [lambda _group: 1 // 0, lambda _group: None, lambda: Ledger()]
    for number, factory in enumerate(broken):
        config = host_config(tmp_path, str(number))
        async with open_host(config, factory) as host:
            for _ in range(2):
                with pytest.raises(StateMachineFailed, match="the machine factory failed"):
                    await host.create_group(5)
            assert not host.groups
        async with open_host(config, lambda _group: Ledger()) as host:
            assert await (await host.create_group(5)).propose(change(ann=1)) == {"ann": 1}
        with pytest.raises((ZeroDivisionError, TypeError)):  # what the program's own factory raised, bare
            await opens(config, factory)


class Lazy(Ledger):
    """Its results have no length, and its snapshot has no bytes."""

    def apply(self, entries: Sequence[Entry]) -> Any:
        return (None for _ in entries)

    def snapshot(self) -> Any:
        return ["text"]


class Nothing(Ledger):
    def apply(self, entries: Sequence[Entry]) -> Any:
        assert entries

    def snapshot(self) -> Any:
        return None


class OneChunk(Lazy):
    def snapshot(self) -> Any:
        return b"a snapshot is an iterable of chunks"


class LateTrouble(Lazy):
    def snapshot(self) -> Iterable[bytes]:
        yield b"first"
        raise OSError(errno.EIO, "the second chunk is gone")


@pytest.mark.parametrize("kind", [Lazy, Nothing, OneChunk, LateTrouble])
async def test_machines_that_break_their_promises_stop_their_own_group(
    tmp_path: Path, kind: Callable[[], Ledger]
) -> None:
    async with open_host(
        host_config(tmp_path, "a"), lambda group: Ledger() if group == 1 else kind()
    ) as host:
        fine, proposed, captured = [await host.create_group(number) for number in (1, 2, 3)]
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: proposed.propose(change(ann=1)),
            captured.snapshot,
        ]
        for call in calls:
            with trio.fail_after(PATIENCE_S), pytest.raises(StateMachineFailed, match=r"group \d"):
                await call()
        assert await fine.propose(change(ann=1)) == {"ann": 1}
