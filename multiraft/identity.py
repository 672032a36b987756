"""Who a host is: an id made once for its data folder, and a count of its starts.

Both are on disk before the host says hello to anybody, so that no two hosts, and no two starts
of one host, can be taken for each other.
"""

from __future__ import annotations

import json

import attrs

from multiraft.errors import ClusterMismatch, StorageFailed
from multiraft.interfaces import Files, Random
from multiraft.replace import replace_file

NAME = "host.json"


@attrs.frozen
class Identity:
    """What `host.json` holds."""

    cluster_id: str
    host_id: int
    epoch: int


def start_identity(
    files: Files, data_dir: str, cluster_id: str, random: Random, *, log_is_new: bool = False
) -> Identity:
    """Read the folder's identity, or make one, with the epoch one higher and synced to disk.

    `log_is_new`: the folder has no log. If it has an identity all the same, its log was taken
    away, and with it what its members promised: it is another host from now on.

    Raises:
        ClusterMismatch: The folder belongs to a host of another cluster.
        StorageFailed: The file is damaged.
    """
    path = f"{data_dir}/{NAME}"
    if files.exists(path):
        found = _read(files, path)
        if found.cluster_id != cluster_id:
            raise ClusterMismatch(
                f"{data_dir} belongs to a host of cluster {found.cluster_id!r}, not {cluster_id!r}"
            )
        identity = attrs.evolve(found, epoch=found.epoch + 1)
        if log_is_new:
            identity = attrs.evolve(identity, host_id=random((1 << 63) - 1) + 1)
    else:
        identity = Identity(cluster_id, random((1 << 63) - 1) + 1, 1)
    replace_file(files, data_dir, NAME, json.dumps(attrs.asdict(identity)).encode())
    return identity


def _read(files: Files, path: str) -> Identity:
    file = files.open(path)
    try:
        data = file.read(0, file.size())
    finally:
        file.close()
    try:
        values = json.loads(data)
        return Identity(str(values["cluster_id"]), int(values["host_id"]), int(values["epoch"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StorageFailed(f"{path} is damaged ({error!r}); restore this host from its peers") from None
