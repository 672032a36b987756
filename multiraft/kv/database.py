"""The SQLite file of a host: connections, statements, and what survives a power cut.

**Durability.** The file is in WAL mode with `synchronous=NORMAL`: a commit appends frames to the
`-wal` file and syncs nothing. SQLite checksums every frame, chained to the one before it, and
reads the `-wal` file only up to the last commit frame whose chain is whole. So a power cut, in
whatever order the disk wrote the pages, leaves the store at *some* earlier commit: never between
two, as nothing of a transaction counts without its commit frame. It is never corrupt either,
because NORMAL (unlike OFF) syncs the `-wal` file before a checkpoint copies its pages into the
main file, and the main file before the `-wal` file is overwritten (sqlite.org/wal.html, "Ways to
lose durability", and the documentation of PRAGMA synchronous). Falling back is harmless: rows and
applied indexes fall back together, and the Raft log still has every entry behind the last
`sync`, which commits once with `synchronous=FULL` and so syncs all that was committed before it.

**One step per write.** Python lets go of its global lock around every step of a statement, and to
get it back waits for up to `sys.getswitchinterval()` (5 ms) while another thread computes.
`executemany` takes a step per row: 260,000 rows/s in an idle process, 600 in one whose main
thread is busy, as a loaded host's is. Therefore a batch goes in as one statement of many rows,
through a view whose triggers put each row where it belongs, and reads come out as one row of
concatenated text: 77,000 rows/s beside a busy thread, with the same 160,000 in an idle process.
A single statement is a transaction of its own, so BEGIN and COMMIT are not even needed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from multiraft.errors import StorageFailed, StorageFull
from multiraft.types import GroupId, Index

Row = tuple[GroupId, bytes | None, bytes | Index | None]
"""(group, key, value) sets, (group, key, None) deletes, (group, None, index) says that the group
has applied up to `index`."""

ROWS_MAX: Final = 4096
"""Rows in one statement: three variables each stay far below SQLite's limit of 32,766."""

SCHEMA_VERSION: Final = 1
SCHEMA: Final = """
CREATE TABLE kv (grp INTEGER, key BLOB, value BLOB NOT NULL, PRIMARY KEY (grp, key)) WITHOUT ROWID;
CREATE TABLE applied (grp INTEGER PRIMARY KEY, idx INTEGER NOT NULL);
CREATE TABLE synced (count INTEGER NOT NULL);
INSERT INTO synced VALUES (0);
CREATE VIEW change AS SELECT grp, key, value FROM kv;
CREATE TRIGGER put INSTEAD OF INSERT ON change WHEN new.key IS NOT NULL AND new.value IS NOT NULL
BEGIN
    INSERT INTO kv VALUES (new.grp, new.key, new.value) ON CONFLICT DO UPDATE SET value = excluded.value;
END;
CREATE TRIGGER remove INSTEAD OF INSERT ON change WHEN new.key IS NOT NULL AND new.value IS NULL
BEGIN
    DELETE FROM kv WHERE grp = new.grp AND key = new.key;
END;
CREATE TRIGGER progress INSTEAD OF INSERT ON change WHEN new.key IS NULL AND new.value IS NOT NULL
BEGIN
    INSERT INTO applied VALUES (new.grp, new.value) ON CONFLICT DO UPDATE SET idx = excluded.idx;
END;
"""

WAL_PAGES: Final = 4096
"""Pages of 4 KiB in the `-wal` file after which SQLite checkpoints by itself: 16 MiB."""

# `{below}` is a condition on the end of the range, or nothing.
COUNT_ROWS: Final = """
SELECT count(*), count(CASE WHEN total <= ? THEN 1 END) FROM (
    SELECT sum(bytes) OVER (ORDER BY key ROWS UNBOUNDED PRECEDING) AS total FROM (
        SELECT key, length(key) + length(value) AS bytes FROM kv
        WHERE grp = ? AND key >= ? {below} ORDER BY key LIMIT ?))
"""
READ_ROWS: Final = """
SELECT group_concat(hex(key) || ':' || hex(value)) FROM (
    SELECT key, value FROM kv WHERE grp = ? AND key >= ? {below} ORDER BY key LIMIT ?)
"""


@attrs.define
class Block:
    """Consecutive rows of one group, in key order."""

    items: list[tuple[bytes, bytes]]
    complete: bool
    """False: the range goes on behind the last row."""


@functools.cache
def _change_statement(rows: int) -> str:
    return "INSERT INTO change VALUES " + ",".join(["(?,?,?)"] * rows)


