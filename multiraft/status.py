"""What a group tells of itself: frozen objects, as of one moment."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from multiraft.types import GroupId, Index, Member, MemberId, Term


@attrs.frozen
class PeerStatus:
    """How far the leader knows one member to be."""

    match: Index
    next: Index
    state: str
    active: bool


@attrs.frozen
class StagingStatus:
    """Why a staging member is not promoted yet, as its leader sees it."""

    match: Index
    """The last index it is known to have on disk."""
    needed: Index
    """What it needs to have now to count as caught up."""
    caught_up_for_s: float
    """How long it has been caught up without a break."""
    reason: str
    """What it, or the leader, is waiting for."""


@attrs.frozen
class GroupStatus:
    """A group as this host sees it, at one moment."""

    id: GroupId
    member_id: MemberId
    term: Term
    leader: Member | None
    role: str
    """`follower`, `pre_candidate`, `candidate` or `leader`."""
    commit: Index
    applied: Index
    first_index: Index
    last_index: Index
    last_term: Term
    """Of the entry at `last_index`. The log with the highest (last_term, last_index) has the most."""
    snapshot_index: Index
    members: Mapping[MemberId, Member]
    version: Index
    """Of the members: the index of the last configuration change applied here; 0: none was."""
    progress: Mapping[MemberId, PeerStatus]
    """Empty unless this host leads the group."""
    staging: Mapping[MemberId, StagingStatus]
    """Staging members; empty unless this host leads the group."""
    at_rest: bool
    failed: str | None
    """Why the group is stopped here; None: it runs."""
    generation: int
    """0, or a random number since `force_new_group` or `restore_group`; the same on all members."""
    warnings: tuple[str, ...]
    """What was seen of it since the host was opened that somebody should look after; newest last."""


@attrs.frozen
class SnapshotInfo:
    """A snapshot that was taken: its file, and where in the log it stands."""

    path: str
    index: Index
    term: Term
    bytes: int
