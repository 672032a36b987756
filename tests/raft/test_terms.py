"""Terms and roles (thesis §3.3)."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from multiraft.errors import ConfigError
from multiraft.messages import HardState, Message, MessageType, Snapshot
from multiraft.raft.core import CoreConfig, Raft, RaftRole
from multiraft.raft.leader import become_leader
from multiraft.types import ReadMode
from tests.raft.helpers import (
    ELECTION_TICKS,
    Member,
    Network,
    acknowledge,
    append,
    elect,
    entries,
    make_leader,
    make_member,
    only,
    role_of,
)

LEADER_SAYS = (MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP, MessageType.COMMIT)
OTHERS = (MessageType.VOTE, MessageType.VOTE_RESP, MessageType.APP_RESP, MessageType.HEARTBEAT_RESP)


def member_as(role: RaftRole) -> Member:
    """A member of three in `role`, at term 1 (term 0 for a pre-candidate)."""
    if role is RaftRole.LEADER:
        return make_leader()
    member = make_member(pre_vote=role is RaftRole.PRE_CANDIDATE)
    if role is RaftRole.FOLLOWER:
        append(member.core, term=1)
    else:
        member.core.campaign()
    member.process()
    assert role_of(member.core) is role
    return member


def test_a_new_member_is_a_follower_of_term_zero() -> None:
    core = make_member().core
    assert (core.role, core.term, core.vote, core.leader) == (RaftRole.FOLLOWER, 0, 0, 0)
    assert not core.has_ready()


@pytest.mark.parametrize("role", list(RaftRole))
@pytest.mark.parametrize("kind", LEADER_SAYS + OTHERS)
def test_a_higher_term_makes_everybody_a_follower(role: RaftRole, kind: MessageType) -> None:
    """Thesis §3.3: "if a candidate or leader discovers that its term is out of date, it
    immediately reverts to follower state"."""
    member = member_as(role)
    core = member.core
    last = core.last_index
    core.step(Message(kind, core.id, 2, core.term + 5, snapshot=Snapshot()))
    assert role_of(core) is RaftRole.FOLLOWER
    assert core.term == 5 + (role is not RaftRole.PRE_CANDIDATE)
    assert core.leader == (2 if kind in LEADER_SAYS else 0)
    assert core.last_index == last


@pytest.mark.parametrize("role", list(RaftRole))
@pytest.mark.parametrize("kind", LEADER_SAYS + OTHERS)
def test_a_lower_term_is_ignored(role: RaftRole, kind: MessageType) -> None:
    """Thesis §3.3: "if a server receives a request with a stale term number, it rejects it"."""
    member = member_as(role)
    core = member.core
    core.step(Message(MessageType.VOTE, core.id, 3, 7))
    member.process()
    before = (core.term, core.vote, core.leader, core.role, core.last_index, core.committed)
    core.step(Message(kind, core.id, 2, 6, 0, 0, 9, entries([6]), snapshot=Snapshot(9, 6)))
    assert (core.term, core.vote, core.leader, core.role, core.last_index, core.committed) == before
    # With pre-vote an outdated leader is told so: see test_check_quorum.
    answered = role is RaftRole.PRE_CANDIDATE and kind in LEADER_SAYS and kind is not MessageType.SNAP
    assert core.has_ready() is answered


@pytest.mark.parametrize("role", [RaftRole.CANDIDATE, RaftRole.PRE_CANDIDATE])
@pytest.mark.parametrize("kind", LEADER_SAYS)
def test_a_candidate_concedes_to_a_leader_of_its_own_term(role: RaftRole, kind: MessageType) -> None:
    core = member_as(role).core
    term = core.term or 1
    core.tick()
    core.step(Message(kind, core.id, 3, term, snapshot=Snapshot()))
    assert (core.role, core.leader, core.term) == (RaftRole.FOLLOWER, 3, term)
    assert core.election_elapsed == 0


def test_a_leader_does_not_become_candidate() -> None:
    leader = make_leader()
    leader.core.campaign()
    assert role_of(leader.core) is RaftRole.LEADER
    assert not leader.core.has_ready()


def test_terms_never_fall() -> None:
    core = make_member(state=HardState(4)).core
    with pytest.raises(AssertionError):
        core.become_follower(3, 0)


def test_only_a_candidate_becomes_leader() -> None:
    with pytest.raises(AssertionError):
        become_leader(make_member().core)


# --- timers ----------------------------------------------------------------------------------


def _ticks_until_campaign(core: Raft) -> int:
    ticks = 0
    while core.role is RaftRole.FOLLOWER:
        core.tick()
        ticks += 1
    return ticks


