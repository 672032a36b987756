"""The words in which the core tells what it does: log levels and names of states.

The core formats no text unless somebody listens: a `Logger` of None costs one comparison.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, NoReturn

from multiraft.messages import MessageType
from multiraft.raft.failures import RaftFailure

__all__ = ["MESSAGE_NAMES", "ROLE_NAMES", "Level", "Logger", "RaftRole", "fail"]


class Level(enum.IntEnum):
    """How much a line matters."""

    DEBUG = 0
    INFO = 1
    WARN = 2
    ERROR = 3
    FATAL = 4


Logger = Callable[[Level, str], None]
"""Takes each line the core has to say. It must not call back into the core."""


class RaftRole(enum.IntEnum):
    """What a member is in its present term (thesis, Figure 3.3; pre-candidate: §9.6)."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3


ROLE_NAMES: Final[dict[RaftRole, str]] = {
    RaftRole.FOLLOWER: "StateFollower",
    RaftRole.CANDIDATE: "StateCandidate",
    RaftRole.LEADER: "StateLeader",
    RaftRole.PRE_CANDIDATE: "StatePreCandidate",
}

MESSAGE_NAMES: Final[dict[MessageType, str]] = {
    kind: "Msg" + "".join(part.title() for part in kind.name.split("_")) for kind in MessageType
}
"""The field's own spelling, for instance "MsgAppResp"."""


def fail(logger: Logger | None, text: str, kind: type[RaftFailure] = RaftFailure) -> NoReturn:
    """Say `text` as a last word, then raise it as `kind`."""
    if logger is not None:
        logger(Level.FATAL, text)
    raise kind(text)
