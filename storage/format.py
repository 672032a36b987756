"""Every byte of the log: segment header, batch header, records. docs/wal-format.md has the tables.

Only packing, unpacking and checksums live here; no files and no state. All integers are
little-endian. Two checksums protect an entry record: its own, so that one run can be read back
alone, and the batch's, which makes the batch the unit that is there as a whole or not at all.
"""

from __future__ import annotations

import enum
import struct
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast
from zlib import crc32

import attrs
import cbor2

from multiraft.messages import ConfState, EntryKind, HardState, Run, Snapshot

SEGMENT_MAGIC: Final = b"mraftwal"
FORMAT_VERSION: Final = 1

_POINTS_MAX: Final = 1024
"""Snapshot points that are kept decoded: thousands of groups stand on equal ones."""


class UnknownFormat(ValueError):
    """What is there is whole, but of another version: nobody may take it for damage."""


BATCH_BYTES_MAX: Final = 1 << 30
"""Bound of one batch with its header. Offsets and lengths of records then fit 32 bits."""

_SEGMENT_FIELDS: Final = struct.Struct("<8sIIQQ16sQI")
_CRC: Final = struct.Struct("<I")
SEGMENT_HEADER_BYTES: Final = _SEGMENT_FIELDS.size + _CRC.size

_BATCH_FIELDS: Final = struct.Struct("<IIIIQI")
_BATCH: Final = struct.Struct("<IIIIQII")
BATCH_HEADER_BYTES: Final = _BATCH.size

RECORD_HEAD: Final = struct.Struct("<BBHIQ")
"""Kind, entry kind, zero, length of what follows, group."""
RECORD_HEAD_BYTES: Final = RECORD_HEAD.size
ENTRIES_HEAD: Final = struct.Struct("<BBHIQQQQQII")
"""The record head, then first, term, origin, sequence, count, size. A CRC and the blob follow."""
ENTRIES_HEAD_BYTES: Final = ENTRIES_HEAD.size + _CRC.size
HARD_STATE_RECORD: Final = struct.Struct("<BBHIQQQQ")
HARD_STATE_BYTES: Final = HARD_STATE_RECORD.size
_POINT: Final = struct.Struct("<QQ")
_CREATE: Final = struct.Struct("<QQQII")
_START: Final = struct.Struct("<Q")
_LENGTH: Final = struct.Struct("<I")
POINT_BYTES: Final = RECORD_HEAD_BYTES + _POINT.size

assert SEGMENT_HEADER_BYTES == 64
assert BATCH_HEADER_BYTES == 32
assert ENTRIES_HEAD_BYTES == 60

pack_entries_head = ENTRIES_HEAD.pack
pack_crc = _CRC.pack
pack_hard_state = HARD_STATE_RECORD.pack


class RecordKind(enum.IntEnum):
    ENTRIES = 1
    """A run, replacing everything from its first index on."""
    HARD_STATE = 2
    META = 3
    COMPACT = 4
    """The snapshot point, and the index up to which entries are gone."""
    SNAPSHOT = 5
    """The same, and all entries are gone."""
    CREATE = 6
    REMOVE = 7
    RELOCATED = 8
    """A copy of a run that lay in a segment about to go. It replaces nothing: it only says where
    entries are that are in the log already."""
    LOG_START = 9
    """Segments below this one are not needed any more, and may be missing."""
    DAMAGED = 10
    """As META, and what the log lost of the group; it must not take part any more."""


# Plain ints for the loops that run once per record: looking up an enum member costs 40 ns.
ENTRIES: Final = int(RecordKind.ENTRIES)
HARD_STATE: Final = int(RecordKind.HARD_STATE)
META: Final = int(RecordKind.META)
COMPACT: Final = int(RecordKind.COMPACT)
SNAPSHOT: Final = int(RecordKind.SNAPSHOT)
CREATE: Final = int(RecordKind.CREATE)
REMOVE: Final = int(RecordKind.REMOVE)
RELOCATED: Final = int(RecordKind.RELOCATED)
LOG_START: Final = int(RecordKind.LOG_START)
DAMAGED: Final = int(RecordKind.DAMAGED)


# --- segments --------------------------------------------------------------------------------


