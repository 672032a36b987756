"""Running the command line as users do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).parents[2]


@attrs.frozen
class Result:
    """What a command left behind."""

    status: int
    out: str
    error: str

    def last_object(self) -> dict[str, Any]:
        """The JSON object that `--json` promises as the last line."""
        found = json.loads(self.out.splitlines()[-1])
        assert isinstance(found, dict)
        return found


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "multiraft", *map(str, arguments)]


def multiraft(*arguments: object, timeout_s: float = 60) -> Result:
    """Run `multiraft ...` in a process of its own, in a pipe."""
    done = subprocess.run(
        command_line(*arguments), capture_output=True, text=True, timeout=timeout_s, cwd=ROOT, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


def assert_one_clear_line(result: Result, *words: str, status: int) -> None:
    """An expected failure: its exit status, one line that says why, no traceback, no output."""
    assert result.status == status, result
    lines = [line for line in result.error.splitlines() if "[info" not in line and "[warning" not in line]
    assert len(lines) == 1, result.error
    assert lines[0].startswith("multiraft: error: ")
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.error
    assert result.out == ""
