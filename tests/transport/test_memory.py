"""The in-process network: deterministic, ordered like a stream, and as strict as the wire."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import pytest

from multiraft.errors import AddressInUse, HostClosed
from multiraft.messages import Lane, Message, MessageType
from multiraft.transport.bounds import Bounds
from multiraft.transport.handshake import SnapshotNotSent
from multiraft.transport.memory import Fate, MemoryNetwork, MemoryTransport, Passage, Pump, arrives_at_once
from tests.transport.helpers import BULK, LIVENESS, Recorder, Sink, append, beat, hello, offer

A, B = "a:1", "b:1"


class Pair:
    """Two hosts and virtual time."""

    def __init__(self, fate: Fate = arrives_at_once, **options: object) -> None:
        self.pump = Pump()
        self.network = MemoryNetwork(self.pump.schedule, fate=fate, **options)  # type: ignore[arg-type]  # a test's shorthand
        self.a, self.b = Recorder(), Recorder()
        self.one = self.join(A, 1, self.a)
        self.two = self.join(B, 2, self.b)

    def join(
        self, address: str, host_id: int, recorder: Recorder, *, cluster: str = "orders", epoch: int = 1
    ) -> MemoryTransport:
        me = hello(host_id, cluster=cluster, epoch=epoch)
        return self.network.open(attrs.evolve(me, address=address), recorder)

    def up(self, lane: Lane) -> None:
        assert not self.one.send(B, lane, [beat(1)])
        self.pump.run_for()
        assert self.a.ups[-1][1] is lane

    def groups(self, lane: Lane) -> list[int]:
        return [group for group, _, _ in self.b.messages(lane)]


def test_nothing_is_sent_before_the_lane_is_open() -> None:
    pair = Pair()
    assert not pair.one.send(B, BULK, [beat(1)])
    assert pair.a.ups == []
    pair.pump.run_for()
    assert [(peer.address, peer.host_id, lane) for peer, lane in pair.a.ups] == [(B, 2, BULK)]
    assert pair.one.send(B, BULK, [beat(2)])
    assert pair.b.frames == [], "delivery is a callback of its own"
    pair.pump.run_for()
    assert pair.groups(BULK) == [2]
    assert pair.b.frames[0][0].address == A


def test_messages_are_really_encoded() -> None:
    """What arrives is another object, and what the wire does not carry is not there."""
    pair = Pair()
    pair.up(BULK)
    sent = Message(MessageType.COMMIT, 2, 1, 5, commit=7, log_term=99)
    assert pair.one.send(B, BULK, [(1, 1, sent)])
    pair.pump.run_for()
    (_, _, items) = pair.b.frames[0]
    got = items[0][2]
    assert isinstance(got, Message)
    assert got is not sent
    assert (got.commit, got.log_term) == (7, 0)


def test_a_delayed_frame_holds_back_those_behind_it() -> None:
    pair = Pair(lambda passage: (1.0,) if passage.number == 0 else (0.0,))
    pair.up(BULK)
    for group in (10, 11, 12):
        assert pair.one.send(B, BULK, [append(group, [b"x"])])
    pair.pump.run_for(0.5)
    assert pair.groups(BULK) == []
    pair.pump.run_for(0.5)
    assert pair.groups(BULK) == [10, 11, 12]


def test_the_bulk_lane_can_reorder_lose_and_repeat() -> None:
    fates: list[Sequence[float]] = [(1.0,), (), (0.0, 0.5)]
    pair = Pair(lambda passage: fates[passage.number], in_order=False)
    pair.up(BULK)
    for group in (10, 11, 12):
        assert pair.one.send(B, BULK, [append(group, [b"x"])])
    pair.pump.run_for(2)
    assert pair.groups(BULK) == [12, 12, 10]
    assert pair.a.downs == []


def test_a_lost_liveness_frame_takes_its_session_along() -> None:
    """The frames behind it, and those on their way, are gone; then the lane opens again."""
    pair = Pair(lambda p: () if p.number == 1 else (0.05,))
    pair.up(LIVENESS)
    assert pair.one.send(B, LIVENESS, [beat(10)])
    pair.one.send(B, LIVENESS, [beat(11)])
    assert not pair.one.send(B, LIVENESS, [beat(12)])
    pair.pump.run_for(1)
    assert pair.groups(LIVENESS) == []
    assert [(address, lane) for address, lane, _ in pair.a.downs] == [(B, LIVENESS)]
    assert len(pair.a.ups) == 2
    assert pair.one.send(B, LIVENESS, [beat(13)])
    pair.pump.run_for(1)
    assert pair.groups(LIVENESS) == [13]


def test_a_cut_breaks_one_direction_until_it_heals() -> None:
    pair = Pair(lambda _: (0.05,))
    pair.up(BULK)
    assert pair.one.send(B, BULK, [beat(10)])
    pair.network.cut(A, B)
    assert not pair.one.send(B, BULK, [beat(11)])
    pair.pump.run_for(1)
    assert pair.groups(BULK) == [], "what was on its way is gone"
    assert [address for address, _, _ in pair.a.downs] == [B, B], "broken, then not to be reached; once each"
    assert not pair.two.send(A, BULK, [beat(1)])
    pair.pump.run_for(1)
    assert len(pair.b.ups) == 1, "the other direction is whole"
    pair.network.heal(A, B)
    pair.pump.run_for(1)
    assert pair.one.send(B, BULK, [beat(12)])
    pair.pump.run_for(1)
    assert pair.groups(BULK) == [12]


def test_a_stalled_lane_fills_its_outbox_and_refuses() -> None:
    pair = Pair(bounds=Bounds(bulk_outbox_bytes=1000))
    pair.up(BULK)
    pair.network.stall(A, B, BULK)
    taken = [pair.one.send(B, BULK, [append(n, [b"x" * 200])]) for n in range(10)]
    assert taken == [True] * 4 + [False] * 6
    pair.pump.run_for(10)
    assert pair.groups(BULK) == []
    pair.network.resume(A, B, BULK)
    pair.pump.run_for()
    assert pair.groups(BULK) == [0, 1, 2, 3]


def test_a_stalled_liveness_lane_overflows_and_starts_over() -> None:
    pair = Pair(bounds=Bounds(liveness_outbox_bytes=100))
    pair.up(LIVENESS)
    pair.network.stall(A, B, LIVENESS)
    while pair.one.send(B, LIVENESS, [beat(9)]):
        pass
    pair.network.resume(A, B, LIVENESS)
    pair.pump.run_for(1)
    assert pair.groups(LIVENESS) == []
    assert "overflowed" in pair.a.downs[0][2]
    assert len(pair.a.ups) == 2


def test_a_host_that_returns_is_another_epoch() -> None:
    pair = Pair()
    pair.up(LIVENESS)
    pair.two.close()
    pair.pump.run_for(1)
    assert pair.a.downs
    assert not pair.one.send(B, LIVENESS, [beat(1)])
    again = Recorder()
    pair.join(B, 2, again, epoch=2)
    pair.pump.run_for(1)
    assert [peer.epoch for peer, _ in pair.a.ups] == [1, 2]
    assert pair.one.send(B, LIVENESS, [beat(5)])
    pair.pump.run_for()
    assert again.count(LIVENESS) == 1


def test_a_host_of_another_cluster_is_refused() -> None:
    pair = Pair()
    pair.join("c:1", 3, Recorder(), cluster="billing")
    assert not pair.one.send("c:1", BULK, [beat(1)])
    pair.pump.run_for(5)
    assert pair.a.ups == []
    assert len(pair.a.downs) == 1
    assert "'billing'" in pair.a.downs[0][2]
    assert "'orders'" in pair.a.downs[0][2]


def test_connect_opens_both_lanes() -> None:
    pair = Pair()
    pair.one.connect(B)
    pair.one.connect(B)
    pair.pump.run_for()
    assert [lane for _, lane in pair.a.ups] == [LIVENESS, BULK]


def test_release_ends_the_lane_silently() -> None:
    pair = Pair(lambda _: (0.05,))
    pair.up(BULK)
    assert pair.one.send(B, BULK, [beat(10)])
    pair.one.release(B)
    pair.pump.run_for(1)
    assert pair.groups(BULK) == []
    assert pair.a.downs == []


def test_two_hosts_cannot_share_an_address() -> None:
    pair = Pair()
    with pytest.raises(AddressInUse, match=A):
        pair.join(A, 9, Recorder())


def test_the_same_decisions_give_the_same_run() -> None:
    def run() -> list[tuple[float, int]]:
        pair = Pair(lambda p: (p.number % 3 * 0.1,), in_order=False)
        seen: list[tuple[float, int]] = []
        pair.up(BULK)
        for group in range(20):
            assert pair.one.send(B, BULK, [append(group, [b"x"])])
        for _ in range(10):
            pair.pump.run_for(0.05)
            seen += [(pair.pump.now_s, group) for group in pair.groups(BULK)]
        return seen

    assert run() == run()


def chunks_of(data: bytes) -> Iterator[bytes]:
    yield from (data[n : n + 10] for n in range(0, len(data), 10))


class Snapshots(Pair):
    """A pair whose second host takes one snapshot of `data`."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data
        self.sink = Sink(b"d" + data[:4], lambda whole: b"d" + whole[:4])
        self.b.make_sink = lambda _hello, _offer: self.sink
        self.outcome: list[BaseException | None] = []

    def start(self) -> None:
        self.one.send_snapshot(
            B,
            offer(3, self.data, self.sink.digest),
            lambda at: chunks_of(self.data[at:]),
            self.outcome.append,
        )


