"""What all groups' logs share: the segments, a reader for each, and the cache."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import Final

from multiraft.errors import CorruptRecord
from multiraft.interfaces import File, Files
from multiraft.messages import Run
from multiraft.storage.cache import EntryCache
from multiraft.storage.files import storage_error
from multiraft.storage.format import unpack_entries
from multiraft.storage.index import LENGTH, OFFSET_BITS, OFFSET_MASK, PLACE, STRIDE
from multiraft.storage.segment import Segment, segment_name
from multiraft.storage.shared import Shared

READERS_MAX: Final = 64


class Shelf:
    """Segments by sequence number, ascending, and read access to them for the host's thread."""

    def __init__(self, files: Files, folder: str, cache: EntryCache) -> None:
        self.segments: dict[int, Segment] = {}
        self.cache = cache
        self.shared: Shared[bytes] = Shared()
        """Metas and snapshot points."""
        self.folder = folder
        self._files = files
        self._readers: OrderedDict[int, File] = OrderedDict()

    def release(self, rows: array[int]) -> None:
        """The records of these rows are not needed any more."""
        segments = self.segments
        for at in range(0, len(rows), STRIDE):
            segments[rows[at + PLACE] >> OFFSET_BITS].live -= rows[at + LENGTH]

    def load(self, group: int, place: int, length: int) -> Run:
        """Read one run back and verify it.

        Raises: CorruptRecord when the disk returns something else than was written,
            StorageFailed when it returns an error.
        """
        sequence, offset = place >> OFFSET_BITS, place & OFFSET_MASK
        try:
            data = self._reader(sequence).read(offset, length)
        except FileNotFoundError:
            raise CorruptRecord(segment_name(sequence), 0, "the segment is missing") from None
        except OSError as error:
            raise storage_error(error, f"reading {segment_name(sequence)} at byte {offset}") from error
        try:
            return unpack_entries(data, group)
        except ValueError as error:
            raise CorruptRecord(segment_name(sequence), offset, str(error)) from None

    def forget(self, sequence: int) -> None:
        """Close the reader of a segment that is about to be collected."""
        self.segments.pop(sequence, None)
        reader = self._readers.pop(sequence, None)
        if reader is not None:
            reader.close()

    def close(self) -> None:
        while self._readers:
            self._readers.popitem()[1].close()

    def _reader(self, sequence: int) -> File:
        reader = self._readers.get(sequence)
        if reader is None:
            if len(self._readers) >= READERS_MAX:
                self._readers.popitem(last=False)[1].close()
            reader = self._files.open(f"{self.folder}/{segment_name(sequence)}")
            self._readers[sequence] = reader
        else:
            self._readers.move_to_end(sequence)
        return reader
