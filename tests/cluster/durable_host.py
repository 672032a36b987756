"""A host process whose groups keep their state in files: what was ever applied, line by line.

`python -m tests.cluster.durable_host`, driven by processes.py like journal_host.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from multiraft import Entry, Host, HostConfig, Member, Role, StateMachine
from tests.cluster.journal_host import create, leaders, main

BROKEN = "broken"
"""While there is a file of this name beside those of the machines, they apply nothing."""
HELD = "held"
"""While there is this one, no snapshot gets any further than here."""
REACHED = "reached"
"""Made when one is held."""


class Lines(StateMachine):
    """A file with a line for each entry. It never forgets one, so nothing is applied twice unseen."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.applied = read_lines(path)

    @property
    def applied_index(self) -> int:  # type: ignore[override]  # what the file says, not a constant
        return self.applied[-1][0] if self.applied else 0

    def apply(self, entries: Sequence[Entry]) -> Sequence[object]:
        if (self._path.parent / BROKEN).exists():
            raise RuntimeError("this machine is broken")
        lines = [(entry.index, entry.data.decode()) for entry in entries]
        # One write: a process that is killed has made all of it or nothing.
        with open(self._path, "ab", buffering=0) as file:
            file.write(_encoded(lines))
        self.applied += lines
        return [entry.index for entry in entries]

    def query(self, request: object) -> object:  # noqa: ARG002 - there is one question only
        return self.applied

    def snapshot(self) -> Iterable[bytes]:
        return [_encoded(self.applied)]

    def restore(self, chunks: Iterable[bytes]) -> None:
        folder = self._path.parent
        while (folder / HELD).exists():
            (folder / REACHED).touch()
            time.sleep(0.01)
        beside = self._path.with_suffix(".new")
        beside.write_bytes(b"".join(chunks))
        beside.replace(self._path)
        self.applied = read_lines(self._path)

    def sync(self) -> None:
        if self._path.exists():
            descriptor = os.open(self._path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)
        self.applied = []


def _encoded(lines: Sequence[tuple[int, str]]) -> bytes:
    return b"".join(b"%d %s\n" % (index, data.encode()) for index, data in lines)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The index and the data of all entries, in the order in which they were applied."""
    if not path.exists():
        return []
    pairs = (line.split(" ", 1) for line in path.read_text().splitlines())
    return [(int(index), data) for index, data in pairs]


def machines_folder(data_dir: str | Path) -> Path:
    return Path(data_dir) / "machines"


class Machines:
    """Makes the machines of a host beside its log."""

    def __init__(self, config: HostConfig) -> None:
        self._folder = machines_folder(config.data_dir)

    def __call__(self, group_id: int) -> Lines:
        self._folder.mkdir(parents=True, exist_ok=True)
        return Lines(self._folder / str(group_id))


async def start(host: Host, request: dict[str, Any]) -> dict[str, object]:
    """The one call for every start of a program."""
    listed = [Member(number, address) for number, address in enumerate(request.get("members", ()), 1)]
    role = Role(request.get("role", "voter"))
    group = await host.start_group(request["group"], listed or None, via=request.get("via"), role=role)
    return {"member": group.member_id, "members": sorted(group.members)}


async def answer(host: Host, request: dict[str, Any]) -> object:
    do = request["do"]
    if do == "create":
        return await create(host, request)
    if do == "leaders":
        return leaders(host)
    if do == "start":
        return await start(host, request)
    if do == "http":
        return host.http_address
    group = host.group(request["group"])
    if do == "propose":
        return await group.propose(request["data"].encode())
    if do == "query":
        return await group.query(None)
    assert do == "status", do
    status = group.status()
    return {
        "term": status.term,
        "applied": status.applied,
        "failed": status.failed,
        "members": sorted(status.members),
    }


if __name__ == "__main__":
    main(Machines, answer)
