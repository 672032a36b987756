"""The admin API on real hosts: what it does, what it refuses, and how it says so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from multiraft import Role
from multiraft.admin.app import BODY_BYTES_MAX
from tests.admin.hosts import GROUP, Served, config, make_group, predefined, served, three, told
from tests.api.programs import change, until

NOBODY = "127.0.0.1:9"


@asynccontextmanager
async def one(folder: Path) -> AsyncIterator[Served]:
    """A host with a group of its own, which it leads."""
    async with served(config(folder)) as each:
        assert (await each.post("groups", id=GROUP)).status_code == 201
        with trio.fail_after(20):
            await each.host.group(GROUP).read_barrier()
        yield each


# --- one host --------------------------------------------------------------------------------------


async def test_what_is_wrong_with_a_request_is_named(tmp_path: Path) -> None:
    async with one(tmp_path) as each:
        for path, body, field, reason in (
            ("groups", {}, "id", "is missing"),
            ("groups", {"id": "7"}, "id", "'7' is not an integer"),
            ("groups", {"id": 9, "limits": {"max_log_bytes": 1}}, "limits.max_log_bytes", "no such field"),
            ("groups", {"id": 9, "members": [{"id": 1}]}, "members[0].address", "is missing"),
            ("groups", {"id": 9, "members": []}, "members", "at least one voter"),
            ("groups/batch", {"groups": []}, "groups", "0 items; 1 to"),
            ("groups/batch", {"groups": [{"id": 9, "members": []}] * 2}, "groups[1].id", "there twice"),
            ("groups/0/leave", {}, "group", "from 1 to"),
            ("groups/x/leave", {}, "group", "must be an integer"),
            ("groups/9/join", {"via": "nowhere"}, "via", "host:port"),
            ("groups/9/join", {"via": NOBODY, "role": "removed"}, "role", "none of voter, learner, staging"),
            (f"groups/{GROUP}/members/add", {"address": NOBODY, "timeout": 1}, "timeout", "no such field"),
            (
                f"groups/{GROUP}/members/add",
                {"address": NOBODY, "timeout_s": 601},
                "timeout_s",
                "at most 600",
            ),
            (f"groups/{GROUP}/members/remove", {"member": 0}, "member", "from 1 to"),
            (f"groups/{GROUP}/members/change", {"add": [{"address": "x"}]}, "add[0].address", "host:port"),
            (f"groups/{GROUP}/snapshot?timeout_s=1", {}, "timeout_s", "go into its body"),
        ):
            answer = await each.post(path, **body)
            assert told(answer)[0] == 400, (path, body, answer.text)
            told_of = answer.json()
            assert told_of["field"] == field, (path, body)
            assert reason in told_of["reason"]
            assert told_of["applied"] == "no"
        for arguments, field in (({"limit": "x"}, "limit"), ({"limit": 10_001}, "limit"), ({"x": 1}, "x")):
            answer = await each.get("groups", **arguments)
            assert (told(answer), answer.json()["field"]) == ((400, "BadRequest"), field)
        answer = await each.client.get("/admin/groups?after=1&after=2")
        assert (told(answer), answer.json()["field"]) == ((400, "BadRequest"), "after")
        assert list(each.host.groups) == [GROUP], "nothing was made"


async def test_bodies_that_are_none(tmp_path: Path) -> None:
    headers = {"Content-Type": "application/json"}
    async with one(tmp_path) as each:
        for body in (b"{", b"\xff", b"[1]", b"null", b'{"id": 9, "id": 10}', b"[" * 100_000, b"9" * 10_000):
            answer = await each.client.post("/admin/groups", content=body, headers=headers)
            assert (told(answer), answer.json()["field"]) == ((400, "BadRequest"), "body"), body[:20]
        long = b" " * (BODY_BYTES_MAX + 1)
        answer = await each.client.post("/admin/groups", content=long, headers=headers)
        assert told(answer) == (413, "TooLarge")
        answer = await each.client.post(f"/admin/groups/{GROUP}/snapshot", headers=headers)
        assert answer.status_code == 200, "no body is an empty one"
        answer = await each.client.post(f"/admin/groups/{GROUP}/snapshot", content=b"{}")
        assert told(answer) == (415, "UnsupportedMediaType")


async def test_paths_and_methods_that_do_not_exist(tmp_path: Path) -> None:
    async with one(tmp_path) as each:
        answer = await each.get("nothing")
        assert told(answer) == (404, "NotFound")
        assert "/admin/openapi.json" in answer.json()["reason"]
        assert told(await each.client.get("/kv/a")) == (404, "NotFound")
        answer = await each.client.delete(f"/admin/groups/{GROUP}")
        assert told(answer) == (405, "MethodNotAllowed")
        assert "GET" in answer.headers["allow"]
        assert told(await each.client.options("/admin/groups"))[0] == 405


async def test_groups_come_page_by_page(tmp_path: Path) -> None:
    async with one(tmp_path) as each:
        mine = predefined([each])
        answer = await each.post("groups/batch", groups=[{"id": n, "members": mine} for n in (3, 1, 2)])
        assert (answer.status_code, answer.json()) == (201, {"groups": [1, 2, 3]})
        first = (await each.get("groups", limit=3)).json()
        assert [row["id"] for row in first["groups"]] == [1, 2, 3]
        assert (first["groups_total"], first["next"]) == (4, 3)
        last = (await each.get("groups", limit=3, after=3)).json()
        assert [row["id"] for row in last["groups"]] == [GROUP]
        assert last["next"] is None
        assert last["groups"][0]["members"] == 1


async def test_limits_go_with_the_group(tmp_path: Path) -> None:
    async with served(config(tmp_path)) as each:
        answer = await each.post("groups", id=9, limits={"max_proposal_bytes": 10})
        assert answer.status_code == 201
        group = each.host.group(9)
        assert group.limit("max_proposal_bytes") == 10
        answer = await each.post("groups", id=10, limits={"snapshot_interval_entries": 0})
        assert (told(answer), answer.json()["field"]) == ((400, "ConfigError"), "snapshot_interval_entries")


async def test_what_the_api_refuses_keeps_its_name(tmp_path: Path) -> None:
    async with one(tmp_path) as each:
        here, own = f"groups/{GROUP}", each.host.group(GROUP).member_id
        for path, body, expected in (
            ("groups", {"id": GROUP}, (409, "GroupExists")),
            ("groups", {"id": 9, "members": [{"id": 1, "address": NOBODY}]}, (409, "NotMember")),
            ("groups/9/snapshot", {}, (404, "GroupNotFound")),
            ("groups/9/remove", {}, (404, "GroupNotFound")),
            (f"{here}/members/remove", {"member": own}, (409, "MembershipRejected")),
            (f"{here}/members/promote", {"member": own}, (409, "MembershipRejected")),
            (f"{here}/members/change", {}, (409, "MembershipRejected")),
            (f"{here}/transfer", {"to": 99}, (409, "MembershipRejected")),
            (f"{here}/step-down", {}, (409, "MembershipRejected")),
            (f"{here}/leave", {}, (409, "MembershipRejected")),
        ):
            answer = await each.post(path, **body)
            assert told(answer) == expected, path
        assert (await each.get("groups/9")).json()["group"] == 9
        assert (await each.post("groups", id=GROUP)).json()["group"] == GROUP


async def test_a_change_is_refused_if_the_members_moved_on(tmp_path: Path) -> None:
    """Compare and set, as with the API."""
    async with one(tmp_path) as each:
        path = f"groups/{GROUP}/members"
        version = (await each.get(path)).json()["version"]
        added = await each.post(f"{path}/add", address=NOBODY, role="learner", expected=version)
        assert added.status_code == 200
        later = added.json()["version"]
        assert later > version
        answer = await each.post(f"{path}/add", address="127.0.0.1:8", role="learner", expected=version)
        assert told(answer) == (409, "MembershipRejected")
        assert str(later) in answer.json()["reason"]


async def test_a_call_without_an_outcome_times_out(tmp_path: Path) -> None:
    """A host that nobody carries can never be joined."""
    async with one(tmp_path) as each:
        with trio.fail_after(10):
            answer = await each.post("groups/9/join", via=NOBODY, timeout_s=0.1)
        assert told(answer) == (504, "Timeout")
        assert answer.json()["applied"] == "maybe"
        assert (await each.get("status")).status_code == 200, "and it goes on"


async def test_a_snapshot_is_taken_and_its_file_named(tmp_path: Path) -> None:
    async with one(tmp_path) as each:
        await each.host.group(GROUP).propose(change(ann=1))
        taken = (await each.post(f"groups/{GROUP}/snapshot")).json()
        assert len(await trio.Path(taken["path"]).read_bytes()) == taken["bytes"]
        assert (await each.get(f"groups/{GROUP}")).json()["snapshot_index"] == taken["index"]


# --- three hosts -----------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_member_moves_from_one_host_to_another(tmp_path: Path) -> None:
    """What operators do, through whatever host: join the new one, hand over, remove the old one."""
    async with three(tmp_path) as hosts:
        a, b, c = hosts
        await make_group(hosts[:2])
        await a.host.group(GROUP).propose(change(ann=1))
        joined = (await c.post(f"groups/{GROUP}/join", via=b.host.address)).json()
        new = joined["member_id"]
        again = await c.post(f"groups/{GROUP}/join", via=b.host.address)
        assert again.json()["member_id"] == new, "joining twice is harmless"
        answer = await a.post(f"groups/{GROUP}/transfer", to=new)
        assert answer.json()["leader"] == {"id": new, "address": c.host.address}
        progress = (await c.get(f"groups/{GROUP}")).json()["progress"]
        assert set(progress) == {"1", "2", str(new)}
        removed = (await c.post(f"groups/{GROUP}/members/remove", member=1)).json()
        assert [member["id"] for member in removed["members"]] == [2, new]
        assert removed["removed"] == [1]
        await until(lambda: a.host.group(GROUP).status().failed)
        answer = await a.post(f"groups/{GROUP}/snapshot")
        assert told(answer) == (409, "MemberRemoved")
        assert "removed" in (await a.get(f"groups/{GROUP}")).json()["failed"]
        assert (await a.post(f"groups/{GROUP}/remove")).json() == {"removed": GROUP}
        assert told(await a.get(f"groups/{GROUP}")) == (404, "GroupNotFound")
        assert await b.host.group(GROUP).query("ann") == 1


@pytest.mark.slow
async def test_several_changes_as_one(tmp_path: Path) -> None:
    async with three(tmp_path) as hosts:
        await make_group(hosts)
        changed = await hosts[0].post(
            f"groups/{GROUP}/members/change",
            add=[{"id": 9, "address": NOBODY, "role": "learner"}],
            demote=[3],
        )
        assert changed.status_code == 200, changed.text
        body = changed.json()
        assert body["added"] == [{"id": 9, "address": NOBODY, "role": "learner"}]
        roles = {member["id"]: member["role"] for member in body["members"]}
        assert roles == {1: "voter", 2: "voter", 3: "learner", 9: "learner"}
        await until(lambda: hosts[1].host.group(GROUP).members[3].role is Role.LEARNER)


@pytest.mark.slow
async def test_without_a_quorum_a_change_says_that_there_is_no_leader(tmp_path: Path) -> None:
    members = [{"id": 1, "address": ""}, {"id": 2, "address": NOBODY}, {"id": 3, "address": "127.0.0.1:8"}]
    async with served(config(tmp_path, leader_wait_s=0.2)) as each:
        members[0]["address"] = each.host.address
        assert (await each.post("groups", id=GROUP, members=members)).status_code == 201
        answer = await each.post(f"groups/{GROUP}/members/remove", member=3)
        assert told(answer) == (503, "NoLeader")
        assert answer.json()["applied"] == "no"
        answer = await each.post(f"groups/{GROUP}/transfer", to=1)
        assert told(answer) == (503, "NoLeader")
        assert (await each.get(f"groups/{GROUP}")).json()["leader"] is None


@pytest.mark.slow
async def test_thousands_of_groups_in_one_request(tmp_path: Path) -> None:
    """One request makes them; looking at them holds nobody up for long."""
    async with served(config(tmp_path, election_ticks=1000)) as each:
        mine = predefined([each])
        wanted = [{"id": n, "members": mine} for n in range(1, 2001)]
        assert len(json.dumps(wanted)) < BODY_BYTES_MAX
        assert (await each.post("groups/batch", groups=wanted)).status_code == 201
        page = (await each.get("groups", limit=10_000)).json()
        assert (len(page["groups"]), page["next"]) == (2000, None)
