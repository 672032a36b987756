"""Scenes for the rules of docs/liveness.md: each comes out right only if its rule is kept.

A is the leader, B a follower that matters, C whoever else. The mutants of rest_mutants.py leave the
rules out; test_liveness.py has each scene fail with its mutant.
"""

from __future__ import annotations

from collections.abc import Callable

from multiraft import partings
from multiraft.messages import Lane, Message, MessageType
from tests.sim.host import SimHost
from tests.sim.mutants import replaced
from tests.sim.stage import Stage
from tests.sim.world import Violation

Scene = Callable[[], None]

LOOSE = {"pre_vote": False, "check_quorum": False}
"""Members vote for whoever stands, so that scenes can have leaders fall when they like."""


def a_vote_is_known_before_the_beat_is_answered() -> None:
    """B votes for C; A hears neither, and asks B for a read once C has answered a write (rule 3)."""
    stage = Stage(**LOOSE)
    a, b, c = stage.cast()
    stage.part(a, c)
    stage.hold((b, a))
    stage.elect(c)
    stage.write(c)
    stage.read(a)
    stage.run(0.15)
    stage.let_go((b, a))
    stage.run(0.05)
    stage.let_go((a, c), (c, a))
    stage.finish_reads()


def a_beat_from_before_the_read_answers_nothing() -> None:
    """B's answer to a beat is on its way when B votes for C. The read comes later than both."""
    stage = Stage(**LOOSE)
    a, b, c = stage.cast()
    stage.run(0.2)
    stage.part(a, c)
    stage.hold((b, a))
    stage.run(0.25)  # B answers beats, and A does not hear it
    stage.elect(c)
    stage.write(c)
    stage.read(a)
    stage.run(0.01)
    stage.let_go((b, a))
    stage.run(0.05)
    stage.let_go((a, c), (c, a))
    stage.finish_reads()


def a_pulse_that_is_missing_is_missed() -> None:
    """As before, and the pulse in which B takes its word back is lost, as no stream would lose it."""
    stage = Stage(**LOOSE)
    a, b, c = stage.cast()
    stage.part(a, c)
    stage.hold((b, a))
    stage.elect(c)
    stage.write(c)
    stage.lose(b, a, Lane.LIVENESS)
    stage.read(a)
    stage.run(0.15)
    stage.let_go((b, a))
    stage.run(0.05)
    stage.let_go((a, c), (c, a))
    stage.finish_reads()


def a_stale_release_is_ignored() -> None:
    """A was deposed and elected again while B's first word was on its way (rule 2)."""
    stage = Stage(**LOOSE)
    a, b, c = stage.cast()
    stage.elect(b)
    stage.until(stage.at_rest)
    stage.hold((b, a))
    stage.elect(a)  # with C's vote; B gives its word at this term
    stage.run(0.15)
    stage.elect(c)
    stage.run(0.05)
    stage.elect(a)
    stage.run(0.15)
    assert stage.group(b).bond_term == stage.group(a).raft.term
    term = stage.term()
    stage.let_go((b, a))  # A answers the first word, and takes the second
    stage.run(3 * stage.election_s)
    stage.check_books()
    _require(stage.term() == term, "nobody stood against a leader that all hear")
    _require(stage.at_rest(), "the group rests")


def a_word_for_a_leader_that_fell_is_given_back() -> None:
    """B's word reaches A when A leads no more, and C, who does, cannot reach B (rule 1)."""
    stage = Stage(**LOOSE)
    a, b, c = stage.cast()
    stage.elect(b)
    stage.until(stage.at_rest)
    stage.hold((b, a))
    stage.elect(a)
    stage.run(0.15)
    stage.part(b, c)
    stage.elect(c)
    stage.run(0.05)
    assert stage.group(b).bond_leader == stage.group(a).member_id
    stage.let_go((b, a))
    stage.run(0.1)
    _require(stage.group(b).bond is None, "B does not follow a leader that fell")


def followers_of_a_dead_host_elect_another() -> None:
    stage = Stage()
    a, b, c = stage.cast()
    a.stop(power_lost=False)
    stage.until(lambda: stage.leads(b) or stage.leads(c), 4 * stage.election_s)
    stage.until(stage.at_rest)


