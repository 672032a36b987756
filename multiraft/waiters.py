"""Who waits: parked tasks behind the tables of proposals and reads, and iterators over states."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, TypeVar, cast

import outcome
import trio

from multiraft.errors import fresh
from multiraft.types import Member

if TYPE_CHECKING:
    from multiraft.group import Group


Yielded = TypeVar("Yielded")


class TaskWaiter(outcome.Outcome[object]):
    """A parked trio task. Waking one costs 2 µs, so nothing is woken twice for one result.

    It is also what trio hands to its task, the `Outcome` of waiting: an object less for each write.
    """

    __slots__ = ("_result", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

    # Waiters are kept in sets and looked for by identity; outcomes compare by value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__  # type: ignore[assignment]  # which attrs has taken from the base class

    @property
    def listening(self) -> bool:
        """Whether its task still waits: it was neither woken nor cancelled."""
        return self._task is not None

    async def wait(self) -> object:
        return await trio.lowlevel.wait_task_rescheduled(self.abort)

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """The task is cancelled: whatever comes of it, nobody listens any more."""
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def resolve(self, value: object) -> None:
        if (task := self._task) is not None:
            self._task = None
            self._result = value
            trio.lowlevel.reschedule(task, self)

    def fail(self, error: Exception) -> None:
        if (task := self._task) is not None:
            self._task = None
            trio.lowlevel.reschedule(task, outcome.Error(fresh(error)))

    # --- as an outcome -------------------------------------------------------------------------

    def unwrap(self) -> object:
        return self._result

    def send(self, gen: Generator[Yielded, object, object]) -> Yielded:
        return gen.send(self._result)

    async def asend(self, agen: AsyncGenerator[Yielded, object]) -> Yielded:
        return await agen.asend(self._result)


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


class QueryWaiter(TaskWaiter):
    """A read whose barrier, once passed, is followed by the query itself: one wake-up in all."""

    __slots__ = ("_group", "_request")

    def __init__(self, group: Group, request: object) -> None:
        self._group = group
        self._request = request
        self._task = trio.lowlevel.current_task()

    def resolve(self, _: object) -> None:
        """The barrier is passed."""
        group = self._group
        if group.machine.blocking:
            group.host.run_query(group, self._request, _Answer(self))
            return
        try:
            value = group.machine.query(self._request)
        except Exception as error:
            self.fail(error)
        else:
            super().resolve(value)

    def answer(self, value: object) -> None:
        """The query, in another thread, returned `value`."""
        super().resolve(value)


class _Answer:
    """Waits for the query where `QueryWaiter` waited for its barrier."""

    __slots__ = ("fail", "resolve")

    def __init__(self, waiter: QueryWaiter) -> None:
        self.resolve, self.fail = waiter.answer, waiter.fail


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
