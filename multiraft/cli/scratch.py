"""Temporary folders for data whose durability is being measured or shown: on a disk, not in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from multiraft.errors import ConfigError

MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
"""fdatasync returns at once on these and makes nothing durable."""


@contextmanager
def scratch_folder(prefix: str, wanted: str | None = None) -> Iterator[str]:
    """Make a folder in `wanted`, or in the first usable place on a disk; delete it afterwards.

    Raises:
        ConfigError: `wanted`, or every place that comes to mind, is in memory or not writable.
    """
    parent = _checked(wanted) if wanted is not None else _find()
    folder = tempfile.mkdtemp(prefix=f"multiraft-{prefix}-", dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def file_system_type(path: str, mounts: str | None = None) -> str:
    """The type of the file system that holds `path`, as in proc(5) mountinfo; "" if unknown."""
    if mounts is None:
        try:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
                mounts = file.read()
        except OSError:
            return ""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        left, separator, right = line.partition(" - ")
        if not separator:
            continue
        point = left.split(" ")[4].encode().decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two mounts on one point the later one counts
            best, kind = point, right.split(" ")[0]
    return kind


def _checked(wanted: str) -> str:
    try:
        os.makedirs(wanted, exist_ok=True)
    except OSError as error:
        raise ConfigError("data_dir", f"cannot make {wanted}: {error.strerror}") from None
    kind = file_system_type(wanted)
    if kind in MEMORY_FILE_SYSTEMS:
        raise ConfigError("data_dir", f"{wanted} is in memory ({kind}); choose a folder on a disk")
    if not os.access(wanted, os.W_OK | os.X_OK):
        raise ConfigError("data_dir", f"{wanted} is not writable")
    return wanted


def _find(environment: Mapping[str, str] = os.environ) -> str:
    cache = environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for place in (tempfile.gettempdir(), os.getcwd(), cache, "/var/tmp"):
        usable = os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)
        if usable and file_system_type(place) not in MEMORY_FILE_SYSTEMS:
            return place
    raise ConfigError("data_dir", "no writable folder on a disk was found; name one with --data-dir")
