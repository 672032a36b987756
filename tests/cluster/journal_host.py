"""A host process for tests: `python -m tests.cluster.journal_host`, driven by processes.py.

The first line on standard input is the host's configuration. Every other one is a request with
an id; requests run side by side, and each is answered by a line with its id.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from multiraft import Group, Host, HostConfig, Member, MultiraftError, open_host
from multiraft.cli.bench_host import read_lines
from multiraft.cli.logs import log_to_stderr
from multiraft.config import config_from
from multiraft.interfaces import Files, MachineFactory
from tests.engine.helpers import journals
from tests.engine.machines import Journal

Reply = Callable[[dict[str, Any]], None]
Answer = Callable[[Host, dict[str, Any]], Awaitable[object]]
Machines = Callable[[HostConfig], MachineFactory]
"""They may keep what they keep in the host's folder."""
Before = Callable[[HostConfig], Awaitable[None]]


async def create(host: Host, request: dict[str, Any]) -> int:
    members = [Member(number, address) for number, address in enumerate(request["members"], 1)]
    missing = [each for each in request["groups"] if each not in host.groups]
    await host.create_groups(dict.fromkeys(missing, members))
    return len(missing)


def leaders(host: Host) -> dict[str, str | None]:
    return {str(g.id): g.leader.address if g.leader else None for g in host.groups.values()}


async def leadership(group: Group, besides: str | None) -> list[str | None]:
    """All that `Group.leadership` yields, up to the first leader that is another."""
    seen: list[str | None] = []
    async for leader in group.leadership():
        seen.append(leader.address if leader else None)
        if seen[-1] not in (None, besides):
            break
    return seen


async def answer(host: Host, request: dict[str, Any]) -> object:
    do, group_id = request["do"], request.get("group")
    if do == "create":
        return await create(host, request)
    if do == "leaders":
        return leaders(host)
    group = host.group(group_id or 0)
    if do == "leadership":
        return await leadership(group, request["besides"])
    if do == "propose":
        return (await group.propose(request["data"].encode())) is not None
    if do == "query":
        found = await group.query(None)
        assert isinstance(found, list)
        return [data.decode() for data in found]
    assert do == "journal", do
    machine = group.machine
    assert isinstance(machine, Journal)
    return [[index, data.decode()] for index, data in machine.entries]


async def serve(
    requests: trio.abc.ReceiveStream,
    reply: Reply,
    machines: Machines,
    answer: Answer,
    files: Files | None,
    before: Before | None,
) -> None:
    lines = read_lines(requests)
    settings = await anext(lines)
    lives = settings.pop("lives", 0)
    config = config_from(settings)
    for _ in range(lives):
        assert before is not None
        await before(config)

    async def one(request: dict[str, Any]) -> None:
        try:
            reply({"id": request["id"], "result": await answer(host, request)})
        except MultiraftError as error:
            reply({"id": request["id"], "error": type(error).__name__, "reason": str(error)})

    async with open_host(config, machines(config), files=files) as host, trio.open_nursery() as nursery:
        reply({"id": 0, "result": host.address})
        async for request in lines:
            nursery.start_soon(one, request)
        nursery.cancel_scope.cancel()


def main(
    machines: Machines = lambda _: journals,
    answer: Answer = answer,
    files: Files | None = None,
    before: Before | None = None,
) -> None:
    """Run the program.

    Args:
        machines: What makes the machines of the host.
        answer: Answers requests.
        files: The host's. Default: the operating system's.
        before: Called as often as the configuration's `lives` says, before the host is opened.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    log_to_stderr(logging.WARNING)

    def reply(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")

    async def run() -> None:
        async with trio.lowlevel.FdStream(os.dup(0)) as requests:
            await serve(requests, reply, machines, answer, files, before)

    trio.run(run)


if __name__ == "__main__":
    main()
