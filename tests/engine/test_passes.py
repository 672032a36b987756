"""A pass is bounded in time, whatever waits for it: what is left comes first in the next one, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest

from multiraft import post
from multiraft.apply import CLOCK_CHECK_ENTRIES, Applier
from multiraft.elections import PLACES, PLACES_BEHIND
from multiraft.group import Group
from multiraft.inbox import PIECE_MESSAGES
from multiraft.messages import Envelope, Hello, Lane, Message, MessageType, Run
from multiraft.passplan import FEW, MANY, MANY_GROUPS, PassPlan
from multiraft.raft.core import RaftRole
from multiraft.rest import TURNS_MIN
from multiraft.scheduler import BACKLOG_MESSAGES
from tests.engine.many import Hosts


class Result:
    """Waits for the result of a proposal."""

    listening = True

    def resolve(self, value: object) -> None:
        pass

    def fail(self, error: Exception) -> None:
        raise error


PEER = Hello("many", 2, 1, "127.0.0.1:2")


class SlowHosts(Hosts):
    """Each look at the clock finds `step_s` gone, as if what was done since the last had taken that long."""

    step_s = 0.0

    def now(self) -> float:
        self.clock_s += self.step_s
        return self.clock_s


def slow(groups: int) -> SlowHosts:
    """Hosts at rest. From now on any two pieces of work take longer than a part of a pass may."""
    hosts = SlowHosts()
    hosts.create(range(1, groups + 1))
    hosts.until_led(groups, 10)
    for _ in range(30):
        hosts.turn(0.1)
    hosts.step_s = hosts.schedulers[0].config.max_pass_s * 0.6
    return hosts


def vote(group: int) -> Envelope:
    return group, 0, Message(MessageType.PRE_VOTE, 1, 2, 1)


def test_a_long_frame_is_gone_on_with_in_the_next_pass() -> None:
    hosts = slow(1)
    scheduler = hosts.schedulers[0]
    scheduler.receive(PEER, Lane.LIVENESS, [vote(1)] * 10 * PIECE_MESSAGES)
    left = [scheduler.statistics().inbox_messages]
    while left[-1]:
        scheduler.run_pass()
        left.append(scheduler.statistics().inbox_messages)
        assert PIECE_MESSAGES <= left[-2] - left[-1] <= 2 * PIECE_MESSAGES


def test_after_long_passes_less_is_planned_and_after_others_more_again() -> None:
    hosts = slow(1)
    hosts.step_s = 0.0
    scheduler = hosts.schedulers[0]
    most = scheduler.config.max_pass_s

    def take(seconds: float) -> None:
        hosts.clock_s += seconds

    plans = []
    for _ in range(20):
        scheduler._call_soon(partial(take, 3.5 * most))
        scheduler.run_pass()
        plans.append(scheduler._plan.seconds)
    assert plans[0] < most
    assert plans == sorted(plans, reverse=True)
    assert plans[-1] == plans[-2] == FEW.least * most
    scheduler.run_pass()
    assert scheduler._plan.seconds == plans[-1], "it had nothing to do"
    for _ in range(300):
        scheduler._call_soon(partial(take, most))
        scheduler.run_pass()
    assert scheduler._plan.seconds == most


def test_with_very_many_groups_passes_are_kept_shorter() -> None:
    long_s = (MANY.long + FEW.long) / 2
    few, many = PassPlan(1.0), PassPlan(1.0)
    for _ in range(20):
        few.took(long_s, MANY_GROUPS - 1)
        many.took(long_s, MANY_GROUPS)
    assert few.seconds == 1.0
    assert many.seconds == MANY.least


def test_nothing_overtakes_what_the_log_and_the_workers_have_done() -> None:
    """If that is too much for a pass nothing else is begun, and the next one goes on with it."""
    hosts = slow(1)
    scheduler = hosts.schedulers[0]
    made: list[int] = []
    for number in range(10):
        scheduler._call_soon(partial(made.append, number))
    scheduler.receive(PEER, Lane.LIVENESS, [vote(1)])
    passes = 0
    while len(made) < 10:
        assert scheduler.statistics().inbox_messages == 1, "not before"
        before = len(made)
        more = scheduler.run_pass()
        assert more or len(made) == 10
        assert 1 <= len(made) - before <= 4
        passes += 1
    assert passes > 2
    assert made == list(range(10))
    scheduler.run_pass()
    assert scheduler.statistics().inbox_messages == 0


def test_a_broken_link_is_told_to_many_groups_in_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "PIECE_GROUPS", 32)
    hosts = slow(6 * post.PIECE_GROUPS)
    scheduler = hosts.schedulers[0]
    led = sum(group.raft.role is RaftRole.LEADER for group in scheduler.groups.values())
    scheduler.peer_down(PEER.address, Lane.BULK, "broken")
    told: list[int] = []
    while scheduler._calls:
        scheduler.run_pass()
        told.append(sum(group.awake for group in scheduler.groups.values()))
    assert len(told) > 1, "a pass may end between two pieces"
    assert told[0] < led <= told[-1]


def test_state_machines_are_fed_in_several_passes() -> None:
    """Each of them once, and first those that are left of the pass before."""
    hosts = slow(6 * CLOCK_CHECK_ENTRIES)
    groups = [
        group
        for scheduler in hosts.schedulers
        for group in scheduler.groups.values()
        if group.raft.role is RaftRole.LEADER
    ]
    applied: list[list[Group]] = [[] for _ in hosts.schedulers]
    behind: list[bool] = []
    for scheduler, order in zip(hosts.schedulers, applied, strict=True):
        applier = scheduler._applier
        real_run, real_feed = applier._applied_run, applier._apply_inline

        def applied_run(
            group: Group,
            run: Run,
            results: Sequence[object],
            order: list[Group] = order,
            real: Callable[[Group, Run, Sequence[object]], None] = real_run,
        ) -> None:
            order.append(group)
            real(group, run, results)

        def apply_inline(
            waiting: list[Group],
            deadline: float,
            order: list[Group] = order,
            applier: Applier = applier,
            real: Callable[[list[Group], float], None] = real_feed,
        ) -> None:
            done = len(order)
            real(waiting, deadline)
            assert order[done:] == waiting[: len(order) - done], "in order"
            assert applier.behind == (len(order) - done < len(waiting))
            assert len(order) > done, "one piece at least"
            behind.append(applier.behind)

        applier._applied_run = applied_run
        applier._apply_inline = apply_inline  # type: ignore[method-assign, assignment]  # to listen
    for group in groups:
        group.proposals.queue(b"x", Result())
        group.host.mark_dirty(group)
    for _ in range(50):
        hosts.turn(0.1)
    assert any(behind)
    assert not any(scheduler._applier.behind for scheduler in hosts.schedulers)
    for order in applied:
        assert sorted(group.id for group in order) == sorted(group.id for group in groups)


def test_a_tick_of_many_groups_is_counted_in_several_passes() -> None:
    """Each group is told once; neither a read nor the next tick comes before all were."""
    groups = 4 * TURNS_MIN
    hosts = slow(groups)
    scheduler = hosts.schedulers[0]
    rest = scheduler._rest
    for group in scheduler.groups.values():
        group.raft.leader = 0  # whoever knows no leader counts ticks by itself
        group.bond, group.bond_term = None, 0
        rest.wake(group)
        group.raft.election_elapsed = 0
    ticks = rest.ticks
    hosts.clock_s = max(hosts.clock_s, scheduler.next_tick_at)
    passes = 0
    while rest.ticks == ticks or rest.ticking:
        more = scheduler.run_pass()
        passes += 1
        assert not rest.ticking or (more and scheduler._behind)
    assert passes > 1
    assert rest.ticks == ticks + 1
    told = [group.raft.election_elapsed for group in scheduler.groups.values()]
    assert told.count(1) == sum(1 for g in scheduler.groups.values() if g.raft.role is RaftRole.FOLLOWER)


def test_beats_leave_in_time_though_a_tick_is_late() -> None:
    """The others would end their sessions with a host whose beats wait until all groups had their tick."""
    groups = 6 * TURNS_MIN
    hosts = slow(groups)
    scheduler = hosts.schedulers[0]
    for group in scheduler.groups.values():
        scheduler._rest.wake(group)
    interval_s = scheduler.config.heartbeat_ticks * scheduler.config.tick_interval_s
    sessions = [peer.session for peer in scheduler._post.peers.values()]
    hosts.clock_s = max(hosts.clock_s, scheduler.next_tick_at)
    scheduler.run_pass()
    hosts.step_s = interval_s  # from now on each piece of work takes longer than a beat may be late
    passes = 0
    while scheduler._rest.ticking:
        before = [session._sent for session in sessions if session is not None]
        scheduler.run_pass()
        passes += 1
        sent = [session._sent for session in sessions if session is not None]
        assert all(now > then for now, then in zip(sent, before, strict=True)), "a pulse to each host"
    assert passes > 2


def test_fewer_groups_stand_while_the_host_is_behind() -> None:
    """More would only add to what it has too much of. Not none, as it may be behind for ever."""
    hosts = Hosts()
    hosts.create(range(1, 3 * PLACES, 3), host=1)  # of which another member is to stand first
    hosts.turn()
    scheduler = hosts.schedulers[0]
    groups = list(scheduler.groups.values())
    elections = scheduler._elections
    assert not scheduler._is_behind()
    scheduler.receive(PEER, Lane.LIVENESS, [vote(1 << 40)] * (BACKLOG_MESSAGES + 1))
    assert scheduler._is_behind()
    for group in groups:
        group.raft.election_elapsed = group.raft.election_timeout
        elections.timed_out(group)
    elections.admit()
    assert sum(group.raft.role is RaftRole.PRE_CANDIDATE for group in groups) == PLACES_BEHIND
    while scheduler.statistics().inbox_messages:
        scheduler.run_pass()
    elections.admit()
    assert sum(group.raft.role is RaftRole.PRE_CANDIDATE for group in groups) == len(groups)


def test_a_late_tick_is_a_host_that_is_behind() -> None:
    hosts = Hosts()
    scheduler = hosts.schedulers[0]
    hosts.clock_s = scheduler.next_tick_at + 1.5 * scheduler.config.tick_interval_s
    assert scheduler._is_behind()
