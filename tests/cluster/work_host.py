"""A host process that can be asked to write much, whose work is counted, and whose disk can be held.

`python -m tests.cluster.work_host`, driven by processes.py like journal_host.py. Payloads are made
here: what a test measures is the host, not the pipe to it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from multiraft import Group, Host, MultiraftError, ProposalDropped
from tests.cluster.gate import Gate, GatedFiles
from tests.cluster.journal_host import create, leaders, main
from tests.engine.helpers import journals
from tests.engine.machines import Journal

GATE = Gate()
Do = Callable[[Host, dict[str, Any]], Awaitable[object]]


def payload(number: int, size: int) -> bytes:
    return (b"%d " % number).ljust(size, b"x")


def number_of(data: bytes) -> int:
    return int(data.split(b" ", 1)[0])


class Calls:
    """What became of the proposals that were started, by their numbers."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.refused: dict[int, tuple[str, str]] = {}

    async def one(self, group: Group, number: int, size: int) -> None:
        try:
            await group.propose(payload(number, size))
        except MultiraftError as error:
            self.refused[number] = (type(error).__name__, str(error))
        else:
            self.done.append(number)


CALLS = Calls()


async def begin(host: Host, request: dict[str, Any]) -> dict[str, object]:
    """Propose `count` payloads on the groups in turn, all at once, and wait for none of them."""
    groups = [host.group(each) for each in request["groups"]]
    for number in range(request["first"], request["first"] + request["count"]):
        trio.lowlevel.spawn_system_task(CALLS.one, groups[number % len(groups)], number, request["bytes"])
    return {}


async def told(_host: Host, _request: dict[str, Any]) -> dict[str, object]:
    """What became of those that `begin` began, so far."""
    return {"done": CALLS.done, "refused": {str(each): CALLS.refused[each] for each in CALLS.refused}}


async def flood(host: Host, request: dict[str, Any]) -> list[int]:
    """Propose one payload after another; which of them were not dropped."""
    group = host.group(request["group"])
    taken = []
    for number in range(request["first"], request["first"] + request["count"]):
        try:
            await group.propose(payload(number, request["bytes"]))
        except ProposalDropped:
            continue
        taken.append(number)
    return taken


async def write(host: Host, request: dict[str, Any]) -> float:
    """Propose `count` payloads together; the seconds until all were acknowledged."""
    group = host.group(request["group"])
    payloads = [payload(number, request["bytes"]) for number in range(request["count"])]
    started = trio.current_time()
    assert len(await group.propose_many(payloads)) == len(payloads)
    return trio.current_time() - started


async def trickle(host: Host, request: dict[str, Any]) -> dict[str, float]:
    """Propose `count` payloads, each by itself and a moment after the one before."""
    group = host.group(request["group"])
    runs = host.statistics().scheduler.proposed_runs
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(request["count"]):
            nursery.start_soon(group.propose, payload(number, 8))
            await trio.sleep(request["every_s"])
    seconds = trio.current_time() - started
    return {"seconds": seconds, "runs": host.statistics().scheduler.proposed_runs - runs}


async def waves(host: Host, request: dict[str, Any]) -> dict[str, object]:
    """One write of every group that is led here, all at once, again and again."""
    groups = [group for group in host.groups.values() if group.status().role == "leader"]
    for number in range(request["count"]):
        async with trio.open_nursery() as nursery:
            for group in groups:
                nursery.start_soon(group.propose, payload(number, 16))
    return {"writes": request["count"] * len(groups)}


async def work(host: Host, _request: dict[str, Any]) -> dict[str, float]:
    """Counters since the host was opened, and its bytes on their way now."""
    counted = host.statistics()
    return {
        "at_rest": counted.scheduler.at_rest,
        "syncs": counted.log.syncs,
        "frames": sum(link.frames for link in counted.transport),
        "uncommitted_bytes": counted.scheduler.uncommitted_bytes,
        "at_s": trio.current_time(),
    }


async def disk(_host: Host, request: dict[str, Any]) -> int:
    """Hold all syncs, or let them go, or neither; how many are held."""
    if request["syncs"] == "hold":
        GATE.shut()
    elif request["syncs"] == "let go":
        GATE.open()
    return GATE.waiting


async def propose(host: Host, request: dict[str, Any]) -> bool:
    await host.group(request["group"]).propose(request["data"].encode())
    return True


async def query(host: Host, request: dict[str, Any]) -> object:
    found = await host.group(request["group"]).query(None)
    assert isinstance(found, list)
    return [each.decode() for each in found]


async def lead(host: Host, request: dict[str, Any]) -> None:
    group = host.group(request["group"])
    await group.transfer_leadership(group.member_id)


async def numbers(host: Host, request: dict[str, Any]) -> list[int]:
    """Of the payloads that the machine here has applied, in order."""
    machine = host.group(request["group"]).machine
    assert isinstance(machine, Journal)
    return [number_of(data) for _, data in machine.entries]


async def status(host: Host, request: dict[str, Any]) -> dict[str, object]:
    found = host.group(request["group"]).status()
    return {
        "role": found.role,
        "term": found.term,
        "commit": found.commit,
        "applied": found.applied,
        "first_index": found.first_index,
        "last_index": found.last_index,
        "progress": {
            str(member): {"state": each.state, "match": each.match, "next": each.next}
            for member, each in found.progress.items()
        },
    }


DO: dict[str, Do] = {
    each.__name__: each
    for each in (begin, told, flood, write, trickle, waves, work, disk, propose, query, lead, numbers, status)
}


async def answer(host: Host, request: dict[str, Any]) -> object:
    if request["do"] == "create":
        return await create(host, request)
    if request["do"] == "leaders":
        return leaders(host)
    return await DO[request["do"]](host, request)


if __name__ == "__main__":
    main(lambda _: journals, answer, GatedFiles(GATE))
