"""Two and three transports in one process, on real sockets."""

from __future__ import annotations

import attrs
import pytest
import structlog.testing
import trio
import trio.testing

from multiraft.errors import AddressInUse, ConfigError
from multiraft.messages import Lane
from tests.transport.helpers import (
    BULK,
    LIVENESS,
    QUICK,
    Proxy,
    Recorder,
    append,
    beat,
    hello,
    open_lane,
    serve,
)


async def test_frames_arrive_in_order_with_who_sent_them() -> None:
    """Each lane is a stream; the receiver learns the sender's hello with every frame."""
    a, b = Recorder(), Recorder()
    async with serve(hello(1), a) as one, serve(hello(2, epoch=7), b) as two:
        await open_lane(one, a, two.address, BULK)
        for group in range(100):
            assert one.send(two.address, BULK, [append(group, [b"x" * 10, b""])])
        await b.until(lambda r: r.count(BULK) == 100)
        assert [group for group, _, _ in b.messages(BULK)] == list(range(100))
        assert {(peer.host_id, peer.epoch, peer.address) for peer, _, _ in b.frames} == {(1, 1, one.address)}
        assert [(peer.host_id, peer.epoch, lane) for peer, lane in a.ups] == [(2, 7, BULK)]
        assert not a.downs


async def test_three_hosts_talk_both_ways() -> None:
    recorders = [Recorder() for _ in range(3)]
    async with (
        serve(hello(1), recorders[0]) as one,
        serve(hello(2), recorders[1]) as two,
        serve(hello(3), recorders[2]) as three,
    ):
        transports = [one, two, three]
        for i, source in enumerate(transports):
            for target in transports:
                if target is not source:
                    source.connect(target.address)
            await recorders[i].until(lambda r: len(r.ups) == 4)
        for source in transports:
            for target in transports:
                for lane in Lane:
                    assert target is source or source.send(target.address, lane, [beat(1), beat(2)])
        for recorder in recorders:
            await recorder.until(lambda r: r.count(LIVENESS) == r.count(BULK) == 4)
            assert len({peer.host_id for peer, _, _ in recorder.frames}) == 2


async def test_a_frame_too_large_for_one_is_sent_as_several() -> None:
    a, b = Recorder(), Recorder()
    bounds = attrs.evolve(QUICK, max_frame_bytes=10_000)
    async with serve(hello(1), a, bounds=bounds) as one, serve(hello(2), b, bounds=bounds) as two:
        await open_lane(one, a, two.address, BULK)
        assert one.send(two.address, BULK, [append(n, [b"x" * 4000]) for n in range(10)])
        await b.until(lambda r: r.count(BULK) == 10)
        assert len(b.frames) > 1
        assert not one.send(two.address, BULK, [append(1, [b"x" * 11_000])]), "it can never be sent"
        assert one.send(two.address, BULK, [append(11, [b"x"])]), "which hurts nothing else"
        await b.until(lambda r: r.count(BULK) == 11)


@pytest.mark.parametrize("form", ["http://{}", "https://{}", "http://{}/"])
async def test_addresses_have_many_forms(form: str) -> None:
    a, b = Recorder(), Recorder()
    async with serve(hello(1), a, listen=form.format("127.0.0.1:0")) as one, serve(hello(2), b) as two:
        assert one.address.startswith("127.0.0.1:")
        assert not one.address.endswith(":0")
        one.connect(form.format(two.address))
        await a.until(lambda r: len(r.ups) == 2)
        assert {peer.address for peer, _ in a.ups} == {two.address}
        assert one.send(two.address, BULK, [beat(1)])
        assert one.send(form.format(two.address), BULK, [beat(2)])
        await b.until(lambda r: r.count(BULK) == 2)


async def test_what_is_advertised_is_what_others_dial() -> None:
    async with serve(hello(1), Recorder(), advertise="orders.example:7001") as one:
        assert one.address == "orders.example:7001"
    async with serve(hello(1), Recorder(), advertise="orders.example:0") as one:
        host, _, port = one.address.partition(":")
        assert host == "orders.example"
        assert int(port) > 0


