"""What happens on a host, as a stream that programs can read: `Host.events`.

Whoever has something to tell asks `Events.on` first, one attribute, so that nothing is made when
nobody listens; what nobody should miss in a log is told in any case. A reader has a queue of its
own with a bound: it loses the oldest, and is told how many, and nobody else notices. Readers are
held weakly, so one whose loop was left is gone.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
import structlog
import trio

from multiraft.errors import ConfigError, MultiraftError, fresh
from multiraft.types import GroupId, Index, Member, MemberId, Role, Term

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR


@attrs.frozen
class Event:
    """The base of everything that `Host.events` yields."""

    _level: ClassVar[int] = INFO
    _text: ClassVar[str] = ""


@attrs.frozen
class EventsMissed(Event):
    """The reader was too slow: at this place of its stream `count` events are missing."""

    count: int


# --- groups --------------------------------------------------------------------------------


@attrs.frozen
class LeaderChanged(Event):
    """`leader` leads the group since `term`, as far as this host knows; None: nobody does."""

    _level: ClassVar[int] = DEBUG
    _text: ClassVar[str] = "leader changed"
    group: GroupId
    leader: Member | None
    term: Term


@attrs.frozen
class MembersChanged(Event):
    """A configuration change was applied here, by itself or in a snapshot.

    `complete` is False while a joint change is under way; another event follows when it is over.
    """

    _text: ClassVar[str] = "members changed"
    group: GroupId
    members: Mapping[MemberId, Member] = attrs.field(hash=False)
    version: Index
    complete: bool


@attrs.frozen
class OwnMemberRemoved(Event):
    """This host's member was removed from the group, which is over here."""

    _text: ClassVar[str] = "removed from the group"
    group: GroupId
    member: MemberId


@attrs.frozen
class GroupCreated(Event):
    """A group was made here, or is to join others."""

    _level: ClassVar[int] = DEBUG
    _text: ClassVar[str] = "group created"
    group: GroupId
    member: MemberId


@attrs.frozen
class GroupRemoved(Event):
    """`Host.remove_group` deleted the group's data."""

    _text: ClassVar[str] = "group removed"
    group: GroupId


@attrs.frozen
class GroupStopped(Event):
    """The group cannot go on here; others are not concerned."""

    _level: ClassVar[int] = ERROR
    _text: ClassVar[str] = "group stopped"
    group: GroupId
    error: MultiraftError = attrs.field(eq=False)


# --- snapshots -----------------------------------------------------------------------------


@attrs.frozen
class SnapshotTaken(Event):
    """A snapshot of the group's state at `index` is on disk; `bytes` is its file's size."""

    _level: ClassVar[int] = DEBUG
    _text: ClassVar[str] = "snapshot taken"
    group: GroupId
    index: Index
    bytes: int


@attrs.frozen
class SnapshotSent(Event):
    """The host at `peer` has the whole file on disk, for its `member`."""

    _text: ClassVar[str] = "snapshot sent"
    group: GroupId
    index: Index
    bytes: int
    peer: str
    member: MemberId


@attrs.frozen
class SnapshotNotSent(Event):
    """A transfer to `member` at `peer` failed. Raft tries again if it is still needed."""

    _level: ClassVar[int] = WARNING
    _text: ClassVar[str] = "snapshot not sent"
    group: GroupId
    index: Index
    bytes: int
    peer: str
    member: MemberId
    reason: str


@attrs.frozen
class SnapshotInstalled(Event):
    """A snapshot from the host at `peer` is this member's state now."""

    _text: ClassVar[str] = "snapshot installed"
    group: GroupId
    index: Index
    bytes: int
    peer: str


# --- the host ------------------------------------------------------------------------------


@attrs.frozen
class PeerUp(Event):
    """All lanes to the host at `address` are open."""

    _text: ClassVar[str] = "peer up"
    address: str


@attrs.frozen
class PeerDown(Event):
    """A lane to the host at `address` was lost, or the first try to open one failed."""

    _level: ClassVar[int] = WARNING
    _text: ClassVar[str] = "peer down"
    address: str
    reason: str


@attrs.frozen
class SyncSlow(Event):
    """The log has been writing and syncing for `seconds`; `done`: it is through now."""

    _level: ClassVar[int] = WARNING
    _text: ClassVar[str] = "the disk is slow"
    seconds: float
    done: bool


@attrs.frozen
class HostFailed(Event):
    """The host stopped: its disk is full or failed, or its log is damaged. The last event there is."""

    _level: ClassVar[int] = ERROR
    _text: ClassVar[str] = "host failed"
    error: MultiraftError = attrs.field(eq=False)


# --- who reads -----------------------------------------------------------------------------


