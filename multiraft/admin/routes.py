"""The one table of what the admin API offers: served, checked and described from here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Literal

import attrs

from multiraft.admin import calls
from multiraft.admin.calls import Call
from multiraft.admin.events import EVENT
from multiraft.admin.kinds import (
    COUNT,
    ID,
    Address,
    Choice,
    Field,
    Kind,
    Many,
    Maybe,
    Number,
    Record,
    Text,
)
from multiraft.admin.status import (
    GROUP,
    GROUP_PAGE,
    LEADER,
    MEMBER,
    MEMBERS,
    PAGE_ARGUMENTS,
    STATUS,
)
from multiraft.engine import LIMITS
from multiraft.types import Role

TIMEOUT_S: Final = 30.0
TIMEOUT_S_MAX: Final = 600.0
GROUPS_AT_ONCE: Final = 10_000
CHANGES_MAX: Final = 64
"""Members in one change: more are refused by the API as well."""

PREFIX: Final = "/admin"
GROUP_PATH: Final = f"{PREFIX}/groups/{{group}}"
GROUP_ARGUMENT: Final = Field("group", ID, "The group's id.")


@attrs.frozen(kw_only=True)
class Route:
    """One operation.

    Attributes:
        name: Names it in the description (`operationId`).
        path: With `{group}` where a group's id stands.
        summary: A sentence for the description.
        run: Does it. None: it is a stream of events (events.py).
        answer: What a success is answered with; each line of a stream.
        query: The arguments of one that looks.
        body: The arguments of one that changes something; None: it only looks.
        status: Of a success. Default: 200.
    """

    name: str
    path: str
    summary: str
    run: Callable[[Call], Awaitable[object]] | None
    answer: Kind
    query: tuple[Field, ...] = ()
    body: Record | None = None
    status: int = 200

    @property
    def method(self) -> Literal["GET", "POST"]:
        return "GET" if self.body is None else "POST"

    @property
    def of_group(self) -> bool:
        return "{group}" in self.path


TIMEOUT: Final = Field(
    "timeout_s", Number(TIMEOUT_S_MAX), "How long to wait for the outcome, in seconds.", default=TIMEOUT_S
)
EXPECTED: Final = Field(
    "expected",
    Maybe(COUNT),
    "Refuse the change unless the members are at this `version`. Null: whatever it is.",
    default=None,
)
_ROLES: Final = Choice(tuple(role.value for role in Role if role is not Role.REMOVED))
_ROLE: Final = Field("role", _ROLES, "What the member may do.", default=Role.VOTER.value)
_ADDRESS: Final = Field("address", Address(), "host:port where other hosts reach the member's host.")
_MEMBER_ID: Final = Field("member", ID, "The member's id.")

PREDEFINED: Final = Record("PredefinedMember", (Field("id", ID, "The member's id."), _ADDRESS, _ROLE))
NEW_MEMBER: Final = Record(
    "NewMember",
    (
        Field("id", Maybe(ID), "Never used in the group before. Null: a random one.", default=None),
        _ADDRESS,
        _ROLE,
    ),
)
GROUP_LIMITS: Final = Record(
    "Limits",
    tuple(
        Field(name, Maybe(COUNT), "In place of the host's. Null: the host's.", default=None)
        for name in LIMITS
    ),
)
_LIMITS: Final = Field("limits", Maybe(GROUP_LIMITS), "Limits of the group's own.", default=None)
_MEMBERS: Final = Field(
    "members",
    Many(PREDEFINED, CHANGES_MAX),
    "The same list on every host; this host finds itself by its address.",
)
CHANGED: Final = Record(
    "ChangedMembers",
    (Field("added", Many(MEMBER, CHANGES_MAX), "The members added, with their ids."), *MEMBERS.fields),
)
LEADERSHIP: Final = Record(
    "Leadership",
    (
        Field("leader", Maybe(LEADER), "Who leads now. Null: nobody is known."),
        Field("term", COUNT, "The present term."),
    ),
)
SNAPSHOT: Final = Record(
    "Snapshot",
    (
        Field("path", Text(1 << 16), "The file, on the host."),
        Field("index", COUNT, "Of the last entry in it."),
        Field("term", COUNT, "Of that entry."),
        Field("bytes", COUNT, "Of the file."),
    ),
)


def _body(name: str, *fields: Field) -> Record:
    return Record(name, (*fields, TIMEOUT))


def _ids(name: str, about: str) -> Field:
    return Field(name, Many(ID, CHANGES_MAX), about, default=())


_ONE_MEMBER: Final = _body("OneMember", _MEMBER_ID, EXPECTED)
_NOTHING: Final = _body("Nothing")

HOST_ROUTES: Final = (
    Route(
        name="getStatus",
        path=f"{PREFIX}/status",
        summary="The host, its statistics, and a page of its groups.",
        query=PAGE_ARGUMENTS,
        answer=STATUS,
        run=calls.get_status,
    ),
    Route(
        name="listen",
        path=f"{PREFIX}/events",
        summary="What happens on the host, in all of its groups, from now on: a line of JSON for each event.",
        answer=EVENT,
        run=None,
    ),
    Route(
        name="listGroups",
        path=f"{PREFIX}/groups",
        summary="A page of the host's groups.",
        query=PAGE_ARGUMENTS,
        answer=GROUP_PAGE,
        run=calls.list_groups,
    ),
    Route(
        name="getGroup",
        path=GROUP_PATH,
        summary="One group as this host sees it.",
        answer=GROUP,
        run=calls.get_group,
    ),
    Route(
        name="createGroup",
        path=f"{PREFIX}/groups",
        summary="Make a group on this host: one of a predefined cluster, or one with this host alone.",
        body=_body(
            "CreateGroup",
            Field("id", ID, "The group's id."),
            attrs.evolve(
                _MEMBERS,
                kind=Maybe(_MEMBERS.kind),
                about=f"{_MEMBERS.about} Null: this host alone, with a random member id.",
                default=None,
            ),
            _LIMITS,
        ),
        answer=GROUP,
        status=201,
        run=calls.create_group,
    ),
    Route(
        name="createGroups",
        path=f"{PREFIX}/groups/batch",
        summary="Make many predefined groups on this host, with few syncs.",
        body=_body(
            "CreateGroups",
            Field(
                "groups",
                Many(
                    Record("PredefinedGroup", (Field("id", ID, "The group's id."), _MEMBERS)),
                    GROUPS_AT_ONCE,
                    shortest=1,
                ),
                "The groups, each with its members.",
            ),
            _LIMITS,
        ),
        answer=Record("CreatedGroups", (Field("groups", Many(ID, GROUPS_AT_ONCE), "Ids, in order."),)),
        status=201,
        run=calls.create_groups,
    ),
    Route(
        name="joinGroup",
        path=f"{GROUP_PATH}/join",
        summary="Make this host a member of a group that other hosts carry. Joining twice is harmless.",
        body=_body(
            "JoinGroup",
            Field("via", Address(), "host:port of any host with a member of it, where other hosts reach it."),
            _ROLE,
        ),
        answer=GROUP,
        run=calls.join_group,
    ),
    Route(
        name="removeGroup",
        path=f"{GROUP_PATH}/remove",
        summary="Stop the group on this host and delete its data here. The other members are not told.",
        body=_NOTHING,
        answer=Record("RemovedGroup", (Field("removed", ID, "The group's id."),)),
        run=calls.remove_group,
    ),
)

RECOVERY_ROUTES: Final = (
    Route(
        name="restoreGroup",
        path=f"{GROUP_PATH}/restore",
        summary="Make a new group from a snapshot file, with this host as its only member.",
        body=_body("RestoreGroup", Field("snapshot", Text(), "Path of the file, on the host."), _LIMITS),
        answer=GROUP,
        status=201,
        run=calls.restore_group,
    ),
    Route(
        name="forceNewGroup",
        path=f"{GROUP_PATH}/force-new",
        summary="Have a group that lost its majority for good go on alone, from what this host has of it.",
        body=_NOTHING,
        answer=GROUP,
        run=calls.force_new_group,
    ),
)

MEMBER_ROUTES: Final = (
    Route(
        name="listMembers",
        path=f"{GROUP_PATH}/members",
        summary="The group's members, and their version.",
        answer=MEMBERS,
        run=calls.list_members,
    ),
    Route(
        name="addMember",
        path=f"{GROUP_PATH}/members/add",
        summary="Add a member. Its host then joins the group, which would have added it as well.",
        body=_body("AddMember", *NEW_MEMBER.fields, EXPECTED),
        answer=CHANGED,
        run=calls.add_member,
    ),
    Route(
        name="removeMember",
        path=f"{GROUP_PATH}/members/remove",
        summary="Remove a member, dead or alive. Its id is never used again.",
        body=_ONE_MEMBER,
        answer=CHANGED,
        run=calls.remove_member,
    ),
    Route(
        name="updateMember",
        path=f"{GROUP_PATH}/members/update",
        summary="Say that a member's host is at another address now.",
        body=_body("UpdateMember", _MEMBER_ID, _ADDRESS, EXPECTED),
        answer=CHANGED,
        run=calls.update_member,
    ),
    Route(
        name="promoteMember",
        path=f"{GROUP_PATH}/members/promote",
        summary="Make a learner a voter.",
        body=_ONE_MEMBER,
        answer=CHANGED,
        run=calls.promote_member,
    ),
    Route(
        name="demoteMember",
        path=f"{GROUP_PATH}/members/demote",
        summary="Make a voter a learner.",
        body=_ONE_MEMBER,
        answer=CHANGED,
        run=calls.demote_member,
    ),
    Route(
        name="changeMembers",
        path=f"{GROUP_PATH}/members/change",
        summary="Several changes as one: at no moment is only a part of them in force.",
        body=_body(
            "ChangeMembers",
            Field("add", Many(NEW_MEMBER, CHANGES_MAX), "Members to add.", default=()),
            _ids("remove", "Ids of members to remove."),
            _ids("promote", "Ids of learners to make voters."),
            _ids("demote", "Ids of voters to make learners."),
            EXPECTED,
        ),
        answer=CHANGED,
        run=calls.change_members,
    ),
    Route(
        name="leaveGroup",
        path=f"{GROUP_PATH}/leave",
        summary="Remove this host's member from the group. Its data stays here until the group is removed.",
        body=_NOTHING,
        answer=CHANGED,
        run=calls.leave,
    ),
)

LEADER_ROUTES: Final = (
    Route(
        name="transferLeadership",
        path=f"{GROUP_PATH}/transfer",
        summary="Hand leadership to a voter, and answer once it leads.",
        body=_body("Transfer", Field("to", ID, "The voter's id.")),
        answer=LEADERSHIP,
        run=calls.transfer_leadership,
    ),
    Route(
        name="stepDown",
        path=f"{GROUP_PATH}/step-down",
        summary="If this host leads the group, hand leadership to the voter that is furthest ahead.",
        body=_NOTHING,
        answer=LEADERSHIP,
        run=calls.step_down,
    ),
    Route(
        name="takeSnapshot",
        path=f"{GROUP_PATH}/snapshot",
        summary="Take a snapshot of the group here, without stopping it.",
        body=_NOTHING,
        answer=SNAPSHOT,
        run=calls.take_snapshot,
    ),
)

ROUTES: Final = HOST_ROUTES + RECOVERY_ROUTES + MEMBER_ROUTES + LEADER_ROUTES