async def test_a_busy_port_raises_at_once_and_says_where() -> None:
    async with serve(hello(1), Recorder()) as one:
        with pytest.raises(AddressInUse, match=rf"{one.address}.*[Aa]ddress already in use"):
            async with serve(hello(2), Recorder(), listen=one.address):
                raise AssertionError("never reached")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:x", "ftp://a:1", "::1:80", ""])
async def test_what_is_no_address_raises_at_once(address: str) -> None:
    with pytest.raises(ConfigError):
        async with serve(hello(1), Recorder(), listen=address):
            raise AssertionError("never reached")


async def test_a_name_that_does_not_resolve_raises_at_once() -> None:
    with pytest.raises(AddressInUse, match=r"no\.such\.host\.invalid"):
        async with serve(hello(1), Recorder(), listen="no.such.host.invalid:0"):
            raise AssertionError("never reached")


# --- exceptions and closing ----------------------------------------------------------------------


async def test_the_callers_exception_leaves_bare() -> None:
    with pytest.raises(ZeroDivisionError):
        async with serve(hello(1), Recorder()):
            raise ZeroDivisionError


async def test_the_callers_group_leaves_as_it_is() -> None:
    mine = ExceptionGroup("mine", [ZeroDivisionError()])
    with pytest.raises(ExceptionGroup) as caught:
        async with serve(hello(1), Recorder()):
            raise mine
    assert caught.value is mine


@pytest.mark.parametrize("tasks", [0, 2])
async def test_what_a_receiver_raises_ends_the_block_bare(tasks: int) -> None:
    """A bug of the engine stops its host; it does not end as an HTTP status.

    Whatever tasks the caller's own block runs are cancelled, which must not hide it.
    """
    a, b = Recorder(), Recorder()
    b.broken = AssertionError("a bug")
    async with serve(hello(1), a) as one:

        async def host_with_a_bug() -> None:
            async with serve(hello(2), b) as two:
                await open_lane(one, a, two.address, BULK)
                assert one.send(two.address, BULK, [beat(1)])
                async with trio.open_nursery() as nursery:
                    for _ in range(tasks):
                        nursery.start_soon(trio.sleep_forever)
                    await trio.sleep_forever()

        with pytest.raises(AssertionError, match="a bug"), trio.fail_after(5):
            await host_with_a_bug()


async def test_cancelling_the_block_is_no_error() -> None:
    with trio.move_on_after(5) as scope:
        async with serve(hello(1), Recorder()):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_closing_is_prompt_with_streams_open_and_says_so() -> None:
    """Both sides' streams are open, one receiver has no room, and nothing is left behind."""
    a, b = Recorder(), Recorder()
    async with serve(hello(1), a) as one:
        b.room = trio.Event()
        async with serve(hello(2), b) as two:
            one.connect(two.address)
            two.connect(one.address)
            await a.until(lambda r: len(r.ups) == 2)
            await b.until(lambda r: len(r.ups) == 2)
            for n in range(50):
                one.send(two.address, BULK, [append(n, [b"x" * 100_000])])
            await b.until(lambda r: r.count(BULK) > 0)
            started = trio.current_time()
        assert trio.current_time() - started < 3
        await a.until(lambda r: len(r.downs) == 2)
        assert {reason for _, _, reason in a.downs} == {f"{two.address} is closing"}
        assert b.downs == [], "a host that closes is not told about its own links"
        assert not one.send(two.address, BULK, [beat(1)])


async def test_the_port_is_free_again_after_closing() -> None:
    async with serve(hello(1), Recorder()) as one:
        address = one.address
    async with serve(hello(1), Recorder(), listen=address) as one:
        assert one.address == address


# --- links ---------------------------------------------------------------------------------------


async def test_a_peer_that_restarts_is_dialed_again_and_has_another_epoch() -> None:
    a, b = Recorder(), Recorder()
    async with serve(hello(1), a) as one:
        async with serve(hello(2, epoch=1), b) as two:
            address = two.address
            await open_lane(one, a, address, LIVENESS)
        await a.until(lambda r: len(r.downs) >= 1)
        assert not one.send(address, LIVENESS, [beat(1)])
        again = Recorder()
        async with serve(hello(2, epoch=2), again, listen=address):
            await a.until(lambda r: len(r.ups) == 2)
            assert [peer.epoch for peer, _ in a.ups] == [1, 2]
            assert one.send(address, LIVENESS, [beat(1)])
            await again.until(lambda r: r.count(LIVENESS) == 1)
        (statistics,) = one.statistics()
        assert (statistics.sessions, statistics.frames) == (2, 1)
        assert statistics.bytes > 0
        assert statistics.dropped >= 2


