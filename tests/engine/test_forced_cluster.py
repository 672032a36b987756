"""Three whole hosts on one thread and no network: a quorum is lost, one goes on, the others return."""

from __future__ import annotations

import random

import pytest

from multiraft.errors import MemberForgotten
from multiraft.group import Group
from multiraft.messages import Hello
from multiraft.storage.memory import MemoryFiles
from multiraft.types import Role
from tests.engine.bench_host import Answer, BenchHost
from tests.engine.test_recovery import data_of, force


class Hosts:
    """Hosts, and the frames between them, handed over in an order that a seed decides."""

    def __init__(self, numbers: tuple[int, ...], seed: int) -> None:
        self.random = random.Random(seed)
        self.hosts = {number: BenchHost(number=number) for number in numbers}
        for host in self.hosts.values():
            host.start_creating(Answer(), 7, hosts=3)
            host.settle()

    def group(self, number: int) -> Group:
        return self.hosts[number].scheduler.groups[7]

    def deliver(self) -> bool:
        """Hand over what was sent; to hosts that are not there it is lost."""
        moved = False
        order = sorted(self.hosts)
        self.random.shuffle(order)
        for number in order:
            host = self.hosts[number]
            sent, host.wires.sent = host.wires.sent, []
            for address, lane, item in sent:
                target = next((each for each in self.hosts.values() if each.hello.address == address), None)
                if target is not None:
                    target.scheduler.receive(host.hello, lane, [item])
                    moved = True
        return moved

    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            for host in self.hosts.values():
                host.time += host.config.tick_interval_s
                host.settle()
            for _ in range(50):
                if not self.deliver():
                    break
                for host in self.hosts.values():
                    host.settle()

    def lead(self, number: int) -> Group:
        """Have this member lead."""
        group = self.group(number)
        for _ in range(50):
            if group.status().role == "leader":
                break
            self.run(5)
            group.raft.transfer_leadership(number)
            self.hosts[number].scheduler.mark_dirty(group)
        assert group.status().role == "leader"
        return group

    def propose(self, number: int, data: bytes) -> Answer:
        (answer,) = self.hosts[number].propose(self.group(number), data)
        self.run(3)
        return answer

    def stop(self, *numbers: int) -> dict[int, MemoryFiles]:
        """The power fails for good; what their disks hold."""
        return {number: self.hosts.pop(number).power_cut() for number in numbers}

    def come_back(self, disks: dict[int, MemoryFiles]) -> None:
        for number, files in disks.items():
            self.hosts[number] = BenchHost(files, number=number)
            self.hosts[number].settle()


@pytest.mark.parametrize("seed", range(6))
def test_returning_members_and_the_one_that_went_on_never_mix(seed: int) -> None:
    hosts = Hosts((1, 2, 3), seed)
    hosts.lead(seed % 3 + 1)
    for number in range(5):
        assert hosts.propose(1, b"%d" % number).error is None
    before = [b"%d" % number for number in range(5)]
    disks = hosts.stop(2, 3)
    hosts.run(40)  # it finds nobody
    forced = force(hosts.hosts[1], hosts.group(1))
    assert data_of(forced)[:5] == before
    assert hosts.propose(1, b"new").error is None
    last, term = forced.raft.last_index, forced.raft.term
    # The old two are a majority of the old group: they elect a leader, who knows of host 1 only
    # that it is a follower that has to be brought up.
    hosts.come_back(disks)
    hosts.lead(2)
    assert hosts.propose(3, b"old").error is None
    hosts.run(60)
    assert (forced.raft.last_index, forced.raft.term) == (last, term)
    assert forced.status().role == "leader"
    assert data_of(forced) == [*before, b"new"]
    assert any("shut out" in warning for warning in forced.status().warnings)
    for number in (2, 3):
        old = hosts.group(number)
        assert data_of(old) == [*before, b"old"]
        assert old.failed is None
    assert any(
        "generation" in warning for number in (2, 3) for warning in hosts.group(number).status().warnings
    )
    # Nor after a restart of all of them.
    hosts.come_back(hosts.stop(1, 2, 3))
    hosts.run(60)
    assert data_of(hosts.group(1)) == [*before, b"new"]
    assert hosts.group(1).members[2].role is Role.REMOVED
    assert data_of(hosts.group(2)) == [*before, b"old"]


@pytest.mark.parametrize("seed", range(4))
def test_two_that_go_on_alone_are_two_groups(seed: int) -> None:
    hosts = Hosts((1, 2, 3), seed)
    hosts.lead(3)
    hosts.propose(1, b"a")
    hosts.stop(3)
    for number in (1, 2):
        answer = Answer()
        group = hosts.group(number)
        hosts.hosts[number].scheduler.recovery.force(group, number, 100 + number, answer)
        hosts.hosts[number].settle()
        assert answer.error is None
    for number in (1, 2):
        assert hosts.propose(number, b"%d" % number).error is None
    hosts.run(30)
    assert [data_of(hosts.group(number)) for number in (1, 2)] == [[b"a", b"1"], [b"a", b"2"]]


@pytest.mark.parametrize("restarted", [False, True], ids=["", "restarted"])
@pytest.mark.parametrize("seed", range(4))
def test_a_wiped_host_cannot_help_to_lose_what_it_acknowledged(seed: int, restarted: bool) -> None:
    """Members 1 and 2 have an entry, 3 has not; 1 is wiped, and 2 is away: 3 must not be elected."""
    hosts = Hosts((1, 2, 3), seed)
    hosts.lead(1)
    hosts.run(20)
    away = hosts.stop(3)
    assert hosts.propose(2, b"acknowledged").error is None
    second = hosts.stop(2)
    hosts.stop(1)
    hosts.come_back(away)
    if restarted:
        hosts.come_back(hosts.stop(3))
    wiped = hosts.hosts[1] = BenchHost(number=1)
    wiped.hello = Hello("c", 1001, 1, "h1:1")
    wiped.scheduler._acquaintances._host_id = 1001
    wiped.start_creating(Answer(), 7, hosts=3)
    hosts.run(100)
    assert "leader" not in {hosts.group(number).status().role for number in (1, 3)}
    assert isinstance(hosts.group(1).failed, MemberForgotten)
    hosts.come_back(second)
    hosts.run(60)
    assert data_of(hosts.group(3)) == [b"acknowledged"]


def test_without_the_rule_it_would_be_lost() -> None:
    """The test above looks at the right thing: let the wiped host keep its id, and it fails."""
    hosts = Hosts((1, 2, 3), 0)
    hosts.lead(1)
    hosts.run(20)
    away = hosts.stop(3)
    assert hosts.propose(2, b"acknowledged").error is None
    hosts.stop(1, 2)
    hosts.come_back(away)
    hosts.hosts[1] = BenchHost(number=1)
    hosts.hosts[1].start_creating(Answer(), 7, hosts=3)
    hosts.run(100)
    assert "leader" in {hosts.group(number).status().role for number in (1, 3)}
