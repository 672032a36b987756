"""What a leader knows of one member: how far its log goes, and how to send it more.

Everything that changes match, next, the pause or the window stands in this file.
"""

from __future__ import annotations

import enum
from typing import Final

from multiraft.raft.inflights import Inflights
from multiraft.types import Index

__all__ = ["PROBE", "REPLICATE", "SNAPSHOT", "Progress", "ProgressState"]


class ProgressState(enum.IntEnum):
    PROBE = 0
    """Where its log ends is not known: one append at a time, each waits for its answer."""
    REPLICATE = 1
    """It keeps up: appends are sent ahead of acknowledgements, as far as the window goes."""
    SNAPSHOT = 2
    """What it needs is compacted: nothing is sent until it has a snapshot."""


PROBE: Final = ProgressState.PROBE
REPLICATE: Final = ProgressState.REPLICATE
SNAPSHOT: Final = ProgressState.SNAPSHOT

_NAMES: Final = {PROBE: "StateProbe", REPLICATE: "StateReplicate", SNAPSHOT: "StateSnapshot"}


class Progress:
    """One member as its leader sees it.

    Invariant: match < next, and in SNAPSHOT next = pending_snapshot + 1.

    Attributes:
        match: The highest index known to be on its disk and equal to ours.
        next: The first index not sent yet (thesis, Figure 3.1). Guessed in PROBE.
        sent_commit: The highest commit index it will know if nothing that was sent is lost.
        appended: An append was sent since the last heartbeat was due.
        answered: An append was answered since then.
        silent_beats: Heartbeats it answered, or was spared, since match last rose (`commit_notices`).
            Negative: the next answer is to say what became of the appends.
        pending_snapshot: In SNAPSHOT: the index of the snapshot that was sent.
        flow_paused: PROBE: an append is under way; REPLICATE: the window is full. A heartbeat's
            answer lifts it for one append.
        recent_active: It answered since the last check for a quorum (thesis §6.2).
        is_learner: It gets the log but has no vote (thesis §4.2.1).
        vouch: While not None, its host vouches for it without being asked for each group: it follows us,
            and counts as active. The host's object; what it is means nothing here.
    """

    __slots__ = (
        "answered",
        "appended",
        "flow_paused",
        "inflights",
        "is_learner",
        "match",
        "next",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "silent_beats",
        "state",
        "vouch",
    )

    def __init__(
        self,
        next_index: Index,
        inflights: Inflights,
        *,
        match: Index = 0,
        is_learner: bool = False,
        recent_active: bool = True,
    ) -> None:
        self.match = match
        self.next = next_index
        self.state = PROBE
        self.sent_commit = 0
        self.appended = self.answered = False
        self.silent_beats = 0
        self.pending_snapshot = 0
        self.flow_paused = False
        self.recent_active = recent_active
        self.is_learner = is_learner
        self.inflights = inflights
        self.vouch: object | None = None

    def start_over(self, match: Index, next_index: Index) -> None:
        """Forget what a former term knew. Nobody counts as active yet."""
        self._enter(PROBE)
        self.match = match
        self.next = next_index
        self.sent_commit = 0
        self.appended = self.answered = False
        self.silent_beats = 0
        self.recent_active = False
        self.vouch = None

    # --- changes of state ------------------------------------------------------------------

    def become_probe(self) -> None:
        """Stop sending ahead. After a snapshot, probe behind it rather than behind match."""
        if self.state is SNAPSHOT:
            next_index = max(self.match + 1, self.pending_snapshot + 1)
        else:
            next_index = self.match + 1
        self._enter(PROBE)
        self.next = next_index
        self._cap_sent_commit()

    def become_replicate(self) -> None:
        self._enter(REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: Index) -> None:
        """A snapshot at `index` is on its way."""
        self._enter(SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.flow_paused = False
        self.pending_snapshot = 0
        self.inflights.reset()

    def _cap_sent_commit(self) -> None:
        """A commit index beyond what was sent in vain was told in vain too."""
        if self.sent_commit >= self.next:
            self.sent_commit = self.next - 1

    # --- sending ---------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        return self.flow_paused or self.state is SNAPSHOT

    def sent_entries(self, last: Index, size: int) -> None:
        """An append with entries up to `last`, `size` bytes of them, was sent."""
        if self.state is REPLICATE:
            self.next = last + 1
            self.flow_paused = self.inflights.add(last, size)
        else:
            assert self.state is PROBE, "nothing is appended while a snapshot is under way"
            self.flow_paused = True

    def sent_nothing(self) -> None:
        """An append without entries was sent. It pauses only a window that is full."""
        if self.state is REPLICATE:
            self.flow_paused = self.inflights.full

    def could_learn_commit(self, commit: Index) -> bool:
        """Whether telling it `commit` now would let it commit more than it will anyway."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    # --- answers ---------------------------------------------------------------------------

    def acknowledge(self, index: Index) -> bool:
        """It has everything up to `index`. False: that is no news."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.flow_paused = False
        return True

    def reject(self, rejected: Index, hint: Index) -> bool:
        """It refused an append anchored at `rejected` and may match at `hint`. False: stale."""
        if self.state is REPLICATE:
            # Appends may overtake each other, so only what is known to match is safe to go
            # back to; probing then finds the true end.
            if rejected <= self.match:
                return False
            self.next = self.match + 1
        else:
            # A probe is answered once: an answer to anything but the last one is stale.
            if rejected != self.next - 1:
                return False
            self.next = max(min(rejected, hint + 1), self.match + 1)
            self.flow_paused = False
        self._cap_sent_commit()
        return True

    # --- for people ------------------------------------------------------------------------

    def copy(self) -> Progress:
        twin = Progress(
            self.next,
            self.inflights.copy(),
            match=self.match,
            is_learner=self.is_learner,
            recent_active=self.recent_active,
        )
        twin.state = self.state
        twin.sent_commit = self.sent_commit
        twin.pending_snapshot = self.pending_snapshot
        twin.flow_paused = self.flow_paused
        return twin

    def __str__(self) -> str:
        text = f"{_NAMES[self.state]} match={self.match} next={self.next}"
        if self.is_learner:
            text += " learner"
        if self.paused:
            text += " paused"
        if self.pending_snapshot > 0:
            text += f" pendingSnap={self.pending_snapshot}"
        if not self.recent_active:
            text += " inactive"
        if self.inflights.count > 0:
            text += f" inflight={self.inflights.count}" + ("[full]" if self.inflights.full else "")
        return text