async def test_nobody_at_the_address_is_reported_once() -> None:
    a = Recorder()
    async with serve(hello(1), Recorder()) as two:
        address = two.address
    async with serve(hello(1), a) as one:
        assert not one.send(address, BULK, [beat(1)])
        await a.until(lambda r: len(r.downs) == 1)
        assert "cannot be reached" in a.downs[0][2]
        assert "refused" in a.downs[0][2]
        async with serve(hello(2), Recorder(), listen=address):
            await a.until(lambda r: len(r.ups) == 1)
        assert len([d for d in a.downs if "refused" in d[2] and d is not a.downs[-1]]) == 1


async def test_a_broken_connection_is_noticed_without_sending() -> None:
    a, b = Recorder(), Recorder()
    async with serve(hello(1), a) as one, serve(hello(2), b) as two, trio.open_nursery() as nursery:
        proxy = await Proxy(two.address, nursery).start()
        await open_lane(one, a, proxy.address, BULK)
        proxy.break_all()
        await a.until(lambda r: len(r.downs) == 1 and len(r.ups) == 2)
        assert one.send(proxy.address, BULK, [beat(3)])
        await b.until(lambda r: r.count(BULK) == 1)
        nursery.cancel_scope.cancel()


async def test_lanes_break_and_stall_one_by_one() -> None:
    """Liveness frames pass while bulk is stalled, whose sends are refused at the bound."""
    a, b = Recorder(), Recorder()
    bounds = attrs.evolve(QUICK, bulk_outbox_bytes=1_000_000, stall_timeout_s=60)
    async with serve(hello(1), a, bounds=bounds) as one, serve(hello(2), b, bounds=bounds) as two:
        await open_lane(one, a, two.address, BULK)
        await open_lane(one, a, two.address, LIVENESS)
        room = b.room = trio.Event()
        sent = 0
        frame = [append(1, [b"x" * 100_000])]
        # Until the kernel's buffers are full as well, the stream takes a little now and then.
        with trio.fail_after(10):
            while not await refused_for_good(lambda: one.send(two.address, BULK, frame)):
                sent += 1
        (bulk,) = [s for s in one.statistics() if s.lane is BULK]
        assert bulk.queued_bytes <= 1_000_000
        assert b.count(BULK) == 1, "the receiver has no room for more"
        b.room = None
        assert one.send(two.address, LIVENESS, [beat(5)])
        await b.until(lambda r: r.count(LIVENESS) == 1)
        assert b.count(BULK) == 1
        room.set()
        await b.until(lambda r: r.count(BULK) == bulk.frames)
        assert one.send(two.address, BULK, frame)
        assert a.downs == []


async def refused_for_good(send: object) -> bool:
    """Whether ten tries in a row are refused, with time for the stream to move in between."""
    assert callable(send)
    for _ in range(10):
        if send():
            return False
        await trio.testing.wait_all_tasks_blocked(0.005)
    return True


@pytest.mark.slow
async def test_a_stalled_stream_is_given_up() -> None:
    """A peer that takes nothing for `stall_timeout_s` is down, and what waited is gone."""
    a, b = Recorder(), Recorder()
    bounds = attrs.evolve(QUICK, stall_timeout_s=0.05)
    async with serve(hello(1), a, bounds=bounds) as one, serve(hello(2), b) as two:
        await open_lane(one, a, two.address, BULK)
        b.room = trio.Event()
        while one.send(two.address, BULK, [append(1, [b"x" * 500_000])]):
            await trio.lowlevel.checkpoint()
        await a.until(lambda r: len(r.downs) == 1)
        assert "took nothing for 0.05 s" in a.downs[0][2]
        b.room.set()


