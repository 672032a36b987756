"""Running async commands so that a signal ends them in order: nothing is left behind."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal ended the command after it had cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.signal = number


def run_async(main: Callable[[], Awaitable[T]]) -> T:
    """Run `main` under trio. SIGINT, SIGTERM and SIGHUP cancel it, and its `finally`s still run.

    Raises:
        Interrupted: One of them came.
        BaseException: Whatever `main` raised, bare.
    """
    try:
        result, number = trio.run(_run, main)
    except BaseExceptionGroup as group:
        error = bare(group)
        raise error from error.__cause__
    if number is not None:
        raise Interrupted(number)
    return result[0]


def bare(error: BaseException) -> BaseException:
    """The first exception in a group that is more than the cancellation it brought about."""
    leaves = _leaves(error)
    return next((leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled)), leaves[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for each in error.exceptions for leaf in _leaves(each)]


async def _run(main: Callable[[], Awaitable[T]]) -> tuple[list[T], int | None]:
    """What `main` returned, if it did, and the signal that ended it, if one did."""
    caught: list[int] = []
    results: list[T] = []
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async for number in signals:
                    caught.append(number)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            results.append(await main())
            nursery.cancel_scope.cancel()
    return results, caught[0] if caught and not results else None
