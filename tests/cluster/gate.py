"""A gate before every sync of a host's files, so that tests see what happens meanwhile."""

from __future__ import annotations

import threading

from multiraft.interfaces import File
from multiraft.storage.files import OsFiles


class Gate:
    """Lets every sync pass while it is open, and holds those that come while it is shut."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.waiting = 0

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        self.waiting += 1
        assert self._open.wait(20), "nobody opened the gate"
        self.waiting -= 1


class GatedFile:
    """A real file whose `sync` waits at a gate first."""

    def __init__(self, file: File, gate: Gate) -> None:
        self._file = file
        self._gate = gate
        self.read = file.read
        self.write = file.write
        self.allocate = file.allocate
        self.truncate = file.truncate
        self.size = file.size
        self.close = file.close

    def sync(self) -> None:
        self._gate.pass_through()
        self._file.sync()


class GatedFiles(OsFiles):
    """The real file system, with a gate before each fdatasync."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def open(self, path: str, *, create: bool = False) -> GatedFile:  # type: ignore[override] # a `File`
        return GatedFile(super().open(path, create=create), self._gate)
