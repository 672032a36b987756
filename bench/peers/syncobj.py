"""PySyncObj: three processes that replicate one object. pip install pysyncobj (or the extra `bench`)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from bench.measure import Figures, Missing, RunFailed
from bench.peers.load import figures
from multiraft.cli.ports import free_ports
from multiraft.cli.scratch import scratch_folder

MEMBERS = 3
SCRIPT = Path(__file__).with_name("syncobj_host.py")


def run(outstanding: int, payload: int, seconds: float, warmup: float) -> Figures:
    """Load it once, from inside the leader. Raises: Missing, RunFailed."""
    if importlib.util.find_spec("pysyncobj") is None:
        raise Missing("PySyncObj is not installed (pip install pysyncobj)")
    addresses = [f"127.0.0.1:{port}" for port in free_ports(MEMBERS)]
    with scratch_folder("syncobj") as folder:
        plan = {"addresses": addresses, "folder": folder, "outstanding": outstanding, "payload": payload}
        plan |= {"seconds": seconds, "warmup": warmup}
        processes = [
            subprocess.Popen(
                [sys.executable, SCRIPT, str(number), json.dumps(plan)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # it has much to say while it compacts its journal
                text=True,
            )
            for number in range(MEMBERS)
        ]
        lines = []
        try:
            for process in processes:
                assert process.stdout is not None
                lines.append(process.stdout.readline())
        finally:
            for process in processes:
                process.kill()
                process.communicate()
    if not all(lines):
        raise RunFailed("a PySyncObj process ended by itself")
    told = [json.loads(line) for line in lines]
    samples = sorted(sample for each in told for sample in each["samples"])
    return figures(samples, told[0]["seconds"], sum(each["cpu_s"] for each in told), 0.0)
