"""A group's stable log as its core reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from multiraft.errors import SnapshotUnavailable
from multiraft.messages import ConfState, HardState, Run, Snapshot
from multiraft.types import Index, Term

if TYPE_CHECKING:
    from multiraft.group import Group
    from multiraft.interfaces import GroupLog


class ServedLog:
    """A group's stable log as its core reads it: the store's, but snapshots are the files'."""

    __slots__ = ("_commit", "_group", "_log")

    def __init__(self, log: GroupLog, commit: Index) -> None:
        self._log = log
        self._commit = commit
        self._group: Group | None = None

    def serve(self, group: Group) -> None:
        self._group = group

    def first_index(self) -> Index:
        return self._log.first_index()

    def last_index(self) -> Index:
        return self._log.last_index()

    def term(self, index: Index) -> Term:
        return self._log.term(index)

    def runs(self, first: Index, last: Index, max_bytes: int) -> list[Run]:
        return self._log.runs(first, last, max_bytes)

    def initial_state(self) -> tuple[HardState, ConfState]:
        state, conf_state = self._log.initial_state()
        return attrs.evolve(state, commit=max(state.commit, self._commit)), conf_state

    def changed_at(self) -> Index:
        return self._log.changed_at()

    def snapshot(self) -> Snapshot:
        group = self._group
        if group is not None:
            file = group.snapshot_file
            # A file below the compaction point would leave a gap that no entry can fill.
            # Nor would a member take one from before it was added: it is not in it.
            needed = max(self._log.first_index() - 1, group.membership.version)
            if file is not None and file.snapshot.index >= needed:
                return file.snapshot
            group.host.want_snapshot(group, None)
        raise SnapshotUnavailable("no snapshot of the group yet; one was asked for")
