"""The exceptions that leave the core, beside `errors.ProposalDropped`.

Everything else that can go wrong inside is either a message to a peer or an `assert`.
"""

from __future__ import annotations

from multiraft.errors import MultiraftError

__all__ = ["ConfChangeRefused", "EntriesLost", "PeerNotFound", "RaftFailure", "StepLocalMessage"]


class StepLocalMessage(MultiraftError):
    """`step` was given a message that only the member itself may produce. Nothing happened."""

    def __init__(self) -> None:
        super().__init__("raft: cannot step raft local message")


class PeerNotFound(MultiraftError):
    """`step` was given a response of somebody who is no member here. Nothing happened."""

    def __init__(self) -> None:
        super().__init__("raft: cannot step as peer not found")


class RaftFailure(MultiraftError):
    """This member's log contradicts its leader or its own past; it must not go on.

    The usual cause is a log that lost writes it had promised: restore the member from its
    peers under a new id.
    """


class EntriesLost(RaftFailure):
    """The leader knows entries as stored here that this log does not have."""


class ConfChangeRefused(MultiraftError):
    """A configuration change cannot be applied to the present configuration.

    Nothing was changed. Every replica refuses the same committed change in the same way.
    """
