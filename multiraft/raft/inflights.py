"""The window of appends that one follower was sent and has not acknowledged yet."""

from __future__ import annotations

from typing import Final

from multiraft.types import Index

__all__ = ["Inflights"]

_NOTHING: Final[list[int]] = []
"""What a window holds that nothing was ever sent into; never changed."""


class Inflights:
    """Counts messages and their bytes, each named by the last index it carried.

    Two limits: `max_messages` is strict; `max_bytes` (0: none) is soft, in that a message is
    sent as long as the window holds less, and may overshoot. Plain lists, because an empty
    list costs a tenth of an empty deque; and made when they are first needed, because most of
    the thousands of windows are a follower's, who sends nothing.
    """

    __slots__ = ("_bytes", "_ends", "_held_bytes", "_max_bytes", "_max_messages")

    def __init__(self, max_messages: int, max_bytes: int = 0) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._ends: list[Index] = _NOTHING
        self._bytes: list[int] = _NOTHING

    @property
    def count(self) -> int:
        return len(self._ends)

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    def add(self, last: Index, size: int) -> bool:
        """A message that ends at `last` was sent; its entries weigh `size` bytes.

        Returns whether the window is full now.
        """
        ends = self._ends
        assert len(ends) < self._max_messages, "nothing is sent into a full window"
        assert not ends or last >= ends[-1], "messages are sent in log order"
        if ends is _NOTHING:
            ends = self._ends = []
            self._bytes = []
        ends.append(last)
        self._bytes.append(size)
        self._held_bytes += size
        return len(ends) >= self._max_messages or 0 < self._max_bytes <= self._held_bytes

    def free_to(self, index: Index) -> None:
        """Everything up to `index` was acknowledged."""
        ends = self._ends
        if not ends or index < ends[0]:
            return
        if index >= ends[-1]:
            # Cleared, not dropped: the next append is about to come.
            ends.clear()
            self._bytes.clear()
            self._held_bytes = 0
            return
        freed = 1
        while ends[freed] <= index:
            freed += 1
        self._held_bytes -= sum(self._bytes[:freed])
        del ends[:freed]
        del self._bytes[:freed]

    @property
    def full(self) -> bool:
        return len(self._ends) >= self._max_messages or 0 < self._max_bytes <= self._held_bytes

    def reset(self) -> None:
        self._ends = self._bytes = _NOTHING
        self._held_bytes = 0

    def copy(self) -> Inflights:
        twin = Inflights(self._max_messages, self._max_bytes)
        twin._held_bytes = self._held_bytes
        if self._ends:
            twin._ends = self._ends.copy()
            twin._bytes = self._bytes.copy()
        return twin
