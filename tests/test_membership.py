"""Predefined clusters and what is remembered of a group."""

from __future__ import annotations

import cbor2
import pytest

from multiraft.errors import ConfigError, MembershipRejected
from multiraft.membership import Change, GroupMeta, Membership, Step, Verb, predefined
from multiraft.messages import ConfChange, ConfChangeType, ConfState
from multiraft.types import Member, Role

THREE = [Member(1, "h:1"), Member(2, "http://h:2"), Member(3, "h:3", Role.LEARNER)]


def test_the_order_of_the_list_does_not_matter() -> None:
    assert predefined(THREE) == predefined(reversed(THREE))
    assert predefined(THREE).encode() == predefined(reversed(THREE)).encode()
    assert predefined(THREE).conf_state() == ConfState(voters=(1, 2), learners=(3,))


def test_addresses_are_normalized() -> None:
    assert predefined(THREE).members[2].address == "h:2"


@pytest.mark.parametrize(
    "members",
    [
        [],
        [Member(1, "h:1", Role.LEARNER)],
        [Member(1, "h:1"), Member(1, "h:2")],
        [Member(1, "h:1"), Member(2, "http://h:1")],
        [Member(0, "h:1")],
        [Member(1 << 63, "h:1")],
        [Member(1, "nowhere")],
        [Member(1, "h:1"), Member(2, "h:2", Role.REMOVED)],
    ],
)
def test_a_list_that_makes_no_group_is_refused(members: list[Member]) -> None:
    with pytest.raises(ConfigError) as caught:
        predefined(members)
    assert caught.value.field == "members"


def test_membership_survives_encoding() -> None:
    membership = predefined(THREE)
    assert Membership.decode(membership.encode()) == membership


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x81\x01", b"\x81\x83\x01\x61h\x61x", b"\xff"])
def test_what_is_no_membership_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a membership"):
        Membership.decode(data)


def test_group_meta_survives_encoding() -> None:
    meta = GroupMeta(7, 3, {"max_proposal_bytes": 10})
    assert GroupMeta.decode(meta.encode()) == meta
    with pytest.raises(ValueError, match="metadata"):
        GroupMeta.decode(b"\x01")
    later = GroupMeta(7, 3, {"max_proposal_bytes": 10}, True, {0: 5, 9: 20}, {1: 11, 2: 1 << 62})
    assert GroupMeta.decode(later.encode()) == later
    assert list(GroupMeta.decode(later.encode()).former) == [0, 9]


def test_group_meta_of_an_earlier_version_is_read() -> None:
    assert GroupMeta.decode(cbor2.dumps([7, 3, {}, True])) == GroupMeta(7, 3, {}, True)


def test_snapshots_of_an_earlier_generation_count_up_to_its_end() -> None:
    meta = GroupMeta(7).forced(7, 50, 10).forced(7, 60, 30)
    assert meta.forced_at == 31
    counted = [(generation, index) for generation in (0, 50, 60, 70) for index in (10, 11, 30, 31)]
    assert [each for each in counted if meta.counts(*each)] == [
        (0, 10),
        *((50, index) for index in (10, 11, 30)),
        *((60, index) for index in (10, 11, 30, 31)),
    ]


def test_earlier_generations_are_bounded() -> None:
    meta = GroupMeta(7)
    for generation in range(1, 201):
        meta = meta.forced(7, generation, 10 * generation)
    assert list(meta.former) == list(range(136, 200))


# --- changes -----------------------------------------------------------------------------------


def changed(*steps: Step, expected: int | None = None) -> Membership:
    return predefined(THREE).changed(Change(steps, expected), 9)


def test_a_change_survives_its_journey_through_a_log() -> None:
    change = Change((Step(Verb.ADD, 4, "h:4", Role.LEARNER), Step(Verb.REMOVE, 1)), 7)
    entry = change.conf_change().encode()
    assert Change.of(ConfChange.decode(entry)) == change
    assert ConfChange.decode(entry).changes == (
        (ConfChangeType.ADD_LEARNER_NODE, 4),
        (ConfChangeType.REMOVE_NODE, 1),
    )


