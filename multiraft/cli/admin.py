"""Asking a running host, over the admin API on its `http` address."""

from __future__ import annotations

from typing import Any

import click
import httpx

from multiraft.config import normalize_address
from multiraft.errors import MultiraftError

TIMEOUT_S = 10.0
PAGE_GROUPS = 10_000

host_option = click.option(
    "--host", "address", required=True, metavar="HOST:PORT", help="The http address of a host."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")


class HostUnreachable(MultiraftError):
    """Nobody answers there, or it is no multiraft host."""


def fetch_status(address: str) -> dict[str, Any]:
    """`/admin/status` of the host at `address`, with all of its groups.

    Raises:
        ConfigError: `address` is no address.
        HostUnreachable: It does not answer, or not like a host.
    """
    place = normalize_address(address, "host")
    scheme = "https" if address.startswith("https://") else "http"
    with httpx.Client(base_url=f"{scheme}://{place}", timeout=TIMEOUT_S, trust_env=False) as client:
        whole = _page(client, place, 0)
        following = whole.pop("next")
        while following is not None:
            page = _page(client, place, following)
            whole["groups"] += page["groups"]
            following = page["next"]
    return whole


def fetch_group(address: str, group: int) -> dict[str, Any]:
    """One group's row of `/admin/status`.

    Raises:
        HostUnreachable: As `fetch_status`; also when the host has no such group.
    """
    for row in fetch_status(address)["groups"]:
        if row["id"] == group:
            return dict(row)
    raise HostUnreachable(f"group {group} is not on the host at {address}")


def _page(client: httpx.Client, place: str, after: int) -> dict[str, Any]:
    try:
        response = client.get("/admin/status", params={"after": after, "limit": PAGE_GROUPS})
        body = response.json() if response.status_code == 200 else None
    except httpx.ConnectError:
        raise HostUnreachable(f"nobody answers at {place}; is this the http address of a host?") from None
    except httpx.TimeoutException:
        raise HostUnreachable(f"{place} did not answer within {TIMEOUT_S:g} s") from None
    except (httpx.HTTPError, ValueError):
        body = None
    if not (isinstance(body, dict) and {"address", "groups", "statistics", "next"} <= body.keys()):
        raise HostUnreachable(
            f"what answers at {place} is no multiraft host; "
            "give the host's http address, not the one that it listens on for other hosts"
        )
    return body
