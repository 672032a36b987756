"""Whatever else may sit at the other end: other programs, garbage, silence, hostile clients."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import cbor2
import httpx
import pytest
import structlog.testing
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as serve_app
from quart_trio import QuartTrio

from multiraft.messages import Hello
from multiraft.transport import handshake
from multiraft.transport.bounds import Bounds
from multiraft.transport.client import ClientSession, Dialer, OneChunk
from multiraft.transport.frames import framed
from multiraft.transport.handshake import Ended
from multiraft.transport.http import HttpTransport
from tests.transport.helpers import BULK, QUICK, Recorder, beat, hello, open_lane, serve

Handler = Callable[[trio.SocketStream], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[str]:
    """The address of a server that does `handler` with every connection."""

    async def one(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                await handler(stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, one, listeners)
        yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def reason_of(address: str, bounds: Bounds = QUICK) -> str:
    """What a host says about what it found at `address`."""
    a = Recorder()
    async with serve(hello(1), a, bounds=bounds) as one:
        assert not one.send(address, BULK, [beat(1)])
        await a.until(lambda r: len(r.downs) > 0)
        assert a.ups == []
        return a.downs[0][2]


async def speak_http_1(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(
        b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nno\n"
    )
    await trio.sleep_forever()


async def send_garbage(stream: trio.SocketStream) -> None:
    await stream.send_all(random.Random(7).randbytes(5000))
    await trio.sleep_forever()


async def say_ssh(stream: trio.SocketStream) -> None:
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("handler", "what"),
    [
        (speak_http_1, "HTTP 404, text/plain"),
        (send_garbage, f"it says {random.Random(7).randbytes(20)!r}"),
        (say_ssh, "it says b'SSH-2.0-OpenSSH_9.2p'"),
    ],
)
async def test_another_program_is_named_as_such(handler: Handler, what: str) -> None:
    async with raw_server(handler) as address:
        reason = await reason_of(address, attrs.evolve(QUICK, handshake_timeout_s=0.1))
    assert reason == f"{address} answers, but is not a multiraft host of cluster 'orders' ({what})"


async def test_another_http_2_server_is_named_as_such() -> None:
    app = QuartTrio(__name__)
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None

    async with trio.open_nursery() as nursery:
        binds: list[str] = await nursery.start(serve_app, app, config)
        address = binds[0].removeprefix("http://")
        reason = await reason_of(address)
        assert reason == (
            f"{address} answers, but is not a multiraft host of cluster 'orders' (HTTP 404, text/html)"
        )
        nursery.cancel_scope.cancel()


async def test_closing_without_a_word_is_named_as_such() -> None:
    async def close(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async with raw_server(close) as address:
        reason = await reason_of(address)
    assert "closed the connection" in reason or "broke" in reason


async def test_a_silent_server_is_given_up() -> None:
    async def silence(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with raw_server(silence) as address:
        reason = await reason_of(address, attrs.evolve(QUICK, handshake_timeout_s=0.05))
    assert reason == f"{address} gave no answer in 0.05 s"


@pytest.mark.parametrize("seed", range(20))
async def test_a_server_that_answers_garbage_after_a_good_start_hurts_nobody(seed: int) -> None:
    """Settings of a real server, then noise: parsers of other projects meet it first."""
    noise = random.Random(seed)

    async def handler(stream: trio.SocketStream) -> None:
        await stream.send_all(bytes.fromhex("000000040000000000"))
        await stream.receive_some()
        for _ in range(20):
            size = noise.randrange(40)
            head = size.to_bytes(3, "big") + bytes([noise.randrange(10), noise.randrange(256)])
            await stream.send_all(head + noise.choice([0, 1, 3]).to_bytes(4, "big") + noise.randbytes(size))

    async with raw_server(handler) as address:
        assert await reason_of(address, attrs.evolve(QUICK, handshake_timeout_s=0.2))


# --- at our own port -------------------------------------------------------------------------------


async def still_serves(transport: HttpTransport, recorder: Recorder) -> None:
    """Another host can open a lane and be heard."""
    a = Recorder()
    before = recorder.count(BULK)
    async with serve(hello(9), a) as other:
        await open_lane(other, a, transport.address, BULK)
        assert other.send(transport.address, BULK, [beat(1)])
        await recorder.until(lambda r: r.count(BULK) == before + 1)


async def dial(transport: HttpTransport) -> trio.SocketStream:
    host, _, port = transport.address.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


@pytest.mark.parametrize(
    "garbage",
    [
        random.Random(3).randbytes(100_000),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.Random(4).randbytes(50_000),
        b"GET / HTTP/1.1\r\n\r\n" * 100,
        b"POST /multiraft/1/hello HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\nx",
        b"",
    ],
)
async def test_garbage_at_our_port_hurts_nobody(garbage: bytes) -> None:
    b = Recorder()
    async with serve(hello(2), b) as two, await dial(two) as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(garbage)
        await still_serves(two, b)


async def test_a_body_posted_where_nobody_reads_hurts_nobody() -> None:
    """The answer comes before the body's end; hypercorn alone would not survive the rest."""
    b = Recorder()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 20_000
            await trio.testing.wait_all_tasks_blocked(0.002)

    async with serve(hello(2), b) as two:
        transport = httpx.AsyncHTTPTransport(http1=False, http2=True)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{two.address}") as client:
            with contextlib.suppress(httpx.HTTPError, trio.BrokenResourceError):
                await client.post("/nothing/here", content=body())
        await still_serves(two, b)


