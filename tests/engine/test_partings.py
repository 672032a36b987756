"""Groups are told in turn that a session has begun or ended; it counts for nothing before that."""

from __future__ import annotations

import pytest

from multiraft import partings
from multiraft.scheduler import Scheduler
from multiraft.sessions import Session
from tests.engine.many import Hosts

GROUPS = 100
A_TICK = 10


def at_rest(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """Hosts whose groups rest, and that tell `A_TICK` of them in a tick."""
    hosts = Hosts()
    hosts.create(range(1, GROUPS + 1))
    hosts.until_led(GROUPS, 10)
    settle(hosts)
    monkeypatch.setattr(partings, "TURNS_TICK_MAX", A_TICK)
    hosts.turn(0.1)
    return hosts


def settle(hosts: Hosts) -> None:
    for _ in range(40):
        hosts.turn(0.1)
    for scheduler in hosts.schedulers:
        assert scheduler.statistics().at_rest == GROUPS


def session_of(scheduler: Scheduler, place: int) -> Session:
    session = scheduler._post.peers[f"127.0.0.1:{place + 1}"].session
    assert session is not None
    return session


def awake(scheduler: Scheduler) -> int:
    return scheduler._rest.awake


def due(scheduler: Scheduler) -> bool:
    return scheduler._liveness.partings.due


def test_a_session_is_over_at_once_and_its_groups_are_told_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = at_rest(monkeypatch)
    scheduler = hosts.schedulers[0]
    over = session_of(scheduler, 1)
    books = len(over.led) + len(over.followed)
    assert books > 3 * A_TICK
    terms = {group.id: group.raft.term for group in scheduler.groups.values()}

    after = scheduler._liveness._renew(over)
    assert (over.is_open, over.over) == (False, True)
    assert session_of(scheduler, 1) is after
    assert not after.led
    assert not after.followed
    assert after.half > over.half
    assert awake(scheduler) == 0, "nobody was told"
    assert due(scheduler)

    scheduler.run_pass()
    assert awake(scheduler) == A_TICK
    assert not due(scheduler), "the others are told with the next ticks"
    left = books - A_TICK
    while left:
        assert len(over.led) + len(over.followed) == left
        hosts.turn(0.1)
        left = max(0, left - A_TICK)
    monkeypatch.undo()
    settle(hosts)
    assert terms == {group.id: group.raft.term for group in scheduler.groups.values()}, "nobody stood"


def test_the_end_of_a_session_is_told_before_the_next_one_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a leader would take the word from before for the one that its heartbeats are to bring."""
    hosts = at_rest(monkeypatch)
    scheduler = hosts.schedulers[0]
    over = session_of(scheduler, 1)
    after = scheduler._liveness._renew(over)
    for _ in range(2):
        hosts.turn(0.0)
    assert after.is_open
    assert over.led
    for group in scheduler.groups.values():
        for progress in group.raft.progress.values():
            vouch = progress.vouch
            assert vouch is None or getattr(vouch, "session", None) is not over or group.id in over.led


def test_a_group_that_steps_down_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What became of it since is nothing that the end of a session changes."""
    hosts = at_rest(monkeypatch)
    scheduler = hosts.schedulers[0]
    over = session_of(scheduler, 1)
    led = [follower.group for follower in over.led.values()]
    scheduler._liveness._end(over, silent=True)
    for group in led:
        group.raft.become_follower(group.raft.term + 1, 0)
        scheduler._liveness.check(group)
    elapsed = [group.raft.election_elapsed for group in led]
    monkeypatch.undo()
    scheduler._liveness.tick()
    while due(scheduler):
        scheduler._liveness.partings.go_on(hosts.now, hosts.clock_s)
        hosts.clock_s += 0.001
    assert [group.raft.election_elapsed for group in led] == elapsed
    assert not over.led
    assert not over.followed


def test_statistics_count_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept, not counted; also while groups wait for their turn."""
    hosts = at_rest(monkeypatch)
    scheduler = hosts.schedulers[0]

    def check() -> None:
        found = scheduler.statistics()
        groups = list(scheduler.groups.values())
        assert found.groups == len(groups)
        assert found.leading == sum(
            group.failed is None and group.raft.leader == group.member_id for group in groups
        )
        assert found.at_rest == sum(group.at_rest for group in groups)
        assert found.stopped == sum(group.failed is not None for group in groups)

    check()
    scheduler._liveness._renew(session_of(scheduler, 1))
    for _ in range(3):
        hosts.turn(0.1)
        check()
    some = next(iter(scheduler.groups.values()))
    scheduler._group_failed(some, scheduler._acquaintances.forgotten(some, "a test"))
    check()
    assert scheduler.statistics().stopped == 1