async def test_a_full_liveness_outbox_ends_the_session() -> None:
    a, b = Recorder(), Recorder()
    bounds = attrs.evolve(QUICK, liveness_outbox_bytes=100_000)
    async with serve(hello(1), a, bounds=bounds) as one, serve(hello(2), b) as two:
        await open_lane(one, a, two.address, LIVENESS)
        sent = 0
        # Nothing leaves while we do not yield, so the outbox fills.
        while one.send(two.address, LIVENESS, [beat(sent, context=b"x" * 1000)]):
            sent += 1
        assert 50 < sent < 100
        assert not one.send(two.address, LIVENESS, [beat(1)])
        await a.until(lambda r: len(r.downs) == 1 and len(r.ups) == 2)
        assert "100000 bytes" in a.downs[0][2]
        assert b.count(LIVENESS) == 0, "no frame of the old session, not even the first"
        (statistics,) = one.statistics()
        assert statistics.dropped >= sent


async def test_nothing_is_left_of_broken_sessions() -> None:
    """The answering side lets go of both connections of every lane that ended."""
    a, b = Recorder(), Recorder()
    async with serve(hello(1), a) as one, serve(hello(2), b) as two, trio.open_nursery() as nursery:
        proxy = await Proxy(two.address, nursery).start()
        for n in range(1, 4):
            one.connect(proxy.address)
            await a.until(lambda r, n=n: len(r.ups) == 2 * n)  # type: ignore[misc]  # n bound early
            assert one.send(proxy.address, BULK, [append(1, [b"x" * 300_000])])
            proxy.break_all()
            await a.until(lambda r, n=n: len(r.downs) == 2 * n)  # type: ignore[misc]  # n bound early
        await a.until(lambda r: len(r.ups) == 8)
        one.release(proxy.address)
        with trio.fail_after(5):
            while two.connections:
                await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()


async def test_release_closes_the_link_silently() -> None:
    a, b = Recorder(), Recorder()
    async with serve(hello(1), a) as one, serve(hello(2), b) as two:
        one.connect(two.address)
        await a.until(lambda r: len(r.ups) == 2)
        one.release(two.address)
        assert one.statistics() == []
        await open_lane(one, a, two.address, BULK)
        assert one.send(two.address, BULK, [beat(1)])
        await b.until(lambda r: r.count(BULK) == 1)
        assert a.downs == []


async def test_a_newer_session_of_a_host_replaces_the_older() -> None:
    """Two dial as the same host, as when one side has not yet noticed a break."""
    a, b, c = Recorder(), Recorder(), Recorder()
    async with serve(hello(1), a) as one, serve(hello(2), b) as two:
        await open_lane(one, a, two.address, BULK)
        async with serve(hello(1, epoch=2), c) as twin:
            await open_lane(twin, c, two.address, BULK)
            await a.until(lambda r: len(r.downs) == 2)
            assert "newer session" in a.downs[0][2]
            assert "epoch 1" in a.downs[1][2], "and an older epoch does not come back"
            assert twin.send(two.address, BULK, [beat(1)])
            await b.until(lambda r: r.count(BULK) == 1)


async def test_another_cluster_is_refused_with_a_reason_on_both_sides() -> None:
    a, b = Recorder(), Recorder()
    with structlog.testing.capture_logs() as logs:
        async with serve(hello(1, cluster="orders"), a) as one, serve(hello(2, cluster="billing"), b) as two:
            one.connect(two.address)
            two.connect(one.address)
            await a.until(lambda r: len(r.downs) == 2)
            await b.until(lambda r: len(r.downs) == 2)
            for recorder, there in ((a, two.address), (b, one.address)):
                assert {(address, lane) for address, lane, _ in recorder.downs} == {
                    (there, LIVENESS),
                    (there, BULK),
                }
                for _, _, reason in recorder.downs:
                    assert "'orders'" in reason
                    assert "'billing'" in reason
    refusals = [line for line in logs if line["event"] == "host refused"]
    assert len(refusals) == 2, "each side logs the other once"
    assert not a.frames
    assert not b.frames


async def test_another_protocol_version_is_refused() -> None:
    a, b = Recorder(), Recorder()
    async with serve(attrs.evolve(hello(1), version=2), a) as one, serve(hello(2), b) as two:
        one.connect(two.address)
        await a.until(lambda r: len(r.downs) == 2)
        assert "version 2" in a.downs[0][2]
        assert "version 1" in a.downs[0][2]
