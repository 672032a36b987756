"""Whole programs, written from the page of public names alone, run in processes of their own.

They live in `tests/programs/`. Each is what a user might write: it opens its hosts, checks what it gets, and
ends with "ok". To see one fail by itself: `PYTHONPATH=. python -W error tests/programs/counter.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "programs"
ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(FOLDER.glob("*.py"))


def test_there_are_programs() -> None:
    assert len(PROGRAMS) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_runs_to_its_end(program: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ok"
    assert "Traceback" not in done.stderr
