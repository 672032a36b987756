"""Who waits: parked tasks behind the tables of proposals and reads, and iterators over states."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import outcome
import trio

from multiraft.errors import fresh
from multiraft.types import Member

if TYPE_CHECKING:
    from multiraft.group import Group


class TaskWaiter:
    """A parked trio task. Waking one costs 3 µs, so nothing is woken twice for one result."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

    @property
    def listening(self) -> bool:
        """Whether its task still waits: it was neither woken nor cancelled."""
        return self._task is not None

    async def wait(self) -> object:
        return await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None  # cancelled: whatever comes of it, nobody listens any more
        return trio.lowlevel.Abort.SUCCEEDED

    def resolve(self, value: object) -> None:
        if (task := self._task) is not None:
            self._task = None
            trio.lowlevel.reschedule(task, outcome.Value(value))

    def fail(self, error: Exception) -> None:
        if (task := self._task) is not None:
            self._task = None
            trio.lowlevel.reschedule(task, outcome.Error(fresh(error)))


class ManyWaiter:
    """Collects the results of several proposals, in order, and wakes its task once."""

    __slots__ = ("_left", "_results", "_waiter")

    def __init__(self, count: int) -> None:
        self._left = count
        self._results: list[object] = []
        self._waiter = TaskWaiter()

    @property
    def listening(self) -> bool:
        return self._waiter.listening

    async def wait(self) -> list[object]:
        return cast("list[object]", await self._waiter.wait())

    def resolve(self, value: object) -> None:
        self._results.append(value)
        self._left -= 1
        if self._left == 0:
            self._waiter.resolve(self._results)

    def fail(self, error: Exception) -> None:
        self._waiter.fail(error)


class QueryWaiter:
    """A read whose barrier, once passed, is followed by the query itself: one wake-up in all."""

    __slots__ = ("_group", "_request", "_waiter")

    def __init__(self, group: Group, request: object) -> None:
        self._group = group
        self._request = request
        self._waiter = TaskWaiter()

    @property
    def listening(self) -> bool:
        return self._waiter.listening

    async def wait(self) -> object:
        return await self._waiter.wait()

    def resolve(self, _: object) -> None:
        self._group.host.run_query(self._group, self._request, self._waiter)

    def fail(self, error: Exception) -> None:
        self._waiter.fail(error)


class Leadership:
    """An iterator over a group's leaders; see `Group.leadership`.

    A class and no generator, so that leaving its loop early leaves nothing to close.
    """

    __slots__ = ("_group", "_seen")

    def __init__(self, group: Group) -> None:
        self._group = group
        self._seen = -1

    def __aiter__(self) -> Leadership:
        return self

    async def __anext__(self) -> Member | None:
        group = self._group
        if self._seen == group.leader_version:
            while self._seen == group.leader_version:
                await group.watch_leader()
        else:
            await trio.lowlevel.checkpoint()
        self._seen = group.leader_version
        return group.leader
