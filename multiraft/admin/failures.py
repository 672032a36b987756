"""What a client is told when something is not done: a status, the error's name, and why.

The names are those of `multiraft.errors` where the error is one of them, so that programs that know
the API know them. `applied` says whether the call may have had its effect all the same.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

from multiraft.admin.kinds import BadRequest, Choice, Field, Integer, Maybe, Record, Text
from multiraft.errors import (
    ConfigError,
    GroupExists,
    GroupFailed,
    GroupNotFound,
    HostClosed,
    MemberRemoved,
    MembershipRejected,
    MultiraftError,
    NoLeader,
    NotLeader,
    NotMember,
    OutcomeUnknown,
    ProposalDropped,
    SnapshotInvalid,
    SnapshotUnavailable,
    StateMachineFailed,
    StorageFailed,
    StorageFull,
    TransferFailed,
)
from multiraft.types import GroupId

Applied = Literal["no", "maybe"]


@attrs.frozen
class Failure:
    """One outcome that is no success."""

    status: int
    error: str
    reason: str
    applied: Applied = "no"
    field: str | None = None
    group: GroupId | None = None
    leader: str | None = None

    def body(self) -> dict[str, object]:
        """Without what is not known."""
        return attrs.asdict(self, filter=lambda at, value: value is not None and at.name != "status")


ERROR: Final = Record(
    "Error",
    (
        Field("error", Text(), "The error's name, for programs."),
        Field("reason", Text(empty=True), "A sentence for people."),
        Field("applied", Choice(("no", "maybe")), "Whether it may have been done all the same."),
        Field("field", Maybe(Text()), "400: which part of the request is wrong.", default=None),
        Field("group", Maybe(Integer()), "Which group is not here, or is here already.", default=None),
        Field("leader", Maybe(Text()), "Where the leader is, if another host has to be asked.", default=None),
    ),
)

# In this order: the first class that fits counts. OutcomeUnknown goes before the errors that stop a
# group, because an error may be both.
STATUSES: Final[tuple[tuple[type[MultiraftError], int, Applied], ...]] = (
    (ConfigError, 400, "no"),
    (SnapshotInvalid, 400, "no"),
    (GroupNotFound, 404, "no"),
    (GroupExists, 409, "no"),
    (NotMember, 409, "no"),
    (MembershipRejected, 409, "no"),
    (OutcomeUnknown, 504, "maybe"),
    (TransferFailed, 504, "maybe"),
    (MemberRemoved, 409, "no"),
    (GroupFailed, 409, "no"),
    (NoLeader, 503, "no"),
    (NotLeader, 503, "no"),
    (ProposalDropped, 503, "no"),
    (SnapshotUnavailable, 503, "no"),
    (HostClosed, 503, "no"),
    (StorageFull, 507, "maybe"),
    (StorageFailed, 500, "maybe"),
    (StateMachineFailed, 500, "maybe"),
    (MultiraftError, 500, "maybe"),
)


def failure_of(error: MultiraftError) -> Failure:
    kind, status, applied = next(row for row in STATUSES if isinstance(error, row[0]))
    # An error that is an OutcomeUnknown as well has the name of the other one.
    name = kind.__name__ if kind is OutcomeUnknown else type(error).__name__
    leader = error.leader.address if isinstance(error, NotLeader) and error.leader is not None else None
    group = error.group if isinstance(error, (GroupNotFound, GroupExists)) else None
    if isinstance(error, ConfigError):
        return Failure(status, name, str(error), applied, field=error.field)
    return Failure(status, name, str(error), applied, group=group, leader=leader)


def bad_request(error: BadRequest) -> Failure:
    return Failure(400, "BadRequest", str(error), field=error.field)


def timed_out(seconds: float, *, changes: bool) -> Failure:
    """`changes`: the call was one that changes something, and may be carried out yet."""
    return Failure(504, "Timeout", f"no outcome within {seconds:g} s", "maybe" if changes else "no")


class Refused(Exception):
    """A request that gets nowhere."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure
