"""One of the three hosts of bench_restart.py: it says how far it has come back."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from multiraft.cli.bench_host import Counter, Worker, main
from multiraft.interfaces import StateMachine
from multiraft.types import GroupId


class Phases:
    """A factory of machines that notes when it was asked first: by then the log had been read."""

    def __init__(self) -> None:
        self.began = perf_counter()
        self.log_read: float | None = None

    def __call__(self, _: GroupId) -> StateMachine:
        if self.log_read is None:
            self.log_read = perf_counter()
        return Counter()


PHASES = Phases()


class RestartWorker(Worker):
    """A benchmark's host that can be asked cheaply how its groups do."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._opened = perf_counter()

    async def opened(self, _: dict[str, Any]) -> dict[str, Any]:
        """How long reading the log took, and making the groups after that."""
        read = self._opened if PHASES.log_read is None else PHASES.log_read
        return {"read_s": read - PHASES.began, "groups_s": self._opened - read}

    async def progress(self, _: dict[str, Any]) -> dict[str, Any]:
        """Groups led here, and groups whose log is not applied to its end. Cheap: it is asked often."""
        groups = self._host.groups.values()
        return {
            "led": sum([group.leader is not None and group.leader.id == group.member_id for group in groups]),
            "unapplied": sum([group.applied < group.raft.last_index for group in groups]),
        }

    async def passes(self, _: dict[str, Any]) -> dict[str, Any]:
        """How long the passes took so far."""
        counted = self._host.statistics().scheduler
        return {
            "passes": counted.passes,
            "pass_ms_max": counted.pass_ms_max,
            "pass_cpu_ms_max": counted.pass_cpu_ms_max,
            "passes_above_20_ms": sum(n for bound, n in counted.pass_histogram_ms.items() if bound > 20),
        }


if __name__ == "__main__":
    main(RestartWorker, PHASES)
