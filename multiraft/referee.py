"""A leader's say on a membership change, before it may enter the log.

Why what is checked here is exact. Configurations take effect when they are applied, and the core
takes no change while an earlier one may be unapplied. So a leader that is asked with none pending
has the very membership that the change will meet when it is applied: what is taken here fits then,
on every member, and what is refused here was refused for good and never was in the log. (An
entry in the log that only marks a refusal would reach state machines, which must not see it.)
"""

from __future__ import annotations

import enum

from multiraft.errors import MembershipRejected
from multiraft.group import Group
from multiraft.membership import Change
from multiraft.messages import ConfChange
from multiraft.types import MemberId, Role

UNDER_WAY = "another change is under way"


class Verdict(enum.Enum):
    TAKE = enum.auto()
    WAIT = enum.auto()
    """A new leader does not yet know which changes of its predecessors are in force; or the last change
    is done for whoever asked for it, and only this member's own disk is not as far."""
    HAND_OVER = enum.auto()
    """The leader is to lose its vote: leadership is being handed over; whoever has it is to judge."""


def judge(group: Group, payload: bytes, *, may_hand_over: bool) -> Verdict | str:
    """What the leader does with an encoded change; a text says why it is refused.

    A leader that is removed or demoted hands over first, so that the group is not without one for
    an election timeout. That may fail, or there may be nobody: then it carries the change out
    itself and steps down when it is in force, which is as safe (thesis §4.2.2) but slower.
    """
    raft = group.raft
    if raft.settling or raft.concluding:
        return Verdict.WAIT
    try:
        proposed = ConfChange.decode(payload)
        change = Change.of(proposed)
        if raft.changing:
            return UNDER_WAY
        group.membership.changed(change)
    except (MembershipRejected, ValueError) as error:
        return str(error)
    objection = raft.objection(proposed)
    if objection is not None:
        return objection
    if may_hand_over and change.resigns(group.member_id):
        successor = _successor(group, change)
        if successor is not None:
            raft.transfer_leadership(successor)
            return Verdict.HAND_OVER
    return Verdict.TAKE


def _successor(group: Group, change: Change) -> MemberId | None:
    """The voter that is furthest ahead of those that were heard lately and stay voters."""
    members = group.membership.members
    best: MemberId | None = None
    match = -1
    for id_, progress in group.raft.progress.items():
        member = members.get(id_)
        if member is None or member.role is not Role.VOTER or change.resigns(id_):
            continue
        if id_ != group.member_id and progress.recent_active and progress.match > match:
            best, match = id_, progress.match
    return best
