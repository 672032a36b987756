"""What leaves without waiting for answers: counted in round trips, on links that are really slow.

Three processes, each behind a proxy. One round trip between two of them is twice the delay of the
proxies: an append through the follower's, its acknowledgement through the leader's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.processes import create_groups, leader_first, proxied_processes

pytestmark = pytest.mark.slow  # links that are slow on purpose

GROUP = 7
DELAY_S = 0.05
ROUND_TRIP_S = 2 * DELAY_S
SETTINGS: dict[str, Any] = {
    "program": "tests.cluster.work_host",
    "delay_s": DELAY_S,
    "tick_interval_s": 0.05,
}

PAYLOAD_BYTES = 900
MESSAGE_BYTES = 1024
"""Each entry goes in an append of its own."""


async def round_trips(folder: Path, count: int, size: int = PAYLOAD_BYTES, **settings: Any) -> float:
    """How many it takes until so many payloads, proposed at once, are acknowledged."""
    async with proxied_processes(folder, **SETTINGS, **settings) as (hosts, _):
        await create_groups(hosts, [GROUP])
        leader, *_ = await leader_first(hosts, GROUP)
        await leader.call("write", group=GROUP, count=1, bytes=1)
        took = await leader.call("write", group=GROUP, count=count, bytes=size)
    assert isinstance(took, float)
    return took / ROUND_TRIP_S


async def test_hundreds_of_appends_are_under_way_before_the_first_answer(tmp_path: Path) -> None:
    """250 messages in a few round trips; one at a time they would take 250."""
    rounds = await round_trips(tmp_path, 250, max_message_bytes=MESSAGE_BYTES)
    assert rounds < 12, f"{250 / rounds:.0f} entries per round trip"


@pytest.mark.parametrize("window", [1, 8])
async def test_the_window_in_messages_is_what_a_round_trip_carries(tmp_path: Path, window: int) -> None:
    """The other side of the same measure: it would show if sends waited for answers."""
    count = 6 * window
    rounds = await round_trips(tmp_path, count, max_message_bytes=MESSAGE_BYTES, max_inflight_messages=window)
    assert rounds > count / window - 1, "more was under way than the window allows"
    assert rounds < 2 * count / window + 4


async def test_the_links_own_windows_do_not_slow_bulk_data_down(tmp_path: Path) -> None:
    """8 MiB in a few round trips: HTTP/2 must not stop after its first 64 KiB of each."""
    rounds = await round_trips(tmp_path, 64, 128 << 10)
    assert rounds < 30, f"{8192 / rounds:.0f} KiB per round trip"


async def test_proposals_of_a_follower_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Each forwarded by itself, a moment after the one before: all under way at the same time."""
    async with proxied_processes(tmp_path, **SETTINGS) as (hosts, _):
        await create_groups(hosts, [GROUP])
        _, follower, _ = await leader_first(hosts, GROUP)
        await follower.call("write", group=GROUP, count=1, bytes=1)
        found = await follower.call("trickle", group=GROUP, count=100, every_s=0.002)
    rounds, runs = found["seconds"] / ROUND_TRIP_S, found["runs"]
    assert runs > 30, "they were to go one by one"
    assert rounds < runs / 3, f"{rounds:.1f} round trips for {runs} messages"
