"""The description and what is served come from one table, and every operation in it answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from multiraft.admin.app import make_app
from multiraft.admin.guard import Guard
from multiraft.admin.kinds import BadRequest, records_in
from multiraft.admin.openapi import ALL_ROUTES, FAILURES, document
from multiraft.admin.routes import Route
from tests.admin.hosts import GROUP, Served, make_group, predefined, three
from tests.admin.listener import listen

DOCUMENT = document(ALL_ROUTES)
BY_NAME = {route.name: route for route in ALL_ROUTES}


def every(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from every(each)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_rule_that_is_served_is_described_and_the_other_way_round() -> None:
    guard = Guard(token=None, certificates=False, loopback=True, name="localhost")
    app = make_app(None, guard)  # type: ignore[arg-type]  # nobody is served
    rules = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
        if rule.rule.startswith("/admin")
    }
    assert rules == {(path, method) for path, method, _ in operations()}
    assert len(rules) >= 19


def test_references_lead_somewhere_and_names_are_used_once() -> None:
    components = DOCUMENT["components"]["schemas"]
    references = {each["$ref"] for each in every(DOCUMENT) if isinstance(each, dict) and "$ref" in each}
    assert references == {f"#/components/schemas/{name}" for name in components}
    for name in components:
        records = [
            found[name]
            for route in ALL_ROUTES
            for kind in (route.answer, route.body)
            if kind is not None and name in (found := records_in(kind))
        ]
        assert all(record == records[0] for record in records), name
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)


def test_operations_say_what_they_need() -> None:
    for path, method, operation in operations():
        assert operation["summary"].endswith("."), operation["operationId"]
        in_path = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert in_path == re.findall(r"\{(\w+)\}", path)
        assert ("requestBody" in operation) == (method == "post")
        assert ("404" in operation["responses"]) == bool(in_path)
        assert {int(status) for status in operation["responses"]} - FAILURES.keys() <= {200, 201}


# --- every operation answers -----------------------------------------------------------------------


async def ask(each: Served, name: str, group: int = GROUP, **values: Any) -> Any:
    """One operation, by the table; its answer has to be exactly what is described."""
    route = BY_NAME[name]
    path = route.path.removeprefix("/admin/").replace("{group}", str(group))
    with trio.fail_after(20):
        answer = await (each.post(path, **values) if route.body else each.get(path, **values))
    assert answer.status_code == route.status, (name, answer.text)
    body = answer.json()
    check(route, body)
    return body


def check(route: Route, body: Any) -> None:
    try:
        route.answer.read(body, "answer")
    except BadRequest as error:
        pytest.fail(f"{route.name}: {error}: {body}")


@pytest.mark.slow
async def test_every_operation_answers_as_described(tmp_path: Path) -> None:
    """In an order that gives each of them something to do."""
    asked: set[str] = set()

    async def do(each: Served, name: str, group: int = GROUP, **values: Any) -> Any:
        asked.add(name)
        return await ask(each, name, group, **values)

    async with three(tmp_path) as hosts:
        a, b, c = hosts
        async with await listen(a):
            asked.add("listen")
        await make_group(hosts[:2])
        await do(a, "createGroup", id=8)
        await do(a, "createGroups", groups=[{"id": n, "members": predefined([a])} for n in (21, 22)])
        assert (await do(a, "getOpenapi")) == DOCUMENT
        page = await do(a, "getStatus", limit=1)
        assert (len(page["groups"]), page["next"]) == (1, GROUP)
        assert [row["id"] for row in (await do(a, "listGroups", after=GROUP))["groups"]] == [8, 21, 22]
        joined = await do(c, "joinGroup", via=a.host.address, role="learner")
        third = joined["member_id"]
        assert {member["id"] for member in joined["members"]} == {1, 2, third}
        await do(a, "promoteMember", member=third)
        await do(a, "demoteMember", member=third)
        await do(b, "changeMembers", promote=[third], demote=[2])
        await do(b, "changeMembers", promote=[2], demote=[third])
        await do(a, "updateMember", member=third, address=c.host.address)
        await do(a, "transferLeadership", to=1)
        assert (await do(a, "stepDown"))["leader"]["id"] == 2
        await do(a, "getGroup")
        await do(b, "getGroup")
        await do(a, "takeSnapshot")
        await do(c, "leaveGroup")
        assert (await do(c, "removeGroup")) == {"removed": GROUP}
        taken = await do(a, "takeSnapshot")
        restored = await do(c, "restoreGroup", 9, snapshot=taken["path"])
        assert [member["address"] for member in restored["members"]] == [c.host.address]
        assert (await do(c, "forceNewGroup", 9))["generation"] != restored["generation"]
        added = await do(a, "addMember", id=77, address="127.0.0.1:9", role="learner")
        assert added["added"] == [{"id": 77, "address": "127.0.0.1:9", "role": "learner"}]
        await do(a, "removeMember", member=77)
        await do(b, "addMember", id=78, address="127.0.0.1:8", role="staging")
        assert (await do(b, "getGroup"))["staging"]["78"]["reason"]
        assert (await do(a, "listMembers"))["removed"] == sorted([77, third])
    assert asked == BY_NAME.keys()
