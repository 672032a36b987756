"""Every exception that multiraft raises on purpose.

Three kinds of trouble never mix: the caller's (`NotLeader`, `ProposalTooLarge`), the
outside world's (`StorageFailed`, `CorruptRecord`), and our own bugs, which are `assert`s
and so do not appear here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from multiraft.types import Member


class MultiraftError(Exception):
    """The base of everything below."""


def fresh(error: Exception) -> Exception:
    """A copy of `error` to raise once more.

    Raised in many tasks, one object would gather all their tracebacks.
    """
    copy = error.__class__.__new__(error.__class__)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__
    return copy


# --- configuration and start ---------------------------------------------------------------


class ConfigError(MultiraftError):
    """A configuration value cannot be used. `field` names it, `reason` says why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class DataDirInUse(MultiraftError):
    """Another open host, in this process or another, holds the data folder."""


class AddressInUse(MultiraftError):
    """The listen address cannot be bound. The message names it and says why."""


class ClusterMismatch(MultiraftError):
    """The other side is a host of another cluster, or is not a multiraft host at all."""


class HostClosed(MultiraftError):
    """The host is closing or closed; what was asked was not done, unless `OutcomeUnknown` as well."""


# --- groups --------------------------------------------------------------------------------


class GroupNotFound(MultiraftError):
    """No group of that id lives on this host."""

    def __init__(self, group: int) -> None:
        super().__init__(f"group {group!r} is not on this host")
        self.group = group


class GroupExists(MultiraftError):
    """A group of that id already lives on this host."""

    def __init__(self, group: int) -> None:
        super().__init__(f"group {group} already exists on this host")
        self.group = group


class NotMember(MultiraftError):
    """This host is not a member of the group it was asked to carry."""


class MemberRemoved(MultiraftError):
    """This host's member was removed from the group; the group is stopped here."""


class MembershipRejected(MultiraftError):
    """A membership change was refused. `reason` says why; nothing was changed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# --- proposals and reads -------------------------------------------------------------------


class NoLeader(MultiraftError):
    """The group had no leader for as long as the call was willing to wait."""


class NotLeader(MultiraftError):
    """Forwarding is off and this host does not lead the group. `leader` does, if known."""

    def __init__(self, leader: Member | None) -> None:
        super().__init__(f"not the leader; the leader is {leader if leader is not None else 'unknown'}")
        self.leader = leader


class ProposalDropped(MultiraftError):
    """The proposal was certainly not applied, and never will be. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ProposalTooLarge(MultiraftError):
    """The proposal's `size` in bytes is above the `limit`; nothing was proposed."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"proposal of {size} bytes is above the limit of {limit} bytes")
        self.size = size
        self.limit = limit


class OutcomeUnknown(MultiraftError):
    """The proposal may have been applied, or may yet be; nobody here can tell."""


class StateMachineFailed(MultiraftError):
    """The state machine raised, so its group is stopped on this host."""


def outcome_unknown(error: MultiraftError, reason: str) -> OutcomeUnknown:
    """What a proposal under way fails with when `error` stops its group.

    It can be caught as either of the two: programs that end on `HostClosed` must see it here as
    well, and programs that propose again must see that this may do it twice.
    """
    if isinstance(error, OutcomeUnknown):
        return error
    both = _both(error.__class__)
    made = both.__new__(both)
    made.args = (reason,)
    made.__dict__.update(error.__dict__)
    made.__cause__ = error.__cause__
    return made


_BOTH: dict[type[MultiraftError], type[OutcomeUnknown]] = {}


def _both(kind: type[MultiraftError]) -> type[OutcomeUnknown]:
    if kind not in _BOTH:
        body = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        _BOTH[kind] = cast("type[OutcomeUnknown]", type(kind.__name__, (kind, OutcomeUnknown), body))
    return _BOTH[kind]


class GroupFailed(MultiraftError):
    """The group's log here cannot be right, or lost something; the group is stopped on this host.

    Also raised when a group is to be made on a host whose log was salvaged: one of the same id may
    have been here before, and its vote with it.
    """


class MemberForgotten(GroupFailed):
    """This host's member forgot what it promised: its data folder was lost, or is an old copy.

    It could vote twice, or help to lose what was acknowledged, so the group is stopped here.
    """


class TransferFailed(MultiraftError):
    """Leadership did not reach the named member in time; whoever leads now goes on leading."""


# --- storage -------------------------------------------------------------------------------


class StorageFailed(MultiraftError):
    """A write or sync failed. The store acknowledges nothing more; restart to recover."""


class StorageFull(StorageFailed):
    """The disk under the data folder has no room left."""


class CorruptRecord(MultiraftError):
    """The log is damaged where damage cannot be a torn tail.

    `segment` is the file's name and `offset` the byte where the bad record starts.
    """

    def __init__(self, segment: str, offset: int, reason: str = "checksum mismatch") -> None:
        super().__init__(
            f"{segment}: bad record at byte {offset} ({reason}); "
            "run 'multiraft wal verify' on the data folder, and restore this host from its peers"
        )
        self.segment = segment
        self.offset = offset
        self.reason = reason


class SnapshotInvalid(MultiraftError):
    """A snapshot file is damaged, truncated, or not a snapshot. Nothing was restored."""


# --- between the core and its log; never seen by programs ------------------------------------


class LogCompacted(MultiraftError):
    """The index lies below the first one the log still has."""


class LogUnavailable(MultiraftError):
    """The index lies above the last one the log has."""


class SnapshotUnavailable(MultiraftError):
    """No snapshot can be had just now; ask again later."""
