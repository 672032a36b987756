"""Listening to a host over HTTP."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from multiraft.admin import events
from multiraft.admin.serve import DRAIN_S
from tests.admin.hosts import GROUP, Served, config, served, told
from tests.admin.listener import ask, listen
from tests.api.programs import PATIENCE_S


async def test_what_happens_is_told(tmp_path: Path) -> None:
    """To everybody who listens, each event with the fields that the API has."""
    async with served(config(tmp_path)) as each, await listen(each) as first, await listen(each) as second:
        await each.post("groups", id=GROUP)
        own = each.host.group(GROUP).member_id
        for listener in (first, second):
            assert await listener.until("GroupCreated") == {"group": GROUP, "member": own}
            led = await listener.until("LeaderChanged")
            assert led["leader"] == {"id": own, "address": each.host.address, "role": "voter"}
        await each.post(f"groups/{GROUP}/members/add", id=9, address="127.0.0.1:9", role="learner")
        changed = await first.until("MembersChanged")
        assert changed["members"]["9"]["role"] == "learner"
        assert (await each.post(f"groups/{GROUP}/remove")).status_code == 200
        assert await second.until("GroupRemoved") == {"group": GROUP}


async def test_closing_ends_the_streams_at_once(tmp_path: Path) -> None:
    """And tells them why, instead of waiting for answers that have no end."""
    async with AsyncExitStack() as stack:
        async with served(config(tmp_path)) as each:
            listener = await stack.enter_async_context(await listen(each))
            began = trio.current_time()
        assert trio.current_time() - began < DRAIN_S / 2
        assert await listener.until("Closed") == {"reason": "the host is closing"}


async def test_a_silent_stream_is_kept_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.02)
    async with served(config(tmp_path)) as each, await listen(each) as listener:
        assert await listener.until("KeepAlive") == {}
        assert await listener.until("KeepAlive") == {}


async def test_so_many_may_listen_and_those_who_left_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "STREAMS_MAX", 1)
    async with served(config(tmp_path)) as each:
        async with await listen(each):
            assert told(await each.get("events")) == (503, "TooManyStreams")
        with trio.fail_after(PATIENCE_S):
            while await _status(each) != 200:  # noqa: ASYNC110 - nothing sets an event
                await trio.sleep(0.01)


async def _status(each: Served) -> int:
    async with await ask(each) as listener:
        return await listener.status()


async def test_arguments_are_refused(tmp_path: Path) -> None:
    async with served(config(tmp_path)) as each:
        assert told(await each.get("events", group=7)) == (400, "BadRequest")