def followers_of_a_silent_host_elect_another() -> None:
    """Nothing breaks; A just cannot be heard any more, and B and C must notice themselves."""
    stage = Stage()
    a, b, c = stage.cast()
    stage.part(a, b)
    stage.part(a, c)
    stage.until(lambda: stage.leads(b) or stage.leads(c), 5 * stage.election_s)
    _require(not stage.leads(a), "A has stepped down before, for want of a quorum")


def a_leader_without_a_quorum_steps_down() -> None:
    stage = Stage()
    a, b, c = stage.cast()
    b.stop(power_lost=True)
    c.stop(power_lost=True)
    stage.until(lambda: not stage.leads(a), 3 * stage.election_s)


def a_lease_holds_against_a_late_refusal() -> None:
    """A refusal from another term clears B's leader. B is asked for its vote while A has a lease (rule 7)."""
    stage = Stage(lease=True)
    a, b, c = stage.cast()
    stage.part(a, c)
    stage.until(lambda: not stage.group(c).raft.leader)
    stage.hold((b, a))
    member = stage.group(b)
    late = Message(
        MessageType.PRE_VOTE_RESP,
        member.member_id,
        stage.group(c).member_id,
        stage.group(a).raft.term + 1,
        reject=True,
    )
    stage.say(c, b, late)
    stage.run(0.01)
    _stand_against_a_lease(stage, a, c)


def _unheard_candidate() -> tuple[Stage, SimHost, SimHost, SimHost]:
    """A leads under a lease and B has been at rest for long; C hears A no more, nor A what B says."""
    stage = Stage(lease=True, pre_vote=False)
    a, b, c = stage.cast()
    stage.run(3 * stage.election_s)
    stage.part(a, c)
    stage.until(lambda: not stage.group(c).raft.leader)
    stage.hold((b, a))
    return stage, a, b, c


def a_lease_holds_against_a_candidate() -> None:
    """B has been at rest for long when C, which has not heard A, asks for its vote."""
    stage, a, _, c = _unheard_candidate()
    _stand_against_a_lease(stage, a, c)


def _stand_against_a_lease(stage: Stage, a: SimHost, c: SimHost) -> None:
    """C may be elected, if B lets it: and then a read of A is stale."""
    assert stage.group(c).bond is None, "C gave A up"
    for _ in range(3):
        stage.stand(c)
        stage.run(0.01)
    if stage.leads(c):
        stage.write(c)
    stage.read(a)
    stage.run(0.01)


def a_lease_holds_before_a_follower_is_told_of_the_end() -> None:
    """As before, but B's session with A has ended, and it is not the turn of B's group to be told so."""
    stage, a, b, c = _unheard_candidate()
    with replaced(partings, "TURNS_TICK_MAX", 0):
        stage.run(0.1)
        stage.end_session(b, a)
        stage.run(0.01)
        _require(stage.group(b).bond is not None, "B was not told")
        _stand_against_a_lease(stage, a, c)


def nobody_answers_before_it_is_told_of_the_end() -> None:
    """Sessions have ended and begun again, and no group was told. Reads ask the members, one by one."""
    stage = Stage()
    a, b, c = stage.cast()
    with replaced(partings, "TURNS_TICK_MAX", 0):
        stage.run(0.1)
        for other in (b, c):
            stage.end_session(a, other)
        stage.run(0.05)
        _require(not stage.group(a).awake, "A was not told")
        stage.read(a)
        stage.finish_reads(0.5 * stage.election_s)
        stage.run(0.2)
    stage.until(stage.at_rest)
    stage.check_books()


def a_leader_that_was_not_told_of_the_end_does_not_rest_on() -> None:
    """A late answer wakes A when its sessions are over. Nobody vouches for it, whatever its books say."""
    stage = Stage()
    a, b, c = stage.cast()
    with replaced(partings, "TURNS_TICK_MAX", 0):
        stage.run(0.1)
        stage.part(a, b)
        stage.part(a, c)
        for other in (b, c):
            stage.end_session(a, other)
        stage.run(0.05)
        ours, theirs = stage.group(a), stage.group(b)
        late = Message(MessageType.HEARTBEAT_RESP, ours.member_id, theirs.member_id, ours.raft.term)
        stage.say(b, a, late)
        stage.run(0.3)
        _require(stage.group(a).awake, "A looks for its quorum")
    stage.let_go((a, b), (b, a), (a, c), (c, a))
    stage.until(stage.at_rest)
    stage.check_books()


