"""What leaves without waiting for answers: counted in round trips, on links that are really slow.

One round trip between two hosts is twice the delay of the proxies: an append through the
follower's, its acknowledgement through the leader's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cluster.proxy import proxied
from tests.engine.helpers import create, leader_of

pytestmark = pytest.mark.slow  # links that are slow on purpose

DELAY_S = 0.05
ROUND_TRIP_S = 2 * DELAY_S

PAYLOAD = b"x" * 900
MESSAGE_BYTES = 1024
"""Each entry goes in an append of its own."""


async def round_trips(folder: Path, payloads: list[bytes], **settings: Any) -> float:
    """How many it takes until all of `payloads`, proposed at once, are acknowledged."""
    async with proxied(folder, delay_s=DELAY_S, tick_interval_s=0.1, **settings) as (hosts, _):
        leader = leader_of(await create(hosts, 7))
        await leader.propose(b"settled")
        started = trio.current_time()
        results = await leader.propose_many(payloads)
        took = trio.current_time() - started
    assert len(results) == len(payloads)
    return took / ROUND_TRIP_S


async def test_hundreds_of_appends_are_under_way_before_the_first_answer(tmp_path: Path) -> None:
    """250 messages in a few round trips; one at a time they would take 250."""
    rounds = await round_trips(tmp_path, [PAYLOAD] * 250, max_message_bytes=MESSAGE_BYTES)
    assert rounds < 12, f"{250 / rounds:.0f} entries per round trip"


@pytest.mark.parametrize("window", [1, 8])
async def test_the_window_in_messages_is_what_a_round_trip_carries(tmp_path: Path, window: int) -> None:
    """The other side of the same measure: it would show if sends waited for answers."""
    count = 6 * window
    rounds = await round_trips(
        tmp_path, [PAYLOAD] * count, max_message_bytes=MESSAGE_BYTES, max_inflight_messages=window
    )
    assert rounds > count / window - 1, "more was under way than the window allows"
    assert rounds < 2 * count / window + 4


async def test_the_links_own_windows_do_not_slow_bulk_data_down(tmp_path: Path) -> None:
    """8 MiB in a few round trips: HTTP/2 must not stop after its first 64 KiB of each."""
    rounds = await round_trips(tmp_path, [b"x" * (128 << 10)] * 64)
    assert rounds < 30, f"{8192 / rounds:.0f} KiB per round trip"


async def test_proposals_of_a_follower_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Each forwarded by itself, a moment after the one before: all under way at the same time."""
    async with proxied(tmp_path, delay_s=DELAY_S, tick_interval_s=0.1) as (hosts, _):
        groups = await create(hosts, 7)
        follower = next(group for group in groups if group is not leader_of(groups))
        await follower.propose(b"settled")
        runs = hosts[groups.index(follower)].statistics().scheduler.proposed_runs
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(follower.propose, b"%d" % number)
                await trio.sleep(0.002)
        rounds = (trio.current_time() - started) / ROUND_TRIP_S
        runs = hosts[groups.index(follower)].statistics().scheduler.proposed_runs - runs
    assert runs > 30, "they were to go one by one"
    assert rounds < runs / 3, f"{rounds:.1f} round trips for {runs} messages"
