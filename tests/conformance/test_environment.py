"""The commands, on transcripts of our own: what the replayed files do not reach."""

from __future__ import annotations

import pytest

from multiraft.messages import (
    APPEND_THREAD,
    ConfChange,
    ConfChangeType,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Run,
    Snapshot,
)
from multiraft.raft.ready import ReadState, Ready
from tests.conformance import describe
from tests.conformance.commands import Interaction
from tests.conformance.datadriven import parse
from tests.conformance.tables import ConfChangeDriver, handle_quorum


def run(*commands: str) -> list[str]:
    """The answers to a list of commands, each with its input behind a slash."""
    interaction = Interaction()
    answers = []
    for command in commands:
        line, _, given = command.partition("/")
        (directive,) = parse(f"{line}\n{given}\n----\n", "test")
        answers.append(interaction.handle(directive))
    return answers


ONE = "add-nodes 1 voters=(1) index=2"
THREE = "add-nodes 3 voters=(1,2,3) index=2"
QUIET = "log-level none"
LOUD = "log-level debug"


@pytest.mark.parametrize(
    ("commands", "answer"),
    [
        (("nonsense",), "unknown command"),
        (("log-level loud",), "log levels must be either of [DEBUG INFO WARN ERROR FATAL NONE]"),
        (("log-level InFo",), "ok"),
        (("_breakpoint",), "ok"),
        (("add-nodes 1 voters=(1) index=1",), "index must be specified as > 1 due to bootstrap"),
        (("add-nodes 1 read-only=never",), 'invalid read-only option "never"'),
        (("add-nodes 1 nonsense=1",), "unknown option nonsense"),
        ((QUIET, "nonsense"), "unknown command"),
        ((QUIET, ONE, "propose 1 x"), "raft proposal dropped"),
        ((QUIET, ONE, "propose-conf-change 1 foo=1/v2"), "unknown command foo"),
        ((QUIET, ONE, "propose-conf-change 1 transition=foo/v2"), "unknown transition foo"),
        ((QUIET, ONE, "propose-conf-change 1/v"), "unknown token v"),
        ((QUIET, ONE, "propose-conf-change 1/x2"), "unknown input: x2"),
        (
            (QUIET, ONE, "propose-conf-change 1 v1=true/v2 v3"),
            "v1 conf change can only have one operation and no transition",
        ),
        ((ONE, "deliver-msgs 1"), "no messages\n"),
        ((ONE, "raft-log 1"), "log is empty: first index=3, last index=2"),
        ((ONE, "compact 1 2"), "requested index is unavailable due to compaction"),
        ((ONE, "status 1"), "ok"),
        ((ONE, "process-ready 1"), "<empty Ready>"),
        ((ONE, "process-append-thread 1"), "no append work to perform"),
        ((ONE, "process-apply-thread 1"), "no apply work to perform"),
        ((ONE, "raft-state"), "1: StateFollower (Voter) Term:0 Lead:0\n"),
        (("add-nodes 1", "raft-state"), "INFO 1"),
        ((ONE, QUIET, "stabilize log-level=debug"), "ok"),
        ((THREE, "set-randomized-election-timeout 1 timeout=3", QUIET, "tick-election 1"), "ok"),
        ((ONE, "forget-leader 1"), "ok"),
        ((ONE, "report-unreachable 1 1"), "ok"),
    ],
)
def test_what_a_command_answers(commands: tuple[str, ...], answer: str) -> None:
    if commands == ("add-nodes 1", "raft-state"):
        assert run(*commands)[-1] == "1: StateFollower (Non-Voter) Term:0 Lead:0\n"
    else:
        assert run(*commands)[-1] == answer


def test_a_lease_needs_check_quorum() -> None:
    (answer,) = run("add-nodes 1 read-only=lease-based")
    assert "check_quorum" in answer


def test_a_failed_command_keeps_what_it_wrote_before() -> None:
    answer = run(THREE, "propose 1 x")[-1]
    assert answer == "INFO 1 no leader at term 0; dropping proposal\nraft proposal dropped"


def test_stabilize_restores_the_level_before_it_decides_what_to_say() -> None:
    answers = run(ONE, "campaign 1", "stabilize log-level=none", "raft-state")
    assert answers[2:] == ["ok", "1: StateLeader (Voter) Term:1 Lead:1\n"]


def test_a_drop_leaves_local_messages_alone_and_a_type_restricts_all() -> None:
    answers = run(
        QUIET,
        "add-nodes 3 voters=(1,2,3) index=2 async-storage-writes=true",
        "campaign 1",
        "process-ready 1",
        "process-append-thread 1",
        LOUD,
        "deliver-msgs drop=(1)",
        "deliver-msgs drop=(2) type=MsgApp",
        "deliver-msgs drop=(2)",
        "deliver-msgs 1",
    )
    assert answers[-4:-1] == ["no messages\n", "no messages\n", "dropped: 1->2 MsgVote Term:1 Log:1/2\n"]
    assert answers[-1].startswith("1->1 MsgVoteResp Term:1 Log:0/0\nINFO 1 received MsgVoteResp from 1")


