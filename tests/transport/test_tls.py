"""Links with mutual TLS, and what both sides say when there can be none."""

from __future__ import annotations

import gc
import itertools
import ssl
from pathlib import Path

import attrs
import pytest
import structlog.testing
import trio
import trustme
from cryptography.hazmat.primitives import serialization

from multiraft.config import TlsConfig
from multiraft.errors import ConfigError
from multiraft.messages import Message
from multiraft.transport.http import HttpTransport
from multiraft.transport.tls import CUT_OFF, NOT_TLS, ONLY_TLS, Tls, load_tls, own_fault
from tests.transport.certificates import make_files
from tests.transport.helpers import BULK, LIVENESS, QUICK, Recorder, append, beat, hello, serve

FOREIGN = "no authority in tls.ca has issued it"
FOREIGN_THERE = "no authority in its tls.ca has issued it"
EXPIRED = "it has expired, or its authority's has"
REFUSED_HERE = "its certificate is refused here: "
REFUSED_THERE = "it refuses this host's certificate: "


@pytest.fixture(scope="module")
def ours() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def theirs() -> trustme.CA:
    return trustme.CA()


@pytest.mark.slow
async def test_frames_pass_both_ways_under_mutual_tls(tmp_path: Path, ours: trustme.CA) -> None:
    """Of every size: a frame of a megabyte is many records of TLS."""
    a, b = Recorder(), Recorder()
    tls = [load_tls(make_files(tmp_path / name, ours)) for name in "ab"]
    async with serve(hello(1), a, tls=tls[0]) as one, serve(hello(2), b, tls=tls[1]) as two:
        one.connect(two.address)
        two.connect(one.address)
        await a.until(lambda r: len(r.ups) == 2)
        await b.until(lambda r: len(r.ups) == 2)
        for payload in (b"x", b"y" * 1_000_000):
            assert one.send(two.address, BULK, [append(1, [payload])])
        assert two.send(one.address, LIVENESS, [beat(2)])
        await b.until(lambda r: r.count(BULK) == 2)
        await a.until(lambda r: r.count(LIVENESS) == 1)
        big = list(b.messages(BULK))[1][2]
        assert isinstance(big, Message)
        assert big.runs[0].size == 1_000_000


async def test_names_are_checked_too(tmp_path: Path, ours: trustme.CA) -> None:
    a, b = Recorder(), Recorder()
    tls = load_tls(make_files(tmp_path, ours, name="localhost"))
    async with serve(hello(1), a, tls=tls) as one, serve(hello(2), b, tls=tls) as two:
        port = two.address.rpartition(":")[2]
        one.connect(f"https://localhost:{port}")
        await a.until(lambda r: len(r.ups) == 2)
        one.connect(f"https://127.0.0.1:{port}")
        await a.until(lambda r: len(r.downs) == 2)
        assert a.downs[0][2] == f"127.0.0.1:{port}: {REFUSED_HERE}it is not for '127.0.0.1'"


# --- both sides say why --------------------------------------------------------------------------


async def both_logs(dialing: Tls | None, dialed: Tls | None) -> tuple[str, str]:
    """What the dialing and the dialed side log about each other: the same whatever the number of tries."""
    a = Recorder()
    with structlog.testing.capture_logs() as lines:
        async with serve(hello(1), a, tls=dialing) as one, serve(hello(2), Recorder(), tls=dialed) as two:
            one.connect(two.address)
            await a.until(lambda r: len(r.downs) == 2)
            with trio.fail_after(5):
                while not any(line["event"] == "connection refused" for line in lines):  # noqa: ASYNC110 - a log
                    await trio.sleep(0.005)
            assert a.ups == []
    closed = [line for line in lines if line["event"] == "lane closed"]
    refused = [line for line in lines if line["event"] == "connection refused"]
    assert {line["lane"] for line in closed} == {"BULK", "LIVENESS"}
    assert len(closed) == 2
    assert closed[0]["reason"] == closed[1]["reason"]
    assert {line["log_level"] for line in closed} == {"error"}
    assert len(lines) == 3
    assert refused[0]["peer"] == "127.0.0.1"
    assert refused[0]["log_level"] == "warning"
    return closed[0]["reason"].removeprefix(f"{two.address}: "), refused[0]["reason"]


async def test_a_host_of_another_authority(tmp_path: Path, ours: trustme.CA, theirs: trustme.CA) -> None:
    one = load_tls(make_files(tmp_path / "a", ours))
    two = load_tls(make_files(tmp_path / "b", theirs))
    assert await both_logs(one, two) == (REFUSED_HERE + FOREIGN, REFUSED_THERE + FOREIGN_THERE)


async def test_a_client_of_another_authority(tmp_path: Path, ours: trustme.CA, theirs: trustme.CA) -> None:
    """The client has shaken hands by then, so the refusal comes in place of an answer."""
    one = load_tls(make_files(tmp_path / "a", ours, trusts=(ours, theirs)))
    two = load_tls(make_files(tmp_path / "b", theirs))
    assert await both_logs(one, two) == (REFUSED_THERE + FOREIGN_THERE, REFUSED_HERE + FOREIGN)


