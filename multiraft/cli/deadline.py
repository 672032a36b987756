"""A time limit whose error says what was waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from multiraft.errors import MultiraftError


class TookTooLong(MultiraftError):
    """Something did not happen in time."""


@contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Give the block `seconds`; `what` ends the sentence "waited 5 s for ...".

    Raises:
        TookTooLong: It was not done by then.
    """
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise TookTooLong(f"waited {seconds:.0f} s for {what}")