class Events:
    """Where a host's events go: to any number of readers, and to a logger.

    Attributes:
        on: Whether anybody wants to know of what is not a warning. Ask it before making an event.
    """

    def __init__(self) -> None:
        self.on = False
        self.ended: MultiraftError | None = None
        """Why nothing more happens here."""
        self._readers: dict[int, weakref.ref[EventReader]] = {}
        self._logger: Any = None
        self._floor = ERROR + 1
        """Events of a lower level are not logged."""

    def log_to(self, logger: structlog.typing.BindableLogger) -> None:
        """Log every event from now on, as far as `logger` wants it."""
        self._logger = logger
        self.refresh()

    def refresh(self) -> None:
        """See who listens. Called now and then, because log levels change without telling anybody."""
        if self._logger is not None:
            levels = (level for level in (DEBUG, INFO, WARNING) if _wants(self._logger, level))
            self._floor = next(levels, ERROR)
        self.on = bool(self._readers) or self._floor < WARNING

    def emit(self, event: Event, level: int | None = None) -> None:
        """Tell everybody. It is logged at `level`; default: its own."""
        # A copy: a reader may be collected, by any thread, at any moment.
        for reference in tuple(self._readers.values()):
            reader = reference()
            if reader is not None:
                reader.put(event)
        if not self._readers:
            self.on = self._floor < WARNING
        level = event._level if level is None else level
        if level >= self._floor:
            name = logging.getLevelName(level).lower()
            getattr(self._logger, name)(event._text, **_fields(event))

    def end(self, error: MultiraftError) -> None:
        """Nothing more will happen: readers get what they have not read yet, and then `error`."""
        if self.ended is None:
            self.ended = error
            for reference in tuple(self._readers.values()):
                reader = reference()
                if reader is not None:
                    reader.wake()

    def reader(self, limit: int) -> EventReader:
        """A new reader, of what happens from now on. Raises: ConfigError when `limit` is none."""
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ConfigError("limit", f"{limit!r} is not a number of events")
        readers = self._readers
        reader = EventReader(self, limit)
        key = id(reader)
        # Not a bound method: the reference would keep all of us alive in a cycle.
        readers[key] = weakref.ref(reader, lambda _: readers.pop(key, None))
        self.on = True
        return reader

    def leave(self, reader: EventReader) -> None:
        self._readers.pop(id(reader), None)
        self.on = bool(self._readers) or self._floor < WARNING


class EventReader:
    """An asynchronous iterator over what happens on a host, from when it was made; see `Host.events`.

    A class and no generator, so that it listens before its loop begins, and that leaving the loop early
    leaves nothing to close.
    """

    __slots__ = ("__weakref__", "_closed", "_events", "_limit", "_lot", "_missed", "_queue")

    def __init__(self, events: Events, limit: int) -> None:
        self._events = events
        self._limit = limit
        self._queue: deque[Event] = deque()
        self._missed = 0
        self._lot = trio.lowlevel.ParkingLot()
        self._closed = False

    def __aiter__(self) -> EventReader:
        return self

    async def __anext__(self) -> Event:
        events, queue = self._events, self._queue
        if queue and events.ended is not None:
            # The host's failure cancels the tasks in its block: what it ended with is told all the same.
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif queue or self._closed or events.ended is not None:
            await trio.lowlevel.checkpoint()
        while not (queue or self._closed or events.ended is not None):
            await self._lot.park()
        if self._closed:
            raise StopAsyncIteration
        if self._missed:
            count, self._missed = self._missed, 0
            return EventsMissed(count)
        if queue:
            return queue.popleft()
        assert events.ended is not None
        raise fresh(events.ended)

    async def aclose(self) -> None:
        """Listen no more; the loop ends. Needed only where the reader is kept: one that is not, leaves."""
        self._closed = True
        self._queue.clear()
        self._events.leave(self)
        self.wake()
        await trio.lowlevel.checkpoint()

    # --- what `Events` calls -------------------------------------------------------------------

    def put(self, event: Event) -> None:
        if len(self._queue) >= self._limit:
            self._queue.popleft()
            self._missed += 1
        self._queue.append(event)
        if self._lot:
            self._lot.unpark_all()

    def wake(self) -> None:
        self._lot.unpark_all()


# --- logging -------------------------------------------------------------------------------


def _wants(logger: Any, level: int) -> bool:
    """Whether a structlog logger, whatever the program made of it, lets `level` through."""
    bound = logger.bind()
    # Looked up on the class: some loggers take any name for a method that logs.
    for name in ("isEnabledFor", "is_enabled_for"):
        check: Callable[[Any, int], bool] | None = getattr(type(bound), name, None)
        if check is not None:
            try:
                return bool(check(bound, level))
            except AttributeError:  # it wraps something that is no logger of the standard library
                return True
    return True


def _fields(event: Event) -> dict[str, object]:
    return {name: _shown(value) for name, value in attrs.asdict(event, recurse=False).items()}


def _shown(value: object) -> object:
    """A value as it reads in one line."""
    if isinstance(value, Member):
        return f"{value.id} at {value.address}"
    if isinstance(value, Mapping):
        members = [member for _, member in sorted(value.items()) if member.role is not Role.REMOVED]
        return ", ".join(f"{member.id} at {member.address} ({member.role.value})" for member in members)
    return str(value) if isinstance(value, BaseException) else value
