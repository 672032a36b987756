"""Logs are given back to state machines after a restart: beside elections, in pieces, and all of them."""

from __future__ import annotations

from multiraft.catchup import HOPE_TIMEOUTS
from multiraft.group import Group
from multiraft.raft.core import RaftRole
from multiraft.scheduler import Scheduler
from multiraft.storage.group import READ_RUNS_MAX
from tests.engine.many import Hosts

GROUPS = 30


class Nobody:
    """Waits for a proposal, and does not mind."""

    def resolve(self, value: object) -> None:
        pass

    def fail(self, error: Exception) -> None:
        pass


def written(entries: int, groups: int = GROUPS) -> Hosts:
    """Three hosts whose groups have so many entries each, applied everywhere."""
    hosts = Hosts()
    hosts.create(range(1, groups + 1))
    hosts.until_led(groups, 10)
    write(hosts, entries)
    for _ in range(10):
        hosts.turn(0.1)
    assert not behind(hosts)
    return hosts


def write(hosts: Hosts, entries: int) -> None:
    """So many to each group that a host leads which has its turn."""
    for _ in range(entries):
        for scheduler in hosts.schedulers:
            for group in scheduler.groups.values():
                if group.raft.leader == group.member_id:
                    group.proposals.queue(b"x", Nobody())
                    scheduler.mark_dirty(group)
        hosts.turn()


def behind(hosts: Hosts) -> list[Group]:
    return [group for group in hosts.groups() if group.applied < group.raft.last_index]


def held(scheduler: Scheduler) -> list[Group]:
    return [group for group in scheduler.groups.values() if group.replay_to]


def test_elections_go_first_and_then_everything_is_applied() -> None:
    """All groups are led while most of them still lack most of their logs."""
    hosts = written(5)
    hosts.restart()
    assert all(len(held(scheduler)) == GROUPS for scheduler in hosts.schedulers)
    elected_at = applied_at = None
    for turn in range(100):
        hosts.turn(0.05)
        if elected_at is None and hosts.led(GROUPS):
            elected_at = turn
        if not behind(hosts):
            applied_at = turn
            break
    assert elected_at is not None
    assert applied_at is not None
    assert not any(held(scheduler) for scheduler in hosts.schedulers)
    assert not any(group.raft.log.held for group in hosts.groups())


def test_while_groups_wait_for_a_leader_a_pass_gives_one_piece() -> None:
    """And nobody runs passes for it: what there is left of the processors is for elections."""
    hosts = written(2)
    hosts.restart()
    scheduler = hosts.schedulers[0]
    assert not scheduler._catch_up.busy
    done = []
    for _ in range(5):
        scheduler.run_pass()
        done.append(GROUPS - len(held(scheduler)))
    assert done == [1, 2, 3, 4, 5]


def test_a_group_somebody_waits_for_goes_first() -> None:
    hosts = written(2)
    hosts.restart()
    scheduler = hosts.schedulers[0]
    scheduler.run_pass()
    last = held(scheduler)[-1]
    last.reads.queued.append(Nobody())
    scheduler.mark_dirty(last)
    scheduler.run_pass()
    assert not last.replay_to


def test_without_any_election_in_sight_all_is_applied_all_the_same() -> None:
    """The other hosts stay away: after a while elections have no precedence any more."""
    hosts = written(2)
    hosts.restart()
    alone = hosts.schedulers[0]
    hosts.schedulers = [alone]
    ticks = HOPE_TIMEOUTS * alone.config.election_ticks
    hosts.turn()
    assert len(held(alone)) > GROUPS // 2
    for _ in range(ticks + 2):
        hosts.turn(alone.config.tick_interval_s)
    assert not held(alone)
    assert not behind(hosts)
    assert hosts.leaders() == [0]


def test_a_long_log_is_read_in_pieces() -> None:
    """No group keeps a pass for longer than it takes to read so many runs."""
    entries = READ_RUNS_MAX + 20
    hosts = written(entries, groups=1)
    hosts.restart()
    (group,) = hosts.schedulers[0].groups.values()
    before = group.applied
    hosts.schedulers[0].run_pass()
    assert 0 < group.applied - before <= READ_RUNS_MAX
    assert group.replay_to
    hosts.until_led(1, 10)
    for _ in range(5):
        hosts.turn(0.1)
    assert not behind(hosts)


def test_what_a_host_missed_while_it_was_away_is_applied_too() -> None:
    """It gets that from leaders while its logs are held, and then nobody has anything to say any more."""
    hosts = written(3)
    away = hosts.schedulers.pop()
    write(hosts, 5)
    hosts.schedulers.append(away)
    hosts.restart_last()
    assert any(group.raft.last_index < 9 for group in hosts.schedulers[-1].groups.values())
    for _ in range(30):
        hosts.turn(0.1)
    assert not behind(hosts)
    assert not held(hosts.schedulers[-1])


def test_a_tail_that_is_replaced_by_another_is_applied_too() -> None:
    """What nobody else had goes when the host is back, and what comes instead is all that it is told."""
    hosts = written(3)
    hosts.isolate_last()
    alone = hosts.schedulers[-1]
    led = [group.id for group in alone.groups.values() if group.raft.role is RaftRole.LEADER]
    others = hosts.schedulers[:-1]
    hosts.schedulers = [alone]
    write(hosts, 9)
    hosts.schedulers = [*others, alone]
    for _ in range(60):
        hosts.turn(0.1)
    write(hosts, 1)
    hosts.isolate_last(False)
    hosts.restart_last()
    back = hosts.schedulers[-1]
    longer = [back.groups[id_].raft.last_index for id_ in led]
    for _ in range(60):
        hosts.turn(0.1)
    assert not behind(hosts)
    shorter = [back.groups[id_].raft.last_index for id_ in led]
    assert all(before > after for before, after in zip(longer, shorter, strict=True))
    assert not held(back)