def test_a_snapshot_arrives_whole() -> None:
    pair = Snapshots(bytes(range(100)))
    pair.start()
    assert pair.outcome == []
    pair.pump.run_for()
    assert pair.outcome == [None]
    assert bytes(pair.sink.data) == pair.data
    assert [got.group for got in pair.b.snapshots] == [3]


def test_a_broken_snapshot_goes_on_where_it_broke() -> None:
    pair = Snapshots(bytes(range(100)))

    def cut(written: bytearray) -> None:
        if len(written) == 50:
            pair.network.cut(A, B)

    pair.sink.on_write = cut
    pair.start()
    pair.pump.run_for()
    assert isinstance(pair.outcome[0], SnapshotNotSent)
    assert pair.sink.aborted == 1
    pair.network.heal(A, B)
    pair.sink.offset = len(pair.sink.data)
    pair.start()
    pair.pump.run_for()
    assert pair.outcome[1] is None
    assert bytes(pair.sink.data) == pair.data


def test_a_damaged_snapshot_is_refused() -> None:
    pair = Snapshots(b"good" * 10)
    pair.sink.digest = b"else"
    pair.start()
    pair.pump.run_for()
    assert "digest" in str(pair.outcome[0])
    assert pair.b.snapshots == []
    assert pair.sink.aborted == 1


def test_snapshots_end_with_their_host() -> None:
    pair = Snapshots(b"good" * 10)
    pair.start()
    pair.one.close()
    pair.pump.run_for()
    assert isinstance(pair.outcome[0], HostClosed)
    assert len(pair.outcome) == 1


def test_a_passage_names_its_way() -> None:
    seen: list[Passage] = []

    def fate(passage: Passage) -> Sequence[float]:
        seen.append(passage)
        return (0.0,)

    pair = Pair(fate)
    pair.up(BULK)
    assert pair.one.send(B, BULK, [append(1, [b"x" * 100])])
    assert [(p.source, p.target, p.lane, p.number) for p in seen] == [(A, B, BULK, 0)]
    assert seen[0].frame_bytes > 100
