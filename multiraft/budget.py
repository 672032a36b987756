"""What all groups of a host together may hold of proposals that are not applied yet."""

from __future__ import annotations

HOST_LIMIT_REASON = (
    "this host holds too many bytes of proposals that are not applied (max_host_uncommitted_bytes)"
)
GROUP_LIMIT_REASON = "too many bytes of the group are proposed and not applied (max_uncommitted_bytes)"


class Budget:
    """A count of payload bytes, and its limit. Tables of proposals move it as they change.

    Attributes:
        limit: Bytes.
        used: What is queued here, or was proposed here and has no outcome yet, whoever leads; and
            what other members had this host's leaders append and is not applied here.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes may be taken: always, if there are none."""
        return self.used + size <= self.limit or not self.used
