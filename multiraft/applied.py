"""What state machines have taken: what follows from it for raft, and for those who waited."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from multiraft.apply import Work
from multiraft.departures import Departures
from multiraft.errors import MembershipRejected
from multiraft.forced import Forced
from multiraft.group import Group
from multiraft.liveness import Liveness
from multiraft.membership import Membership
from multiraft.messages import ConfChange, HardState, Run
from multiraft.outcomes import Outcomes
from multiraft.raft.confchange import restore as configuration_of
from multiraft.raft.core import RaftRole
from multiraft.raft.failures import ConfChangeRefused
from multiraft.snapshots import Snapshots
from multiraft.types import Index
from multiraft.writes import Writes


class Applied:
    """Told by the applier, entry by entry of each group's log, in order."""

    snapshots: Snapshots
    """Made behind the applier, which is made with this."""

    def __init__(
        self,
        liveness: Liveness,
        departures: Departures,
        outcomes: Outcomes,
        writes: Writes,
        *,
        members_changed: Callable[[Group, Membership, bool], None],
        mark_dirty: Callable[[Group], None],
        moved: Callable[[Group], None],
        stand: Callable[[Group], None],
    ) -> None:
        self._liveness = liveness
        self._departures = departures
        self._outcomes = outcomes
        self._writes = writes
        self._members_changed = members_changed
        self._mark_dirty = mark_dirty
        self._moved = moved
        self._stand = stand
        self.entries = 0
        """Of programs, since the host was opened."""

    def applied(self, work: Work) -> None:
        """A group's machine has taken `work`: tell raft, and whoever waited."""
        group, proposals = work.group, work.group.proposals
        if work.last:
            # In log order: that an entry of a higher term was applied means something only once
            # all entries before it have been matched.
            start, fed = 0, iter(work.fed)
            at_once = self._fits_a_piece(work)
            fresh = next(fed, None)
            for run in (*work.configured, *work.runs):
                if run.term != group.applied_term:
                    group.applied_term = run.term
                    if proposals.applied_term(run.term):
                        self._mark_dirty(group)
                if run.kind and run.origin == group.member_id:
                    proposals.changed(run, work.refused.get(run.last))
                if fresh is not None and fresh.last == run.last:
                    if fresh.origin == group.member_id:
                        results = work.results[start : start + fresh.count]
                        proposals.applied(fresh, results, at_once=at_once)
                    elif proposals.carried_bytes:
                        proposals.carried(fresh)
                    start += fresh.count
                    fresh = next(fed, None)
            self.entries += start
            if proposals.outcomes:
                self._outcomes.groups[group] = None
            self._reached(group, work.last, work.weight)
        if work.capture is not None:
            self.snapshots.captured(work)
        if work.configured:
            if group.bond_term:
                self._liveness.check(group)  # one that is out of its group leads it no more
            if not group.raft.joint:
                proposals.completed()
            if any(run.last == group.meta.forced_at for run in work.configured):
                self._stand(group)  # alone since that entry, so there is nothing to wait for
            # What the log had before a new generation began may even remove this member: forced.py.
            if group.member_id not in group.raft.progress and work.last >= group.meta.forced_at:
                self._departures.removed(group)

    def _fits_a_piece(self, work: Work) -> bool:
        """Whether so few results are for those who wait here that they may be handed out at once."""
        piece, own = self._outcomes.piece, work.group.member_id
        return len(work.results) <= piece or sum(run.count for run in work.fed if run.origin == own) <= piece

    def applied_run(self, group: Group, run: Run, results: Sequence[object]) -> None:
        """As `applied`, for one run of proposals and nothing else."""
        proposals = group.proposals
        if run.term != group.applied_term:
            group.applied_term = run.term
            if proposals.applied_term(run.term):
                self._mark_dirty(group)
        if results:
            if run.origin == group.member_id:
                proposals.applied(run, results, at_once=len(results) <= self._outcomes.piece)
                if proposals.outcomes:
                    self._outcomes.groups[group] = None
            elif proposals.carried_bytes:
                proposals.carried(run)
            self.entries += len(results)
        self._reached(group, run.last, len(run.blob))

    def _reached(self, group: Group, index: Index, weight: int) -> None:
        group.applied = index
        more = group.raft.applied_to(index, weight)
        if group.reads.applying:
            group.reads.applied(index)
        group.bytes_since_snapshot = weight = group.bytes_since_snapshot + weight
        if (
            index - group.snapshot_index >= group.snapshot_interval_entries
            or weight >= group.snapshot_interval_bytes
        ):
            self.snapshots.due(group)
        if (more or group.proposals.held) and not group.dirty:
            self._mark_dirty(group)

    def configure(self, group: Group, run: Run) -> str | None:
        """A configuration change takes effect when it is applied (etcd's rule, not §4.1's).

        Returns why it does not fit, if so: then nothing changes, on any member. The leader saw to it
        that it fits, but a group must not break where it did not (referee.py).
        """
        raft = group.raft
        change = ConfChange.decode(run.payloads[0])
        forced = Forced.of(change)
        if forced is not None:
            membership = forced.after(group.membership, run.last)
            raft.install(configuration_of(membership.conf_state()))
            self._members_changed(group, membership, True)
            self._moved(group)
            return None
        before = set(raft.progress)
        led = raft.role is RaftRole.LEADER
        try:
            membership = group.membership.after(change, run.last)
            # While this waited for a worker the core may have taken a snapshot from behind it, and
            # the configuration with it: to change that would make it another one.
            if run.last >= raft.first_index:
                raft.apply_conf_change(change)
        except (MembershipRejected, ConfChangeRefused) as error:
            return str(error)
        # Several at once made a joint configuration.
        self._members_changed(group, membership, len(change.changes) <= 1)
        if raft.log.unstable.snapshot is None:
            # What is in force here must be in force after a restart, too: who was removed stops voting,
            # and a member that knew only the configuration before might need that vote for ever. Up
            # to where the log is on disk, or in a batch.
            commit = min(raft.committed, raft.log.unstable.offset_in_progress - 1)
            self._writes.batch.hard_state(group.id, HardState(raft.term, raft.vote, commit))
        if led:
            for id_ in before - raft.progress.keys():
                if id_ != group.member_id:
                    self._departures.tell_later(group, id_, membership.members[id_].address)
        self._moved(group)  # called from a pass's end: what came of it is for the next
        return None
