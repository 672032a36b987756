"""Read barriers on their way: queued, confirmed by the leader, then held until applied.

Many reads share one round: all that queue up before a pass go under one context, and only a
few rounds of a group are out at once. A round may be lost (raft drops a read when leadership
changes, and messages are not sent again), so rounds are asked again after a while and at every
change of leader. That is safe because a barrier has no effect.
"""

from __future__ import annotations

from typing import Final

import attrs

from multiraft.errors import MultiraftError
from multiraft.proposals import Waiter, listens
from multiraft.types import Index

ROUNDS_MAX: Final = 2
"""Rounds of one group out at once: with one, a read that just missed it would wait for two
whole rounds; more would only make rounds smaller."""


@attrs.define(eq=False)
class Round:
    context: bytes
    waiters: list[Waiter]
    asked_at: float


class ReadTable:
    """The read barriers of one group on one host."""

    __slots__ = ("_rounds", "applying", "deadline", "queued")

    def __init__(self) -> None:
        self.queued: list[Waiter] = []
        self._rounds: dict[bytes, Round] | None = None
        self.applying: list[tuple[Index, list[Waiter]]] | None = None
        """Confirmed reads that wait until an index is applied; empty or None: there are none."""
        self.deadline: float | None = None
        """When waiting for a leader ends; None while one is known or nobody waits."""

    def __bool__(self) -> bool:
        return bool(self.queued) or bool(self._rounds) or bool(self.applying)

    @property
    def awaited(self) -> bool:
        """Whether somebody still waits for one of these."""
        rounds = (held.waiters for held in (self._rounds or {}).values())
        applying = (waiters for _, waiters in self.applying or ())
        return any(listens(each) for waiters in (self.queued, *rounds, *applying) for each in waiters)

    @property
    def may_ask(self) -> bool:
        return bool(self.queued) and len(self._rounds or ()) < ROUNDS_MAX

    def ask(self, context: bytes, now: float) -> None:
        """Put all queued reads under `context`, which raft is asked to confirm."""
        if self._rounds is None:
            self._rounds = {}
        self._rounds[context] = Round(context, self.queued, now)
        self.queued = []

    def confirmed(self, context: bytes, index: Index, applied: Index) -> None:
        """Raft vouches that `index` was committed when `context` was asked."""
        if self._rounds is None or (held := self._rounds.pop(context, None)) is None:
            return  # a round that was asked again meanwhile
        if index <= applied:
            for waiter in held.waiters:
                waiter.resolve(None)
        else:
            if self.applying is None:
                self.applying = []
            self.applying.append((index, held.waiters))

    def applied(self, index: Index) -> None:
        """The state machine stands at `index`: release the barriers up to there."""
        if not self.applying:
            return
        ready = [waiters for at, waiters in self.applying if at <= index]
        self.applying = [(at, waiters) for at, waiters in self.applying if at > index]
        for waiters in ready:
            for waiter in waiters:
                waiter.resolve(None)

    def ask_again(self, before: float) -> bool:
        """Queue the reads of rounds asked at or before `before` anew. True: there were some."""
        lost = [r for r in (self._rounds or {}).values() if r.asked_at <= before]
        for held in lost:
            assert self._rounds is not None
            del self._rounds[held.context]
            self.queued.extend(held.waiters)
        return bool(lost)

    def expire_queued(self, error: MultiraftError) -> None:
        waiters, self.queued = self.queued, []
        self.deadline = None
        for waiter in waiters:
            waiter.fail(error)

    def fail_all(self, error: MultiraftError) -> None:
        self.ask_again(float("inf"))
        for _, waiters in self.applying or ():
            self.queued.extend(waiters)
        self.applying = None
        self.expire_queued(error)
