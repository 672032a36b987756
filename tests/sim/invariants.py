"""What must hold after every step, whatever happens. One method for each rule, with its source.

References are to Ongaro's thesis ("Consensus: Bridging Theory and Practice", 2014), above all
Figure 3.2, and to promises that the engine makes to programs. Only groups and entries that a step
touched are looked at, so that checking costs about as much as running.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from multiraft.errors import LogCompacted, MemberRemoved
from multiraft.events import MembersChanged
from multiraft.group import Group
from multiraft.membership import Change, Membership, Verb
from multiraft.messages import ConfChange, Envelope, Message, MessageType, Run
from multiraft.raft.core import RaftRole
from multiraft.types import Entry, GroupId, Index, Member, MemberId, Role, Term
from tests.sim.machines import ID_BYTES, Chain, State
from tests.sim.world import Violation, World

if TYPE_CHECKING:
    from tests.sim.host import SimHost


@attrs.frozen
class Configuration:
    """Who belongs to a group, and whose majorities it takes. `outgoing`: empty unless it is joint."""

    members: Mapping[MemberId, Member]
    outgoing: frozenset[MemberId] = frozenset()

    @property
    def voters(self) -> frozenset[MemberId]:
        return frozenset(id_ for id_, member in self.members.items() if member.role is Role.VOTER)

    def __str__(self) -> str:
        roles = " ".join(f"{id_} {member.role.value}" for id_, member in sorted(self.members.items()))
        return roles + (f" from {sorted(self.outgoing)}" if self.outgoing else "")


@attrs.define(eq=False)
class GroupHistory:
    """All that any host ever showed of one group."""

    leaders: dict[Term, MemberId] = attrs.field(factory=dict)
    entries: dict[tuple[Index, Term], tuple[bytes, Term]] = attrs.field(factory=dict)
    """Payload, and the term of the entry before: by induction that is the whole log before."""
    committed: list[tuple[Term, Term]] = attrs.field(factory=lambda: [(0, 0), (1, 0)])
    """By index: the entry's term, and the term of whoever was first seen to know it committed.
    Index 1 is where every group starts."""
    applied: dict[Index, bytes] = attrs.field(factory=dict)
    states: dict[Index, State] = attrs.field(factory=lambda: {0: State()})
    """After the proposal at that index."""
    index_of: dict[bytes, Index] = attrs.field(factory=dict)
    """Of each proposal that was applied, by its id."""
    dropped: dict[bytes, str] = attrs.field(factory=dict)
    """Proposals that a caller was told will never be applied."""
    vouched: Index = 0
    """The newest proposal that somebody was told is done, or saw in a read."""
    configurations: dict[Index, Configuration] = attrs.field(factory=dict)
    """By version: the index of the entry that made it; 0: as the group was made."""
    places: dict[MemberId, SimHost] = attrs.field(factory=dict)
    """Which host each member lives on, or was meant to."""

    @property
    def last_committed(self) -> Index:
        return len(self.committed) - 1


@attrs.define(eq=False)
class Seen:
    """One group on one host, as the last step left it."""

    term: Term
    role: RaftRole
    commit: Index
    version: Index = 0
    """Of the members."""


class Invariants:
    """The rules, and the history that they are about."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.groups: dict[GroupId, GroupHistory] = {}
        self._seen: dict[tuple[str, GroupId], Seen] = {}
        self._member_of: dict[tuple[str, GroupId], MemberId] = {}
        """The last member that was made on each host."""
        self.checked = 0

    def add_group(self, group: GroupId, membership: Membership) -> None:
        self.groups[group] = GroupHistory()
        self.groups[group].configurations[0] = Configuration(membership.members)

    def place(self, host: SimHost, group: GroupId, member: MemberId) -> None:
        """A member is about to be made on `host`."""
        self.groups[group].places[member] = host
        self._member_of[host.name, group] = member
        self._seen.pop((host.name, group), None)

    def forget(self, host: SimHost, group: GroupId) -> None:
        """The group is about to be deleted from `host`."""
        self._seen.pop((host.name, group), None)

    def host_up(self, host: SimHost) -> None:
        for group in self.groups:
            self._seen.pop((host.name, group), None)

    # --- after a pass ------------------------------------------------------------------------

    def after_pass(self, host: SimHost) -> None:
        assert host.scheduler is not None
        self._hear(host)
        for group in host.scheduler.groups.values():
            if host.scheduler.failure is not None or isinstance(group.failed, MemberRemoved):
                continue
            raft = group.raft
            if group.failed is not None:
                raise Violation(f"{host.name}: group {group.id} stopped: {group.failed!r}") from group.failed
            self.words_are_kept(host, group)
            key = (host.name, group.id)
            seen = self._seen.get(key)
            if seen is None:
                seen = self._seen[key] = Seen(raft.term, RaftRole.FOLLOWER, 0)
            elif (
                seen.term == raft.term
                and seen.role is raft.role
                and seen.commit == raft.committed
                and seen.version == group.membership.version
            ):
                continue
            self._check_group(host, group, seen)
            seen.term, seen.role, seen.commit = raft.term, raft.role, raft.committed
            seen.version = group.membership.version

    def _hear(self, host: SimHost) -> None:
        """Take in the configurations that the host has applied, each of them, in order."""
        assert host.events is not None
        queue = host.events._queue
        while queue:
            event = queue.popleft()
            if isinstance(event, MembersChanged):
                self.configurations_agree(host, event)

    def _check_group(self, host: SimHost, group: Group, seen: Seen) -> None:
        raft = group.raft
        self.checked += 1
        self._world.log(
            host.name,
            f"group {group.id} {raft.role.name.lower()} term {raft.term} commit {raft.committed} "
            f"applied {group.applied} last {raft.last_index}",
        )
        self.the_core_has_the_same_members(host, group)
        self.term_never_falls(host, group, seen)
        self.commit_never_falls(host, group, seen)
        leads = raft.role is RaftRole.LEADER
        if leads and (seen.role is not RaftRole.LEADER or seen.term != raft.term):
            self.election_safety(host, group)
            self.leader_completeness(host, group)
        if raft.committed > seen.commit:
            if leads and seen.role is RaftRole.LEADER and seen.term == raft.term:
                self.leaders_commit_their_own_term(host, group)
            self.committed_entries_never_change(host, group, seen)

    def words_are_kept(self, host: SimHost, group: Group) -> None:
        """docs/liveness.md: a host's beats vouch for no member beyond the term and leader of its word."""
        raft, term, leader = group.raft, group.bond_term, group.bond_leader
        if term and (term, leader) != (raft.term, raft.leader):
            raise Violation(
                f"{host.name}: group {group.id} is attached to {leader} in term {term}, and its core has "
                f"leader {raft.leader} in term {raft.term}"
            )

    def term_never_falls(self, host: SimHost, group: Group, seen: Seen) -> None:
        """Figure 3.1: the current term "increases monotonically"."""
        if group.raft.term < seen.term:
            raise Violation(f"{host.name}: term of group {group.id} fell from {seen.term}")

    def commit_never_falls(self, host: SimHost, group: Group, seen: Seen) -> None:
        """Figure 3.1: the commit index "increases monotonically" within an incarnation."""
        if group.raft.committed < seen.commit:
            raise Violation(
                f"{host.name}: commit of group {group.id} fell from {seen.commit} to {group.raft.committed}"
            )

    def election_safety(self, host: SimHost, group: Group) -> None:
        """Figure 3.2, Election Safety: at most one leader can be elected in a given term."""
        term, member = group.raft.term, group.member_id
        other = self.groups[group.id].leaders.setdefault(term, member)
        if other != member:
            raise Violation(
                f"{host.name}: group {group.id} has leaders {other} and {member} in term {term} "
                "(Election Safety)"
            )

    def leader_completeness(self, host: SimHost, group: Group) -> None:
        """Figure 3.2, Leader Completeness: an entry committed in a term is in the logs of the
        leaders of all higher terms."""
        raft = group.raft
        for index, (term, known_in) in enumerate(self.groups[group.id].committed):
            if index >= raft.first_index and known_in < raft.term:
                found = raft.log.term_or_zero(index)
                if found != term:
                    raise Violation(
                        f"{host.name}: the leader of term {raft.term} of group {group.id} has term {found} "
                        f"at {index}, where {term} is committed (Leader Completeness)"
                    )

    def leaders_commit_their_own_term(self, host: SimHost, group: Group) -> None:
        """§3.6.2: only entries of the leader's own term are committed by counting replicas."""
        raft = group.raft
        term = raft.log.term(raft.committed)
        if term != raft.term:
            raise Violation(
                f"{host.name}: the leader of term {raft.term} of group {group.id} committed up to "
                f"{raft.committed}, an entry of term {term} (§3.6.2)"
            )

    def committed_entries_never_change(self, host: SimHost, group: Group, seen: Seen) -> None:
        """§3.6.2, and Figure 3.2, State Machine Safety: one entry for each committed index."""
        raft = group.raft
        history = self.groups[group.id]
        for index in range(max(seen.commit + 1, raft.first_index), raft.committed + 1):
            try:
                term = raft.log.term(index)
            except LogCompacted:
                continue  # a snapshot replaced the log within the pass
            if index <= history.last_committed:
                known = history.committed[index][0]
                if known != term:
                    raise Violation(
                        f"{host.name}: group {group.id} committed term {term} at {index}, where {known} is "
                        "committed (State Machine Safety)"
                    )
            else:
                if index != history.last_committed + 1:
                    raise Violation(f"{host.name}: group {group.id}: nobody committed before {index}")
                history.committed.append((term, raft.term))
                self._hear(host)
                self.committed_means_on_a_majority(group, seen, index, term)

    def committed_means_on_a_majority(self, group: Group, seen: Seen, index: Index, term: Term) -> None:
        """§3.3: an entry is committed once it is *stored* on a majority, durably (§3.8).

        Of the configuration in force on its leader, which may have changed within the pass; of both
        its halves if it is joint (§4.3).
        """
        history = self.groups[group.id]
        stored = {id_ for id_, host in history.places.items() if self._has(host, group.id, id_, index, term)}
        versions = [v for v in history.configurations if seen.version <= v <= group.membership.version]
        if not any(_decides(history.configurations[version], stored) for version in versions):
            shown = "; ".join(f"{version}: {history.configurations[version]}" for version in versions)
            raise Violation(
                f"group {group.id}: ({index}, {term}) counts as committed but is durable on {sorted(stored)} "
                f"alone; the members are {shown} (§3.3)"
            )

    def _has(self, host: SimHost, group: GroupId, member: MemberId, index: Index, term: Term) -> bool:
        if self._member_of.get((host.name, group)) != member:
            return False  # that one was deleted
        log = host.journal.durable.get(group)
        return log is not None and (log.base > index or log.term(index) == term)

    # --- members -----------------------------------------------------------------------------

    def configurations_agree(self, host: SimHost, event: MembersChanged) -> None:
        """§4.1: the configuration at an index is the same on every member that has applied it."""
        history = self.groups[event.group]
        known = history.configurations
        before = known[max(version for version in known if version < event.version)]
        outgoing = before.voters if not event.complete else frozenset()
        found = Configuration(dict(event.members), outgoing)
        if event.version not in known:
            self.majorities_overlap(host, event, before, found)
            known[event.version] = found
            self._world.log(host.name, f"group {event.group} has members {found} at {event.version}")
        elif known[event.version] != found:
            raise Violation(
                f"{host.name}: the members of group {event.group} at {event.version} are {found}, where "
                f"others have {known[event.version]} (§4.1)"
            )

    def majorities_overlap(
        self, host: SimHost, event: MembersChanged, before: Configuration, found: Configuration
    ) -> None:
        """§4.1: one voter at a time, or through a joint configuration (§4.3)."""
        steps = before.voters ^ found.voters
        if (before.outgoing and steps) or (not before.outgoing and not found.outgoing and len(steps) > 1):
            raise Violation(
                f"{host.name}: group {event.group} went from {before} to {found} at {event.version}: "
                "majorities need not overlap (§4.1)"
            )

    def the_core_has_the_same_members(self, host: SimHost, group: Group) -> None:
        """What programs are shown is what raft counts by, but while a snapshot is being installed."""
        assert host.scheduler is not None
        installing = group in host.scheduler._installer.installing
        if installing or group.restoring or group.raft.log.unstable.snapshot is not None:
            return
        state, members = group.raft.conf_state(), group.membership.members
        voters = {id_ for id_, member in members.items() if member.role is Role.VOTER}
        others = {id_ for id_, member in members.items() if member.role in (Role.LEARNER, Role.STAGING)}
        if set(state.voters) != voters or {*state.learners, *state.learners_next} != others:
            raise Violation(f"{host.name}: group {group.id} counts by {state} and shows {dict(members)}")

    def staging_members_catch_up_first(self, host: SimHost, group_id: GroupId, run: Run) -> None:
        """§4.2.1: a promotion that no program asked for is of a member that has nine tenths of the log."""
        if host.scheduler is None or not run.kind or run.origin or not run.payloads[0]:
            return
        raft = host.scheduler.groups[group_id].raft
        if raft.role is not RaftRole.LEADER or raft.term != run.term:
            return
        for step in Change.of(ConfChange.decode(run.payloads[0])).steps:
            member = self.groups[group_id].places[step.id]
            log = member.journal.durable.get(group_id)
            has = 0 if log is None else log.last
            if step.verb is not Verb.PROMOTE or 10 * has < 9 * (run.first - 1):
                raise Violation(
                    f"{host.name}: group {group_id} promotes {step.id} by itself, which has {has} of "
                    f"{run.first - 1} entries (§4.2.1)"
                )

    # --- the log -----------------------------------------------------------------------------

    def appended(self, host: SimHost, group_id: GroupId, run: Run) -> None:
        """`run` goes into a host's log (it is not durable yet)."""
        log = host.journal.newest[group_id]
        self.leader_append_only(host, group_id, run)
        self.staging_members_catch_up_first(host, group_id, run)
        self.log_matching(host, group_id, run, log.term(run.first - 1))

    def leader_append_only(self, host: SimHost, group_id: GroupId, run: Run) -> None:
        """Figure 3.2, Leader Append-Only: a leader never overwrites or deletes its entries."""
        if host.scheduler is None:
            return
        raft = host.scheduler.groups[group_id].raft
        last = host.journal.newest[group_id].last
        if raft.role is RaftRole.LEADER and run.term == raft.term and run.first <= last:
            raise Violation(
                f"{host.name}: the leader of group {group_id} overwrites {run.first} to {last} "
                "(Leader Append-Only)"
            )

    def log_matching(self, host: SimHost, group_id: GroupId, run: Run, before: Term | None) -> None:
        """Figure 3.2, Log Matching: logs that agree on an entry's index and term agree on all
        entries before it."""
        entries = self.groups[group_id].entries
        previous = 0 if before is None else before
        for index, payload in enumerate(run.payloads, run.first):
            known = entries.setdefault((index, run.term), (payload, previous))
            if known[0] != payload or (previous and known[1] and known[1] != previous):
                raise Violation(
                    f"{host.name}: group {group_id} has two entries ({index}, {run.term}), or two entries "
                    f"before it: {known[1]} and {previous} (Log Matching)"
                )
            previous = run.term

    def sent(self, host: SimHost, item: Envelope) -> None:
        """§3.8: whatever a message promises is durable before the message leaves."""
        group_id, _, message = item
        if type(message) is not Message or message.reject:
            return
        if message.type is MessageType.VOTE_RESP:
            self.votes_are_durable(host, group_id, message)
        elif message.type is MessageType.APP_RESP:
            self.acknowledgements_are_durable(host, group_id, message)

    def acknowledgements_are_durable(self, host: SimHost, group_id: GroupId, message: Message) -> None:
        """§3.8: entries are on disk before they are acknowledged, and so is the term they came in.

        In a later term they may have been replaced since, which is no lie.
        """
        log = host.journal.durable.get(group_id)
        if log is None:
            return  # the group was deleted since
        if log.hard.term < message.term or (log.hard.term == message.term and log.last < message.index):
            raise Violation(
                f"{host.name}: group {group_id} acknowledged {message.index} in term {message.term}; "
                f"durable are {log.last} and term {log.hard.term} (§3.8)"
            )

    def votes_are_durable(self, host: SimHost, group_id: GroupId, message: Message) -> None:
        """§3.8: a server persists its term and vote before it answers."""
        log = host.journal.durable.get(group_id)
        if log is None:
            return  # the group was deleted since
        hard = log.hard
        if hard.term < message.term or (hard.term == message.term and hard.vote != message.to):
            raise Violation(
                f"{host.name}: group {group_id} voted for {message.to} in term {message.term}; durable is "
                f"a vote for {hard.vote} in term {hard.term} (§3.8)"
            )

    # --- state machines ----------------------------------------------------------------------

    def applied(self, host: SimHost, machine: Chain, entry: Entry, state: State) -> None:
        """A machine is being fed `entry`, which takes it to `state`."""
        history = self.groups[machine.group]
        where = f"{host.name}: group {machine.group}"
        if entry.index > history.last_committed and host.scheduler is not None:
            # Applied in the very pass that committed it: that pass is looked at from here.
            seen = self._seen.setdefault(
                (host.name, machine.group), Seen(0, RaftRole.FOLLOWER, history.last_committed)
            )
            self.committed_entries_never_change(host, host.scheduler.groups[machine.group], seen)
        self._applied_in_order(where, history, machine, entry)
        self.state_machine_safety(where, history, entry, state)
        self._proposals_are_applied_once(where, history, entry)

    def _applied_in_order(self, where: str, history: GroupHistory, machine: Chain, entry: Entry) -> None:
        """§3.3: entries are applied in log order, once they are committed; each one once."""
        if entry.index <= machine.fed_to:
            raise Violation(f"{where} was fed {entry.index} after {machine.fed_to}")
        if entry.index > history.last_committed:
            raise Violation(f"{where} was fed {entry.index}, which nobody has committed")
        if history.committed[entry.index][0] != entry.term:
            raise Violation(f"{where} was fed ({entry.index}, {entry.term}), which is not what is committed")

    def state_machine_safety(self, where: str, history: GroupHistory, entry: Entry, state: State) -> None:
        """Figure 3.2, State Machine Safety: no two servers apply different entries at an index.

        The state's digest covers all that was applied before, so nothing can be missing either.
        """
        known = history.applied.setdefault(entry.index, entry.data)
        if known != entry.data:
            raise Violation(f"{where} applied another entry at {entry.index} (State Machine Safety)")
        before = history.states.setdefault(entry.index, state)
        if before != state:
            raise Violation(
                f"{where} is in another state after {entry.index} than others were: "
                f"{state.count} proposals instead of {before.count} (State Machine Safety)"
            )

    def _proposals_are_applied_once(self, where: str, history: GroupHistory, entry: Entry) -> None:
        """§6.3: a proposal takes effect exactly once, and never after its caller was told no."""
        name = entry.data[:ID_BYTES]
        index = history.index_of.setdefault(name, entry.index)
        if index != entry.index:
            raise Violation(f"{where} applied proposal {name.hex()} at {index} and at {entry.index}")
        if name in history.dropped:
            raise Violation(
                f"{where} applied proposal {name.hex()} at {entry.index}; its caller was told: "
                f"{history.dropped[name]}"
            )

    def restored(self, host: SimHost, machine: Chain, state: State) -> None:
        """§5.1: a snapshot replaces exactly the entries that it covers."""
        known = self.groups[machine.group].states.get(state.index)
        if known != state:
            raise Violation(
                f"{host.name}: group {machine.group} was restored to a state that nobody had after "
                f"{state.index}"
            )

    # --- callers -----------------------------------------------------------------------------

    def done(self, group: GroupId, name: bytes, value: object) -> None:
        """§6.3: what was acknowledged is in the history, and the answer is its own."""
        history = self.groups[group]
        index = history.index_of.get(name)
        if value != (index, name):
            raise Violation(
                f"group {group}: proposal {name.hex()} was answered with {value!r}; it is at {index}"
            )
        assert index is not None
        history.vouched = max(history.vouched, index)

    def refused(self, group: GroupId, name: bytes, reason: str) -> None:
        """A proposal whose caller was told that it is certainly not applied."""
        history = self.groups[group]
        history.dropped[name] = reason
        if name in history.index_of:
            raise Violation(
                f"group {group}: proposal {name.hex()} is applied at {history.index_of[name]}; its caller "
                f"was told: {reason}"
            )

    def answered(self, group: GroupId, floor: Index, state: State) -> None:
        """§6.4: a read sees every write that was acknowledged, and every state that another read
        saw, before it was asked."""
        history = self.groups[group]
        if state.index < floor:
            raise Violation(
                f"group {group}: a read saw {state.index}, but {floor} was acknowledged or read before it "
                "was asked (linearizable reads, §6.4)"
            )
        if history.states.get(state.index) != state:
            raise Violation(f"group {group}: a read saw a state that never was, after {state.index}")
        history.vouched = max(history.vouched, state.index)


def _decides(configuration: Configuration, stored: set[MemberId]) -> bool:
    """Whether `stored` is a majority of each half."""
    halves = (configuration.voters, configuration.outgoing)
    return all(2 * len(half & stored) > len(half) for half in halves if half)
