"""Predefined clusters and what is remembered of a group."""

from __future__ import annotations

import pytest

from multiraft.errors import ConfigError
from multiraft.membership import GroupMeta, Membership, predefined
from multiraft.messages import ConfState
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
