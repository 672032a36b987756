"""`python -m tests.sim`: run seeds of the simulator, or replay one."""

from __future__ import annotations

import argparse
import sys
import time

from tests.sim.cluster import SimulationFailed, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds to run (100)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--verbose", action="store_true", help="print every line of the trace")
    parser.add_argument("--lines", type=int, default=60, help="lines of the trace shown with a failure (60)")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    options = parser.parse_args()
    seeds = (
        [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    )
    sink = (lambda line: _say(line)) if options.verbose else None
    failed: list[int] = []
    started = time.perf_counter()
    for seed in seeds:
        began = time.perf_counter()
        try:
            outcome = simulate(seed, sink=sink, lines=options.lines)
        except SimulationFailed as error:
            failed.append(seed)
            if options.keep_going:
                _say(str(error).splitlines()[0])
                continue
            _say(str(error))
            break
        _say(f"{outcome} in {time.perf_counter() - began:.2f} s")
    _say(f"{time.perf_counter() - started:.1f} s; failed: {failed or 'none'}")
    return 1 if failed else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


sys.exit(main())
