"""Hosts beat together, and wake up for that alone; and what a tick may not be taken for then."""

from __future__ import annotations

import pytest

from multiraft.raft.core import RaftRole
from multiraft.rhythm import Rhythm
from multiraft.scheduler import Scheduler
from tests.engine.many import Hosts

STEP_S = 0.005
INTERVAL_S = 0.1
GROUPS = 9


def resting(led_by: int | None = None) -> Hosts:
    """Hosts at rest that beat at different moments, and whose groups are led by all, or by one."""
    hosts = Hosts()
    hosts.create(range(1, GROUPS + 1))
    hosts.until_led(GROUPS, 10)
    if led_by is not None:
        for scheduler in hosts.schedulers:
            for group in scheduler.groups.values():
                if group.raft.role is RaftRole.LEADER and group.member_id != led_by:
                    group.raft.transfer_leadership(led_by)
                    scheduler.mark_dirty(group)
    for _ in range(100):
        hosts.turn(0.05)
    for place, scheduler in enumerate(hosts.schedulers):
        scheduler._rhythm = Rhythm(hosts.clock_s + INTERVAL_S + place * 0.03, INTERVAL_S)
    return hosts


def sent(scheduler: Scheduler) -> int:
    sessions = [peer.session for peer in scheduler._post.peers.values()]
    return sum(session._sent for session in sessions if session is not None)


def beats(hosts: Hosts, seconds: float) -> list[set[int]]:
    """Which hosts beat in the same moment, in order."""
    found = []
    for _ in range(round(seconds / STEP_S)):
        before = [sent(scheduler) for scheduler in hosts.schedulers]
        hosts.turn(STEP_S)
        after = [sent(scheduler) for scheduler in hosts.schedulers]
        together = {place + 1 for place in range(3) if after[place] > before[place]}
        if together:
            found.append(together)
    return found


@pytest.mark.parametrize("led_by", [None, 1, 3])
def test_hosts_come_to_beat_together(led_by: int | None) -> None:
    """Whether all of them lead groups, or only the one with the smallest id, or the largest."""
    hosts = resting(led_by)
    first = beats(hosts, 0.1)
    assert {1, 2, 3} not in first
    beats(hosts, 0.9)
    later = beats(hosts, 2.0)
    assert later == [{1, 2, 3}] * 20
    if led_by is not None:
        assert hosts.leaders() == [GROUPS if number == led_by else 0 for number in (1, 2, 3)]


def test_nobody_drives_the_one_with_the_smallest_id() -> None:
    """Of hosts that beat each follows one with a smaller id, so that none follows itself."""
    hosts = resting()
    hosts.turn(0.2)
    pacemakers = [scheduler._liveness._pacemaker for scheduler in hosts.schedulers]
    assert [0 if session is None else session.host_id for session in pacemakers] == [0, 1, 1]


def test_a_host_at_rest_wakes_up_for_its_beats_alone() -> None:
    """Nothing hangs on its ticks then. When a group is awake they come when they are due."""
    hosts = resting()
    hosts.turn(0.2)
    scheduler = hosts.schedulers[1]
    assert scheduler.next_tick_at < scheduler._rhythm.due_at
    assert scheduler.next_wake_at == scheduler._rhythm.due_at
    scheduler._rest.wake(scheduler.groups[1])
    hosts.turn()
    assert scheduler.next_wake_at == scheduler.next_tick_at


def test_beats_or_not_a_tick_waits_for_an_interval_at_most() -> None:
    hosts = resting()
    scheduler = hosts.schedulers[1]
    scheduler._rhythm = Rhythm(hosts.clock_s + 50 * INTERVAL_S, 50 * INTERVAL_S)
    assert scheduler.next_wake_at == pytest.approx(scheduler.next_tick_at + scheduler.config.tick_interval_s)


def test_a_tick_that_waited_is_no_silence_after_the_beat_that_it_waited_for() -> None:
    """Or a follower would be free an interval too early, while its leader still counts on its word."""
    hosts = resting()
    leader, follower = hosts.schedulers[:2]
    heard = follower._post.peers["127.0.0.1:1"].session
    assert heard is not None
    assert heard.followed
    ticks = follower.ticks
    hosts.clock_s = follower.next_tick_at + 0.9 * follower.config.tick_interval_s
    leader._rhythm = Rhythm(hosts.clock_s, INTERVAL_S)
    leader.run_pass()
    hosts._pump.run_for(0.0)
    follower.run_pass()
    assert follower.ticks == ticks + 1
    assert heard.silent == 0


def test_after_a_pause_what_arrived_is_heard_first() -> None:
    """Ticks that are later than they may be by themselves: the host must not blame those who are there."""
    hosts = resting()
    leader, follower = hosts.schedulers[:2]
    heard = follower._post.peers["127.0.0.1:1"].session
    assert heard is not None
    heard.silent = follower.config.election_ticks - 1
    hosts.clock_s = follower.next_tick_at + 1.5 * follower.config.tick_interval_s
    leader._rhythm = Rhythm(hosts.clock_s, INTERVAL_S)
    leader.run_pass()
    hosts._pump.run_for(0.0)
    follower.run_pass()
    assert heard.is_open
