"""kill -9 of a pull between any two of its requests."""

from __future__ import annotations

import pytest
from tests.harness import Orlop, kill, wait_for
from tests.pulls import check_store

from orlop.registry.faults import Fault, Hang
from orlop.registry.server import Registry


@pytest.mark.parametrize("request_number", range(5))
def test_killed_pull_leaves_nothing_that_hinders_the_next(source: Registry, fresh: Orlop, request_number: int) -> None:
    reference = f"{source.address}/lab/redis:1"
    source.faults.add(Fault("GET .*/(manifests|blobs)/", Hang(3), count=None, skip=request_number))
    pulling = fresh.start("pull", "-q", reference)
    wanted = request_number  # those before were answered; the one that hangs is not seen yet
    wait_for(lambda: sum(seen.method == "GET" for seen in source.seen) >= wanted, "the requests before")
    with pytest.raises(Exception):  # noqa: B017 - any time-out will do: it must still be at it
        pulling.wait(0.3)
    kill(pulling.pid)
    pulling.communicate()
    source.faults.clear()
    assert fresh.out("images", "-q") == ""
    fresh("pull", "-q", reference, timeout=100)
    check_store(fresh.root)
    assert fresh.rows("SELECT * FROM leases") == []
    assert len(fresh.rows("SELECT key FROM snapshots")) == 3
    assert {row[0] for row in fresh.rows("SELECT state FROM snapshots")} == {"committed"}
    assert len([one for one in (fresh.root / "snapshots").iterdir() if one.name.isdigit()]) == 3
    assert "Redis server" in fresh.out("run", "--rm", "--network", "none", reference, "redis-server", "--version")
    fresh("rmi", reference)
    assert list((fresh.root / "content/blobs/sha256").iterdir()) == []
    assert fresh.rows("SELECT * FROM leases") == fresh.rows("SELECT * FROM snapshots") == []
