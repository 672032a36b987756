"""The commands of interaction transcripts."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from multiraft.errors import MultiraftError
from multiraft.messages import (
    ConfChange,
    ConfChangeTransition,
    ConfState,
    Message,
    MessageType,
    Run,
    Snapshot,
)
from multiraft.raft.core import CoreConfig
from multiraft.raft.runs import UNLIMITED
from multiraft.raft.trace import MESSAGE_NAMES, ROLE_NAMES
from multiraft.types import MemberId, ReadMode
from tests.conformance import describe
from tests.conformance.datadriven import Argument, Directive
from tests.conformance.environment import CommandError, Environment, Threshold, error_text

__all__ = ["Interaction"]

ELECTION_TICKS = 3
_TYPES = {name: kind for kind, name in MESSAGE_NAMES.items()}
_READ_MODES = {"safe": ReadMode.QUORUM, "lease-based": ReadMode.LEASE}
_TRANSITIONS = {
    "auto": ConfChangeTransition.AUTO,
    "implicit": ConfChangeTransition.JOINT_IMPLICIT,
    "explicit": ConfChangeTransition.JOINT_EXPLICIT,
}


class Interaction:
    """One transcript's environment, driven by its directives."""

    def __init__(self) -> None:
        self.environment = Environment()

    def handle(self, directive: Directive) -> str:
        env = self.environment
        env.start_output()
        error = ""
        try:
            COMMANDS.get(directive.command, unknown)(env, directive)
        except CommandError as raised:
            error = str(raised)
        except MultiraftError as raised:
            error = error_text(raised)
        if error and env.threshold is Threshold.NONE:
            return error
        return env.output + error or "ok"


# --- nodes -----------------------------------------------------------------------------------


def add_nodes(env: Environment, directive: Directive) -> None:
    config = CoreConfig(
        id=1,
        election_ticks=ELECTION_TICKS,
        heartbeat_ticks=1,
        max_message_bytes=UNLIMITED,
        max_inflight_messages=(1 << 31) - 1,
    )
    snapshot = Snapshot()
    for argument in directive.arguments[1:]:
        config, snapshot = _apply_option(argument, config, snapshot)
    bootstrapped = snapshot != Snapshot()
    if bootstrapped:
        if snapshot.index <= 1:
            raise CommandError("index must be specified as > 1 due to bootstrap")
        snapshot = attrs.evolve(snapshot, term=1)
        config.applied = snapshot.index
    for _ in range(int(directive.first)):
        env.add_node(attrs.evolve(config, id=len(env.nodes) + 1), snapshot if bootstrapped else None)


def _apply_option(argument: Argument, config: CoreConfig, snapshot: Snapshot) -> tuple[CoreConfig, Snapshot]:
    state = snapshot.conf_state
    match argument.key:
        case "voters":
            snapshot = attrs.evolve(snapshot, conf_state=attrs.evolve(state, voters=argument.integers))
        case "learners":
            snapshot = attrs.evolve(snapshot, conf_state=attrs.evolve(state, learners=argument.integers))
        case "index":
            snapshot = attrs.evolve(snapshot, index=argument.integer)
        case "content":
            snapshot = attrs.evolve(snapshot, data=argument.value.encode())
        case _:
            config = _set_option(argument, config)
    return config, snapshot


def _set_option(argument: Argument, config: CoreConfig) -> CoreConfig:
    match argument.key:
        case "inflight":
            return attrs.evolve(config, max_inflight_messages=argument.integer)
        case "async-storage-writes":
            return attrs.evolve(config, async_storage_writes=argument.boolean)
        case "prevote":
            return attrs.evolve(config, pre_vote=argument.boolean)
        case "checkquorum":
            return attrs.evolve(config, check_quorum=argument.boolean)
        case "max-committed-size-per-ready":
            return attrs.evolve(config, max_apply_bytes=argument.integer)
        case "disable-conf-change-validation":
            return attrs.evolve(config, disable_conf_change_validation=argument.boolean)
        case "step-down-on-removal":
            return attrs.evolve(config, step_down_on_removal=argument.boolean)
        case "read-only":
            if argument.value not in _READ_MODES:
                raise CommandError(f'invalid read-only option "{argument.value}"')
            return attrs.evolve(config, read_mode=_READ_MODES[argument.value])
    raise CommandError(f"unknown option {argument.key}")


