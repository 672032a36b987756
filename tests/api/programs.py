"""What the programs in this folder share: state machines, open hosts, and waiting for states.

Everything here, as in the tests beside it, uses only what `multiraft` exports.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from multiraft import Entry, Group, Host, HostConfig, Member, StateMachine, open_host

PATIENCE_S = 20.0
"""How long anything may take before a test calls it a hang."""


class Ledger(StateMachine):
    """Accounts by name. A proposal is a JSON object {account: change}; its result is the new balances."""

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}
        self.seen: list[bytes] = []

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        return [self._apply(entry.data) for entry in entries]

    def _apply(self, data: bytes) -> dict[str, int]:
        self.seen.append(data)
        changes: dict[str, int] = json.loads(data)
        for account, change in changes.items():
            self.balances[account] = self.balances.get(account, 0) + change
        return {account: self.balances[account] for account in changes}

    def query(self, request: object) -> object:
        if not isinstance(request, str):
            raise KeyError(request)
        return self.balances.get(request, 0)

    def snapshot(self) -> Iterable[bytes]:
        return [json.dumps(self.balances).encode()]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.balances = json.loads(b"".join(chunks))


def change(**changes: int) -> bytes:
    return json.dumps(changes).encode()


def host_config(folder: Path, name: str, **more: Any) -> HostConfig:
    """A host on a free port of loopback, with elections quick enough for tests."""
    given: dict[str, Any] = {
        "data_dir": str(folder / name),
        "listen": "127.0.0.1:0",
        "tick_interval_s": 0.05,
        **more,
    }
    return HostConfig(**given)


@asynccontextmanager
async def open_hosts(
    folder: Path,
    names: str = "abc",
    machines: Callable[[int], StateMachine] = lambda _group: Ledger(),
    **more: Any,
) -> AsyncIterator[list[Host]]:
    """Several hosts nested in this task."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(open_host(host_config(folder, name, **more), machines=machines))
            for name in names
        ]


def members_on(hosts: Sequence[Host]) -> list[Member]:
    return [Member(number, host.address) for number, host in enumerate(hosts, start=1)]


async def create_on(hosts: Sequence[Host], group_id: int, **limits: Any) -> list[Group]:
    """The same group on every host; it has a leader when this returns."""
    members = members_on(hosts)
    groups = [await host.create_group(group_id, members=members, **limits) for host in hosts]
    with trio.fail_after(PATIENCE_S):
        for group in groups:
            await group.wait_leader()
    return groups


def leader_of(groups: Sequence[Group]) -> Group:
    (leader,) = [group for group in groups if group.leader and group.leader.id == group.member_id]
    return leader


def follower_of(groups: Sequence[Group]) -> Group:
    return next(group for group in groups if group.leader and group.leader.id != group.member_id)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a state that nothing announces."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nothing sets an event
            await trio.sleep(0.01)