async def post(transport: HttpTransport, path: str, body: bytes) -> httpx.Response:
    layer = httpx.AsyncHTTPTransport(http1=False, http2=True)
    async with httpx.AsyncClient(transport=layer, base_url=f"http://{transport.address}") as client:
        return await client.post(path, content=body)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "not plain CBOR"),
        (b"\xff", 400, "not plain CBOR"),
        (json.dumps({"cluster": 1}).encode(), 400, "not plain CBOR"),
        (cbor2.dumps([]), 400, "a hello is"),
        (cbor2.dumps([["orders", 1, 1, "a:1", 1], 7]), 400, "a hello is"),
        (cbor2.dumps([["orders", 1, -1, "a:1", 1], 1]), 400, "out of range"),
        (cbor2.dumps([["orders", 1, 1, "a", 1], 1]), 400, "no usable address"),
        (cbor2.dumps([["orders", 1, 1, "a:" + "1" * 900, 1], 1]), 400, "no usable address"),
        (cbor2.dumps([["orders", 1, 1, "a:1" * 1000, 1], 1]), 400, "1024 characters"),
        (cbor2.dumps([["billing", 1, 1, "a:1", 1], 1]), 409, "'billing'"),
        (b"\x00" * (2 << 20), 413, "more than 1048576"),
    ],
)
async def test_a_bad_hello_is_refused_with_a_reason(body: bytes, status: int, reason: str) -> None:
    async with serve(hello(2), Recorder()) as two:
        response = await post(two, handshake.HELLO_PATH, body)
        assert response.status_code == status
        event = handshake.decode_event(response.content[4:])
        assert isinstance(event, Ended)
        assert reason in event.reason


async def test_a_stream_of_no_session_is_refused() -> None:
    async with serve(hello(2), Recorder()) as two:
        response = await post(two, f"{handshake.STREAM_PATH}/{'0' * 32}", b"x")
        assert response.status_code == 410
        assert (await post(two, "/", b"")).status_code == 404


async def stream_bytes(transport: HttpTransport, me: Hello, body: bytes) -> Ended:
    """What a host says that gets `body` as the stream of a lane."""
    dialer = Dialer(attrs.evolve(me, address="127.0.0.1:9"), QUICK)
    opening = handshake.lane_request(dialer.hello, BULK)
    session = ClientSession(
        dialer, transport.address, handshake.HELLO_PATH, opening, lambda _: OneChunk(body)
    )
    with trio.fail_after(5):
        return await session.run(lambda _: None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
        (b"\x00\x00\x00\x00", "a frame of 0 bytes"),
        (framed(b"\xff"), "not plain CBOR"),
        (framed(cbor2.dumps([[99, 1, 1]])), "envelope 0"),
        (
            framed(cbor2.dumps([[24, 1, 1, 2, 1, 5, 1], [24, 1, 1, 2, 1, 5, -1]])),
            "envelope 1: a number outside",
        ),
    ],
)
async def test_a_frame_that_does_not_decode_ends_that_stream_alone(body: bytes, reason: str) -> None:
    a, b = Recorder(), Recorder()
    async with serve(hello(1), a) as one, serve(hello(2), b) as two:
        await open_lane(one, a, two.address, BULK)
        with structlog.testing.capture_logs() as logs:
            ended = await stream_bytes(two, hello(3), body)
        assert reason in ended.reason
        assert two.address in ended.reason
        (line,) = [line for line in logs if line["event"] == "stream refused"]
        assert line["peer"] == "127.0.0.1:9"
        assert one.send(two.address, BULK, [beat(1)])
        await b.until(lambda r: r.count(BULK) == 1)
        assert a.downs == []


async def test_connections_beyond_the_bound_are_closed_at_once() -> None:
    bounds = attrs.evolve(QUICK, max_connections=3)
    async with serve(hello(2), Recorder(), bounds=bounds) as two:
        held = [await dial(two) for _ in range(3)]
        with trio.fail_after(5):
            while two.connections < 3:
                await trio.testing.wait_all_tasks_blocked(0.001)
            async with await dial(two) as extra:
                assert await extra.receive_some() == b""
        for stream in held:
            await stream.aclose()
