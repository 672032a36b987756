"""The entry point: finds the command, and turns every expected failure into one clear line.

Exit status: 0 done, 1 the job failed, 2 wrong usage, 128 + n ended by signal n.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

import click

from multiraft.cli.interrupt import Interrupted
from multiraft.errors import ConfigError, MultiraftError

DONE, FAILED, WRONG_USAGE = 0, 1, 2

COMMANDS = {
    "demo": (
        "multiraft.cli.demo:command",
        "Start hosts, write to them, kill a leader, and check every write.",
    ),
    "serve": ("multiraft.cli.serve:command", "Run a host of the sharded key-value store."),
    "bench": ("multiraft.cli.bench:command", "Measure throughput, latency, CPU and memory."),
    "status": ("multiraft.cli.status:status", "Show how a host is doing."),
    "groups": ("multiraft.cli.status:groups", "List the groups of a host."),
    "group": ("multiraft.cli.status:group", "Show one group as a host sees it."),
    "events": ("multiraft.cli.events:command", "Show what happens on a host, as it happens."),
    "members": ("multiraft.cli.members:command", "Show and change the members of a group."),
    "create": ("multiraft.cli.manage:create", "Make a group on a host."),
    "join": ("multiraft.cli.manage:join", "Make a host a member of a group that others carry."),
    "leave": ("multiraft.cli.manage:leave", "Remove a host's own member from a group."),
    "remove": ("multiraft.cli.manage:remove", "Delete what a host has of a group."),
    "transfer": ("multiraft.cli.manage:transfer", "Hand the leadership of a group to a member."),
    "step-down": ("multiraft.cli.manage:step_down", "Have a host give up the leadership of a group."),
    "snapshot": ("multiraft.cli.manage:snapshot", "Take a snapshot of a group."),
    "recover": ("multiraft.cli.recover:command", "Bring back a group that has lost its members."),
    "wal": ("multiraft.cli.wal:command", "Look into the log of a host that is not running."),
}
"""Name, where the command is, help. Its module is imported only when it runs."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        try:
            print("multiraft", metadata.version("multiraft"))
        except metadata.PackageNotFoundError:
            print("multiraft, not installed")
        ctx.exit()


@click.group(
    cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print it."
)
@click.pass_context
def multiraft(ctx: click.Context) -> int:
    """Thousands of Raft groups in one process."""
    if ctx.invoked_subcommand is not None:
        return DONE
    print(ctx.get_help(), file=sys.stderr)
    return WRONG_USAGE


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; failures are told on standard error."""
    try:
        status = multiraft.main(args=arguments, prog_name="multiraft", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        hint = "" if error.ctx is None else f" (see '{error.ctx.command_path} --help')"
        return _tell(error.format_message() + hint, WRONG_USAGE)
    except click.ClickException as error:
        return _tell(error.format_message(), FAILED)
    except Interrupted as interrupted:
        return 128 + interrupted.signal
    except (click.Abort, KeyboardInterrupt):
        return 130
    except ConfigError as error:
        return _tell(str(error), WRONG_USAGE)
    except BrokenPipeError:
        # Who reads our output has gone (`multiraft groups | head`): nobody is left to tell, and
        # the flush at exit must not try again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (MultiraftError, OSError) as error:
        return _tell(str(error) or type(error).__name__, FAILED)
    return status if isinstance(status, int) else DONE


def _tell(message: str, status: int) -> int:
    print(f"multiraft: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def main() -> NoReturn:
    """The `multiraft` command."""
    sys.exit(run())
