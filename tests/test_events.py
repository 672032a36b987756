"""Streams of events: what a slow reader misses, who listens, how a stream ends, what is logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
import trio

from multiraft.errors import ConfigError, HostClosed, MemberRemoved, StorageFull
from multiraft.events import (
    Event,
    EventReader,
    Events,
    EventsMissed,
    GroupRemoved,
    GroupStopped,
    HostFailed,
    LeaderChanged,
    MembersChanged,
    PeerDown,
    PeerUp,
    SyncSlow,
)
from multiraft.storage.pace import Pace
from multiraft.syncwatch import SyncWatch
from multiraft.types import Member, Role


async def read(reader: EventReader, count: int) -> list[Event]:
    return [await anext(reader) for _ in range(count)]


def wanted(events: Events) -> bool:
    return events.on


def removed(*groups: int) -> list[Event]:
    return [GroupRemoved(group) for group in groups]


async def test_a_slow_reader_loses_the_oldest_and_hears_how_many() -> None:
    events = Events()
    slow, quick = events.reader(3), events.reader(100)
    for event in removed(1, 2, 3, 4, 5):
        events.emit(event)
    assert await read(slow, 4) == [EventsMissed(2), *removed(3, 4, 5)]
    for event in removed(6, 7):
        events.emit(event)
    assert await read(slow, 2) == removed(6, 7), "the gap is told once"
    assert await read(quick, 7) == removed(1, 2, 3, 4, 5, 6, 7), "another reader does not notice"


async def test_readers_hear_from_when_they_were_made_on() -> None:
    events = Events()
    events.emit(GroupRemoved(1))
    reader = events.reader(10)
    events.emit(GroupRemoved(2))
    assert await read(reader, 1) == removed(2)


async def test_a_parked_reader_is_woken() -> None:
    events = Events()
    reader = events.reader(10)
    heard: list[Event] = []

    async def listen() -> None:
        heard.extend(await read(reader, 2))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        events.emit(GroupRemoved(1))
        events.emit(GroupRemoved(2))
    assert heard == removed(1, 2)


async def test_nothing_is_wanted_once_the_last_reader_has_left() -> None:
    events = Events()
    for _ in range(2):
        events.reader(10)  # nobody keeps it
    assert wanted(events)
    events.emit(GroupRemoved(1))
    assert not wanted(events)

    reader = events.reader(10)
    assert wanted(events)
    await reader.aclose()
    assert not wanted(events)
    assert [event async for event in reader] == []


async def test_leaving_a_loop_leaves_nothing() -> None:
    events = Events()

    async def first() -> Event | None:
        async for event in events.reader(10):
            return event
        return None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        events.emit(GroupRemoved(1))
    assert not events._readers


async def test_what_happened_before_the_end_is_told_before_it() -> None:
    events = Events()
    reader, idle = events.reader(10), events.reader(10)
    failure = StorageFull("no room")
    events.emit(GroupRemoved(1))
    events.emit(HostFailed(failure))
    events.end(failure)
    events.end(HostClosed("the host was closed"))
    with trio.CancelScope() as scope:
        # As a host's failure does to the tasks in its block.
        scope.cancel()
        assert await read(reader, 2) == [GroupRemoved(1), HostFailed(failure)]
    with pytest.raises(StorageFull, match="no room"):
        await anext(reader)
    assert await read(idle, 2)
    for _ in range(2):
        with pytest.raises(StorageFull):
            await anext(idle)
    with pytest.raises(StorageFull):
        await anext(events.reader(10))


async def test_a_parked_reader_hears_the_end() -> None:
    events = Events()

    async def listen() -> None:
        with pytest.raises(HostClosed):
            await anext(events.reader(10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        events.end(HostClosed("the host was closed"))


@pytest.mark.parametrize("limit", [0, -1, True, "1", 1.5])
def test_a_limit_that_is_none_is_refused(limit: object) -> None:
    with pytest.raises(ConfigError, match="limit"):
        Events().reader(limit)  # type: ignore[arg-type]  # that is the point


def test_events_with_members_and_errors_can_be_compared_and_hashed() -> None:
    member = Member(1, "a:1")
    error = MemberRemoved("gone")
    for event in (
        MembersChanged(7, {1: member}, 3, complete=True),
        GroupStopped(7, error),
        LeaderChanged(7, member, 2),
    ):
        assert len({event, event}) == 1
    assert GroupStopped(7, error) == GroupStopped(7, MemberRemoved("gone"))


@pytest.fixture
def stdlib_logs() -> Iterator[None]:
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    yield
    if before is None:
        structlog.reset_defaults()
    else:
        structlog.configure(**before)


@pytest.mark.usefixtures("stdlib_logs")
def test_events_are_logged_as_far_as_somebody_wants_them(caplog: pytest.LogCaptureFixture) -> None:
    events = Events()
    log = structlog.get_logger("multiraft")
    quiet, chatty = PeerDown("b:1", "reset"), PeerUp("b:1")
    caplog.set_level(logging.WARNING, "multiraft")
    events.log_to(log)
    assert not wanted(events)
    events.emit(quiet)
    events.emit(chatty)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "event='peer down' address='b:1' reason='reset'" in caplog.text
    caplog.set_level(logging.DEBUG, "multiraft")
    events.refresh()
    assert wanted(events)
    events.emit(LeaderChanged(7, Member(2, "c:1"), 5))
    gone = Member(3, "d:1", Role.REMOVED)
    events.emit(MembersChanged(7, {2: Member(2, "c:1"), 3: gone}, 9, complete=True))
    assert "event='leader changed' group=7 leader='2 at c:1' term=5" in caplog.text
    assert "members='2 at c:1 (voter)' version=9" in caplog.text


def test_without_a_logger_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    events = Events()
    events.refresh()
    events.emit(HostFailed(StorageFull("no room")))
    assert capsys.readouterr() == ("", "")


async def test_a_write_that_hangs_is_told_while_it_does_and_when_it_is_through() -> None:
    now = 0.0
    events, pace = Events(), Pace(1.0, lambda: now)
    reader = events.reader(10)
    watch = SyncWatch(events, pace, 1.0)
    with pace:
        now = 0.9
        watch.look()
        now = 2.5
        watch.look()
        watch.look()
        now = 3.0
    watch.look()
    assert await read(reader, 2) == [SyncSlow(2.5, done=False), SyncSlow(3.0, done=True)]
    with pace:
        now = 3.5
    watch.look()
    events.emit(GroupRemoved(1))
    assert await read(reader, 1) == removed(1), "half a second is not slow"
