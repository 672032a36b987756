"""Every error of the API has a status of its own, and keeps its name."""

from __future__ import annotations

import inspect

import pytest

from multiraft import Member, MultiraftError, NotLeader, OutcomeUnknown, errors
from multiraft.admin.failures import ERROR, STATUSES, failure_of
from multiraft.errors import (
    ConfigError,
    GroupFailed,
    GroupNotFound,
    HostClosed,
    MembershipRejected,
    NoLeader,
    StorageFull,
    outcome_unknown,
)

AT_START = {"AddressInUse", "ClusterMismatch", "CorruptRecord", "DataDirInUse"}
"""Nobody is served yet when these are raised."""
NOT_CALLED = {"ProposalTooLarge", "LogCompacted", "LogUnavailable"}
"""No operation proposes what programs propose, and the log's never leave the core."""

CLASSES = [
    kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, MultiraftError) and not name.startswith("_")
]


@pytest.mark.parametrize(
    "kind", [k for k in CLASSES if k.__name__ not in AT_START | NOT_CALLED], ids=lambda kind: kind.__name__
)
def test_every_error_has_a_row(kind: type[MultiraftError]) -> None:
    """Of its own, or of an error that it is a kind of; the last row is for what nobody thought of."""
    if kind is not MultiraftError:
        assert issubclass(kind, tuple(row[0] for row in STATUSES[:-1]))


def test_no_row_hides_a_later_one() -> None:
    for place, (kind, _, _) in enumerate(STATUSES):
        assert not [other for other, _, _ in STATUSES[place + 1 :] if issubclass(other, kind)], kind


@pytest.mark.parametrize(
    ("error", "status", "name", "applied"),
    [
        (ConfigError("via", "nonsense"), 400, "ConfigError", "no"),
        (GroupNotFound(7), 404, "GroupNotFound", "no"),
        (MembershipRejected("no"), 409, "MembershipRejected", "no"),
        (NoLeader("none"), 503, "NoLeader", "no"),
        (OutcomeUnknown("lost"), 504, "OutcomeUnknown", "maybe"),
        (outcome_unknown(HostClosed("closing"), "lost"), 504, "OutcomeUnknown", "maybe"),
        (StorageFull("full"), 507, "StorageFull", "maybe"),
    ],
)
def test_statuses(error: MultiraftError, status: int, name: str, applied: str) -> None:
    failure = failure_of(error)
    assert (failure.status, failure.error, failure.applied) == (status, name, applied)
    assert failure.reason == str(error)
    ERROR.read(failure.body(), "")


def test_an_error_nobody_thought_of_keeps_its_name() -> None:
    class Unheard(MultiraftError):
        pass

    class Special(GroupFailed):
        pass

    assert (failure_of(Unheard("x")).status, failure_of(Unheard("x")).error) == (500, "Unheard")
    assert (failure_of(Special("x")).status, failure_of(Special("x")).error) == (409, "Special")


def test_what_is_known_is_told() -> None:
    assert failure_of(ConfigError("via", "nonsense")).body()["field"] == "via"
    assert failure_of(GroupNotFound(7)).body()["group"] == 7
    body = failure_of(NotLeader(Member(1, "a:1"))).body()
    assert body["leader"] == "a:1"
    assert "leader" not in failure_of(NotLeader(None)).body()
    assert "field" not in body
