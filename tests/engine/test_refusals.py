"""Leaders say no to what was forwarded: to the right member, and until it was told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from multiraft.membership import Change, Step, Verb
from multiraft.messages import EntryKind, Envelope, Hello, Lane, MessageType, ProposalRefused, Run
from multiraft.routes import REFUSALS_AWAY_MAX, REFUSALS_MAX, Peer
from tests.engine.bench_host import BenchHost


def test_one_for_another_member_refuses_nothing_here() -> None:
    """The address had another host before, whose numbers began with the same one."""
    host = BenchHost()
    group = host.create(7, hosts=3)
    host.hear(group, 2, MessageType.HEARTBEAT, term=2, commit=1)
    host.settle()
    (call,) = host.propose(group, b"x")
    host.settle()
    (asked,) = host.wires.messages(MessageType.PROP)
    sequence = asked.runs[0].sequence
    for member, told in ((9, False), (group.member_id, True)):
        refusal = ProposalRefused(member, sequence, f"for member {member}")
        host.scheduler.receive(Hello("c", 2, 1, "h2:1"), Lane.BULK, [(7, group.generation, refusal)])
        host.settle()
        assert call.told is told
    assert "for member 1" in str(call.error)


def test_none_is_forgotten_while_there_is_no_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proposer's own link stayed, so it sends nothing again."""
    host = BenchHost()
    group = host.create(7, hosts=3)
    host.elect(group)
    term = group.raft.term
    host.hear(group, 3, MessageType.HEARTBEAT_RESP, term=term)
    host.settle()
    host.hear(group, 2, MessageType.APP_RESP, term=term, index=group.raft.last_index)
    host.settle()
    send = host.wires.send

    def cut(address: str, lane: Lane, items: Sequence[Envelope]) -> bool:
        return address != "h3:1" and send(address, lane, items)

    monkeypatch.setattr(host.wires, "send", cut)
    unfit = Change((Step(Verb.REMOVE, 77),)).conf_change().encode()
    count = REFUSALS_MAX + 10
    for sequence in range(count):
        run = Run.of([unfit], EntryKind.CONF_CHANGE_V2, origin=3, sequence=sequence)
        host.hear(group, 3, MessageType.PROP, term=term, runs=[run])
    host.settle()
    assert host.wires.refusals() == []
    monkeypatch.setattr(host.wires, "send", send)
    host.scheduler.peer_up(Hello("c", 3, 1, "h3:1"), Lane.BULK)
    host.settle()
    assert [each.sequence for each in host.wires.refusals()] == list(range(count))


@pytest.mark.parametrize("connected", [False, True])
def test_so_many_are_kept(connected: bool) -> None:
    peer = Peer("h3:1")
    peer.connected = connected
    most = REFUSALS_MAX if connected else REFUSALS_AWAY_MAX
    for sequence in range(most + 3):
        peer.keep_refusal((7, 0, ProposalRefused(3, sequence, "no")))
    kept = [refusal.sequence for _, _, refusal in peer.refusals if isinstance(refusal, ProposalRefused)]
    assert kept == list(range(3, most + 3))
