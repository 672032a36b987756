"""The README's example runs as it stands, twice, in a process of its own."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_the_example_runs_and_goes_on_from_its_log(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = found[1]
    assert "127.0.0.1:7001" in program
    script = tmp_path / "example.py"
    script.write_text(program.replace("127.0.0.1:7001", f"127.0.0.1:{port}"), encoding="utf-8")
    for expected in ("5 5", "10 10"):
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script)],
            cwd=tmp_path,
            env={"PYTHONPATH": str(README.parent)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == expected
