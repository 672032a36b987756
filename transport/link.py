"""One lane to one peer: dial, keep a session open, dial again; and the statistics of it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence

import attrs
import httpx
import structlog
import trio
from outcome import Value

from multiraft.interfaces import Random, Receiver
from multiraft.messages import Envelope, Hello, Lane
from multiraft.transport import handshake
from multiraft.transport.bounds import Bounds
from multiraft.transport.client import ClientSession, Dialer
from multiraft.transport.frames import WireError
from multiraft.transport.handshake import Accepted, Ended
from multiraft.transport.outbox import Outbox
from multiraft.transport.wire import encode_frames

logger = structlog.get_logger(__name__)


@attrs.frozen
class LinkStatistics:
    """One lane to one peer since the link was made."""

    address: str
    lane: Lane
    up: bool
    frames: int
    """Handed to the lane."""
    bytes: int
    dropped: int
    """Frames refused, or lost in an outbox when its session ended."""
    sessions: int
    """Times the lane was opened."""
    queued_bytes: int
    reason: str
    """Why the lane last went down. Empty: it never did."""


class Link:
    """A lane to the host at `address`. Its task is `run`; everything else is synchronous."""

    def __init__(self, address: str, lane: Lane, dialer: Dialer, receiver: Receiver, random: Random) -> None:
        self.address = address
        self.lane = lane
        self._dialer = dialer
        self._bounds: Bounds = dialer.bounds
        self._receiver = receiver
        self._random = random
        self._scope = trio.CancelScope()
        self._session: ClientSession | None = None
        self._outbox: Outbox | None = None
        self._parked: trio.lowlevel.Task | None = None
        self._frames = self._bytes = self._dropped = self._sessions = 0
        self._reason = ""
        self.refusal = ""
        """Why the lane was last refused in a way that only a person can change. Empty: it was not."""

    def send(self, items: Sequence[Envelope]) -> bool:
        """Queue one frame. False: the lane is not open, or its outbox is full."""
        outbox = self._outbox
        if outbox is None:
            self._dropped += 1
            return False
        try:
            frames = encode_frames(items, self._bounds.max_frame_bytes)
        except WireError as error:
            # Nobody can send this, ever; the other lanes and later frames still may.
            logger.warning(
                "message cannot be sent", peer=self.address, lane=self.lane.name, reason=str(error)
            )
            if self.lane is Lane.LIVENESS:
                self._overflow(outbox, f"a frame could not be encoded: {error}")
            self._dropped += 1
            return False
        if not outbox.push(frames):
            self._dropped += 1
            if outbox.overflowed:
                self._overflow(outbox, f"more than {self._bounds.liveness_outbox_bytes} bytes waited for it")
            return False
        self._frames += len(frames)
        self._bytes += sum(map(len, frames))
        task = self._parked
        if task is not None:
            self._parked = None
            trio.lowlevel.reschedule(task, Value(None))
        return True

    def _overflow(self, outbox: Outbox, reason: str) -> None:
        outbox.overflow()
        self._dropped += outbox.lost
        self._outbox = None
        assert self._session is not None
        self._session.end(f"the {self.lane.name.lower()} lane to {self.address} was reset: {reason}")

    async def run(self) -> None:
        """Keep the lane open until `stop`."""
        with self._scope:
            failures = 0
            while True:
                before = self._sessions
                ended = await self._one_session()
                failures = 1 if self._sessions > before else failures + 1
                await trio.sleep(self._pause_s(ended, failures))

    def stop(self) -> None:
        """End the lane and its task. The receiver is not told."""
        self._outbox = None
        self._scope.cancel()

    def statistics(self) -> LinkStatistics:
        queued = self._outbox.frame_bytes if self._outbox is not None else 0
        return LinkStatistics(
            self.address,
            self.lane,
            self._outbox is not None,
            self._frames,
            self._bytes,
            self._dropped,
            self._sessions,
            queued,
            self._reason,
        )

    # --- one session --------------------------------------------------------------------------

    async def _one_session(self) -> Ended:
        opening = handshake.lane_request(self._dialer.hello, self.lane)
        self._session = ClientSession(self._dialer, self.address, handshake.HELLO_PATH, opening, self._body)
        before = self._sessions
        try:
            ended = await self._session.run(self._up)
        finally:
            outbox, self._outbox = self._outbox, None
            self._dropped += len(outbox) if outbox is not None else 0
            self._session = None
        self._down(ended, was_up=self._sessions > before)
        return ended

    def _body(self, _accepted: Accepted) -> httpx.AsyncByteStream:
        return _OutboxBody(self)

    def _up(self, hello: Hello) -> None:
        liveness = self.lane is Lane.LIVENESS
        limit = self._bounds.liveness_outbox_bytes if liveness else self._bounds.bulk_outbox_bytes
        self._outbox = Outbox(self.lane, limit, self._bounds.outbox_frames)
        self._sessions += 1
        self.refusal = ""
        logger.info("lane open", peer=self.address, lane=self.lane.name, host_id=hello.host_id)
        # The peer is known by the address we dial it at, whatever it advertises.
        self._receiver.peer_up(attrs.evolve(hello, address=self.address), self.lane)

    def _down(self, ended: Ended, *, was_up: bool) -> None:
        self.refusal = "" if ended.retry else ended.reason
        # A peer that stays away is reported once for each reason, not once for each try.
        if not was_up and ended.reason == self._reason:
            return
        self._reason = ended.reason
        log = logger.info if ended.retry else logger.error
        log("lane closed", peer=self.address, lane=self.lane.name, reason=ended.reason)
        self._receiver.peer_down(self.address, self.lane, ended.reason)

    def _pause_s(self, ended: Ended, failures: int) -> float:
        """Half the back-off is fixed and half random, so that hosts do not dial in step."""
        bounds = self._bounds
        if not ended.retry:
            pause = bounds.retry_refused_s
        else:
            pause = min(bounds.retry_max_s, math.ldexp(bounds.retry_min_s, min(failures - 1, 16)))
        return pause * (0.5 + self._random(1 << 16) / (1 << 17))

    async def next_chunk(self) -> bytes:
        # Before the session is up there is no outbox yet; `_up` comes before anything is sent.
        while self._outbox is None or not len(self._outbox):
            self._parked = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._unpark)
        return self._outbox.take(self._bounds.chunk_bytes)

    def _unpark(self, _: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED


class _OutboxBody(httpx.AsyncByteStream):
    """The stream's body: whatever the outbox holds, for ever.

    A class rather than an async generator: a write that is cancelled would leave that
    suspended, to be complained about when it is collected.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await self._link.next_chunk()