def test_election_timeouts_cover_their_range_evenly() -> None:
    """Thesis §3.4: timeouts are "chosen randomly from a fixed interval"; here [T, 2T - 1]."""
    draws = random.Random(7)
    member = make_member()
    seen = Counter(
        _ticks_until_campaign(Raft(member.config, member.log, draws.randrange)) for _ in range(2000)
    )
    assert sorted(seen) == list(range(ELECTION_TICKS, 2 * ELECTION_TICKS))
    assert min(seen.values()) > 120


def test_two_members_rarely_draw_the_same_timeout() -> None:
    member = make_member()
    first, second = random.Random(1), random.Random(2)
    same = sum(
        _ticks_until_campaign(Raft(member.config, member.log, first.randrange))
        == _ticks_until_campaign(Raft(member.config, member.log, second.randrange))
        for _ in range(500)
    )
    assert same < 90


def test_the_timeout_is_drawn_anew_at_every_reset() -> None:
    core = make_member().core
    drawn = set()
    for term in range(1, 60):
        core.become_follower(term, 0)
        drawn.add(core.election_timeout)
    assert len(drawn) == ELECTION_TICKS


def test_a_candidate_that_hears_nothing_stands_again() -> None:
    core = make_member().core
    core.campaign()
    for _ in range(2 * ELECTION_TICKS):
        core.tick()
    assert role_of(core) is RaftRole.CANDIDATE
    assert core.term == 2


@pytest.mark.parametrize("kind", [MessageType.APP, MessageType.HEARTBEAT, MessageType.COMMIT])
def test_hearing_the_leader_restarts_the_election_timer(kind: MessageType) -> None:
    core = make_member().core
    core.step(Message(kind, 1, 2, 1))
    for _ in range(5 * ELECTION_TICKS):
        for _ in range(ELECTION_TICKS - 1):
            core.tick()
        core.step(Message(kind, 1, 2, 1))
    assert role_of(core) is RaftRole.FOLLOWER


def test_a_leader_beats_once_per_interval_and_tells_everybody_learners_too() -> None:
    """Thesis §3.4: "Leaders send periodic heartbeats"."""
    leader = make_leader(learners=(4,), heartbeat_ticks=3)
    leader.core.propose(entries([0])[0])
    leader.process()
    sent = []
    for _ in range(7):
        leader.core.tick()
        sent.append([message for message in leader.process() if message.type is MessageType.HEARTBEAT])
    assert [len(beats) for beats in sent] == [0, 0, 3, 0, 0, 3, 0]
    for beat in sent[2]:
        assert (beat.index, beat.log_term, list(beat.runs)) == (0, 0, [])


def test_a_heartbeat_never_names_more_than_the_follower_has() -> None:
    leader = make_leader(committed=False)
    leader.core.propose(entries([0])[0])
    acknowledge(leader, 2)
    leader.process()
    leader.core.tick()
    beats = {beat.to: beat.commit for beat in only(leader.process(), MessageType.HEARTBEAT)}
    assert beats == {2: 2, 3: 0}


def test_a_follower_does_not_beat() -> None:
    member = member_as(RaftRole.FOLLOWER)
    for _ in range(ELECTION_TICKS - 1):
        member.core.tick()
    assert not member.process()


def test_election_ticks_have_to_exceed_heartbeat_ticks() -> None:
    with pytest.raises(ConfigError, match="election_ticks"):
        make_member(election_ticks=1, heartbeat_ticks=1)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("id", {"member": 0}),
        ("heartbeat_ticks", {"heartbeat_ticks": 0}),
        ("max_inflight_messages", {"max_inflight_messages": 0}),
        ("max_inflight_bytes", {"max_inflight_bytes": 5, "max_message_bytes": 6}),
        ("read_mode", {"read_mode": "lease"}),
    ],
)
def test_settings_that_cannot_work_are_refused(field: str, options: dict[str, object]) -> None:
    if "read_mode" in options:
        options = {"read_mode": ReadMode.LEASE}
    member = options.pop("member", 1)
    config = CoreConfig(id=member, **options)  # type: ignore[arg-type]  # values of several types
    with pytest.raises(ConfigError) as raised:
        config.validate()
    assert raised.value.field == field


def test_everybody_can_be_leader_in_turn() -> None:
    network = Network.of(3)
    for turn in (1, 2, 3, 1):
        network.campaign(turn)
        assert network.leaders == [turn]


def test_elect_helper_elects_with_pre_vote_too() -> None:
    member = make_member(pre_vote=True)
    elect(member)
    assert role_of(member.core) is RaftRole.LEADER
