"""How much memory other processes take, as the kernel counts it (Linux)."""

from __future__ import annotations

from pathlib import Path

MIB = 1 << 20


def resident_mib(pid: int) -> float:
    """What it has in memory now; the page cache is not its own."""
    return _status(pid, "VmRSS")


def start_peak(pid: int) -> float:
    """Forget the peak so far; what it has in memory now, in MiB."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return resident_mib(pid)


def peak_mib(pid: int) -> float:
    """The most it had in memory at any time since `start_peak`."""
    return _status(pid, "VmHWM")


def _status(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise AssertionError(f"/proc/{pid}/status has no {field}")
