"""Majorities: what a set of voters has agreed on (thesis §3.4, §3.5, joint: §4.3)."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from multiraft.types import Index, MemberId

__all__ = ["INFINITE", "VoteResult", "joint_vote", "majority_index", "majority_vote"]

INFINITE: Final = (1 << 64) - 1
"""The index that a set without voters agrees on: it never holds another set back."""


class VoteResult(enum.Enum):
    PENDING = "VotePending"
    LOST = "VoteLost"
    WON = "VoteWon"


def majority_index(matched: Sequence[Index]) -> Index:
    """The highest index that a majority has reached.

    Args:
        matched: One index per voter, 0 for those nothing is known of. In a joint configuration
            call this once per half and take the lower result.
    """
    count = len(matched)
    if count == 3:  # by far the most common; spares the sort
        a, b, c = matched
        if a > b:
            a, b = b, a
        return a if c < a else min(c, b)
    if not count:
        return INFINITE
    return sorted(matched)[count - (count // 2 + 1)]


def majority_vote(voters: Collection[MemberId], votes: Mapping[MemberId, bool]) -> VoteResult:
    """What `votes` amount to among `voters`; votes of others are ignored. No voters: won."""
    if not voters:
        return VoteResult.WON
    granted = missing = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is None:
            missing += 1
        elif vote:
            granted += 1
    needed = len(voters) // 2 + 1
    if granted >= needed:
        return VoteResult.WON
    if granted + missing >= needed:
        return VoteResult.PENDING
    return VoteResult.LOST


def joint_vote(
    incoming: Collection[MemberId], outgoing: Collection[MemberId], votes: Mapping[MemberId, bool]
) -> VoteResult:
    """Both halves must be won; either half loses it."""
    first = majority_vote(incoming, votes)
    second = majority_vote(outgoing, votes)
    if first is second:
        return first
    if VoteResult.LOST in (first, second):
        return VoteResult.LOST
    return VoteResult.PENDING
