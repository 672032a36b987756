"""One of three PySyncObj processes: `python syncobj_host.py NUMBER JSON`; bench_peers.py starts them.

The leader loads itself with as many operations outstanding as it is told, as `multiraft bench` does:
from inside the process, through the public API. The journal is on, and the library never syncs
it: a power cut may lose what was acknowledged. Of its settings those were taken that were
fastest: ticks and appends far more often than by default, at which an operation takes up to 0.15 s,
and batches unless there is only one operation at a time.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import pysyncobj

TICK_S = 0.001
APPEND_S = 0.002
LEADER_PATIENCE_S = 30.0


class Tally(pysyncobj.SyncObj):  # type: ignore[misc]  # it has no types
    """The least there is to apply."""

    def __init__(self, own: str, others: list[str], journal: str, batch: bool) -> None:
        conf = pysyncobj.SyncObjConf(
            journalFile=journal,
            autoTickPeriod=TICK_S,
            appendEntriesPeriod=APPEND_S if batch else 0.1,
            appendEntriesUseBatch=batch,
        )
        super().__init__(own, others, conf)
        self.count = 0

    @pysyncobj.replicated  # type: ignore[untyped-decorator]  # it has no types
    def add(self, data: bytes) -> int:
        self.count += 1
        self.last = data
        return self.count


class Loop:
    """One operation outstanding, over and over."""

    def __init__(self, tally: Tally, payload: int, samples: list[float]) -> None:
        self._tally, self._data, self._samples = tally, bytes(payload), samples
        self._started = 0.0

    def start(self) -> None:
        self._started = time.perf_counter()
        self._tally.add(self._data, callback=self.done)

    def done(self, _result: object, error: Any) -> None:
        if error == pysyncobj.FAIL_REASON.SUCCESS:
            self._samples.append(time.perf_counter() - self._started)
        self.start()


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    number, plan = int(sys.argv[1]), json.loads(sys.argv[2])
    addresses: list[str] = plan["addresses"]
    own = addresses.pop(number)
    samples: list[float] = []
    tally = Tally(own, addresses, f"{plan['folder']}/journal{number}", plan["outstanding"] > 1)
    patience = time.monotonic() + LEADER_PATIENCE_S
    while not tally.isReady() or tally._getLeader() is None:
        if time.monotonic() > patience:
            sys.exit("no leader was elected")
        time.sleep(0.05)
    if str(tally._getLeader()) == own:
        for _ in range(plan["outstanding"]):
            Loop(tally, plan["payload"], samples).start()
    time.sleep(plan["warmup"])
    samples.clear()
    cpu, began = cpu_s(), time.perf_counter()
    time.sleep(plan["seconds"])
    taken, took = samples[:], time.perf_counter() - began
    print(json.dumps({"samples": taken, "seconds": took, "cpu_s": cpu_s() - cpu}), flush=True)
    sys.stdin.read()  # the others measure until their own end


if __name__ == "__main__":
    main()
