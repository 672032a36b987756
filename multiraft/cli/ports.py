"""Ports for hosts on this machine that must keep theirs over a restart."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

LOWEST = 10_000
EPHEMERAL_DEFAULT = 32_768
TRIES = 1_000


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on.

    Below the range from which the system takes ports for outgoing connections, so that no such
    connection takes one while its host is down.

    Raises:
        OSError: None were found.
    """
    highest = _first_ephemeral()
    found: list[int] = []
    with ExitStack() as stack:
        for _ in range(TRIES):
            if len(found) == count:
                return found
            listener = stack.enter_context(socket.socket())
            port = random.SystemRandom().randrange(min(LOWEST, highest - 1), highest)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    raise OSError(f"no {count} free ports on 127.0.0.1")


def _first_ephemeral() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            return max(2048, int(file.read().split()[0]))
    except (OSError, ValueError, IndexError):
        return EPHEMERAL_DEFAULT
