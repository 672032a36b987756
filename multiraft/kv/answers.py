"""What clients are told when something is not done: a status, a code word, and whether the
write may have been applied all the same.

A client may repeat a write that was certainly not applied. After `"applied": "maybe"` a repeated
write may be applied twice: harmless for the same value, unless another client wrote in between.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

from multiraft.errors import (
    GroupNotFound,
    HostClosed,
    MemberRemoved,
    MultiraftError,
    NoLeader,
    NotLeader,
    NotMember,
    OutcomeUnknown,
    ProposalDropped,
    ProposalTooLarge,
    SnapshotUnavailable,
    StateMachineFailed,
    StorageFailed,
)

Applied = Literal["no", "maybe"]


@attrs.frozen
class Failure:
    """One outcome that is no success."""

    status: int
    error: str
    """The code word."""
    reason: str
    applied: Applied
    leader: str | None = None
    """Where to go instead, if that is known."""

    def body(self) -> dict[str, object]:
        body: dict[str, object] = {"error": self.error, "reason": self.reason, "applied": self.applied}
        if self.leader is not None:
            body["leader"] = self.leader
        return body


# In this order: the first class that fits counts.
CODES: Final[tuple[tuple[type[MultiraftError], int, str, Applied], ...]] = (
    (ProposalTooLarge, 413, "too_large", "no"),
    (NoLeader, 503, "no_leader", "no"),
    (NotLeader, 503, "not_leader", "no"),
    (ProposalDropped, 503, "dropped", "no"),
    (OutcomeUnknown, 503, "outcome_unknown", "maybe"),
    (HostClosed, 503, "host_closed", "no"),
    (GroupNotFound, 503, "group_not_here", "no"),
    (NotMember, 503, "not_a_member", "no"),
    (MemberRemoved, 503, "not_a_member", "maybe"),
    (SnapshotUnavailable, 503, "restoring", "no"),
    (StateMachineFailed, 503, "state_machine_failed", "maybe"),
    (StorageFailed, 503, "storage_failed", "maybe"),
    (MultiraftError, 503, "unavailable", "maybe"),
)


def failure_of(error: MultiraftError) -> Failure:
    status, code, applied = next((s, c, a) for kind, s, c, a in CODES if isinstance(error, kind))
    leader = error.leader.address if isinstance(error, NotLeader) and error.leader is not None else None
    return Failure(status, code, str(error), applied, leader)


def timed_out(seconds: float) -> Failure:
    return Failure(503, "timeout", f"no outcome within {seconds:g} s", "maybe")


def starting(reason: str) -> Failure:
    return Failure(503, "starting", reason, "no")
