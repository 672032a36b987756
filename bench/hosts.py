"""Three host processes for the benchmarks that need more than `multiraft bench` offers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from bench.measure import ROOT
from multiraft.cli.bench import balancing_moves
from multiraft.cli.children import Child, ask_all, start_child, stop_all
from multiraft.cli.scratch import scratch_folder

LOOK_S = 0.01
LOOK_GROUP_S = 20e-6
"""Between two looks at who leads, and more for each group: to look costs the hosts time, too."""
MEMBERS = 3


class Hosts:
    """Host processes, what they lead, and their folders, which outlive them."""

    def __init__(self, folder: str, module: str) -> None:
        self.folder = folder
        self.children: list[Child] = []
        self.addresses: list[str] = []
        self._module = module

    async def start(self, **settings: Any) -> None:
        """Start all; the second time on the same folders and addresses."""
        self.children = []
        for number in range(1, MEMBERS + 1):
            own = {"listen": self.addresses[number - 1]} if self.addresses else {}
            child = await start_child(
                f"host {number}", self._module, [], os.path.join(self.folder, f"host{number}.log")
            )
            self.children.append(child)
            data_dir = os.path.join(self.folder, f"host{number}")
            first = {"data_dir": data_dir, "mode": "write", "payload": 16, "settings": {**settings, **own}}
            await child.send(first)
        self.addresses = [(await child.receive())["address"] for child in self.children]

    async def create(self, groups: int) -> None:
        """All at once."""
        await self.ask({"do": "create", "first": 1, "last": groups, "members": self.addresses})

    async def ask(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        return await ask_all(self.children, message)

    async def wait_all_led(self, groups: int) -> None:
        """Until so many groups have a leader among the hosts that run."""
        while True:
            answers = await self.ask({"do": "leading"})
            if sum(answer["leading"] for answer in answers) >= groups:
                return
            await trio.sleep(LOOK_S + LOOK_GROUP_S * groups)

    async def balance(self) -> list[list[int]]:
        """Have all lead as many groups, give or take one; which those are."""
        for _ in range(10):
            led: list[list[int]] = [answer["led"] for answer in await self.ask({"do": "leaders"})]
            moves = balancing_moves(led)
            if not any(moves):
                break
            for child, own in zip(self.children, moves, strict=True):
                await child.ask({"do": "transfer", "moves": own})
        return led

    async def kill(self, count: int) -> None:
        """SIGKILL the first `count` of those that run, as nearly at once as may be."""
        victims, self.children = self.children[:count], self.children[count:]
        for child in victims:
            child.process.kill()
        for child in victims:
            await child.kill()

    async def stop(self) -> None:
        await stop_all(self.children, patience_s=30.0)
        self.children = []


@asynccontextmanager
async def hosts(module: str = "multiraft.cli.bench_host") -> AsyncIterator[Hosts]:
    """Processes that run `module`, ended with the block; their data goes as well."""
    before = os.getcwd()
    os.chdir(ROOT)  # `python -m` finds this checkout there
    try:
        with scratch_folder("bench") as folder:
            made = Hosts(folder, module)
            try:
                yield made
            finally:
                await made.stop()
    finally:
        os.chdir(before)