def campaign(env: Environment, directive: Directive) -> None:
    env.node(int(directive.first)).core.campaign()


def tick_election(env: Environment, directive: Directive) -> None:
    _tick(env, directive, ELECTION_TICKS)


def tick_heartbeat(env: Environment, directive: Directive) -> None:
    _tick(env, directive, 1)


def _tick(env: Environment, directive: Directive, count: int) -> None:
    for _ in range(count):
        env.node(int(directive.first)).core.tick()


def set_randomized_election_timeout(env: Environment, directive: Directive) -> None:
    timeout = directive.option("timeout")
    if timeout is None:
        raise CommandError("timeout is missing")
    env.node(int(directive.first)).core.election_timeout = timeout.integer


def forget_leader(env: Environment, directive: Directive) -> None:
    env.node(int(directive.first)).core.forget_leader()


def report_unreachable(env: Environment, directive: Directive) -> None:
    member, other = directive.numbers
    env.node(member).core.report_unreachable(other)


def transfer_leadership(env: Environment, directive: Directive) -> None:
    source, target = directive.option("from"), directive.option("to")
    if source is None or target is None:
        raise CommandError("from and to are needed")
    env.node(source.integer).core.transfer_leadership(target.integer)


# --- proposals -------------------------------------------------------------------------------


def propose(env: Environment, directive: Directive) -> None:
    data = directive.arguments[1].key.encode()
    env.node(int(directive.first)).core.propose(Run.of([data]))


def propose_conf_change(env: Environment, directive: Directive) -> None:
    v1 = False
    transition = ConfChangeTransition.AUTO
    for argument in directive.arguments[1:]:
        match argument.key:
            case "v1":
                v1 = argument.boolean
            case "transition":
                if argument.value not in _TRANSITIONS:
                    raise CommandError(f"unknown transition {argument.value}")
                transition = _TRANSITIONS[argument.value]
            case key:
                raise CommandError(f"unknown command {key}")
    try:
        changes = describe.parse_conf_changes(directive.input)
    except ValueError as error:
        raise CommandError(str(error)) from None
    if v1 and (len(changes) != 1 or transition is not ConfChangeTransition.AUTO):
        raise CommandError("v1 conf change can only have one operation and no transition")
    env.node(int(directive.first)).core.propose_conf_change(ConfChange(changes, transition), v1)


# --- messages and work -----------------------------------------------------------------------


def deliver_msgs(env: Environment, directive: Directive) -> None:
    recipients: list[tuple[MemberId, bool]] = []
    kind: MessageType | None = None
    for argument in directive.arguments:
        if not argument.values:
            recipients.append((int(argument.key), False))
        elif argument.key == "drop":
            recipients += [(member, True) for member in argument.integers]
        elif argument.key == "type":
            if argument.value not in _TYPES:
                raise CommandError(f"unknown message type {argument.value}")
            kind = _TYPES[argument.value]
    handled = [env.deliver(member, kind, drop=drop) for member, drop in recipients]
    if not any(handled):
        env.write("no messages\n")


def send_snapshot(env: Environment, directive: Directive) -> None:
    sender, to = directive.numbers
    node = env.node(sender)
    message = Message(MessageType.SNAP, to, sender, node.core.term, snapshot=node.log.snapshot())
    env.messages.append(message)
    env.write(describe.message(message))


def process_ready(env: Environment, directive: Directive) -> None:
    _each(env, directive, env.process_ready, "handling Ready")


def process_append_thread(env: Environment, directive: Directive) -> None:
    _each(env, directive, env.process_append, "processing append thread")


def process_apply_thread(env: Environment, directive: Directive) -> None:
    _each(env, directive, env.process_apply, "processing apply thread")


