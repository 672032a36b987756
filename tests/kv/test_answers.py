"""What clients are told about errors."""

from __future__ import annotations

import pytest

from multiraft import errors
from multiraft.kv.answers import failure_of
from multiraft.types import Member


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.NoLeader("none for 10 s"), (503, "no_leader", "no")),
        (errors.NotLeader(None), (503, "not_leader", "no")),
        (errors.ProposalDropped("full"), (503, "dropped", "no")),
        (errors.ProposalTooLarge(2, 1), (413, "too_large", "no")),
        (errors.OutcomeUnknown("the leader is gone"), (503, "outcome_unknown", "maybe")),
        (errors.HostClosed("closing"), (503, "host_closed", "no")),
        (errors.GroupNotFound(1), (503, "group_not_here", "no")),
        (errors.StorageFull("full"), (503, "storage_failed", "maybe")),
        (errors.StateMachineFailed("broken"), (503, "state_machine_failed", "maybe")),
        (errors.MultiraftError("anything else"), (503, "unavailable", "maybe")),
    ],
)
def test_each_error_has_a_code_and_says_if_a_retry_may_apply_twice(
    error: errors.MultiraftError, expected: tuple[int, str, str]
) -> None:
    failure = failure_of(error)
    assert (failure.status, failure.error, failure.applied) == expected
    assert failure.body() == {"error": failure.error, "reason": str(error), "applied": failure.applied}


def test_a_host_that_does_not_forward_says_where_to_go() -> None:
    assert failure_of(errors.NotLeader(Member(2, "b:7001"))).body()["leader"] == "b:7001"
