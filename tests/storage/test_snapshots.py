"""Snapshot files: whole or not there, verified when read, received in pieces."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator

import attrs
import pytest

from multiraft.errors import SnapshotInvalid
from multiraft.interfaces import SnapshotFile, SnapshotOffer
from multiraft.storage.memory import MemoryFiles
from multiraft.storage.snapshot_format import CHUNK_BYTES_MAX
from multiraft.storage.snapshots import SnapshotFiles, open_snapshot_file
from tests.storage.helpers import DATA, point

CHUNKS = [b"first", b"second" * 30, b"x"]
FOLDER = f"{DATA}/snapshots/7"


def on(files: MemoryFiles) -> SnapshotFiles:
    files.make_folder(DATA)
    return SnapshotFiles(files, DATA)


def written(
    index: int = 5, chunks: list[bytes] | None = None
) -> tuple[MemoryFiles, SnapshotFiles, SnapshotFile]:
    files = MemoryFiles()
    store = on(files)
    return files, store, store.write(7, 3, point(index, 2, b"members"), chunks or CHUNKS)


def offer_of(file: SnapshotFile) -> SnapshotOffer:
    return SnapshotOffer(file.group, file.generation, 1, 2, 9, file.snapshot, file.file_bytes, file.digest)


def test_chunks_come_back_as_they_were() -> None:
    files, store, file = written()
    assert list(store.read(file)) == CHUNKS
    assert (file.group, file.generation, file.snapshot) == (7, 3, point(5, 2, b"members"))
    assert file.file_bytes == len(files.read_file(file.path))
    assert store.files(7) == [file]
    assert open_snapshot_file(files, file.path) == file
    assert files.open_files == 0


def test_no_chunks_and_empty_chunks() -> None:
    _, store, file = written(chunks=[b"", b""])
    assert list(store.read(file)) == []


@pytest.mark.slow
def test_a_chunk_above_the_limit_is_split() -> None:
    _, store, file = written(chunks=[bytes(CHUNK_BYTES_MAX + 1)])
    assert [len(chunk) for chunk in store.read(file)] == [CHUNK_BYTES_MAX, 1]


def test_equal_content_has_an_equal_digest_and_no_other() -> None:
    _, _, one = written()
    _, _, two = written()
    _, _, other = written(chunks=[b"first", b"second" * 30, b"y"])
    assert one.digest == two.digest != other.digest


def read_all(files: MemoryFiles, path: str) -> None:
    for _ in SnapshotFiles(files, DATA).read(open_snapshot_file(files, path)):
        pass


def damaged_reads(files: MemoryFiles, file: SnapshotFile) -> str:
    """The reason with which a damaged file is refused."""
    with pytest.raises(SnapshotInvalid, match=file.path) as caught:
        read_all(files, file.path)
    return str(caught.value)


@pytest.mark.slow
def test_a_file_cut_at_any_byte_is_refused() -> None:
    files, _, file = written()
    for cut in range(file.file_bytes):
        disk = files.copy()
        opened = disk.open(file.path)
        opened.truncate(cut)
        opened.close()
        damaged_reads(disk, file)


@pytest.mark.slow
def test_a_file_with_any_bit_flipped_is_refused() -> None:
    files, _, file = written()
    data = files.read_file(file.path)
    for at in range(file.file_bytes):
        disk = files.copy()
        disk.damage(file.path, at, bytes([data[at] ^ (1 << at % 8)]))
        damaged_reads(disk, file)


def test_bytes_added_to_a_file_are_noticed() -> None:
    files, _, file = written()
    files.damage(file.path, file.file_bytes, b"more")
    assert "footer" in damaged_reads(files, file)


def test_chunks_left_out_are_noticed() -> None:
    """Every frame is whole, but one is gone and the footer moved up: the digest tells."""
    files, _, file = written()
    data = files.read_file(file.path)
    begin = data.index(b"first") - 8
    shorter = data[:begin] + data[begin + 13 :]
    opened = files.open(file.path)
    opened.truncate(0)
    opened.write(0, shorter)
    opened.close()
    assert "digest" in damaged_reads(files, file)


def test_a_damaged_chunk_is_not_handed_on() -> None:
    files, store, file = written()
    at = files.read_file(file.path).index(b"second")
    files.damage(file.path, at, b"S")
    chunks = store.read(file)
    assert next(chunks) == b"first"
    with pytest.raises(SnapshotInvalid):
        next(chunks)


def test_files_are_listed_newest_first_without_damaged_ones() -> None:
    files = MemoryFiles()
    store = on(files)
    made = [store.write(7, 1, point(index), [b"x"]) for index in (9, 100, 20)]
    assert [file.snapshot.index for file in store.files(7)] == [100, 20, 9]
    files.damage(made[1].path, 0, b"?")
    assert [file.snapshot.index for file in store.files(7)] == [20, 9]
    assert store.files(8) == []


def test_pruning_keeps_the_newest_some_older_ones_and_what_is_needed() -> None:
    store = on(MemoryFiles())
    made = [store.write(7, 1, point(index), [b"x"]) for index in range(1, 8)]
    store.prune(7, 2, needed=[made[1].path])
    assert [file.snapshot.index for file in store.files(7)] == [7, 6, 5, 2]
    store.prune(7, 0)
    assert [file.snapshot.index for file in store.files(7)] == [7]
    store.prune(8, 0)


def test_a_removed_group_leaves_nothing() -> None:
    files, store, _ = written()
    store.write(8, 1, point(1), [b"x"])
    store.remove(7)
    store.remove(7)
    assert files.list(f"{DATA}/snapshots") == ["8"]
    assert store.files(7) == []


def test_what_a_stop_left_unfinished_is_removed_at_the_next_start() -> None:
    files, store, file = written()
    sink = store.sink(attrs.evolve(offer_of(file), snapshot=point(9)))
    sink.write(b"half")
    files.open(f"{FOLDER}/x.snap.tmp", create=True).close()
    files.process_died()
    assert SnapshotFiles(files, DATA).files(7) == [file]
    assert len(files.list(FOLDER)) == 1


def test_an_error_from_the_chunks_leaves_no_file() -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("bug")

    files = MemoryFiles()
    store = on(files)
    with pytest.raises(KeyError):
        store.write(7, 1, point(5), broken())
    assert files.list(FOLDER) == []
    assert files.open_files == 0


def received(files: MemoryFiles, source: SnapshotFiles, file: SnapshotFile, *, cut: int) -> SnapshotFile:
    """Receive `file` on another disk, with the connection broken after `cut` bytes."""
    store = on(files)
    data = b"".join(source.raw(file, 0))
    sink = store.sink(offer_of(file))
    assert sink.offset == 0
    sink.write(data[:cut])
    sink.abort()
    again = store.sink(offer_of(file))
    assert again.offset == cut
    for chunk in source.raw(file, again.offset):
        again.write(chunk)
    again.finish()
    assert again.file is not None
    return again.file


def test_a_transfer_goes_on_where_it_broke() -> None:
    _, source, file = written()
    for cut in range(0, file.file_bytes + 1, 17):
        disk = MemoryFiles()
        arrived = received(disk, source, file, cut=cut)
        assert attrs.evolve(arrived, path=file.path) == file
        disk.crash(lambda _: 0)
        assert list(SnapshotFiles(disk, DATA).read(arrived)) == CHUNKS
        assert disk.open_files == 0


def test_a_transfer_does_not_go_on_with_another_file() -> None:
    _, source, file = written()
    _, other_source, other = written(chunks=[b"other"])
    store = on(MemoryFiles())
    sink = store.sink(offer_of(file))
    sink.write(b"".join(source.raw(file, 0))[:30])
    sink.abort()
    second = store.sink(offer_of(other))
    assert second.offset == 0
    second.write(b"".join(other_source.raw(other, 0)))
    second.finish()


def test_a_received_file_is_verified_before_it_gets_its_name() -> None:
    _, source, file = written()
    data = b"".join(source.raw(file, 0))
    right = offer_of(file)
    wrong = [
        (right, data[:-1]),
        (right, data[:60] + b"?" + data[61:]),
        (attrs.evolve(right, digest=bytes(32)), data),
        (attrs.evolve(right, generation=4), data),
        (attrs.evolve(right, group=8), data),
        (attrs.evolve(right, snapshot=point(6, 2)), data),
        (attrs.evolve(right, snapshot=point(5, 3)), data),
    ]
    for offer, came in wrong:
        files = MemoryFiles()
        store = on(files)
        sink = store.sink(offer)
        sink.write(came)
        with pytest.raises(SnapshotInvalid):
            sink.finish()
        assert sink.file is None
        assert store.files(offer.group) == []
        assert files.list(f"{DATA}/snapshots/{offer.group}") == []
        assert files.open_files == 0


def test_more_than_was_offered_is_refused() -> None:
    _, source, file = written()
    sink = on(MemoryFiles()).sink(offer_of(file))
    sink.write(b"".join(source.raw(file, 0)))
    with pytest.raises(SnapshotInvalid):
        sink.write(b"x")
    sink.abort()


@pytest.mark.slow
def test_a_crash_leaves_a_whole_file_or_none() -> None:
    for seed in range(300):
        files = MemoryFiles()
        store = on(files)
        rng = random.Random(seed)
        store.write(7, 1, point(1), [b"old"])
        files.fail_nth(rng.randint(1, 14), OSError(errno.EIO, "no power"))
        durable = False
        try:
            store.write(7, 1, point(2), CHUNKS)
            durable = True
        except OSError:
            files.process_died()
        files.fault = None
        files.crash(rng.randrange)
        again = SnapshotFiles(files, DATA)
        found = again.files(7)
        assert [file.snapshot.index for file in found] in ([[2, 1]] if durable else [[1], [2, 1]])
        for file in found:
            assert list(again.read(file)) == (CHUNKS if file.snapshot.index == 2 else [b"old"])


def test_a_received_file_does_not_replace_our_own_of_the_same_state() -> None:
    """Two hosts may write one state in different bytes; ours may be under way to a third host."""
    _, source, file = written()
    disk = MemoryFiles()
    store = SnapshotFiles(disk, DATA)
    own = store.write(file.group, file.generation, file.snapshot, [b"other bytes"])
    arrived = received(disk, source, file, cut=0)
    assert arrived.path != own.path
    assert b"".join(store.raw(own, 0)) == disk.read_file(own.path)
    assert {each.digest for each in store.files(file.group)} == {own.digest, file.digest}


def test_a_transfer_does_not_go_on_with_a_file_whose_sync_failed() -> None:
    """What a failed sync left behind may be lost although the next sync succeeds."""
    _, source, file = written()
    disk = MemoryFiles()
    store = on(disk)
    sink = store.sink(offer_of(file))
    for chunk in source.raw(file, 0):
        sink.write(chunk)
    disk.fail_matching("sync", ".part", OSError("the disk failed"))
    with pytest.raises(OSError, match="the disk failed"):
        sink.finish()
    disk.fault = None
    assert store.sink(offer_of(file)).offset == 0
