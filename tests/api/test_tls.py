"""Hosts that trust each other by certificates, and hosts that do not."""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import structlog.testing
import trio
import trustme

from multiraft import ConfigError, Host, HostConfig, Member, TlsConfig, open_host
from tests.api.programs import (
    PATIENCE_S,
    Ledger,
    change,
    create_on,
    follower_of,
    host_config,
    leader_of,
    members_on,
    until,
)
from tests.api.test_three_hosts import free_ports
from tests.transport.certificates import make_files

pytestmark = pytest.mark.slow  # real sockets, files and elections

Lines = Sequence[MutableMapping[str, Any]]


@pytest.fixture(scope="module")
def ours() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def theirs() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def open_all(*configs: HostConfig) -> AsyncIterator[list[Host]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(open_host(config, machines=lambda _group: Ledger()))
            for config in configs
        ]


def three(folder: Path, authority: trustme.CA, **more: Any) -> list[HostConfig]:
    """On fixed ports, each with a certificate of its own."""
    return [
        host_config(
            folder,
            name,
            listen=f"https://127.0.0.1:{port}",
            tls=make_files(folder / f"{name}.tls", authority),
            **more,
        )
        for name, port in zip("abc", free_ports(3), strict=True)
    ]


async def test_three_hosts_agree_and_any_of_them_answers(tmp_path: Path, ours: trustme.CA) -> None:
    async with open_all(*three(tmp_path, ours)) as hosts:
        groups = await create_on(hosts, 7)
        follower = follower_of(groups)
        with trio.fail_after(PATIENCE_S):
            for number, group in enumerate(groups, start=1):
                assert await group.propose(change(ann=1)) == {"ann": number}
                assert await group.query("ann") == number
            await follower.read_barrier()
            results = await follower.propose_many([change(ann=1)] * 100)
            assert results == [{"ann": number} for number in range(4, 104)]
            big = b'{"bob":' + b" " * 900_000 + b"5}"
            assert await follower.propose(big) == {"bob": 5}
            await leader_of(groups).transfer_leadership(follower.member_id)
            assert await groups[0].query("ann") == 103
        await until(lambda: [group.stale_query("bob") for group in groups] == [5] * 3)


async def test_a_late_member_gets_a_snapshot(tmp_path: Path, ours: trustme.CA) -> None:
    """And all of it survives a restart, under the same certificates."""
    configs = three(tmp_path, ours, snapshot_interval_entries=50, snapshot_keep_entries=10)
    # With and without a scheme: all of them name the same hosts.
    members = [
        Member(number, config.listen if number == 2 else config.listen.removeprefix("https://"))
        for number, config in enumerate(configs, start=1)
    ]
    async with open_all(*configs[:2]) as hosts:
        groups = [await host.create_group(7, members=members) for host in hosts]
        written = 0
        with trio.fail_after(PATIENCE_S):
            # Whichever of them leads must have compacted what the late one would need.
            while any(group.status().first_index <= 200 for group in groups):
                await groups[0].propose(change(ann=1))
                written += 1
        async with open_all(configs[2]) as [late]:
            group = await late.create_group(7, members=members)
            with trio.fail_after(PATIENCE_S):
                assert await group.query("ann") == written
            assert group.status().first_index > 200
    async with open_all(*configs) as hosts:
        for host in hosts:
            with trio.fail_after(PATIENCE_S):
                assert await host.group(7).query("ann") == written


# --- trouble -------------------------------------------------------------------------------------


def reasons(lines: Lines, event: str) -> list[str]:
    return [line["reason"] for line in lines if line["event"] == event]


async def both_logs(dialing: HostConfig, dialed: HostConfig) -> tuple[list[str], list[str]]:
    """What the two log about each other, once each lane has been tried."""
    with structlog.testing.capture_logs() as lines:
        async with open_all(dialing, dialed) as hosts:
            # Only one of them knows the group, so only that one dials.
            group = await hosts[0].create_group(7, members=members_on(hosts))
            await until(
                lambda: len(reasons(lines, "lane closed")) == 2 and reasons(lines, "connection refused")
            )
            assert group.leader is None
    closed = reasons(lines, "lane closed")
    return [each.removeprefix(f"{hosts[1].address}: ") for each in closed], reasons(
        lines, "connection refused"
    )


