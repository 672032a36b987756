"""What a host's state machines lack after a restart, given to them beside everything else.

A machine that is not durable gets its whole log again, and a host may have a million entries to read
back for its groups. Were that done where entries are usually applied, in each group's turn, a host would
be busy with it for as long as it takes: votes come too late, and thousands of elections are held
again and again. So the log of a group that was found with entries to apply is *held* (raft/log.py): what is
committed of it waits here, and is taken in pieces.

Order and bounds. At the end of each pass, what is left of its time, but at least one piece: so
it never starves, whatever the load. A piece is what `RaftLog.take_committed` hands out at once: up to
`READ_RUNS_MAX` runs (storage/group.py) and `max_apply_bytes` of one group; the next one follows when it is
applied, after those of all others. Groups in which a proposal or a read waits go first. While groups
of this host wait for a leader, and as long as one of them gets one now and then, elections go first:
then the others have no more than one piece for each pass that there is anyway, and nobody runs for them.

Nothing hangs on when this happens: a state machine may always be behind, and what waits for it to have
applied (results, reads, snapshots) waits. There is one exception: a member does not stand before it has
applied the configuration changes that it knows to be committed. A group whose log may hold any is not held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from multiraft.group import Group
from multiraft.interfaces import Clock
from multiraft.messages import Run
from multiraft.raft.steady import take_committed

HOPE_TIMEOUTS: Final = 10
"""Election timeouts without a group that got a leader, after which the elections have no precedence."""


class CatchUp:
    """The groups of a host whose machines were behind their logs when it started.

    Attributes:
        awaited, others: Those with something to take now, in order; in the first of them somebody waits.
    """

    def __init__(self, election_ticks: int, clock: Clock, add: Callable[[Group, list[Run]], None]) -> None:
        """`add` queues committed runs to be applied."""
        self._clock = clock
        self._add = add
        self._hope_ticks = HOPE_TIMEOUTS * election_ticks
        self.awaited: dict[Group, None] = {}
        self.others: dict[Group, None] = {}
        self._leaderless: set[Group] = set()
        """Of the groups that are held: those that had no leader yet."""
        self._hope = 0
        """Ticks that are left for another group to get a leader."""

    def restarted(self, groups: Iterable[Group]) -> None:
        """Groups found in the log: hold those that have something to apply."""
        for group in groups:
            log = group.raft.log
            if log.last_index > log.applied and group.log.changed_at() <= log.applied:
                group.replay_to = log.last_index
                log.held = True
                self._leaderless.add(group)
        self._hope = self._hope_ticks

    def want(self, group: Group) -> None:
        """Something of a held group may be committed."""
        log = group.raft.log
        if log.committed <= log.applying:
            self._let_go(group)
            return
        if group.proposals or group.reads:
            self.others.pop(group, None)
            self.awaited[group] = None
        elif group not in self.awaited:
            self.others[group] = None

    def leader_changed(self, group: Group) -> None:
        """The group's leader is another."""
        if group in self._leaderless and group.raft.leader:
            self._leaderless.discard(group)
            self._hope = self._hope_ticks

    def tick(self) -> None:
        """A tick interval is over."""
        if self._hope:
            self._hope -= 1
            if not self._hope:
                self._leaderless.clear()

    @property
    def busy(self) -> bool:
        """Whether another pass is to follow at once."""
        return bool(self.awaited or (self.others and not self._leaderless))

    def take(self, deadline: float) -> None:
        """Queue pieces to be applied until `deadline`, and at least one."""
        awaited, others = self.awaited, self.others
        while awaited or others:
            first = bool(awaited)
            queue = awaited if first else others
            group = next(iter(queue))
            del queue[group]
            self._take(group)
            if (self._leaderless and not first) or self._clock.now() > deadline:
                break

    def _take(self, group: Group) -> None:
        if group.failed is not None:
            self._leaderless.discard(group)
            return
        raft = group.raft
        log = raft.log
        log.held = False
        runs = take_committed(raft)
        if runs:
            self._add(group, runs)
        log.held = True  # it is asked for again when this is applied, or more is committed
        self._let_go(group)

    def _let_go(self, group: Group) -> None:
        """Stop holding it, if there is nothing left from before the start."""
        log = group.raft.log
        # A new leader may have replaced the end of what was there.
        if log.applying >= min(group.replay_to, log.last_index):
            group.replay_to = 0
            log.held = False
            self._leaderless.discard(group)
