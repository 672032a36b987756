"""The drivers of `confchange/` and `quorum/` transcripts."""

from __future__ import annotations

from multiraft.raft.confchange import Membership, enter_joint, leave_joint, simple
from multiraft.raft.failures import ConfChangeRefused
from multiraft.raft.quorum import INFINITE, VoteResult, joint_vote, majority_index, majority_vote
from multiraft.raft.tracker import Tracker
from multiraft.types import Index, MemberId
from tests.conformance.datadriven import Directive
from tests.conformance.describe import parse_conf_changes

__all__ = ["ConfChangeDriver", "handle_quorum"]


class ConfChangeDriver:
    """One configuration that a transcript changes step by step."""

    def __init__(self) -> None:
        self._tracker = Tracker(0, 10, 0)
        self._last_index: Index = 0

    def handle(self, directive: Directive) -> str:
        try:
            changed = self._change(directive)
        except (ConfChangeRefused, ValueError) as error:
            return f"{error}\n"
        else:
            if changed is None:
                return "unknown command"
            self._tracker.install(changed, self._last_index)
            peers = [f"{member}: {progress}\n" for member, progress in self._tracker.progress.items()]
            return f"{self._tracker.config}\n" + "".join(peers)
        finally:
            self._last_index += 1

    def _change(self, directive: Directive) -> Membership | None:
        before = self._tracker.membership
        changes = parse_conf_changes(directive.input)
        match directive.command:
            case "simple":
                return simple(before, changes)
            case "enter-joint":
                auto_leave = directive.option("autoleave")
                return enter_joint(before, changes, auto_leave=auto_leave is not None and auto_leave.boolean)
            case "leave-joint":
                if changes:
                    raise ConfChangeRefused("this command takes no input")
                return leave_joint(before)
        return None


# --- quorum ----------------------------------------------------------------------------------


def handle_quorum(directive: Directive) -> str:
    first = _ids(directive, "cfg")
    second = _ids(directive, "cfgj") if directive.option("cfgj") is not None else None
    members = list(dict.fromkeys([*first, *(second or ())]))
    option = directive.option("idx" if directive.command == "committed" else "votes")
    values = option.values if option is not None else ()
    if len(values) != len(members):
        return f"error: mismatched input (explicit or _) for voters {members}: {values}"
    known = {member: value for member, value in zip(members, values, strict=True) if value != "_"}
    if directive.command == "committed":
        return _committed(first, second, {member: int(value) for member, value in known.items()})
    if directive.command == "vote":
        return _vote(first, second, {member: value == "y" for member, value in known.items()})
    return "unknown command"


def _ids(directive: Directive, key: str) -> tuple[MemberId, ...]:
    option = directive.option(key)
    if option is None or option.values == ("zero",):
        return ()
    return option.integers


def _index(members: tuple[MemberId, ...], matched: dict[MemberId, Index]) -> Index:
    return majority_index([matched.get(member, 0) for member in members])


def _committed(
    first: tuple[MemberId, ...], second: tuple[MemberId, ...] | None, matched: dict[MemberId, Index]
) -> str:
    index = _index(first, matched)
    assert index == _naive_index(first, matched)
    if second is not None:
        assert _index(second, matched) == _naive_index(second, matched)
        index = min(index, _index(second, matched))
    _check_lowering(first, second, matched, index)
    table = _table(sorted({*first, *(second or ())}), matched)
    return table + ("∞" if index == INFINITE else str(index)) + "\n"


def _naive_index(members: tuple[MemberId, ...], matched: dict[MemberId, Index]) -> Index:
    """By counting, for every index somebody has, who has it."""
    if not members:
        return INFINITE
    reached = [matched.get(member, 0) for member in members]
    return max(index for index in [0, *reached] if sum(it >= index for it in reached) > len(members) // 2)


def _check_lowering(
    first: tuple[MemberId, ...],
    second: tuple[MemberId, ...] | None,
    matched: dict[MemberId, Index],
    index: Index,
) -> None:
    """What lies below the committed index does not matter, however low it is."""
    lowered = {member: it if it >= index else 0 for member, it in matched.items()}
    halves = [first] if second is None else [first, second]
    assert min(_index(half, lowered) for half in halves) == index


def _table(members: list[MemberId], matched: dict[MemberId, Index]) -> str:
    if not members:
        return "<empty majority quorum>"
    width = len(members)
    ordered = sorted(members, key=lambda member: (matched.get(member, 0), member))
    bars: dict[MemberId, int] = {}
    for place, member in enumerate(ordered):
        previous = ordered[place - 1]
        same = place > 0 and matched.get(member, 0) == matched.get(previous, 0)
        bars[member] = bars[previous] if same else place
    lines = [" " * width + "    idx"]
    for member in members:
        bar = "x" * bars[member] + ">" + " " * (width - bars[member])
        if member not in matched:
            bar = "?" + " " * width
        lines.append(f"{bar} {matched.get(member, 0):>5}    (id={member:x})")
    return "\n".join(lines) + "\n"


def _vote(
    first: tuple[MemberId, ...], second: tuple[MemberId, ...] | None, votes: dict[MemberId, bool]
) -> str:
    if second is not None:
        result = joint_vote(first, second, votes)
        assert result is joint_vote(second, first, votes)
    else:
        result = majority_vote(first, votes)
        assert result is joint_vote(first, first, votes)
        assert result is joint_vote(first, (), votes)
        assert result is joint_vote((), first, votes)
    assert isinstance(result, VoteResult)
    return f"{result.value}\n"
