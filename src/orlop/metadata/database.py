"""The store's one SQLite database, shared by every process that works on the same root.

WAL mode lets a reader go on beside the one writer. Every change happens in `transaction`, which takes the write lock
at its start (BEGIN IMMEDIATE), so that what was read inside it is still true when it commits. Records are small JSON
documents in a `record` column, beside the columns that are looked up or must be unique.
"""

from __future__ import annotations

import os
import time
from _thread import _local  # threading.local, without what else is in threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orlop.metadata.schema import MIGRATIONS
from orlop.spec.errors import FailedPrecondition, Internal, OrlopError, ResourceExhausted, Unavailable
from orlop.standins import deferred

with deferred():
    import sqlite3

BUSY_TIMEOUT = 30.0  # seconds that a writer waits for another one
KEPT = 4  # connections that stay open when nobody uses them
RESERVE = 1 << 20  # bytes of the file that is given up on a full disk


class Database:
    """A handle on `orlop.db` for any number of threads. Work has a connection to itself, of the free ones the one that
    was used last, and few stay open: each costs a tenth of a megabyte. Use `close` or a `with` block to end those."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._free: list[sqlite3.Connection] = []
        self._pid = os.getpid()
        self._mine = _local()  # .connection: of the transaction that this thread is in

    def read(self, sql: str, arguments: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows of one query, each a `sqlite3.Row` (by index and by column name)."""
        within: sqlite3.Connection | None = getattr(self._mine, "connection", None)
        connection = within or self._take()
        try:
            return connection.execute(sql, arguments).fetchall()
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error
        finally:
            if within is None:
                self._put_back(connection)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One atomic change. An exception rolls it back. Transactions of one thread do not nest."""
        connection = self._take()
        make_room(self.path)
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._mine.connection = connection
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error
        finally:
            self._mine.connection = None
            self._put_back(connection)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        if self._pid == os.getpid():
            while self._free:
                self._free.pop().close()

    def _take(self) -> sqlite3.Connection:
        if self._pid != os.getpid():  # forked: the mother's are kept and never used, for closing would end her locks
            self._mothers, self._free, self._pid = self._free, [], os.getpid()
        try:
            return self._free.pop()
        except IndexError:
            return self._open()

    def _put_back(self, connection: sqlite3.Connection) -> None:
        if len(self._free) < KEPT and not connection.in_transaction:
            self._free.append(connection)
        else:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        make_room(self.path)
        with _errors(self.path):
            connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA foreign_keys=ON")
            if connection.execute("PRAGMA user_version").fetchone()[0] != len(MIGRATIONS):
                _migrate(connection, self.path)
        return connection


def make_room(database: Path) -> None:
    """Keep a file in reserve beside the database, and give it up when the disk is full: without room for its journal
    no record could be changed, so that nothing could be removed either."""
    try:
        disk = os.statvfs(database.parent)
        free = disk.f_bavail * disk.f_frsize
        reserve = f"{database}.reserve"
        if free < RESERVE:
            os.unlink(reserve)
        elif free > 16 * RESERVE and not os.path.exists(reserve):
            _reserve(reserve)
    except OSError:  # what is missing or can't be is no loss: it is the database that says what fails
        pass


def _reserve(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, RESERVE)
    finally:
        os.close(fd)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    _use_wal(connection)
    connection.execute("BEGIN IMMEDIATE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]  # again: another process may have been faster
    if version > len(MIGRATIONS):
        connection.rollback()
        raise FailedPrecondition(f"{path}: made by a newer orlop (schema {version}, this one knows {len(MIGRATIONS)})")
    for script in MIGRATIONS[version:]:
        for statement in script.split(";"):
            if statement.strip():
                connection.execute(statement)
    connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
    connection.commit()


def _use_wal(connection: sqlite3.Connection) -> None:
    """Change the journal's mode. SQLite does not wait for others where that could be a deadlock, as when several
    processes make the database at once: then it is tried again."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error, path) from error


def _translated(error: sqlite3.Error, path: Path) -> OrlopError:
    text = f"database {path}: {str(error).lower()}"
    if "locked" in text:
        return Unavailable(text)
    if "full" in text or "disk i/o" in text:
        return ResourceExhausted(text)
    return Internal(text)