class Database:
    """One writer and a pool of readers on one file. Any thread may call any method.

    Raises:
        StorageFailed: From every method, when SQLite does. StorageFull when the disk is.
    """

    def __init__(self, path: str, *, cache_bytes: int) -> None:
        self.path = path
        self._write_lock = threading.Lock()
        self._readers: list[sqlite3.Connection] = []
        self._unsynced = True
        self._closed = False
        with _storage_errors(path):
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            self._writer = self._connect()
            self._writer.execute(f"PRAGMA cache_size = -{max(cache_bytes // 1024, 1)}")
            self._writer.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
            self._create_schema()

    def _connect(self) -> sqlite3.Connection:
        # Each connection is used by one thread at a time, though not always by the same one.
        connection = sqlite3.connect(
            self.path, timeout=30, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _create_schema(self) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._writer.executescript(
                f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
            )
            self._sync()
            _sync_folder(os.path.dirname(os.path.abspath(self.path)))
        elif version != SCHEMA_VERSION:
            raise StorageFailed(f"{self.path} has format {version}; this version reads {SCHEMA_VERSION}")

    # --- writing -----------------------------------------------------------------------------

    def write(self, rows: Sequence[Row]) -> None:
        """Commit `rows`, all or none."""
        with self._write_lock, _storage_errors(self.path):
            self._unsynced = True
            if len(rows) <= ROWS_MAX:
                self._insert(rows)
                return
            with self._transaction():
                for start in range(0, len(rows), ROWS_MAX):
                    self._insert(rows[start : start + ROWS_MAX])

    def replace(self, group: GroupId, blocks: Iterator[Sequence[Row]]) -> None:
        """Replace all rows of `group` by those of `blocks`, all or none, durably."""
        with self._write_lock, _storage_errors(self.path):
            self._unsynced = True
            with self._transaction():
                self._writer.execute("DELETE FROM kv WHERE grp = ?", (group,))
                self._writer.execute("DELETE FROM applied WHERE grp = ?", (group,))
                for rows in blocks:
                    self._insert(rows)
            self._sync()

    def sync(self) -> None:
        """Return when everything that was committed would survive a power cut."""
        with self._write_lock, _storage_errors(self.path):
            if self._unsynced:
                self._sync()

    def _sync(self) -> None:
        # The setting cannot be changed within a transaction, so a tiny one of its own it is. The
        # sync covers the file and with it every frame before this commit's.
        self._writer.execute("PRAGMA synchronous = FULL")
        try:
            self._writer.execute("UPDATE synced SET count = count + 1")
        finally:
            self._writer.execute("PRAGMA synchronous = NORMAL")
        self._unsynced = False

    def _insert(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        # Padded to a power of two with rows that no trigger minds: few statements to prepare.
        places = 1 << (len(rows) - 1).bit_length()
        values: list[object] = [value for row in rows for value in row]
        values += (None,) * (3 * (places - len(rows)))
        self._writer.execute(_change_statement(places), values)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:  # some errors make SQLite roll back by itself
                self._writer.execute("ROLLBACK")
            raise

    # --- reading -----------------------------------------------------------------------------

    def get(self, group: GroupId, key: bytes) -> bytes | None:
        with self._reader() as reader:
            found = reader.execute("SELECT value FROM kv WHERE grp = ? AND key = ?", (group, key)).fetchone()
        return None if found is None else found[0]

    def applied(self, group: GroupId) -> Index:
        """How far `group` has applied; 0 if it is not here."""
        with self._reader() as reader:
            return read_applied(reader, group)

    def scan(self, group: GroupId, start: bytes, end: bytes | None, limit: int, max_bytes: int) -> Block:
        with self._reader() as reader:
            # Two statements that must see one state: the first says how much the second may read.
            reader.execute("BEGIN")
            try:
                return read_block(reader, group, start, end, limit, max_bytes)
            finally:
                reader.execute("COMMIT")

    def view(self) -> sqlite3.Connection:
        """A new connection that sees the store as it is now, until it is closed.

        SQLite cannot reuse the `-wal` file while a view holds on to a part of it.
        """
        with _storage_errors(self.path):
            connection = self._connect()
            connection.execute("BEGIN")
            # BEGIN alone is lazy: only the first read pins the state.
            connection.execute("SELECT count FROM synced").fetchone()
            return connection

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        with _storage_errors(self.path):
            # One per thread that reads at the same time: list.pop and append are atomic.
            try:
                reader = self._readers.pop()
            except IndexError:
                reader = self._connect()
            try:
                yield reader
            except BaseException:
                reader.close()
                raise
            if self._closed:
                reader.close()
            else:
                self._readers.append(reader)

    def close(self) -> None:
        """Close the file; SQLite folds the `-wal` file into it. Nothing may be called after."""
        self._closed = True
        with self._write_lock:
            for reader in self._readers:
                reader.close()
            self._readers.clear()
            self._writer.close()


def _sync_folder(folder: str) -> None:
    """Make the names in `folder` durable: without them the files might as well not be there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_applied(reader: sqlite3.Connection, group: GroupId) -> Index:
    found = reader.execute("SELECT idx FROM applied WHERE grp = ?", (group,)).fetchone()
    return 0 if found is None else found[0]


def read_block(
    reader: sqlite3.Connection, group: GroupId, start: bytes, end: bytes | None, limit: int, max_bytes: int
) -> Block:
    """Up to `limit` rows in [start, end) of about `max_bytes` together, but at least one.

    Call it in a transaction: it takes two statements.
    """
    below, bounds = ("", ()) if end is None else ("AND key < ?", (end,))
    there, fitting = reader.execute(
        COUNT_ROWS.format(below=below), (max_bytes, group, start, *bounds, limit + 1)
    ).fetchone()
    take = min(limit, max(fitting, 1), there)
    if take == 0:
        return Block([], complete=True)
    (text,) = reader.execute(READ_ROWS.format(below=below), (group, start, *bounds, take)).fetchone()
    pairs = (row.split(":") for row in text.split(","))
    # SQLite documents no order for group_concat, though it keeps that of the rows it is given.
    items = sorted((bytes.fromhex(key), bytes.fromhex(value)) for key, value in pairs)
    return Block(items, complete=take == there)


@contextlib.contextmanager
def _storage_errors(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        kind = StorageFull if error.sqlite_errorcode == sqlite3.SQLITE_FULL else StorageFailed
        raise kind(f"{path}: {error}") from error