@pytest.mark.parametrize(
    "context", [b"", b"\x00", b"\x82\xf6\x81\x01", Change((Step(Verb.REMOVE, 2),)).encode()]
)
def test_a_change_that_is_none_or_another_is_refused(context: bytes) -> None:
    proposed = ConfChange(((ConfChangeType.REMOVE_NODE, 1),), context=context)
    with pytest.raises(MembershipRejected, match="not a change of members"):
        Change.of(proposed)


def test_each_step_does_what_it_says() -> None:
    after = changed(
        Step(Verb.ADD, 4, "h:4"),
        Step(Verb.REMOVE, 1),
        Step(Verb.DEMOTE, 2),
        Step(Verb.PROMOTE, 3),
    )
    assert after.version == 9
    assert {m.id: m.role for m in after.members.values()} == {
        1: Role.REMOVED,
        2: Role.LEARNER,
        3: Role.VOTER,
        4: Role.VOTER,
    }
    assert after.conf_state() == ConfState(voters=(3, 4), learners=(2,))
    assert Membership.decode(after.encode()) == after


def test_a_staging_member_is_a_learner_that_may_be_promoted_or_demoted() -> None:
    staged = changed(Step(Verb.ADD, 4, "h:4", Role.STAGING))
    assert staged.conf_state() == ConfState(voters=(1, 2), learners=(3, 4))
    assert Membership.decode(staged.encode()) == staged
    for verb, role in ((Verb.PROMOTE, Role.VOTER), (Verb.DEMOTE, Role.LEARNER), (Verb.REMOVE, Role.REMOVED)):
        assert staged.changed(Change((Step(verb, 4),))).members[4].role is role


def test_an_address_that_is_freed_may_be_used_in_the_same_change() -> None:
    assert changed(Step(Verb.ADD, 4, "h:1"), Step(Verb.REMOVE, 1)).members[4].address == "h:1"
    assert changed(Step(Verb.UPDATE, 2, "h:2")).members[2].address == "h:2"


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([], "nothing"),
        ([Step(Verb.REMOVE, 4)], "no member 4"),
        ([Step(Verb.ADD, 1, "h:9")], "there already"),
        ([Step(Verb.ADD, 0, "h:9")], "not an integer"),
        ([Step(Verb.ADD, 4, "h:3")], "member 3 is at h:3"),
        ([Step(Verb.ADD, 4, "h:4"), Step(Verb.ADD, 5, "h:4")], "member 4 is at h:4"),
        ([Step(Verb.ADD, 4, "h:4", Role.REMOVED)], "added as removed"),
        ([Step(Verb.PROMOTE, 1)], "voter already"),
        ([Step(Verb.DEMOTE, 3)], "no voter"),
        ([Step(Verb.REMOVE, 1), Step(Verb.DEMOTE, 2)], "without a voter"),
        ([Step(Verb.REMOVE, 1), Step(Verb.UPDATE, 1, "h:9")], "twice"),
    ],
)
def test_what_does_not_fit_is_refused(steps: list[Step], reason: str) -> None:
    with pytest.raises(MembershipRejected, match=reason):
        changed(*steps)


def test_a_removed_id_is_never_used_again() -> None:
    gone = changed(Step(Verb.REMOVE, 1))
    for verb in Verb:
        with pytest.raises(MembershipRejected, match="was removed"):
            gone.changed(Change((Step(verb, 1, "h:1"),)))


def test_a_version_that_is_over_is_refused() -> None:
    assert changed(Step(Verb.REMOVE, 1), expected=0).version == 9
    with pytest.raises(MembershipRejected, match="version 0, not 5"):
        changed(Step(Verb.REMOVE, 1), expected=5)


def test_leaving_a_joint_configuration_moves_only_the_version() -> None:
    before = predefined(THREE)
    assert before.after(ConfChange(), 12) == Membership(before.members, 12)