def _each(env: Environment, directive: Directive, step: Callable[[MemberId], None], what: str) -> None:
    members = directive.numbers
    for member in members:
        if len(members) == 1:
            step(member)
            continue
        env.write(f"> {member} {what}\n")
        with env.indented():
            step(member)


def stabilize(env: Environment, directive: Directive) -> None:
    kept = env.threshold
    option = directive.option("log-level")
    if option is not None:
        env.threshold = _threshold(option.value)
    try:
        members = directive.numbers or tuple(range(1, len(env.nodes) + 1))
        while _round(env, members):
            pass
    finally:
        env.threshold = kept


def _round(env: Environment, members: tuple[MemberId, ...]) -> bool:
    """One pass over everything that may be waiting. False: nothing was."""
    worked = False
    for member in members:
        if env.node(member).core.has_ready():
            worked = True
            env.write(f"> {member} handling Ready\n")
            with env.indented():
                env.process_ready(member)
    for member in members:
        if env.has_messages(member):
            worked = True
            env.write(f"> {member} receiving messages\n")
            with env.indented():
                env.deliver(member, None, drop=False)
    for member in members:
        if env.node(member).append_work:
            worked = True
            env.write(f"> {member} processing append thread\n")
            while env.node(member).append_work:
                with env.indented():
                    env.process_append(member)
    for member in members:
        if env.node(member).apply_work:
            worked = True
            env.write(f"> {member} processing apply thread\n")
            while env.node(member).apply_work:
                with env.indented():
                    env.process_apply(member)
    return worked


# --- looking ---------------------------------------------------------------------------------


def log_level(env: Environment, directive: Directive) -> None:
    env.threshold = _threshold(directive.first)


def _threshold(name: str) -> Threshold:
    try:
        return Threshold[name.upper()]
    except KeyError:
        names = " ".join(threshold.name for threshold in Threshold)
        raise CommandError(f"log levels must be either of [{names}]") from None


def compact(env: Environment, directive: Directive) -> None:
    member, index = directive.numbers
    env.node(member).log.compact(index)
    raft_log(env, directive)


def raft_log(env: Environment, directive: Directive) -> None:
    log = env.node(int(directive.first)).log
    first, last = log.first_index(), log.last_index()
    if last < first:
        env.write(f"log is empty: first index={first}, last index={last}")
        return
    for line in describe.entries(log.runs(first, last, UNLIMITED)):
        env.write(line + "\n")


def raft_state(env: Environment, _directive: Directive) -> None:
    for node in env.nodes:
        core = node.core
        state: ConfState = core.conf_state()
        voter = "(Voter)" if core.id in (*state.voters, *state.voters_outgoing) else "(Non-Voter)"
        env.write(f"{core.id}: {ROLE_NAMES[core.role]} {voter} Term:{core.term} Lead:{core.leader}\n")


def status(env: Environment, directive: Directive) -> None:
    for member, progress in env.node(int(directive.first)).core.status().items():
        env.write(f"{member}: {progress}\n")


def unknown(_env: Environment, _directive: Directive) -> None:
    raise CommandError("unknown command")


def breakpoint_(_env: Environment, _directive: Directive) -> None:
    """For a debugger."""


COMMANDS: dict[str, Callable[[Environment, Directive], None]] = {
    "_breakpoint": breakpoint_,
    "add-nodes": add_nodes,
    "campaign": campaign,
    "compact": compact,
    "deliver-msgs": deliver_msgs,
    "forget-leader": forget_leader,
    "log-level": log_level,
    "process-append-thread": process_append_thread,
    "process-apply-thread": process_apply_thread,
    "process-ready": process_ready,
    "propose": propose,
    "propose-conf-change": propose_conf_change,
    "raft-log": raft_log,
    "raft-state": raft_state,
    "report-unreachable": report_unreachable,
    "send-snapshot": send_snapshot,
    "set-randomized-election-timeout": set_randomized_election_timeout,
    "stabilize": stabilize,
    "status": status,
    "tick-election": tick_election,
    "tick-heartbeat": tick_heartbeat,
    "transfer-leadership": transfer_leadership,
}