def test_several_nodes_are_indented_under_a_header() -> None:
    answer = run(THREE, QUIET, "campaign 1", LOUD, "process-ready 2 1")[-1]
    assert answer.startswith(
        "> 2 handling Ready\n  <empty Ready>\n> 1 handling Ready\n  Ready MustSync=true:\n"
    )


def test_snapshots_come_from_what_was_applied() -> None:
    answers = run(
        QUIET, ONE, "campaign 1", "stabilize", "propose 1 x", "stabilize", LOUD, "send-snapshot 1 1"
    )
    assert answers[-1] == (
        "1->1 MsgSnap Term:1 Log:0/0\n  Snapshot: Index:4 Term:1 "
        "ConfState:Voters:[1] VotersOutgoing:[] Learners:[] LearnersNext:[] AutoLeave:false"
    )


# --- writing things down ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", '""'),
        (b'a"b\\c', '"a\\"b\\\\c"'),
        (b"\n\t\r\a\b\f\v", '"\\n\\t\\r\\a\\b\\f\\v"'),
        (b"\x00\x1f\x7f\xff", '"\\x00\\x1f\\x7f\\xff"'),
        ("é☃".encode(), '"é☃"'),
    ],
)
def test_quoting(data: bytes, text: str) -> None:
    assert describe.quoted(data) == text


def test_a_message_with_everything() -> None:
    inner = Message(MessageType.APP_RESP, 1, 2, 3, 4, 5, reject=True, reject_hint=6)
    change = Run.of(
        [ConfChange(((ConfChangeType.REMOVE_NODE, 1),)).encode()], EntryKind.CONF_CHANGE, first=9, term=3
    )
    message = Message(
        MessageType.STORAGE_APPEND,
        APPEND_THREAD,
        10,
        3,
        commit=7,
        vote=11,
        runs=[Run.of([b"a", b""]), change],
        snapshot=Snapshot(1, 2),
        responses=[inner],
    )
    assert describe.message(message, "  ") == (
        "  a->AppendThread MsgStorageAppend Term:3 Log:0/0 Commit:7 Vote:11 Entries:[\n"
        '    0/0 EntryNormal "a"\n'
        '    0/0 EntryNormal ""\n'
        "    3/9 EntryConfChange r1\n"
        "  ]\n"
        "    Snapshot: Index:1 Term:2 ConfState:Voters:[] VotersOutgoing:[] Learners:[] LearnersNext:[] "
        "AutoLeave:false Responses:[\n"
        "    2->1 MsgAppResp Term:3 Log:4/5 Rejected (Hint: 6)\n"
        "  ]"
    )


def test_a_ready_with_read_states() -> None:
    ready = Ready(None, HardState(1, 0, 2), [ReadState(5, b"ab")], [], None, [], [], [], False)
    assert describe.ready(ready, []) == (
        "Ready MustSync=false:\nHardState Term:1 Commit:2\nReadStates [{5 [97 98]}]\n"
    )


# --- tables -----------------------------------------------------------------------------------------


def test_the_configuration_driver_counts_failures_too() -> None:
    driver = ConfChangeDriver()
    commands = ("simple\nv1", "simple\nx1", "leave-joint\nv1", "nonsense", "simple\nl2")
    text = "".join(f"{command}\n----\n\n" for command in commands)
    answers = [driver.handle(directive) for directive in parse(text, "test")]
    assert answers == [
        "voters=(1)\n1: StateProbe match=0 next=1\n",
        "unknown input: x1\n",
        "this command takes no input\n",
        "unknown command",
        "voters=(1) learners=(2)\n1: StateProbe match=0 next=1\n2: StateProbe match=0 next=4 learner\n",
    ]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("committed cfg=(10,2) idx=(7,7)", "      idx\n>       7    (id=2)\n>       7    (id=a)\n7\n"),
        ("committed", "<empty majority quorum>∞\n"),
        ("vote cfg=(1,2,3) votes=(y,n,_)", "VotePending\n"),
        ("vote cfg=(1) cfgj=(2) votes=(n,y)", "VoteLost\n"),
    ],
)
def test_the_quorum_driver(line: str, answer: str) -> None:
    (directive,) = parse(f"{line}\n----\n", "test")
    assert handle_quorum(directive) == answer


def test_too_few_values_are_an_error() -> None:
    (directive,) = parse("committed cfg=(1,2) idx=(1)\n----\n", "test")
    assert handle_quorum(directive).startswith("error: mismatched input (explicit or _) for voters")
