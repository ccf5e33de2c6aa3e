"""The database is made by whoever comes first, also when many come at once."""

from __future__ import annotations

import threading
from pathlib import Path

from orlop.metadata.database import Database


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
