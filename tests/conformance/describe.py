"""How messages, entries and states are written down in transcripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from multiraft.messages import (
    APPEND_THREAD,
    APPLY_THREAD,
    NO_MEMBER,
    ConfChange,
    ConfChangeType,
    ConfState,
    EntryKind,
    HardState,
    Message,
    Run,
    Snapshot,
)
from multiraft.raft.ready import ReadState, Ready
from multiraft.raft.trace import MESSAGE_NAMES, ROLE_NAMES
from multiraft.types import MemberId

__all__ = [
    "conf_changes",
    "conf_state",
    "entries",
    "hard_state",
    "message",
    "parse_conf_changes",
    "quoted",
    "ready",
    "snapshot",
]

_KINDS = {
    EntryKind.NORMAL: "EntryNormal",
    EntryKind.CONF_CHANGE: "EntryConfChange",
    EntryKind.CONF_CHANGE_V2: "EntryConfChangeV2",
}
_CHANGE_LETTERS = {
    "v": ConfChangeType.ADD_NODE,
    "l": ConfChangeType.ADD_LEARNER_NODE,
    "r": ConfChangeType.REMOVE_NODE,
    "u": ConfChangeType.UPDATE_NODE,
}
_LETTERS = {kind: letter for letter, kind in _CHANGE_LETTERS.items()}
_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\n": "\\n",
    "\t": "\\t",
    "\r": "\\r",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\v": "\\v",
}


def quoted(data: bytes) -> str:
    """In double quotes; what cannot be printed is escaped."""
    parts: list[str] = []
    for letter in data.decode("utf-8", "surrogateescape"):
        if letter in _ESCAPES:
            parts.append(_ESCAPES[letter])
        elif 0xDC80 <= ord(letter) <= 0xDCFF:  # a byte that is no UTF-8
            parts.append(f"\\x{ord(letter) - 0xDC00:02x}")
        elif ord(letter) < 0x20 or ord(letter) == 0x7F:
            parts.append(f"\\x{ord(letter):02x}")
        elif letter.isprintable():
            parts.append(letter)
        else:
            parts.append(f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}")
    return '"' + "".join(parts) + '"'


def parse_conf_changes(text: str) -> tuple[tuple[ConfChangeType, MemberId], ...]:
    """`v1 l2 r3 u4`. Raises: ValueError with the text that a transcript shows."""
    changes: list[tuple[ConfChangeType, MemberId]] = []
    for token in text.split(" ") if text.strip() else ():
        if len(token) < 2:
            raise ValueError(f"unknown token {token}")
        if token[0] not in _CHANGE_LETTERS:
            raise ValueError(f"unknown input: {token}")
        changes.append((_CHANGE_LETTERS[token[0]], int(token[1:])))
    return tuple(changes)


def conf_changes(change: ConfChange) -> str:
    return " ".join(f"{_LETTERS[kind]}{member}" for kind, member in change.changes)


def entries(runs: Sequence[Run]) -> list[str]:
    return [line for run in runs for line in _run(run)]


def _run(run: Run) -> Iterator[str]:
    for offset, payload in enumerate(run.payloads):
        index = run.first + offset if run.term else 0
        normal = run.kind is EntryKind.NORMAL
        text = quoted(payload) if normal else conf_changes(ConfChange.decode(payload))
        yield f"{run.term}/{index} {_KINDS[run.kind]} {text}".rstrip(" ")


def _target(member: MemberId) -> str:
    names = {NO_MEMBER: "None", APPEND_THREAD: "AppendThread", APPLY_THREAD: "ApplyThread"}
    return names.get(member, f"{member:x}")


def message(it: Message, indent: str = "") -> str:
    """Without a final newline."""
    text = (
        f"{indent}{_target(it.sender)}->{_target(it.to)} {MESSAGE_NAMES[it.type]} "
        f"Term:{it.term} Log:{it.log_term}/{it.index}"
    )
    if it.reject:
        text += f" Rejected (Hint: {it.reject_hint})"
    if it.commit:
        text += f" Commit:{it.commit}"
    if it.vote:
        text += f" Vote:{it.vote}"
    lines = entries(it.runs)
    if len(lines) == 1:
        text += f" Entries:[{lines[0]}]"
    elif lines:
        text += " Entries:[" + "".join(f"\n{indent}  {line}" for line in lines) + f"\n{indent}]"
    if it.snapshot is not None and it.snapshot.index:
        text += f"\n{indent}  Snapshot: {snapshot(it.snapshot)}"
    if it.responses:
        inner = "".join("\n" + message(response, indent + "  ") for response in it.responses)
        text += f" Responses:[{inner}\n{indent}]"
    return text


def hard_state(state: HardState) -> str:
    vote = f" Vote:{state.vote}" if state.vote else ""
    return f"Term:{state.term}{vote} Commit:{state.commit}"


def _list(members: Sequence[MemberId]) -> str:
    return "[" + " ".join(str(member) for member in members) + "]"


def conf_state(state: ConfState) -> str:
    return (
        f"Voters:{_list(state.voters)} VotersOutgoing:{_list(state.voters_outgoing)} "
        f"Learners:{_list(state.learners)} LearnersNext:{_list(state.learners_next)} "
        f"AutoLeave:{str(state.auto_leave).lower()}"
    )


def snapshot(it: Snapshot) -> str:
    return f"Index:{it.index} Term:{it.term} ConfState:{conf_state(it.conf_state)}"


def _read_state(it: ReadState) -> str:
    return f"{{{it.index} [{' '.join(str(byte) for byte in it.context)}]}}"


def ready(it: Ready, messages: Sequence[Message]) -> str:
    """`messages` are what leaves, including the work for storage threads."""
    lines: list[str] = []
    if it.soft_state is not None:
        lines.append(f"Lead:{it.soft_state.leader} State:{ROLE_NAMES[it.soft_state.role]}")
    if it.hard_state is not None:
        lines.append(f"HardState {hard_state(it.hard_state)}")
    if it.read_states:
        lines.append(f"ReadStates [{' '.join(_read_state(state) for state in it.read_states)}]")
    if it.runs:
        lines += ["Entries:", *entries(it.runs)]
    if it.snapshot is not None:
        lines.append(f"Snapshot {snapshot(it.snapshot)}")
    if it.committed:
        lines += ["CommittedEntries:", *entries(it.committed)]
    if messages:
        lines += ["Messages:", *map(message, messages)]
    if not lines:
        return "<empty Ready>"
    return "\n".join([f"Ready MustSync={str(it.must_sync).lower()}:", *lines, ""])
