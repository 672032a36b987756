"""Who talks to whom: processes under mutual TLS, those that do not belong to them, and other programs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme

from multiraft import TlsConfig
from tests.cluster.fleet import (
    GROUP,
    FleetHost,
    Refused,
    command,
    fleet,
    members_of,
    until,
    wait_leader,
    wait_ready,
)
from tests.transport.certificates import make_files

pytestmark = pytest.mark.slow

COLORS = re.compile(r"\x1b\[[0-9;]*m")


def reasons(host: FleetHost, event: str) -> list[str]:
    """The lines of its log about an event."""
    return [line for line in COLORS.sub("", host.log).splitlines() if event in line]


async def wait_reason(host: FleetHost, event: str, reason: str) -> None:
    async def told() -> bool:
        return any(reason in line for line in reasons(host, event))

    try:
        await until(told)
    except AssertionError:
        pytest.fail(f"{host} does not say {event!r} because {reason!r}, but {reasons(host, event)}")


async def agree(hosts: Sequence[FleetHost], members: Sequence[Sequence[dict[str, object]]]) -> None:
    """A group, of which each host is given a list of its own; every host writes, and all read it."""
    for host, listed in zip(hosts, members, strict=True):
        await host.post("groups", id=GROUP, members=listed)
    await wait_leader(hosts)
    for host in hosts:
        await wait_ready(host)
    for writer in hosts:
        await until(lambda writer=writer: written(writer))  # type: ignore[misc]
        for reader in hosts:
            assert await until(lambda reader=reader: reader.value("key")) == writer.name  # type: ignore[misc]


async def written(host: FleetHost) -> bool:
    await host.put("key", host.name)
    return True


def tls_setting(files: TlsConfig) -> str:
    return f'tls={{cert="{files.cert}", key="{files.key}", ca="{files.ca}"}}'


async def test_three_under_mutual_tls_and_three_that_do_not_belong(tmp_path: Path) -> None:
    """Each pair that does not talk says why, in the log of either process."""
    ours, theirs = trustme.CA(), trustme.CA()
    async with fleet(tmp_path, 6, start=False) as hosts:
        *good, foreign, expired, plain = hosts
        for host in good:
            host.settings.append(tls_setting(make_files(tmp_path / f"{host.name}.tls", ours)))
        # One authority is not known to the others, who are known to it.
        files = make_files(tmp_path / "foreign.tls", theirs, trusts=(ours, theirs))
        foreign.settings.append(tls_setting(files))
        expired.settings.append(tls_setting(make_files(tmp_path / "expired.tls", ours, expired=True)))
        # Written with a scheme, an address names the same host; TLS is by configuration alone.
        good[1].settings.append(f"advertise=https://{good[1].address}")
        for host in hosts:
            host.start()
        for host in hosts:
            await host.wait_up()
        listed = members_of(good)
        listed[0]["address"] = f"https://{good[0].address}"
        await agree(good, [listed, members_of(good), listed])

        first = good[0]
        for group, other in enumerate((foreign, expired, plain), start=GROUP + 1):
            for host in (first, other):
                await host.post("groups", id=group, members=members_of([first, other]))
        here, there = "its certificate is refused here: ", "it refuses this host's certificate: "
        unknown, out = "no authority in {}tls.ca has issued it", "it has expired"
        for other, ours_says, other_says in (
            (foreign, here + unknown.format(""), there + unknown.format("its ")),
            (expired, here + out, there + out),
            (
                plain,
                "it does not speak TLS, and this host nothing else; set tls on both, or on neither",
                "it speaks TLS, and this host does not; set tls on both, or on neither",
            ),
        ):
            await wait_reason(first, "lane closed", ours_says)
            await wait_reason(first, "connection refused", ours_says)
            await wait_reason(other, "lane closed", f"{first.address}: {other_says}")
            await wait_reason(other, "connection refused", other_says)
        assert reasons(expired, "this host's own certificate will not do")
        await until(lambda: written(good[2]))
        assert await until(lambda: first.value("key")) == good[2].name


@asynccontextmanager
async def web_server() -> AsyncIterator[str]:
    """Another program that speaks HTTP; its address."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await stream.receive_some()
                await stream.send_all(
                    b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 0\r\n"
                    b"Connection: close\r\n\r\n"
                )
                await stream.send_eof()
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        yield f"127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_addresses_with_and_without_a_scheme_and_a_stranger_at_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three processes that are told of each other in every way; what is no host of ours is named as such."""
    async with web_server() as stranger, fleet(tmp_path, 3, start=False) as hosts:
        hosts[0].settings.append(f"listen=http://{hosts[0].address}")
        hosts[1].settings.append(f"advertise=http://{hosts[1].address}/")
        for host in hosts:
            host.start()
        for host in hosts:
            await host.wait_up()
        bare = members_of(hosts)
        schemed = [{**each, "address": f"http://{each['address']}"} for each in bare]
        await agree(hosts, [bare, schemed, [*bare[:1], *schemed[1:]]])

        second = GROUP + 1
        await hosts[0].post("groups", id=second)
        join = ("join", second, "--host", hosts[1].http, "--via")
        assert await command(*join, f"http://{hosts[0].address}") == 0

        for wrong in (stranger, f"http://{stranger}", hosts[0].http):
            capsys.readouterr()
            assert await command("join", 9, "--host", hosts[2].http, "--via", wrong) == 1
            assert "is not a multiraft host" in capsys.readouterr().err
        listed = [*members_of(hosts[:2]), {"id": 3, "address": stranger}]
        for host in hosts[:2]:
            await host.post("groups", id=10, members=listed)
        named = f"{stranger} answers, but is not a multiraft host of cluster"
        for host in hosts[:2]:
            await wait_reason(host, "lane closed", named)
        await wait_leader(hosts[:2], 10)
        assert await command("status", "--host", hosts[0].http) == 0
        assert "is not a multiraft host" in capsys.readouterr().out
        with pytest.raises(Refused):
            await hosts[2].group(9)