async def test_expired_certificates(tmp_path: Path, ours: trustme.CA) -> None:
    good = load_tls(make_files(tmp_path / "a", ours))
    bad = load_tls(make_files(tmp_path / "b", ours, expired=True))
    assert await both_logs(good, bad) == (REFUSED_HERE + EXPIRED, REFUSED_THERE + EXPIRED)
    assert await both_logs(bad, good) == (REFUSED_THERE + EXPIRED, REFUSED_HERE + EXPIRED)


async def test_a_certificate_for_another_name(tmp_path: Path, ours: trustme.CA) -> None:
    good = load_tls(make_files(tmp_path / "a", ours))
    for name in ("127.0.0.2", "elsewhere.example"):
        bad = load_tls(make_files(tmp_path / name, ours, name=name))
        assert await both_logs(good, bad) == (
            f"{REFUSED_HERE}it is not for '127.0.0.1'",
            f"{REFUSED_THERE}it is not for the name or address that was dialed, or not valid yet",
        )


async def test_cleartext_to_a_tls_port(tmp_path: Path, ours: trustme.CA) -> None:
    assert await both_logs(None, load_tls(make_files(tmp_path, ours))) == (ONLY_TLS, NOT_TLS)


async def test_tls_to_a_cleartext_port(tmp_path: Path, ours: trustme.CA) -> None:
    assert await both_logs(load_tls(make_files(tmp_path, ours)), None) == (NOT_TLS, ONLY_TLS)


async def test_a_client_without_a_certificate(tmp_path: Path, ours: trustme.CA) -> None:
    bare = ssl.create_default_context()
    ours.configure_trust(bare)
    tls = load_tls(make_files(tmp_path, ours))
    assert await both_logs(attrs.evolve(tls, client=bare), tls) == (
        f"{REFUSED_THERE}none was sent",
        "it sent no certificate",
    )


async def test_a_client_that_can_only_do_an_old_tls(tmp_path: Path, ours: trustme.CA) -> None:
    tls = load_tls(make_files(tmp_path, ours))
    tls.server.minimum_version = ssl.TLSVersion.TLSv1_3
    old = load_tls(make_files(tmp_path, ours))
    old.client.maximum_version = ssl.TLSVersion.TLSv1_2
    words = "it has no version of TLS in common with this host, which takes 1.2 and later"
    assert await both_logs(old, tls) == (words, words)


# --- strangers -------------------------------------------------------------------------------------


async def exchange(transport: HttpTransport, request: bytes) -> bytes:
    """Everything that a port says to `request`, until it closes."""
    host, _, port = transport.address.rpartition(":")
    answer = b""
    with trio.fail_after(5):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(request)
            if not request.endswith(b"\n"):
                await stream.send_eof()
            async for chunk in stream:
                answer += chunk
    return answer


