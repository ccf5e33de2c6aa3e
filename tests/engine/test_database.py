"""The database is made by whoever comes first, also when many come at once."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orlop.metadata.database import KEPT, Database


def test_many_make_it_at_once(tmp_path: Path) -> None:
    for round_ in range(20):
        failures: list[BaseException] = []

        def use(path: Path = tmp_path / f"{round_}.db", failures: list[BaseException] = failures) -> None:
            try:
                Database(path).read("SELECT count(*) FROM containers")
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def _journals(directory: Path) -> int:
    """Descriptors of this process for the journal in there; of the database SQLite keeps some that are closed."""
    found = 0
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += os.readlink(fd) == str(directory / "db-wal")
    return found


def test_threads_share_a_few_connections(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    together = threading.Barrier(12)

    def work() -> None:
        with database.transaction() as connection:
            connection.execute("INSERT INTO kept (name) VALUES (?)", (threading.current_thread().name,))
            inside = database.read("SELECT name FROM kept WHERE name = ?", (threading.current_thread().name,))
            assert len(inside) == 1, "what a transaction has written is read in it"

    with database.transaction() as connection:
        connection.execute("CREATE TABLE kept (name TEXT)")
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: (together.wait(), work()), range(12)))
        assert len(database.read("SELECT name FROM kept")) == 12
        assert 0 < _journals(tmp_path) <= KEPT
    database.close()
    assert _journals(tmp_path) == 0
    assert len(database.read("SELECT name FROM kept")) == 12, "and opens again"
    database.close()


def test_a_reader_beside_a_transaction_sees_what_was_before(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    with database.transaction() as connection:
        connection.execute("CREATE TABLE kept (name TEXT)")
    with ThreadPoolExecutor(1) as pool, database.transaction() as connection:
        connection.execute("INSERT INTO kept (name) VALUES ('new')")
        assert pool.submit(database.read, "SELECT name FROM kept").result() == []
        assert len(database.read("SELECT name FROM kept")) == 1
    assert len(database.read("SELECT name FROM kept")) == 1
    with contextlib.suppress(ZeroDivisionError), database.transaction() as connection:
        connection.execute("DELETE FROM kept")
        raise ZeroDivisionError
    assert len(database.read("SELECT name FROM kept")) == 1
    database.close()
