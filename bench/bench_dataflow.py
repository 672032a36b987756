"""What do three processes carry if consensus itself costs next to nothing?

    python bench/bench_dataflow.py [--groups 48] [--inflight 1024] [--payload 16] [--seconds 5]

dataflow.py says what is in it and what is not. It is a yardstick for the machine and for the road,
not a system: next to a figure of multiraft, taken in the same minute, it says how good the minute was.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.dataflow import HOSTS
from bench.measure import Bench, Figures, Row, RunFailed, arguments, percentile, recorded
from multiraft.cli.scratch import scratch_folder

SCRIPT = Path(__file__).with_name("dataflow.py")


def flow(groups: int, inflight: int, payload: int, seconds: float, warmup: float = 1.0) -> Figures:
    """Run it once: writes per second, CPU per write of all three, and latencies."""
    sockets = [socket.create_server(("127.0.0.1", 0), backlog=16) for _ in range(HOSTS)]
    descriptors = [each.fileno() for each in sockets]
    with scratch_folder("dataflow") as folder:
        plan: dict[str, object] = {
            "groups": groups,
            "inflight": inflight,
            "payload": payload,
            "seconds": seconds,
        }
        plan |= {"warmup": warmup, "folder": folder, "sockets": descriptors}
        children = [
            subprocess.Popen(
                [sys.executable, SCRIPT, json.dumps({**plan, "host": number})],
                pass_fds=descriptors,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(HOSTS)
        ]
        try:
            told = [json.loads(_line(each)) for each in children]
        finally:
            for each in children:
                each.communicate()  # closes its standard input, which ends it
            for listener in sockets:
                listener.close()
    samples = sorted(sample for each in told for sample in each["samples"])
    per_second = sum(each["per_second"] for each in told)
    return {
        "per_second": round(per_second, 1),
        "cpu_us": round(sum(each["cpu_s_per_s"] for each in told) / per_second * 1e6, 2),
        "p50_ms": percentile(samples, 0.5) / 1000,
        "p99_ms": percentile(samples, 0.99) / 1000,
    }


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RunFailed(f"a process of the data flow ended with status {process.wait()}")
    return line


def best_recorded(row: Row) -> float:
    """The most that this load was ever recorded to carry, here or beside a figure of multiraft; 0: never."""
    found = [line["figures"]["per_second"]["high"] for line in recorded("dataflow") if line["row"] == row]
    found += [
        line["figures"]["flow_per_second"]["high"]
        for line in recorded("throughput")
        if row.items() <= line["row"].items()
    ]
    return max(found, default=0.0)


def main() -> None:
    parser = arguments(__doc__, seconds=5)
    for name, default in (("groups", 48), ("inflight", 1024), ("payload", 16)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    options = parser.parse_args()
    row = {"groups": options.groups, "inflight": options.inflight, "payload": options.payload}
    bench = Bench("dataflow", options)
    bench.measure([(row, lambda: flow(**row, seconds=options.seconds))], warmup=False)


if __name__ == "__main__":
    main()
