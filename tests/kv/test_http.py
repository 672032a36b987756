"""The store over real HTTP on one host with three groups: up to g, up to p, and the rest."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cbor2
import httpx
import pytest
import trio

from multiraft.kv.http import POST_BYTES_MAX
from multiraft.kv.serve import Served
from tests.kv.hosts import open_one, wait_ready


@asynccontextmanager
async def ready(folder: Path, **fields: Any) -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
    async with open_one(folder, **fields) as (served, client):
        await wait_ready(client)
        yield served, client


def failure(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()
    assert body["reason"]
    return response.status_code, body["error"], body["applied"]


async def test_a_value_is_written_read_and_deleted(tmp_path: Path) -> None:
    async with ready(tmp_path) as (_, client):
        assert failure(await client.get("/kv/a")) == (404, "no_such_key", "no")
        assert (await client.put("/kv/a", content=b"\0\xff1")).status_code == 204
        for consistency in ("linearizable", "lease", "stale"):
            answer = await client.get("/kv/a", params={"consistency": consistency})
            assert (answer.status_code, answer.content) == (200, b"\0\xff1")
        assert (await client.put("/kv/a", content=b"")).status_code == 204
        answer = await client.get("/kv/a")
        assert (answer.status_code, answer.content) == (200, b""), "empty is not absent"
        assert (await client.delete("/kv/a")).status_code == 204
        assert (await client.delete("/kv/a")).status_code == 204, "deleting twice is no error"
        assert (await client.get("/kv/a")).status_code == 404


async def test_http_1_is_served_as_well(tmp_path: Path) -> None:
    async with (
        ready(tmp_path) as (served, _),
        httpx.AsyncClient(base_url=f"http://{served.http}", trust_env=False) as client,
    ):
        answer = await client.put("/kv/a", content=b"1")
        assert (answer.http_version, answer.status_code) == ("HTTP/1.1", 204)
        assert (await client.get("/kv/a")).content == b"1"


async def test_keys_are_any_bytes(tmp_path: Path) -> None:
    """Slashes may come as they are; %2F and / are one key, %252F is another."""
    paths = {
        "a/b//c/": b"a/b//c/",
        "a%2Fb%2F%2Fc": b"a/b//c",
        "%2F": b"/",
        "/x": b"/x",
        "%252F": b"%2F",
        "%C3%BC": "ü".encode(),
        "%FF%FE%00": b"\xff\xfe\0",
        "%0A": b"\n",
        "a%20b+c": b"a b+c",
        "%3F%23": b"?#",
        "kv/kv": b"kv/kv",
        "..%2F..": b"../..",
    }
    async with ready(tmp_path) as (_, client):
        for path in paths:
            target = httpx.URL(scheme="http", host="h", path="/").copy_with(raw_path=f"/kv/{path}".encode())
            url = client.base_url.copy_with(raw_path=target.raw_path)
            assert (await client.put(url, content=path.encode())).status_code == 204
        answer = await client.get("/kv", headers={"Accept": "application/cbor"})
        rows = {row["key"]: row["value"] for row in cbor2.loads(answer.content)["items"]}
        assert rows == {key: path.encode() for path, key in paths.items()}


async def test_wrong_requests_are_told_what_is_wrong(tmp_path: Path) -> None:
    async with ready(tmp_path) as (_, client):
        wrong = {
            ("GET", "/kv/"): "key: the key is empty",
            ("GET", f"/kv/{'k' * 4097}"): "4097 bytes",
            ("PUT", "/kv/a%zz"): "hexadecimal",
            ("GET", "/kv/a?consistency=eventual"): "consistency: must be",
            ("GET", "/kv/a?consistencty=stale"): "consistencty: no such argument",
            ("GET", "/kv?limit=0"): "limit: must be",
            ("GET", "/kv?limit=x"): "limit: must be",
            ("GET", "/kv?limit=-1"): "limit: must be",
            ("GET", "/kv?start=%"): "start:",
        }
        for (method, path), expected in wrong.items():
            answer = await client.request(method, client.base_url.copy_with(raw_path=path.encode()))
            assert failure(answer) == (400, "bad_request", "no"), path
            assert expected in answer.json()["reason"]
        assert failure(await client.get("/nothing")) == (404, "no_such_path", "no")
        body = b"x" * 1_000_000
        assert failure(await client.post("/kv/a", content=body)) == (405, "method_not_allowed", "no")
        assert failure(await client.put("/nothing", content=body)) == (404, "no_such_path", "no")
        assert failure(await client.put("/kv/", content=body)) == (400, "bad_request", "no")


async def test_a_value_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with ready(tmp_path, max_proposal_bytes=10_000) as (_, client):
        assert failure(await client.put("/kv/a", content=b"x" * 10_001)) == (413, "too_large", "no")
        assert (await client.get("/kv/a")).status_code == 404
        answer = await client.put("/kv/a", content=b"x" * (POST_BYTES_MAX + 1))
        assert failure(answer) == (413, "too_large", "no")
        assert (await client.put("/kv/a", content=b"x" * 9_000)).status_code == 204, "the link still works"


async def test_a_range_is_read_page_by_page_across_groups(tmp_path: Path) -> None:
    keys = [letter + number for letter in "abghop" for number in "0123"]
    async with ready(tmp_path) as (_, client):
        for key in keys:
            await client.put(f"/kv/{key}", content=key.upper().encode())
        for limit in (1, 5, 12, 24, 25):
            seen: list[str] = []
            following: str | None = ""
            while following is not None:
                page = (await client.get(f"/kv?limit={limit}&start={following}")).json()
                assert len(page["items"]) <= limit
                seen += [row["key"] for row in page["items"]]
                following = page["next"]
            assert seen == sorted(keys)
        page = (await client.get("/kv?start=b1&end=o1")).json()
        assert [row["key"] for row in page["items"]] == [key for key in sorted(keys) if "b1" <= key < "o1"]
        assert page["next"] is None
        assert base64.b64decode(page["items"][0]["value"]) == b"B1"
        page = (await client.get("/kv?start=g&end=g&consistency=stale")).json()
        assert page == {"items": [], "next": None}
        assert len((await client.get("/kv?consistency=stale")).json()["items"]) == 24


@pytest.mark.slow
async def test_a_page_is_bounded_in_bytes(tmp_path: Path) -> None:
    """To 4 MiB and one row."""
    async with ready(tmp_path) as (_, client):
        for key in ("a", "b", "h", "i", "q", "r"):
            await client.put(f"/kv/{key}", content=b"x" * 1_000_000)
        page = (await client.get("/kv")).json()
        assert [row["key"] for row in page["items"]] == ["a", "b", "h", "i", "q"]
        page = (await client.get(f"/kv?start={page['next']}")).json()
        assert ([row["key"] for row in page["items"]], page["next"]) == (["r"], None)


async def test_many_writes_in_one_request(tmp_path: Path) -> None:
    """Over all groups; two writes of one key take effect in their order."""
    writes = [{"op": "put", "key": key, "value": "MQ=="} for key in ("a", "h", "q", "b%2Fc")]
    writes += [{"op": "delete", "key": "h"}, {"op": "put", "key": "a", "value": "Mg=="}]
    async with ready(tmp_path) as (_, client):
        answer = await client.post("/kv", json=writes)
        assert (answer.status_code, answer.json()) == (200, {"failed": 0, "results": [{"ok": True}] * 6})
        rows = {row["key"]: row["value"] for row in (await client.get("/kv")).json()["items"]}
        assert rows == {"a": "Mg==", "b%2Fc": "MQ==", "q": "MQ=="}


async def test_many_writes_as_cbor(tmp_path: Path) -> None:
    writes = [{"op": "put", "key": b"\xff%d" % i, "value": b"%d" % i} for i in range(500)]
    async with ready(tmp_path) as (_, client):
        headers = {"Content-Type": "application/cbor"}
        answer = await client.post("/kv", content=cbor2.dumps(writes), headers=headers)
        assert answer.headers["Content-Type"] == "application/cbor"
        assert cbor2.loads(answer.content) == {"failed": 0, "results": [{"ok": True}] * 500}
        assert (await client.get("/kv/%FF77")).content == b"77"


async def test_each_of_many_writes_has_its_own_outcome(tmp_path: Path) -> None:
    """One value that is too large fails alone, and the ones before and behind it are written."""
    large = base64.b64encode(b"x" * 20_000).decode()
    writes = [
        {"op": "put", "key": key, "value": large if key == "b" else "MQ=="} for key in ("a", "b", "c", "q")
    ]
    async with ready(tmp_path, max_proposal_bytes=10_000) as (_, client):
        answer = await client.post("/kv", json=writes)
        body = answer.json()
        assert (answer.status_code, body["failed"]) == (207, 1)
        assert [result["ok"] for result in body["results"]] == [True, False, True, True]
        assert (body["results"][1]["error"], body["results"][1]["applied"]) == ("too_large", "no")
        assert [row["key"] for row in (await client.get("/kv")).json()["items"]] == ["a", "c", "q"]


async def test_many_writes_are_cut_into_proposals(tmp_path: Path) -> None:
    value = base64.b64encode(b"x" * 3_000).decode()
    writes = [{"op": "put", "key": f"a{i}", "value": value} for i in range(50)]
    async with ready(tmp_path, max_proposal_bytes=10_000) as (_, client):
        answer = await client.post("/kv", json=writes)
        assert (answer.status_code, answer.json()["failed"]) == (200, 0)
        assert len((await client.get("/kv")).json()["items"]) == 50


async def test_a_body_that_is_no_list_of_writes_writes_nothing(tmp_path: Path) -> None:
    good = {"op": "put", "key": "a", "value": "MQ=="}
    wrong: list[tuple[object, str]] = [
        ({}, "list of writes"),
        ([good, 7], "writes[1]: must be an object"),
        ([good, {"op": "get", "key": "a"}], "writes[1].op"),
        ([good, {"op": ["put"], "key": "a"}], "writes[1].op"),
        ([good, {"op": "put", "key": "a"}], "writes[1].value: is missing"),
        ([good, {"op": "delete", "key": "a", "value": ""}], "writes[1].value: no such field"),
        ([good, {"op": "delete", "key": ""}], "writes[1].key: the key is empty"),
        ([good, {"op": "delete", "key": 1}], "writes[1].key: must be a string"),
        ([good, {"op": "put", "key": "a", "value": "?"}], "writes[1].value: is not base64"),
        ([good, {"op": "put", "key": "a", "value": None}], "writes[1].value: must be"),
    ]
    async with ready(tmp_path) as (_, client):
        for body, expected in wrong:
            answer = await client.post("/kv", content=json.dumps(body))
            assert failure(answer) == (400, "bad_request", "no"), body
            assert expected in answer.json()["reason"]
        for content, kind in ((b"[", "application/json"), (b"\xff", "application/cbor"), (b"[]", "text/xml")):
            answer = await client.post("/kv", content=content, headers={"Content-Type": kind})
            assert failure(answer) == (400, "bad_request", "no")
        assert (await client.get("/kv")).json()["items"] == []


async def test_status_lists_groups_page_by_page(tmp_path: Path) -> None:
    async with ready(tmp_path) as (served, client):
        whole = (await client.get("/admin/status")).json()
        assert [group["id"] for group in whole["groups"]] == [1, 2, 3]
        assert (whole["groups_total"], whole["next"]) == (3, None)
        assert whole["address"] == served.host.address
        assert whole["statistics"]["scheduler"]["groups"] == 3
        for group in whole["groups"]:
            assert group["leader"] == {"id": 1, "address": served.host.address}
            assert group["commit"] >= group["applied"] > 0
        page = (await client.get("/admin/status?limit=2")).json()
        assert ([group["id"] for group in page["groups"]], page["next"]) == ([1, 2], 2)
        page = (await client.get("/admin/status?limit=2&after=2")).json()
        assert ([group["id"] for group in page["groups"]], page["next"]) == ([3], None)


async def test_requests_at_the_same_time(tmp_path: Path) -> None:
    async with ready(tmp_path) as (_, client):

        async def put(path: str) -> None:
            assert (await client.put(path, content=b"1")).status_code == 204

        async with trio.open_nursery() as nursery:
            for i in range(60):
                nursery.start_soon(client.get, f"/kv/{'agp'[i % 3]}{i}")
                nursery.start_soon(put, f"/kv/{'agp'[i % 3]}{i}")
        assert len((await client.get("/kv")).json()["items"]) == 60
