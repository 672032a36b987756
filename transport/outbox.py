"""Frames that wait for a link, bounded in bytes and in number. Pure.

What happens at the bound depends on the lane. Bulk: the new frame is refused and the caller
told so; raft sends again. Liveness: frames of that lane only mean something together and in
order, so none is ever dropped alone; the outbox overflows, empties itself, and stays shut
until its session has been replaced by a new one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from multiraft.messages import Lane


class Outbox:
    """The frames of one session of one lane. It is thrown away with its session."""

    __slots__ = ("_frames", "_lane", "_max_bytes", "_max_frames", "frame_bytes", "lost", "overflowed")

    def __init__(self, lane: Lane, max_bytes: int, max_frames: int) -> None:
        self._lane = lane
        self._max_bytes = max_bytes
        self._max_frames = max_frames
        self._frames: deque[bytes] = deque()
        self.frame_bytes = 0
        """Bytes that wait."""
        self.lost = 0
        """Frames that an overflow threw away."""
        self.overflowed = False
        """A liveness frame did not fit: the session must end."""

    def __len__(self) -> int:
        return len(self._frames)

    def push(self, frames: Sequence[bytes]) -> bool:
        """Queue all of `frames`, or none. An empty outbox takes any frame, however large."""
        if self.overflowed:
            return False
        size = sum(map(len, frames))
        waiting = self._frames
        fits = self.frame_bytes + size <= self._max_bytes and len(waiting) + len(frames) <= self._max_frames
        if waiting and not fits:
            if self._lane is Lane.LIVENESS:
                self.overflow()
            return False
        waiting.extend(frames)
        self.frame_bytes += size
        return True

    def overflow(self) -> None:
        """Empty it and take nothing more."""
        self.overflowed = True
        self.lost += len(self._frames)
        self._frames.clear()
        self.frame_bytes = 0

    def take(self, max_bytes: int) -> bytes:
        """The oldest frames, joined up to `max_bytes`; at least one. Only when not empty."""
        waiting = self._frames
        if self.frame_bytes <= max_bytes:
            chunk = waiting[0] if len(waiting) == 1 else b"".join(waiting)
            waiting.clear()
            self.frame_bytes = 0
            return chunk
        taken = [waiting.popleft()]
        size = len(taken[0])
        while waiting and size + len(waiting[0]) <= max_bytes:
            size += len(waiting[0])
            taken.append(waiting.popleft())
        self.frame_bytes -= size
        return b"".join(taken)
