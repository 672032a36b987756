"""Replays transcripts of another implementation, where there are some.

MULTIRAFT_CONFORMANCE_DATA=<folder with interaction/ confchange/ quorum/> python -m pytest tests/conformance
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.commands import Interaction
from tests.conformance.datadriven import Directive, replay
from tests.conformance.tables import ConfChangeDriver, handle_quorum

VARIABLE = "MULTIRAFT_CONFORMANCE_DATA"


def _drivers() -> dict[str, Callable[[], Callable[[Directive], str]]]:
    return {
        "interaction": lambda: Interaction().handle,
        "confchange": lambda: ConfChangeDriver().handle,
        "quorum": lambda: handle_quorum,
    }


def _transcripts() -> list[object]:
    folder = os.environ.get(VARIABLE)
    if not folder:
        skip = pytest.mark.skip(reason=f"{VARIABLE} names no folder of transcripts")
        return [pytest.param("", Path(), marks=skip, id="no-data")]
    root = Path(folder)
    found = [
        pytest.param(kind, path, id=f"{kind}/{path.stem}")
        for kind in _drivers()
        for path in sorted((root / kind).glob("**/*.txt"))
    ]
    if not found:
        # Asked for but not there: silence would look like success.
        raise pytest.UsageError(f"{VARIABLE}={folder} holds no transcripts")
    return list(found)


@pytest.mark.parametrize(("kind", "path"), _transcripts())
def test_transcript_is_reproduced(kind: str, path: Path) -> None:
    replay(path, _drivers()[kind]())