async def test_both_sides_say_why_they_do_not_talk(
    tmp_path: Path, ours: trustme.CA, theirs: trustme.CA
) -> None:
    files = {
        "good": make_files(tmp_path / "good", ours),
        "foreign": make_files(tmp_path / "foreign", theirs, trusts=(ours, theirs)),
        "expired": make_files(tmp_path / "expired", ours, expired=True),
        "misnamed": make_files(tmp_path / "misnamed", ours, name="elsewhere.example"),
        "none": None,
    }
    foreign = "no authority in {}tls.ca has issued it"
    expired = "it has expired, or its authority's has"
    here, there = "its certificate is refused here: ", "it refuses this host's certificate: "
    only = "it speaks TLS, and this host does not; set tls on both, or on neither"
    no = "it does not speak TLS, and this host nothing else; set tls on both, or on neither"
    for dialing, dialed, client_says, server_says in [
        ("good", "foreign", here + foreign.format(""), there + foreign.format("its ")),
        ("foreign", "good", there + foreign.format("its "), here + foreign.format("")),
        ("good", "expired", here + expired, there + expired),
        ("expired", "good", there + expired, here + expired),
        (
            *("good", "misnamed", f"{here}it is not for '127.0.0.1'"),
            f"{there}it is not for the name or address that was dialed, or not valid yet",
        ),
        ("none", "good", only, no),
        ("good", "none", no, only),
    ]:
        pair = f"{dialing}-{dialed}"
        closed, refused = await both_logs(
            host_config(tmp_path, f"{pair}-1", tls=files[dialing]),
            host_config(tmp_path, f"{pair}-2", tls=files[dialed]),
        )
        assert closed == [client_says] * 2, pair
        assert refused == [server_says], pair


async def test_a_host_that_is_mended_is_found_again(tmp_path: Path, ours: trustme.CA) -> None:
    """Nothing but that host is restarted: links to it are tried again for ever."""
    configs = three(tmp_path, ours)[:2]
    bad = attrs.evolve(configs[1], tls=make_files(tmp_path / "bad", ours, expired=True))
    members = [Member(number, config.listen) for number, config in enumerate(configs, start=1)]
    with structlog.testing.capture_logs() as lines:
        async with open_all(configs[0]) as [good]:
            group = await good.create_group(7, members=members)
            async with open_all(bad) as [other]:
                await other.create_group(7, members=members)
                await until(
                    lambda: sum("it has expired" in each for each in reasons(lines, "lane closed")) == 4
                )
            assert [line["reason"] for line in lines if "own certificate" in line["event"]] == [
                "it has expired, or its authority's has"
            ]
            async with open_all(configs[1]) as [mended]:
                with trio.fail_after(PATIENCE_S):
                    assert await group.propose(change(ann=1)) == {"ann": 1}
                    assert await mended.group(7).query("ann") == 1


async def test_a_plain_http_client_is_told(tmp_path: Path, ours: trustme.CA) -> None:
    config = host_config(tmp_path, "a", tls=make_files(tmp_path / "tls", ours))
    with structlog.testing.capture_logs() as lines:
        async with open_all(config) as [host], httpx.AsyncClient(trust_env=False) as client:
            for _ in range(2):
                answer = await client.get(f"http://{host.address}/")
                assert (answer.status_code, answer.text) == (400, "This port speaks HTTPS only.\n")
            with pytest.raises(httpx.ConnectError):  # neither trusts the other
                await client.get(f"https://{host.address}/")
            await until(lambda: len(reasons(lines, "connection refused")) == 2)  # one for each reason


async def test_files_that_cannot_be_used_leave_no_trace(tmp_path: Path, ours: trustme.CA) -> None:
    good = make_files(tmp_path / "tls", ours)
    for name in ("cert", "key", "ca"):
        files: TlsConfig = attrs.evolve(good, **{name: str(tmp_path / "missing.pem")})
        with pytest.raises(ConfigError, match=r"cannot read .*missing\.pem: No such file") as caught:
            async with open_all(host_config(tmp_path, "a", tls=files)):
                pass
        assert caught.value.field == f"tls.{name}"
    assert not (tmp_path / "a").exists()