def members_hear_of_the_last_commit_before_they_rest() -> None:
    """A write, and then nothing: all machines have it without anything else happening."""
    stage = Stage()
    a, *_ = stage.cast()
    stage.write(a)
    stage.until(stage.at_rest, 0.5)
    stage.run(0.01)
    for host in stage.hosts:
        _require(host.machines[1].state.count == 1, f"{host.name} has applied it")
        _require(stage.group(host).raft.committed == stage.group(a).raft.committed, "and knows the commit")


def a_late_word_of_a_member_that_lacks_entries_lets_nobody_rest() -> None:
    """C's word came before A knew that C is at home there, and A has been awake for C for long."""
    stage = Stage()
    a, _, c = stage.cast()
    group, member = stage.group(a), stage.group(c).member_id
    assert a.scheduler is not None
    rest, session = a.scheduler._rest, a.scheduler._post.peers[c.address].session
    assert session is not None
    progress, given = group.raft.progress[member], session.led[group.id]
    rest.wake(group)
    group.state_since -= 100
    given.progress = progress.vouch = None
    progress.match, progress.recent_active = 0, False
    progress.become_probe()
    stage.until(lambda: progress.match == group.raft.last_index, 2 * stage.election_s)
    stage.until(stage.at_rest)
    stage.check_books()


def a_paused_follower_blames_nobody() -> None:
    stage = Stage()
    a, b, _ = stage.cast()
    term = stage.term()
    b.pause(2 * stage.election_s)
    stage.run(5 * stage.election_s)
    _require(stage.leads(a) and stage.term() == term, "A leads on at its term")
    _require(stage.at_rest(), "and all rest again")
    stage.check_books()


def a_paused_leader_finds_another_in_its_place() -> None:
    stage = Stage(lease=True)
    a, b, c = stage.cast()
    a.pause(6 * stage.election_s)
    stage.until(lambda: stage.leads(b) or stage.leads(c), 5 * stage.election_s)
    stage.write(b)
    stage.until(lambda: not a.paused, 10 * stage.election_s)
    stage.read(a)
    stage.finish_reads()
    stage.run(stage.election_s)
    stage.until(stage.at_rest)
    stage.check_books()


def hosts_come_and_go_again() -> None:
    """Restarts of both sides, twice each, in the middle of what the last one left."""
    stage = Stage(groups=6)
    stage.cast()
    for number in (0, 1, 0, 2, 0):
        host = stage.hosts[number]
        host.stop(power_lost=number == 1)
        stage.run(0.3 * (number + 1))
        host.restart()
        stage.run(0.2)
    stage.run(stage.election_s)
    stage.until(stage.at_rest, 20 * stage.election_s)
    stage.check_books()
    stage.write(stage.hosts[0])


def one_host_down_for_good_keeps_nobody_awake() -> None:
    stage = Stage(groups=6)
    stage.cast()
    stage.hosts[2].stop(power_lost=True)
    stage.run(0.1)
    stage.until(stage.at_rest, 10 * stage.election_s)
    stage.write(stage.hosts[0])
    stage.until(stage.at_rest, stage.election_s)


def the_bulk_lane_breaks_alone() -> None:
    stage = Stage()
    a, b, _ = stage.cast()
    term = stage.term()
    stage.break_lane(a, b, Lane.BULK)
    stage.break_lane(b, a, Lane.BULK)
    stage.run(0.05)
    stage.write(a)
    stage.until(stage.at_rest)
    _require(stage.term() == term and b.machines[1].state.count == 1, "B caught up, and nobody stood")


def the_liveness_lane_breaks_alone() -> None:
    stage = Stage(groups=4)
    a, b, _ = stage.cast()
    terms = [stage.group(a, g).raft.term for g in (1, 2, 3, 4)]
    for source, target in ((a, b), (b, a), (a, b)):
        stage.break_lane(source, target, Lane.LIVENESS)
        stage.run(0.02)
    stage.run(stage.election_s)
    stage.until(stage.at_rest)
    stage.check_books()
    _require([stage.group(a, g).raft.term for g in (1, 2, 3, 4)] == terms, "nobody stood")


