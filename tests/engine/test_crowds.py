"""With many groups at work, proposals of a group wait for those of its that are under way."""

from __future__ import annotations

from functools import cache

import pytest

from multiraft.intake import CROWD_GROUPS, TURN_PROPOSALS
from tests.engine.work_cluster import Answers, WorkCluster

FEW = CROWD_GROUPS - 1


@cache
def cluster() -> WorkCluster:
    """Made once: all that is proposed is applied when a test ends."""
    made = WorkCluster()
    made.create(CROWD_GROUPS)
    return made


class Proposer:
    """Proposes on groups of the host that leads them all, pass by pass, while nothing arrives."""

    def __init__(self, groups: int) -> None:
        self.cluster = cluster()
        self.cluster.tick(2)
        self.answers = Answers()
        self.asked = 0
        self._groups = [self.cluster.led(group_id) for group_id in range(1, groups + 1)]
        self._scheduler = self.cluster.hosts[0].scheduler
        self._runs = self._scheduler.statistics().proposed_runs

    def propose(self, each: int) -> int:
        """The runs that a pass makes of so many more on each group."""
        before = self._runs
        for group in self._groups:
            for _ in range(each):
                group.proposals.queue(b"anything", self.answers)
            self._scheduler.mark_dirty(group)
        self.asked += each * len(self._groups)
        self.cluster.hosts[0].run_pass()
        return self.runs() - before

    def runs(self) -> int:
        self._runs = self._scheduler.statistics().proposed_runs
        return self._runs


@pytest.mark.slow  # whoever comes first makes the cluster
def test_what_comes_meanwhile_goes_as_one_run_once_the_first_is_applied() -> None:
    crowd = Proposer(CROWD_GROUPS)
    before = crowd.runs()
    assert crowd.propose(2) == CROWD_GROUPS
    assert [crowd.propose(1) for _ in range(3)] == [0, 0, 0]
    crowd.cluster.settle()
    assert crowd.answers.told == crowd.asked
    assert crowd.runs() - before == 2 * CROWD_GROUPS


def test_among_few_groups_nothing_waits() -> None:
    few = Proposer(FEW)
    assert [few.propose(each) for each in (2, 1, 1)] == [FEW] * 3
    few.cluster.settle()
    assert few.answers.told == few.asked


def test_nothing_waits_behind_a_single_proposal() -> None:
    crowd = Proposer(CROWD_GROUPS)
    assert [crowd.propose(1) for _ in range(2)] == [CROWD_GROUPS] * 2
    assert crowd.propose(1) == 0
    crowd.cluster.settle()
    assert crowd.answers.told == crowd.asked


def test_as_many_as_make_a_full_run_do_not_wait() -> None:
    crowd = Proposer(CROWD_GROUPS)
    assert [crowd.propose(each) for each in (2, TURN_PROPOSALS - 1, 1)] == [CROWD_GROUPS, 0, CROWD_GROUPS]
    crowd.cluster.settle()
    assert crowd.answers.told == crowd.asked


def test_nothing_waits_for_longer_than_a_tick() -> None:
    """What is under way may not be applied for long: a follower is slow, or far away."""
    crowd = Proposer(CROWD_GROUPS)
    assert [crowd.propose(each) for each in (2, 1)] == [CROWD_GROUPS, 0]
    host = crowd.cluster.hosts[0]
    before = crowd.runs()
    host.cluster.time += 1.001 * host.scheduler.config.tick_interval_s
    host.run_pass()
    assert crowd.runs() - before == CROWD_GROUPS
    crowd.cluster.settle()
    assert crowd.answers.told == crowd.asked
