"""What an operation may cost, counted instead of timed.

Speed is lost a call at a time, and on a shared machine no clock sees it. Here three hosts do known
work (work_cluster.py), and fdatasyncs, passes, frames, bytes and calls of Python functions are held
against the tables below. The counts are exact for one version of Python; the bounds lie about 15 %
above what was counted when they were written. Whoever makes something cheaper lowers its bound:
`python bench/bench_work.py` prints what is counted now.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import pytest

from tests.engine.work_cluster import Cost, Counts, WorkCluster, cluster_of, cost

# Leader's calls, a follower's calls, leader's bytes, a follower's bytes: at most, per operation.
WRITES = {
    (48, 21): Cost(5.5, 2.8, 43, 0.5),
    (48, 1): Cost(68, 31.5, 101, 10.1),
    (1000, 1): Cost(65, 28, 103, 11.3),
}
"""Waves of writes on all groups at once; by groups, and writes for each group."""

READS = {
    (48, 21): Cost(5.4, 1.3, 2.2, 0.95),
    (48, 1): Cost(89, 26, 46, 20),
    (1000, 1): Cost(87, 25, 48, 21),
}
"""Waves of linearizable reads."""

IDLE = Cost(175, 122, 75, 37)
"""A heartbeat interval in which nothing happens, whatever the number of groups: all of them rest."""

ONE_WRITE = Cost(302, 195, 120, 20)
"""A single write in one group, whatever the number of groups."""

WAVES = 2
TICKS = 10


@cache
def cluster(groups: int) -> WorkCluster:
    """Made once: what is done to it leaves it as it was, but for longer logs."""
    return cluster_of(groups)


def idle(groups: int) -> tuple[Counts, list[Counts]]:
    """Some heartbeat intervals in which nothing happens."""
    cluster(groups).tick(3 * TICKS)  # by now whoever had something to do is at rest
    return cluster(groups).counted(lambda: cluster(groups).tick(TICKS))


def check(found: Cost, bound: Cost) -> None:
    for name in ("leader_calls", "follower_calls", "leader_bytes", "follower_bytes"):
        assert getattr(found, name) <= getattr(bound, name), name


def steady(work: Callable[[], None], groups: int, units: int) -> Cost:
    """Per unit, over several waves, after one: followers apply each wave with the next one's appends."""

    def waves() -> None:
        for _ in range(WAVES):
            work()

    work()
    return cost(*cluster(groups).counted(waves), WAVES * units)


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "each"), WRITES)
def test_a_write_costs_no_more_than_it_did(groups: int, each: int) -> None:
    """Calls and bytes per write, on the leader's host and on a follower's."""
    work = partial(cluster(groups).write, range(1, groups + 1), each)
    check(steady(work, groups, groups * each), WRITES[groups, each])


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "each"), READS)
def test_a_read_costs_no_more_than_it_did(groups: int, each: int) -> None:
    """Reads of a group that are asked for together share a round, and rounds share frames."""
    work = partial(cluster(groups).read, range(1, groups + 1), each)
    check(steady(work, groups, groups * each), READS[groups, each])


@pytest.mark.slow
@pytest.mark.parametrize("groups", [48, 1000])
def test_an_idle_interval_costs_no_more_than_it_did(groups: int) -> None:
    check(cost(*idle(groups), TICKS), IDLE)


@pytest.mark.slow
def test_frames_at_idle_do_not_depend_on_the_groups() -> None:
    """One beat for each peer and interval, and one answer; and nothing is written."""
    for leader, followers in (idle(48), idle(1000)):
        assert leader.frames <= 2 * TICKS
        assert all(each.frames <= TICKS for each in followers)
        assert not any(each.syncs for each in (leader, *followers))


@pytest.mark.slow
@pytest.mark.parametrize("groups", [48, 1000])
def test_a_pass_syncs_at_most_once(groups: int) -> None:
    """However many groups have something to write: they share a batch, and it shares a sync."""
    leader, followers = cluster(groups).counted(lambda: cluster(groups).write(range(1, groups + 1)))
    for each in (leader, *followers):
        assert 0 < each.syncs <= each.passes


@pytest.mark.slow
def test_a_wave_takes_as_many_passes_syncs_and_frames_whatever_the_groups() -> None:
    """Passes follow round trips, not groups: a thousand groups' writes travel and rest together."""

    def wave(groups: int) -> list[Counts]:
        leader, followers = cluster(groups).counted(lambda: cluster(groups).write(range(1, groups + 1)))
        return [leader, *followers]

    for few, many in zip(wave(48), wave(1000), strict=True):
        assert (many.rounds, many.passes, many.syncs, many.frames) == (
            few.rounds,
            few.passes,
            few.syncs,
            few.frames,
        )


@pytest.mark.slow
def test_one_busy_group_costs_the_same_among_many() -> None:
    """A pass looks at the groups that have work, and never at those that exist."""
    few, many = cluster_of(10, led=1), cluster_of(5000, led=1)
    leader, followers = few.counted(lambda: few.write([1]))
    assert many.counted(lambda: many.write([1])) == (leader, followers)
    check(cost(leader, followers, 1), ONE_WRITE)
