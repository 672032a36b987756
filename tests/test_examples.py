"""The examples in docs/examples run as they stand, and print what they are there to show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"

SHOWN = {
    "single_group": [
        r"leader: member [123]",
        r"set color=red, was: None",
        r"set color=blue, was: red",
        r"member 1 reads color: blue",
        r"member 2 reads color: blue",
        r"member 3 reads color: blue",
        r"leader now: member 3",
        r"host c has stopped; set color=green, was: blue",
        r"leader now: member [12]",
        r"host c is back; member 3 reads color: green",
        r"member 3 is a \w+ in term \d+, applied up to \d+",
    ],
    "multi_group": [
        r"64 groups; groups led by .*member \d: \d+",
        r"wrote 2000 keys through all hosts",
        r"host c has stopped",
        r"wrote 2000 keys again; groups led by member 1: \d+, member 2: \d+",
        r"host c is back and has found 64 groups on its disk",
        r"read 2000 keys through all hosts: .*",
        r"host a: 4000 entries applied, \d+ syncs",
    ],
}


def test_every_example_is_run_and_linked() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == set(SHOWN)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in names:
        assert f"(docs/examples/{name}.py)" in readme
        assert f"(examples/{name}.py)" in api


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_an_example_runs_as_it_stands(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(SHOWN[name]), done.stdout
    for line, shown in zip(lines, SHOWN[name], strict=True):
        assert re.fullmatch(shown, line), line