def a_stream_stalls_for_a_while() -> None:
    """One way only: B does not hear A, then does again. A quorum heard A all the time."""
    stage = Stage()
    a, b, c = stage.cast()
    stage.hold((a, b))
    stage.run(3 * stage.election_s)
    _require(stage.leads(a), "A and C are a quorum, and C refuses B")
    stage.let_go((a, b))
    stage.run(stage.election_s)
    stage.until(stage.at_rest)
    stage.check_books()
    _require(stage.group(c).raft.leader == stage.group(b).raft.leader, "all follow one leader")


def leadership_is_handed_over_and_both_hosts_lead() -> None:
    """Two groups with opposite leaders on the same two hosts, then the other way round."""
    stage = Stage(groups=2)
    stage.cast()
    for _ in range(2):
        for group_id, host in ((1, stage.hosts[0]), (2, stage.hosts[1])):
            leader = next(h for h in stage.hosts if stage.leads(h, group_id))
            group = stage.group(leader, group_id)
            group.raft.transfer_leadership(stage.group(host, group_id).member_id)
            group.host.mark_dirty(group)
        stage.until(lambda: stage.leads(stage.hosts[0], 1) and stage.leads(stage.hosts[1], 2), 0.5)
        stage.until(stage.at_rest)
        stage.check_books()
        stage.hosts.reverse()


def a_word_from_before_a_step_down_is_no_more_than_that() -> None:
    """A hands over; B and C have A's word that it is over, and are free to vote at once."""
    stage = Stage()
    a, b, c = stage.cast()
    stage.step_down(a)
    stage.run(0.05)
    for host in (b, c):
        _require(stage.group(host).raft.leader == 0, "the leader gave the words back")
    stage.until(stage.at_rest)
    _require(sum(stage.leads(host) for host in stage.hosts) == 1, "somebody leads")


def reads_of_a_group_at_rest_ask_by_beats() -> None:
    stage = Stage()
    a, b, _ = stage.cast()
    began, since = stage.world.now, stage.world.trace.count
    stage.read(a)
    stage.finish_reads(0.05)
    _require(stage.said("heartbeat", since) == 0, "no heartbeat of the group itself")
    stage.read(b)
    stage.finish_reads(0.05)
    _require(stage.world.now - began < 0.1, "both were answered at once")


def a_lease_outlives_the_rest() -> None:
    """A leader that rested for long has the lease that its hosts' beats kept."""
    stage = Stage(lease=True)
    a, *_ = stage.cast()
    stage.run(5 * stage.election_s)
    stage.read(a)
    stage.finish_reads(0.0005)  # there is no time to ask anybody


def reads_are_answered_though_the_session_ends() -> None:
    """The beat that asks goes down with its lane; ordinary heartbeats ask instead."""
    stage = Stage()
    a, b, c = stage.cast()
    stage.hold((a, b), (a, c))
    stage.read(a)
    stage.run(0.005)
    for other in (b, c):
        stage.break_lane(a, other, Lane.LIVENESS)
    stage.let_go((a, b), (a, c))
    stage.finish_reads(3 * stage.election_s)
    stage.until(stage.at_rest)


def nothing_happens_at_rest() -> None:
    """But a pulse each way at most, per pair of hosts and interval."""
    stage = Stage(groups=6)
    stage.cast()
    stage.run(0.55)
    since, frames = stage.world.trace.count, stage.cluster.network.frames
    stage.run(1.0)
    _require(stage.cluster.network.frames - frames <= 6 * 11, "one frame each way and interval")
    _require(stage.said("Pulse", since) >= 2 * 9, "which is a pulse")
    for host in stage.hosts:
        assert host.scheduler is not None
        _require(host.scheduler._rest.awake == 0, "nobody is ticked")


def candidates_are_not_put_off_for_ever() -> None:
    """Heartbeats of an older term come all the time, and are no reason not to stand."""
    stage = Stage(**LOOSE)
    a, b, c = stage.cast()
    for host in (b, c):
        stage.step_down(host, 5)
    stage.until(lambda: stage.leads(b) or stage.leads(c), 5 * stage.election_s)
    stage.until(lambda: not stage.leads(a))


def _require(true: bool, what: str) -> None:
    if not true:
        raise Violation(f"not so: {what}")


SCENES: dict[str, Scene] = {
    name: scene
    for name, scene in list(globals().items())
    if callable(scene) and getattr(scene, "__module__", "") == __name__ and not name.startswith("_")
}
