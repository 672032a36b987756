"""Sessions between two hosts: names, numbers, questions and answers. No groups, no network."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import cast

import pytest

from multiraft.group import Group
from multiraft.messages import PULSE_FIELDS, Pulse, Row
from multiraft.routes import Peer
from multiraft.sessions import PULSE_ROWS_MAX, Follower, Session


def session(first: int = 1) -> Session:
    halves: Callable[[], int] = itertools.count(first).__next__
    made = Session(Peer("other:1"), halves)
    made.lane_up = True
    return made


def opened() -> Session:
    """One in which a member has given its word to a leader here, so that beats are due."""
    made = session()
    made.met(7)
    made.opened()
    made.pulses(0)
    made.led[1] = follower(made)
    return made


def follower(of: Session, term: int = 3) -> Follower:
    return Follower(of, cast("Group", None), term, 2, None)


def pulse(number: int) -> Pulse:
    return Pulse(7, 1, number, 0, 0, False, [])


def test_a_new_half_is_said_once_and_again_only_when_it_is_time() -> None:
    made = session(40)
    assert made.pulses(0) == [Pulse(40, 0, 0, 0, 0, False, [])]
    assert made.pulses(0) == []
    made.interval_over()
    assert len(made.pulses(0)) == 1
    made.begin()
    assert [p.half for p in made.pulses(0)] == [41]


def test_nothing_is_said_while_our_stream_is_not_open() -> None:
    made = session()
    made.lane_up = False
    assert made.pulses(0) == []
    made.lane_up = True
    assert len(made.pulses(0)) == 1, "it was not forgotten"


def test_pulses_are_numbered_from_one_in_every_session() -> None:
    made = opened()
    made.interval_over()
    assert [p.number for p in made.pulses(0)] == [2]
    made.close()
    made.led.clear()
    made.met(8)
    made.opened()
    assert [p.number for p in made.pulses(0)] == [1]


def test_a_pulse_that_is_missing_shows_and_one_that_comes_twice_does_not_matter() -> None:
    made = opened()
    assert made.follows(pulse(1)) is True
    assert made.follows(pulse(1)) is None
    assert made.follows(pulse(3)) is False
    assert made.follows(pulse(2)) is True


def test_what_was_queued_dies_with_the_session() -> None:
    """Rule 4: said in the next one, it would be a word that nobody gave there."""
    made = opened()
    made.say(Row.ATTACH, 1, 0, 3, 1, 2)
    made.close()
    made.led.clear()
    made.begin()
    made.opened()
    made.led[1] = follower(made)
    made.interval_over()
    assert [p.rows for p in made.pulses(0)] == [[]]


def test_rows_come_before_the_acknowledgement_however_many_there_are() -> None:
    made = opened()
    made.hear_beat(5, urgent=True)
    for group in range(PULSE_ROWS_MAX + 1):
        made.say(Row.ATTACH, group, 0, 3, 1, 2)
    first, second = made.pulses(0)
    assert len(first.rows) == PULSE_FIELDS * PULSE_ROWS_MAX
    assert (first.ack, first.beat) == (0, 0)
    assert (second.ack, len(second.rows)) == (5, PULSE_FIELDS)
    assert second.number == first.number + 1


@pytest.mark.parametrize("rows", [0, 1, PULSE_ROWS_MAX, 2 * PULSE_ROWS_MAX, 2 * PULSE_ROWS_MAX + 1])
def test_all_rows_are_said_once_and_in_order(rows: int) -> None:
    made = opened()
    made.interval_over()
    for group in range(rows):
        made.say(Row.ATTACH, group, 0, 3, 1, 2)
    pulses = made.pulses(0)
    said = [number for each in pulses for number in each.rows[1::PULSE_FIELDS]]
    assert said == list(range(rows))
    assert len(pulses) == max(1, -(-rows // PULSE_ROWS_MAX))
    assert [bool(each.beat) for each in pulses] == [False] * (len(pulses) - 1) + [True]


def test_a_question_waits_for_a_beat_that_is_made_after_it() -> None:
    made = opened()
    made.interval_over()
    (before,) = made.pulses(0)
    made.ask(follower(made), b"read")
    assert made.hear_ack(before.beat) == []
    (asking,) = made.pulses(0)
    assert asking.beat == before.beat + 1
    assert asking.urgent
    assert [q.context for q in made.hear_ack(asking.beat)] == [b"read"]
    assert made.hear_ack(asking.beat) == [], "once"


def test_one_urgent_beat_is_under_way_at_a_time() -> None:
    made = opened()
    made.ask(follower(made), b"first")
    (asking,) = made.pulses(0)
    made.ask(follower(made), b"second")
    assert made.pulses(0) == []
    assert [q.context for q in made.hear_ack(asking.beat)] == [b"first"]
    (again,) = made.pulses(0)
    assert [q.context for q in made.hear_ack(again.beat)] == [b"second"]


def test_a_question_goes_along_with_a_beat_that_is_due_only_if_none_is_under_way() -> None:
    made = opened()
    made.ask(follower(made), b"first")
    (asking,) = made.pulses(0)
    made.ask(follower(made), b"second")
    made.interval_over()
    (plain,) = made.pulses(0)
    assert not plain.urgent
    assert [q.context for q in made.hear_ack(plain.beat)] == [b"first"], "it acknowledges both beats"
    assert asking.beat < plain.beat
    assert made.has_questions


def test_an_acknowledgement_of_what_was_never_sent_is_none() -> None:
    made = opened()
    made.interval_over()
    (sent,) = made.pulses(4)
    made.unanswered = 3
    assert made.hear_ack(sent.beat + 1) == []
    assert (made.acked, made.unanswered) == (0, 3)
    made.hear_ack(sent.beat)
    assert (made.acked, made.acked_at, made.unanswered) == (sent.beat, 4, 0)


def test_a_beat_is_answered_at_once_only_if_it_is_urgent() -> None:
    made = opened()
    made.silent = 5
    made.hear_beat(1, urgent=False)
    assert made.silent == 0
    assert made.pulses(0) == []
    made.hear_beat(2, urgent=True)
    assert [p.ack for p in made.pulses(0)] == [2]


def test_other_beats_are_answered_when_the_interval_is_over_and_once() -> None:
    made = opened()
    made.led.clear()
    made.hear_beat(1, urgent=False)
    made.interval_over()
    assert [(p.ack, p.beat) for p in made.pulses(0)] == [(1, 0)]
    made.interval_over()
    assert made.pulses(0) == []


def test_nobody_is_waited_for_who_owes_nothing() -> None:
    made = opened()
    assert [made.tick() for _ in range(3)] == [1, 2, 3]
    made.led.clear()
    assert made.tick() == 0
    made.followed[1] = cast("Group", None)
    assert made.tick() == 1
    made.hear_beat(1, urgent=False)
    assert made.tick() == 1


def test_questions_without_an_answer_are_given_back_at_the_end() -> None:
    made = opened()
    made.ask(follower(made), b"asked")
    made.pulses(0)
    made.ask(follower(made), b"waiting")
    assert [q.context for q in made.close()] == [b"asked", b"waiting"]
    assert not made.is_open


def test_beats_are_never_numbered_twice() -> None:
    made = opened()
    made.interval_over()
    (first,) = made.pulses(0)
    made.close()
    made.led.clear()
    made.begin()
    made.opened()
    made.led[1] = follower(made)
    made.interval_over()
    (second,) = made.pulses(0)
    assert second.beat > first.beat