@attrs.frozen
class SegmentHeader:
    """The first 64 bytes of a segment. On disk before the file has its final name."""

    sequence: int
    """One higher than the segment before it. Also the file's name."""
    start: int
    """The first segment that was needed when this one was made."""
    nonce: bytes
    """16 random bytes. They give the marks and checksums of this life of the file, so that what
    an earlier life left behind never looks valid."""
    previous_end: int
    """Where the segment before this one ends; it was on disk up to there."""
    previous_chain: int
    """Chain value of the last batch there, or of its header if it has no batch."""

    def pack(self) -> bytes:
        fields = _SEGMENT_FIELDS.pack(
            SEGMENT_MAGIC,
            FORMAT_VERSION,
            0,
            self.sequence,
            self.start,
            self.nonce,
            self.previous_end,
            self.previous_chain,
        )
        return fields + pack_crc(crc32(fields))

    @property
    def chain(self) -> int:
        """The chain value that the first batch continues."""
        return crc32(self.pack()[:-4])

    @property
    def seed(self) -> int:
        """What every checksum of this segment starts from."""
        return crc32(self.sequence.to_bytes(8, "little"), crc32(self.nonce))

    @property
    def mark(self) -> int:
        """The first four bytes of every batch of this segment."""
        return int.from_bytes(self.nonce[:4], "little")


def unpack_segment_header(data: bytes) -> SegmentHeader:
    """Raises: ValueError, saying what is wrong."""
    if len(data) < SEGMENT_HEADER_BYTES:
        raise ValueError("the segment header is cut short")
    magic, version, zero, sequence, start, nonce, end, chain = _SEGMENT_FIELDS.unpack_from(data)
    if magic != SEGMENT_MAGIC:
        raise ValueError("not a log segment")
    if crc32(data[: _SEGMENT_FIELDS.size]) != _CRC.unpack_from(data, _SEGMENT_FIELDS.size)[0]:
        raise ValueError("bad segment header")
    if version != FORMAT_VERSION or zero:
        raise UnknownFormat(f"segment format {version} is not known to this version of multiraft")
    return SegmentHeader(sequence, start, nonce, end, chain)


# --- batches ---------------------------------------------------------------------------------


class BatchHeader(NamedTuple):
    mark: int
    length: int
    """Bytes of the records that follow. 0: a marker, which only says what is durable."""
    records: int
    previous: int
    """Chain value of the batch before."""
    durable: int
    """The segment was known to be on disk up to here when this header was written."""
    body_crc: int
    chain: int
    """Checksum of the fields above; what the next batch continues."""


def pack_batch_header(header: tuple[int, int, int, int, int, int], seed: int) -> tuple[bytes, int]:
    """The bytes and the chain value. `header` is all of `BatchHeader` but the last."""
    fields = _BATCH_FIELDS.pack(*header)
    chain = crc32(fields, seed)
    return fields + pack_crc(chain), chain


def unpack_batch_header(data: bytes, offset: int, mark: int, seed: int) -> BatchHeader | None:
    """The header at `offset`, or None where there is none of this segment's life."""
    if offset + BATCH_HEADER_BYTES > len(data):
        return None
    header = BatchHeader._make(_BATCH.unpack_from(data, offset))
    if header.mark != mark:
        return None
    if crc32(data[offset : offset + _BATCH_FIELDS.size], seed) != header.chain:
        return None
    return header


# --- records ---------------------------------------------------------------------------------


def pack_entries(kind: int, group: int, run: Run) -> list[bytes]:
    """One run as a record: three buffers, the last one the run's own bytes.

    The hot path has this written out once more (batch.py); this one serves everything else.
    """
    blob = run.blob
    head = pack_entries_head(
        kind,
        run.kind,
        0,
        ENTRIES_HEAD_BYTES - RECORD_HEAD_BYTES + len(blob),
        group,
        run.first,
        run.term,
        run.origin,
        run.sequence,
        run.last - run.first + 1,
        run.size,
    )
    return [head, pack_crc(crc32(blob, crc32(head))), blob]


def unpack_entries(data: bytes, group: int) -> Run:
    """One record read back alone. Raises: ValueError when it is not what was written."""
    if len(data) < ENTRIES_HEAD_BYTES:
        raise ValueError("the record is cut short")
    head = data[: ENTRIES_HEAD.size]
    kind, _, _, length, owner, *_ = ENTRIES_HEAD.unpack(head)
    if kind not in (ENTRIES, RELOCATED) or owner != group or RECORD_HEAD_BYTES + length != len(data):
        raise ValueError("another record is where this one should be")
    blob = data[ENTRIES_HEAD_BYTES:]
    if crc32(blob, crc32(head)) != _CRC.unpack_from(data, ENTRIES_HEAD.size)[0]:
        raise ValueError("checksum mismatch")
    return run_of_record(head, blob)


