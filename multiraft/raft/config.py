"""The settings of one core."""

from __future__ import annotations

import attrs

from multiraft.errors import ConfigError
from multiraft.types import Index, MemberId, ReadMode

__all__ = ["CoreConfig"]


@attrs.define
class CoreConfig:
    """What one member's core is told when it is made. Sizes in bytes, times in ticks.

    Defaults are those of the scenario files; the engine chooses its own.

    Attributes:
        id: This member; not 0.
        election_ticks: A follower that hears no leader for this long, up to twice as long at
            random, stands for election. Above `heartbeat_ticks`.
        heartbeat_ticks: Ticks between two heartbeats of a leader. At least 1.
        applied: What the state machine has applied durably; it is not handed out again.
        max_message_bytes: Entries in one append weigh at most this, or are one entry.
        max_apply_bytes: Entries handed out and not reported applied weigh at most this.
            0: as `max_message_bytes`.
        max_inflight_messages: Appends under way to one follower.
        max_inflight_bytes: Their weight; the last one may overshoot. 0: no limit.
        max_uncommitted_bytes: Payload bytes in a leader's log that are not applied yet; a single
            proposal is always taken. 0: no limit.
        pre_vote: Ask before standing, so that nobody who cannot win disturbs (thesis §9.6).
        check_quorum: A leader without a quorum steps down; who hears a leader refuses to vote.
        read_mode: LEASE answers reads without a round while a lease holds; needs `check_quorum`.
        async_storage_writes: `Ready.responses` and `Raft.applied_to` instead of `Raft.advance`.
        step_down_on_removal: A leader that is removed or demoted becomes a follower at once.
        disable_proposal_forwarding: A follower drops proposals instead.
        disable_conf_change_validation: A leader takes any configuration change into its log.
        commit_notices: Tell followers a new commit index by a small message of its own, or along
            with the next append, instead of by an empty append that must be answered.
        restarted: This member may have heard a leader before its host stopped. With LEASE it then
            votes for nobody for an election timeout: the leader's lease may count on that.
        promise: A follower keeps the promise that a leader's lease counts on, whatever becomes of term
            and leader: for an election timeout since it last heard a leader it votes for nobody,
            unless that leader itself ordered it (`leader_gone`, a transfer).
        coalesce_beats: Hand out plain heartbeats by `Raft.take_beats` instead of as messages, and
            none to a follower that an append went to since the last one. A new commit index
            goes along with appends and beats, and by a notice only to members that wait for it;
            and a Ready has no hard state for a mere new commit index: it need not be written. Who
            refuses a vote says what it knows to be committed, and who is asked at a lower term refuses.
    """

    id: MemberId
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    applied: Index = 0
    max_message_bytes: int = 1 << 20
    max_apply_bytes: int = 0
    max_inflight_messages: int = 256
    max_inflight_bytes: int = 0
    max_uncommitted_bytes: int = 0
    pre_vote: bool = False
    check_quorum: bool = False
    read_mode: ReadMode = ReadMode.QUORUM
    async_storage_writes: bool = False
    step_down_on_removal: bool = False
    disable_proposal_forwarding: bool = False
    disable_conf_change_validation: bool = False
    commit_notices: bool = False
    coalesce_beats: bool = False
    promise: bool = False
    restarted: bool = False

    def validate(self) -> None:
        """Raises: ConfigError naming the first field that cannot be used."""
        if not 0 < self.id < 1 << 63:
            raise ConfigError("id", "must be positive and below 2**63")
        if self.heartbeat_ticks < 1:
            raise ConfigError("heartbeat_ticks", "must be at least 1")
        if self.election_ticks <= self.heartbeat_ticks:
            raise ConfigError("election_ticks", "must be above heartbeat_ticks")
        if self.max_inflight_messages < 1:
            raise ConfigError("max_inflight_messages", "must be at least 1")
        if 0 < self.max_inflight_bytes < self.max_message_bytes:
            raise ConfigError("max_inflight_bytes", "must be 0 or at least max_message_bytes")
        if self.read_mode is ReadMode.LEASE and not self.check_quorum:
            raise ConfigError("read_mode", "LEASE needs check_quorum")
