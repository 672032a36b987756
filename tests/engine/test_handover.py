"""Leadership that is handed over, and what became of it when the order to stand arrives."""

from __future__ import annotations

from multiraft.group import Group
from multiraft.raft.core import RaftRole
from tests.engine.many import Hosts


class Answer:
    """Waits for a proposal."""

    def __init__(self) -> None:
        self.told = False

    def resolve(self, _: object) -> None:
        self.told = True

    def fail(self, error: Exception) -> None:
        raise error


def led() -> tuple[Hosts, list[Group]]:
    """One group on three hosts that are at rest, and its members: first the leader.

    All have led: the first word of one member to another waits for the disk (acquaintances.py).
    """
    hosts = Hosts()
    hosts.create([1])
    hosts.until_led(1, 10)
    members = sorted(hosts.groups(), key=lambda group: group.raft.role is not RaftRole.LEADER)
    for place in (1, 2, 0):
        hand_over(members[place - 1], members[place])
        hosts.turn()
        assert members[place].raft.role is RaftRole.LEADER
    for _ in range(30):
        hosts.turn(0.1)
    return hosts, members


def propose(group: Group) -> Answer:
    answer = Answer()
    group.proposals.queue(b"x", answer)
    group.host.mark_dirty(group)
    return answer


def hand_over(group: Group, to: Group) -> None:
    """The leader hands over; what it says stays on its way."""
    group.raft.transfer_leadership(to.member_id)
    group.host.mark_dirty(group)
    group.host.run_pass()  # type: ignore[attr-defined]  # reaching for its scheduler


def test_leadership_is_handed_over_at_once() -> None:
    hosts, (leader, heir, _) = led()
    hand_over(leader, heir)
    answer = propose(leader)
    hosts.turn()
    assert heir.raft.role is RaftRole.LEADER
    assert answer.told


def test_an_order_to_stand_that_was_taken_back_costs_an_election() -> None:
    """The leader went on with proposals, so whoever was to follow it cannot win, but ends its term.

    And everybody has promised not to vote so soon after a leader was heard (docs/liveness.md, rule 6).
    """
    hosts, (leader, heir, _) = led()
    config = leader.host.config
    term, began_s = leader.raft.term, hosts.clock_s
    hand_over(leader, heir)
    leader.raft.transfer_leadership(leader.member_id)
    answer = propose(leader)
    hosts.turn()
    assert heir.raft.term > term, "it stood, and with it the leader's term was over"
    assert not any(group.raft.role is RaftRole.LEADER for group in hosts.groups())
    while not answer.told:
        hosts.turn(config.tick_interval_s)
    waited_s = hosts.clock_s - began_s
    assert waited_s <= (2 * config.election_ticks + 2) * config.tick_interval_s
