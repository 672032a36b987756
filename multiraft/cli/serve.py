"""`multiraft serve`: a host of the sharded key-value store."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

import click
import trio

from multiraft.cli.interrupt import bare
from multiraft.cli.logs import log_to_stderr
from multiraft.cli.settings import settings_option
from multiraft.config import HostConfig, config_from
from multiraft.kv.config import DEFAULT_GROUPS, ServeConfig, load_serve_config, members_of, ranges_for
from multiraft.kv.serve import serve_kv

ORPHAN_PATIENCE_S = 10.0
"""How long a host whose parent is gone may take to stop cleanly."""


@click.command("serve")
@click.option("--config", "path", type=click.Path(dir_okay=False), help="A TOML file; instead of the others.")
@click.option("--listen", metavar="HOST:PORT", help="Where other hosts reach this one.")
@click.option("--advertise", metavar="HOST:PORT", help="What they dial, if not the same.")
@click.option("--http", metavar="HOST:PORT", help="Where the store, the admin API and metrics are served.")
@click.option("--data-dir", help="Folder for log, snapshots and data. Made if missing.")
@click.option("--peers", metavar="HOST:PORT,...", help="All hosts of the cluster, the same list on each.")
@click.option("--groups", type=int, help=f"Groups that share the keys.  [default: {DEFAULT_GROUPS}]")
@click.option("--sample", type=click.Path(dir_okay=False), help="A file of keys to cut the ranges by.")
@click.option("--join", is_flag=True, default=None, help="Make no groups: this host is to join others'.")
@click.option("--cluster-id", help="Hosts with another one are refused.")
@settings_option
@click.option("--watch-stdin", is_flag=True, hidden=True, help="Stop when standard input ends.")
def command(path: str | None, watch_stdin: bool, **options: Any) -> None:
    """Run a host of the sharded key-value store, until SIGTERM or Ctrl-C.

    Every host is given the same --peers, --groups and --sample. One that comes later gets --join
    instead of --peers, and then joins the groups one by one with `multiraft join`.
    """
    given = sorted(
        f"--{name.replace('_', '-')}" for name, value in options.items() if value not in (None, {})
    )
    if path is not None and given:
        raise click.UsageError(f"--config cannot be combined with {given[0]}")
    wanted = load_serve_config(path) if path is not None else _from_options(options)
    log_to_stderr(logging.INFO)
    if watch_stdin:
        threading.Thread(target=_stop_at_end_of_stdin, name="watch-stdin", daemon=True).start()
    try:
        trio.run(_serve, wanted)
    except BaseExceptionGroup as group:
        error = bare(group)
        raise error from error.__cause__


async def _serve(wanted: ServeConfig) -> None:
    await serve_kv(wanted.host, members=members_of(wanted.peers), ranges=wanted.ranges, join=wanted.join)


def _from_options(options: Mapping[str, Any]) -> ServeConfig:
    for name in ("listen", "http", "data_dir"):
        if options[name] is None:
            raise click.UsageError(f"--{name.replace('_', '-')} is required (or --config)")
    if options["join"] and options["peers"] is not None:
        raise click.UsageError("--join cannot be combined with --peers: no groups are made here")
    fields = {name: options[name] for name in ("listen", "advertise", "http", "data_dir", "cluster_id")}
    config = config_from({**{k: v for k, v in fields.items() if v is not None}, **options["settings"]})
    return ServeConfig(
        host=config,
        peers=_with_own(config, options["peers"]),
        join=bool(options["join"]),
        ranges=ranges_for(
            DEFAULT_GROUPS if options["groups"] is None else options["groups"], sample=options["sample"]
        ),
    )


def _with_own(config: HostConfig, peers: str | None) -> tuple[str, ...]:
    """All hosts, this one too: some take "peers" to mean the others."""
    if peers is None:
        return ()
    return (config.advertise or config.listen, *(peer.strip() for peer in peers.split(",") if peer.strip()))


def _stop_at_end_of_stdin() -> None:
    """The pipe from a parent ends with the parent, even if that was killed."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(ORPHAN_PATIENCE_S)
    os._exit(1)