def first_of_record(head: bytes) -> int:
    """The first index in a record of entries."""
    return int(ENTRIES_HEAD.unpack(head)[5])


def run_of_record(head: bytes, blob: bytes) -> Run:
    """The run of a record of entries, of which it is known that it is one."""
    _, kind, _, _, _, first, term, origin, sequence, count, size = ENTRIES_HEAD.unpack(head)
    return Run(first, first + count - 1, term, EntryKind(kind), size, blob, origin, sequence)


def pack_record(kind: int, group: int, body: bytes) -> bytes:
    return RECORD_HEAD.pack(kind, 0, 0, len(body), group) + body


def pack_point(kind: int, group: int, base: int, base_term: int, snapshot: bytes) -> bytes:
    return pack_record(kind, group, _POINT.pack(base, base_term) + snapshot)


def unpack_point(body: bytes) -> tuple[int, int, bytes]:
    """Base index, base term, encoded snapshot."""
    base, base_term = _POINT.unpack_from(body)
    return base, base_term, body[_POINT.size :]


def pack_create(group: int, meta: bytes, state: HardState, snapshot: bytes) -> bytes:
    head = _CREATE.pack(state.term, state.vote, state.commit, len(meta), len(snapshot))
    return pack_record(CREATE, group, head + meta + snapshot)


def unpack_create(body: bytes) -> tuple[bytes, tuple[int, int, int], bytes]:
    """Meta, hard state, encoded snapshot. Raises: ValueError."""
    term, vote, commit, meta_bytes, snapshot_bytes = _CREATE.unpack_from(body)
    if _CREATE.size + meta_bytes + snapshot_bytes != len(body):
        raise ValueError("lengths do not add up")
    split = _CREATE.size + meta_bytes
    return body[_CREATE.size : split], (term, vote, commit), body[split:]


def pack_log_start(sequence: int) -> bytes:
    return pack_record(LOG_START, 0, _START.pack(sequence))


def unpack_log_start(body: bytes) -> int:
    return int(_START.unpack(body)[0])


def pack_hard_state_record(group: int, state: HardState) -> bytes:
    """As the hot path has it written out (batch.py)."""
    tail = HARD_STATE_BYTES - RECORD_HEAD_BYTES
    return pack_hard_state(HARD_STATE, 0, 0, tail, group, state.term, state.vote, state.commit)


def pack_meta(group: int, meta: bytes, damage: str) -> bytes:
    """A META record; with `damage`, a DAMAGED one."""
    if not damage:
        return pack_record(META, group, meta)
    reason = damage.encode()
    return pack_record(DAMAGED, group, _LENGTH.pack(len(reason)) + reason + meta)


def unpack_damaged(body: bytes) -> tuple[str, bytes]:
    """What is damaged, and the meta. Raises: ValueError, struct.error."""
    split = _LENGTH.size + _LENGTH.unpack_from(body)[0]
    if split > len(body):
        raise ValueError("lengths do not add up")
    return body[_LENGTH.size : split].decode(), body[split:]


@lru_cache(_POINTS_MAX)
def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Where a snapshot stands, as CBOR; the same bytes in the log and in snapshot files."""
    conf = snapshot.conf_state
    members = [conf.voters, conf.learners, conf.voters_outgoing, conf.learners_next]
    return cbor2.dumps([snapshot.index, snapshot.term, members, conf.auto_leave, snapshot.data])


@lru_cache(_POINTS_MAX)
def decode_snapshot(data: bytes) -> Snapshot:
    """Raises: ValueError when `data` is no snapshot point."""
    try:
        return snapshot_of(cbor2.loads(data))
    except (cbor2.CBORDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"not a snapshot point: {error}") from None


def snapshot_of(fields: object) -> Snapshot:
    """Raises: TypeError, ValueError."""
    index, term, members, auto_leave, data = cast("list[Any]", fields)
    voters, learners, outgoing, following = (tuple(int(n) for n in part) for part in members)
    conf = ConfState(voters, learners, outgoing, following, bool(auto_leave))
    if not isinstance(data, bytes):
        raise TypeError("data is not bytes")
    return Snapshot(int(index), int(term), conf, data)
