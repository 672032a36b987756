"""Each file operation fails in turn, once, without a crash; then the process starts again."""

from __future__ import annotations

import errno

import pytest

from multiraft.errors import StorageFailed
from multiraft.storage.memory import MemoryFiles
from tests.storage.helpers import SEGMENT, Model, Workload, observed, reopen


class Life:
    """Opens a store, works, closes; knows which states are possible afterwards."""

    def __init__(self, seed: int) -> None:
        self.files = MemoryFiles()
        self.seed = seed
        self.states: list[Model] = [{}]
        self.failures: list[StorageFailed] = []

    def run(self, steps: int) -> None:
        """Raises: StorageFailed, from opening, submitting, collecting or closing."""
        store = reopen(self.files, total_bytes=4 * SEGMENT, cache_bytes=500, on_failure=self.failures.append)
        try:
            found = observed(store.groups())
            assert found in self.states
            self.states = [found]
            workload = Workload(self.seed)
            for _ in range(steps):
                batch = store.batch()
                self.states.append(workload.batch(self.states[-1], self.states[0], batch))
                store.submit(batch, lambda: self.states.__delitem__(0))
                store.collect(max_bytes=1000, max_groups=3)
        finally:
            store.close()


def raised(life: Life) -> bool:
    try:
        life.run(70)
    except StorageFailed:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_any_operation_may_fail_and_nothing_acknowledged_is_lost(code: int) -> None:
    reference = Life(3)
    reference.run(70)
    total = sum(reference.files.operations.values())
    assert total > 300
    for number in range(1, total + 1):
        life = Life(3)
        life.files.fail_nth(number, OSError(code, "broken"))
        # Either a call raises, or, if only the marker after the last batch is hit, nobody calls
        # any more and the callback tells.
        assert raised(life) or life.failures
        assert life.files.open_files == 0
        assert len(life.failures) <= 1
        life.files.fault = None
        life.run(3)
        life.run(0)


def test_a_folder_that_cannot_be_made_is_reported() -> None:
    files = MemoryFiles()
    files.fail_matching("make_folder", "wal", OSError(errno.EROFS, "read-only file system"))
    with pytest.raises(StorageFailed, match="read-only"):
        reopen(files)
