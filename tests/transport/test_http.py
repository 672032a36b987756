"""Two and three transports in one process, on real sockets."""

from __future__ import annotations

import pytest

from multiraft.errors import AddressInUse
from tests.transport.helpers import BULK, Recorder, append, hello, open_lane, serve


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


async def test_a_busy_port_raises_at_once_and_says_where() -> None:
    async with serve(hello(1), Recorder()) as one:
        with pytest.raises(AddressInUse, match=f"{one.address}.*[Aa]ddress already in use"):
            async with serve(hello(2), Recorder(), listen=one.address):
                raise AssertionError("never reached")