async def test_plain_http_is_told_and_logged_once(tmp_path: Path, ours: trustme.CA) -> None:
    with structlog.testing.capture_logs() as lines:
        async with serve(hello(1), Recorder(), tls=load_tls(make_files(tmp_path, ours))) as one:
            for _ in range(3):
                answer = await exchange(one, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
                assert answer.endswith(b"\r\n\r\nThis port speaks HTTPS only.\n")
    assert [(line["event"], line["reason"]) for line in lines] == [("connection refused", NOT_TLS)]


async def test_a_handshake_cut_short_and_one_of_garbage(tmp_path: Path, ours: trustme.CA) -> None:
    with structlog.testing.capture_logs() as lines:
        async with serve(hello(1), Recorder(), tls=load_tls(make_files(tmp_path, ours))) as one:
            assert await exchange(one, b"") == b""
            for partial in (b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\x00\x05garbage"):
                assert (await exchange(one, partial))[:2] in (b"\x15\x03", b"")  # an alert, at most
    assert [line["event"] for line in lines] == ["connection refused"] * 2
    assert lines[0]["reason"] == CUT_OFF
    assert lines[1]["reason"].startswith("the TLS handshake failed: ")


@pytest.mark.slow
async def test_silence_is_given_up_and_does_not_hold_up_closing(tmp_path: Path, ours: trustme.CA) -> None:
    bounds = attrs.evolve(QUICK, handshake_timeout_s=0.2)
    patient = attrs.evolve(QUICK, close_timeout_s=5)
    for tls in (None, load_tls(make_files(tmp_path, ours))):
        async with serve(hello(1), Recorder(), tls=tls, bounds=bounds) as one:
            host, _, port = one.address.rpartition(":")
            with trio.fail_after(5):
                async with await trio.open_tcp_stream(host, int(port)) as stream:
                    assert await stream.receive_some() == b""
        async with serve(hello(1), Recorder(), tls=tls, bounds=patient) as one:
            host, _, port = one.address.rpartition(":")
            stream = await trio.open_tcp_stream(host, int(port))
            while not one.connections:
                await trio.lowlevel.checkpoint()
            began = trio.current_time()
        assert trio.current_time() - began < patient.close_timeout_s / 2
        await stream.aclose()


async def test_a_handshake_that_is_cancelled_leaves_no_connection(tmp_path: Path, ours: trustme.CA) -> None:
    """Nor one for the garbage collector: the other side sees it end at once."""
    (silent,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    tls = load_tls(make_files(tmp_path, ours))
    gc.disable()
    try:
        async with silent, serve(hello(1), Recorder(), tls=tls) as transport:
            transport.connect(f"127.0.0.1:{silent.socket.getsockname()[1]}")
            accepted = [await silent.accept() for _ in range(2)]  # a lane each
            for stream in accepted:
                assert await stream.receive_some(1 << 16), "the first words of a handshake"
        for stream in accepted:
            with trio.fail_after(5):
                assert await stream.receive_some(1) == b""
            await stream.aclose()
    finally:
        gc.enable()


@pytest.mark.slow
async def test_a_refused_link_tries_again_without_spinning(tmp_path: Path, ours: trustme.CA) -> None:
    bounds = attrs.evolve(QUICK, retry_refused_s=0.4)
    dialed_at: list[float] = []
    enough = trio.Event()

    async def in_plain(stream: trio.SocketStream) -> None:
        dialed_at.append(trio.current_time())
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        if len(dialed_at) == 3:
            enough.set()
        await stream.aclose()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    a = Recorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, in_plain, listeners)
        tls = load_tls(make_files(tmp_path, ours))
        async with serve(hello(1), a, tls=tls, bounds=bounds) as one:
            assert not one.send(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}", BULK, [beat(1)])
            with trio.fail_after(5):
                await enough.wait()
        nursery.cancel_scope.cancel()
    assert len(a.downs) == 1, "one report, whatever the number of tries"
    assert a.downs[0][2].endswith(NOT_TLS)
    for earlier, later in itertools.pairwise(dialed_at):
        assert later - earlier >= 0.2


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["cert", "key", "ca"])
def test_files_that_cannot_be_used_are_named(tmp_path: Path, ours: trustme.CA, field: str) -> None:
    good = make_files(tmp_path, ours)
    garbage, broken = tmp_path / "garbage", tmp_path / "broken"
    garbage.write_bytes(b"\xff\0not pem")
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "empty").touch()
    for name, why in [
        ("missing", "No such file"), (".", "Is a directory"), ("garbage", "PEM"), ("empty", "PEM"),
        ("broken", "PEM"), ("nul\0", "null byte"),
    ]:  # fmt: skip
        path = str(tmp_path / name)
        with pytest.raises(ConfigError, match=why) as caught:
            load_tls(attrs.evolve(good, **{field: path}))
        assert caught.value.field == f"tls.{field}"
        assert path in caught.value.reason or repr(path) in caught.value.reason


def test_a_key_that_does_not_fit_or_is_encrypted(tmp_path: Path, ours: trustme.CA) -> None:
    one, two = make_files(tmp_path / "a", ours), make_files(tmp_path / "b", ours)
    with pytest.raises(ConfigError, match="is not the key of the certificate in") as caught:
        load_tls(attrs.evolve(one, key=two.key))
    assert caught.value.field == "tls.key"
    locked = tmp_path / "locked.key"
    locked.write_bytes(encrypted(Path(one.key).read_bytes()))
    with pytest.raises(ConfigError, match=r"locked\.key is encrypted") as caught:
        load_tls(attrs.evolve(one, key=str(locked)))
    assert caught.value.field == "tls.key"


def encrypted(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def test_contexts_demand_certificates(tmp_path: Path, ours: trustme.CA) -> None:
    tls = load_tls(make_files(tmp_path, ours))
    assert tls.server.verify_mode is tls.client.verify_mode is ssl.CERT_REQUIRED
    assert tls.client.check_hostname
    assert tls.server.minimum_version is tls.client.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_host_sees_when_its_own_certificate_will_not_do(
    tmp_path: Path, ours: trustme.CA, theirs: trustme.CA
) -> None:
    def fault(files: TlsConfig, host: str = "127.0.0.1") -> str | None:
        return own_fault(load_tls(files), host)

    assert fault(make_files(tmp_path, ours)) is None
    assert fault(make_files(tmp_path, ours, name="::1"), "[::1]") is None
    assert fault(make_files(tmp_path, ours), "localhost") == "it is not for 'localhost'"
    assert fault(make_files(tmp_path, ours, expired=True)) == EXPIRED
    assert fault(make_files(tmp_path, ours, trusts=(theirs,))) == FOREIGN
    assert "no certificate can be for" in str(fault(make_files(tmp_path, ours), ".a"))
