"""Configurations and how they change (thesis §4.1 to §4.3): pure functions on values.

A `Membership` is immutable, so a change that fails half way leaves nothing changed. Which
members exist is kept apart from who votes, because a member that leaves stays known, and is
sent the log, until the joint configuration it votes in is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

import attrs

from multiraft.messages import ConfChange, ConfChangeTransition, ConfChangeType, ConfState
from multiraft.raft.failures import ConfChangeRefused
from multiraft.types import MemberId

__all__ = [
    "Changes",
    "Configuration",
    "Membership",
    "apply_change",
    "enter_joint",
    "leave_joint",
    "leaves_joint",
    "restore",
    "simple",
]

Changes = Sequence[tuple[ConfChangeType, MemberId]]

_SHARED_MAX: Final = 1024
"""Memberships that are kept so that groups with equal ones share them: thousands of groups are made
from one list of members, and a membership of three takes a kilobyte."""


@attrs.frozen
class Configuration:
    """Who votes and who only listens. `outgoing` is empty unless the configuration is joint."""

    incoming: frozenset[MemberId] = frozenset()
    outgoing: frozenset[MemberId] = frozenset()
    learners: frozenset[MemberId] = frozenset()
    learners_next: frozenset[MemberId] = frozenset()
    """Voters of the outgoing half that become learners when it is left."""
    auto_leave: bool = False

    @property
    def joint(self) -> bool:
        return bool(self.outgoing)

    @property
    def voters(self) -> list[MemberId]:
        """Of both halves, ascending."""
        return sorted(self.incoming | self.outgoing)

    def conf_state(self) -> ConfState:
        return ConfState(
            tuple(sorted(self.incoming)),
            tuple(sorted(self.learners)),
            tuple(sorted(self.outgoing)),
            tuple(sorted(self.learners_next)),
            self.auto_leave,
        )

    def __str__(self) -> str:
        text = "voters=" + _members(self.incoming)
        if self.outgoing:
            text += "&&" + _members(self.outgoing)
        if self.learners:
            text += " learners=" + _members(self.learners)
        if self.learners_next:
            text += " learners_next=" + _members(self.learners_next)
        return text + (" autoleave" if self.auto_leave else "")


def _members(ids: Iterable[MemberId]) -> str:
    return "(" + " ".join(f"{member:x}" for member in sorted(ids)) + ")"


@attrs.frozen
class Membership:
    """A configuration and the members it needs, each with whether it is sent to as a learner."""

    config: Configuration = Configuration()
    learner: Mapping[MemberId, bool] = attrs.Factory(dict)


def leaves_joint(change: ConfChange) -> bool:
    """Whether `change` is the empty one. Every field counts but the context, which is free."""
    return not change.changes and change.transition is ConfChangeTransition.AUTO


def apply_change(before: Membership, change: ConfChange) -> Membership:
    """Apply a committed change by the protocol that it asks for.

    Raises:
        ConfChangeRefused: It does not fit the configuration.
    """
    if leaves_joint(change):
        return leave_joint(before)
    if change.transition is not ConfChangeTransition.AUTO or len(change.changes) > 1:
        stay = change.transition is ConfChangeTransition.JOINT_EXPLICIT
        return enter_joint(before, change.changes, auto_leave=not stay)
    return simple(before, change.changes)


def simple(before: Membership, changes: Changes) -> Membership:
    """Change at most one voter; old and new majorities then overlap by themselves (§4.1)."""
    if before.config.joint:
        raise ConfChangeRefused("can't apply simple config change in joint config")
    draft = _Draft(before)
    draft.apply(changes)
    if len(before.config.incoming ^ draft.incoming) > 1:
        raise ConfChangeRefused("more than one voter changed without entering joint config")
    return draft.finished(before.config.auto_leave)


def enter_joint(before: Membership, changes: Changes, *, auto_leave: bool) -> Membership:
    """Start an arbitrary change: from now on decisions need both majorities (§4.3)."""
    if before.config.joint:
        raise ConfChangeRefused("config is already joint")
    if not before.config.incoming:
        raise ConfChangeRefused("can't make a zero-voter config joint")
    draft = _Draft(before)
    draft.outgoing = before.config.incoming
    draft.apply(changes)
    return draft.finished(auto_leave)


def leave_joint(before: Membership) -> Membership:
    """The incoming half alone decides from now on."""
    config = before.config
    if not config.joint:
        raise ConfChangeRefused("can't leave a non-joint config")
    learners = config.learners | config.learners_next
    learner = {
        member: flag or member in config.learners_next
        for member, flag in before.learner.items()
        if member not in config.outgoing or member in config.incoming or member in learners
    }
    return _checked(Configuration(config.incoming, learners=learners), learner)


@lru_cache(_SHARED_MAX)
def restore(state: ConfState) -> Membership:
    """The membership that `state` describes, rebuilt by the changes that lead to it.

    Going through changes, not fields, means that nothing can be restored that could not
    have come about.
    """
    add, remove, learn = ConfChangeType.ADD_NODE, ConfChangeType.REMOVE_NODE, ConfChangeType.ADD_LEARNER_NODE
    incoming: list[tuple[ConfChangeType, MemberId]] = [(add, member) for member in state.voters]
    incoming += [(learn, member) for member in (*state.learners, *state.learners_next)]
    built = Membership()
    if not state.voters_outgoing:
        for change in incoming:
            built = simple(built, [change])
        return built
    for member in state.voters_outgoing:
        built = simple(built, [(add, member)])
    leaving = [(remove, member) for member in state.voters_outgoing]
    return enter_joint(built, leaving + incoming, auto_leave=state.auto_leave)


class _Draft:
    """A membership being changed."""

    __slots__ = ("incoming", "learner", "learners", "learners_next", "outgoing")

    def __init__(self, before: Membership) -> None:
        self.incoming = set(before.config.incoming)
        self.outgoing = before.config.outgoing
        self.learners = set(before.config.learners)
        self.learners_next = set(before.config.learners_next)
        self.learner = dict(before.learner)

    def apply(self, changes: Changes) -> None:
        for kind, member in changes:
            if not member:
                continue  # a change that was voided by its proposer
            if kind is ConfChangeType.ADD_NODE:
                self._add_voter(member)
            elif kind is ConfChangeType.ADD_LEARNER_NODE:
                self._add_learner(member)
            elif kind is ConfChangeType.REMOVE_NODE:
                self._remove(member)
        if not self.incoming:
            raise ConfChangeRefused("removed all voters")

    def _add_voter(self, member: MemberId) -> None:
        self._forget(member)
        self.incoming.add(member)
        self.learner[member] = False

    def _add_learner(self, member: MemberId) -> None:
        if self.learner.get(member):
            return
        self._forget(member)
        # Who still votes in the outgoing half must not count as a learner yet: it would be
        # asked for votes and left out of them at the same time.
        staged = member in self.outgoing
        (self.learners_next if staged else self.learners).add(member)
        self.learner[member] = not staged

    def _remove(self, member: MemberId) -> None:
        if member not in self.learner:
            return
        self._forget(member)
        if member not in self.outgoing:
            del self.learner[member]

    def _forget(self, member: MemberId) -> None:
        self.incoming.discard(member)
        self.learners.discard(member)
        self.learners_next.discard(member)

    def finished(self, auto_leave: bool) -> Membership:
        config = Configuration(
            frozenset(self.incoming),
            self.outgoing,
            frozenset(self.learners),
            frozenset(self.learners_next),
            auto_leave,
        )
        return _checked(config, self.learner)


def _checked(config: Configuration, learner: Mapping[MemberId, bool]) -> Membership:
    everybody = config.incoming | config.outgoing | config.learners | config.learners_next
    assert everybody == learner.keys(), "everybody in the configuration is known, and nobody else"
    assert config.learners_next <= config.outgoing, "only a leaving voter waits to become a learner"
    assert not any(learner[member] for member in config.learners_next)
    assert all(learner[member] for member in config.learners)
    assert not config.learners & (config.incoming | config.outgoing), "nobody is both voter and learner"
    assert config.joint or not (config.learners_next or config.auto_leave)
    return _shared(config, tuple(sorted(learner.items())))


@lru_cache(_SHARED_MAX)
def _shared(config: Configuration, learner: tuple[tuple[MemberId, bool], ...]) -> Membership:
    """The same object for equal memberships."""
    return Membership(config, dict(learner))
