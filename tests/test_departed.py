"""Members that left are remembered, on disk, before anything of theirs is forgotten."""

from __future__ import annotations

import random

import pytest

from multiraft.departed import Departed
from multiraft.errors import StorageFailed
from multiraft.storage.memory import MemoryFiles


def test_who_left_is_remembered_over_a_power_cut() -> None:
    files = MemoryFiles()
    files.make_folder("/d")
    departed = Departed(files, "/d")
    departed.add(7, 1)
    departed.add(7, 2)
    departed.add(8, 1)
    files.crash(random.Random(1).randrange)
    again = Departed(files, "/d")
    assert [(7, 1) in again, (7, 2) in again, (8, 1) in again] == [True] * 3
    assert [(7, 3) in again, (8, 2) in again, (9, 1) in again] == [False] * 3


@pytest.mark.parametrize("data", [b"", b"[]", b'{"x": [1]}', b'{"1": 1}'])
def test_a_damaged_file_is_named(data: bytes) -> None:
    files = MemoryFiles()
    files.make_folder("/d")
    file = files.open("/d/departed.json", create=True)
    file.write(0, data)
    file.close()
    with pytest.raises(StorageFailed, match=r"departed\.json is damaged"):
        Departed(files, "/d")
