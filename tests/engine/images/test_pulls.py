"""Pulls that are under way are seen by others, and followed to their end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness import wait_for

from orlop.engine import locks
from orlop.engine.images import progress as told
from orlop.engine.images.images import Images
from orlop.engine.images.progress import Progress, nobody
from orlop.engine.images.pulls import PullRecord, recorded, under_way
from orlop.engine.records import Owner
from orlop.registry.faults import Corrupt, Fault
from orlop.registry.server import Registry
from orlop.spec.errors import NotFound, OrlopError

Make = Callable[..., Any]
DIGEST = "sha256:" + "a" * 64


def test_a_pull_is_seen_while_it_lasts_and_followed_to_its_end(tmp_path: Path) -> None:
    directory, passed, seen = tmp_path / "pulls", [], []
    steps = [Progress(DIGEST, told.DOWNLOADING, n, 9) for n in range(10)] + [Progress(DIGEST, told.DONE, 9, 9)]
    with recorded(directory, "docker.io/library/x:1", "k8s.io", passed.append) as recording:
        (pull,) = under_way(directory)
        assert (pull.record.reference, pull.record.namespace) == ("docker.io/library/x:1", "k8s.io")
        assert pull.record.owner == locks.this_process()
        ended: list[PullRecord] = []
        thread = threading.Thread(target=lambda: ended.append(pull.follow(seen.append)))
        thread.start()
        for step in steps[:-2]:
            recording(step)
        recording(steps[-2])
        wait_for(lambda: steps[-2] in seen, "the last step of the download")
        recording(steps[-1])
        recording.end(DIGEST)
    thread.join(5)
    pull.close()
    assert passed == steps
    assert seen[-1] == steps[-1]
    assert len(seen) < len(steps)  # written a few times a second only
    assert (ended[0].digest, ended[0].error) == (DIGEST, "")
    assert os.listdir(directory) == []
    assert under_way(directory) == []


def test_the_last_of_many_quick_steps_is_seen_though_nothing_follows(tmp_path: Path) -> None:
    with recorded(tmp_path, "x", "default", nobody) as recording:
        for number in range(100):
            recording(Progress(DIGEST, told.DOWNLOADING, number, 100))

        def steps() -> tuple[Progress, ...]:
            (pull,) = under_way(tmp_path)
            pull.close()
            return pull.record.steps

        wait_for(lambda: steps() == (Progress(DIGEST, told.DOWNLOADING, 99, 100),), "the last step")
        recording.end(DIGEST)


@pytest.mark.parametrize(
    ("error", "text"), [(NotFound("no such thing"), "no such thing"), (KeyError("x"), "interrupted (KeyError)")]
)
def test_a_pull_that_fails_says_why(tmp_path: Path, error: Exception, text: str) -> None:
    found = []

    def fail() -> None:
        with recorded(tmp_path, "x", "default", nobody):
            found.extend(under_way(tmp_path))
            raise error

    with pytest.raises(type(error)):
        fail()
    (pull,) = found
    assert pull.follow(nobody).error == text
    pull.close()


def test_what_a_killed_process_left_is_known_and_removed(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = Owner(pid=child.pid, start_time=locks.start_time(child.pid) or 0, boot_id=locks.boot_id())
    record = PullRecord(reference="x", namespace="default", owner=owner, began=1.0)
    (tmp_path / "one").write_bytes(msgspec.json.encode(record))
    other = msgspec.structs.replace(record, owner=msgspec.structs.replace(owner, start_time=1))
    (tmp_path / "two").write_bytes(msgspec.json.encode(other))
    (pull,) = under_way(tmp_path)  # the other's number has become another process's
    assert os.listdir(tmp_path) == ["one"]
    child.kill()
    child.wait()
    assert pull.follow(nobody).error == f"process {child.pid}, which pulled it, is gone"
    pull.close()
    assert under_way(tmp_path) == []
    assert os.listdir(tmp_path) == []


def test_what_is_no_record_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "half").write_bytes(b'{"reference": "x"')
    (tmp_path / "empty").touch()
    assert under_way(tmp_path) == []


def test_a_record_that_cannot_be_written_hinders_no_pull(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with recorded(tmp_path / "file" / "pulls", "x", "default", nobody) as recording:
        recording(Progress(DIGEST, told.DONE))
        recording.end(DIGEST)


@pytest.mark.root
def test_pulling_records_the_outcome(
    images: Images, publish: Make, sample: Make, registry: Registry, tmp_path: Path
) -> None:
    images.pulls = tmp_path / "pulls"
    made = sample({"etc/": b"", "etc/file": b"x" * 10000})
    name = publish("app:1", made)
    seen: list[PullRecord] = []

    def look(_: Progress) -> None:
        for pull in images.under_way():
            seen.append(pull.record)
            pull.close()

    images.pull(name, progress=look)
    assert {record.reference for record in seen} == {name}
    assert os.listdir(images.pulls) == []
    registry.faults.add(Fault(r"GET .*/blobs/", Corrupt()))
    with pytest.raises(OrlopError):
        images.pull(publish("app:2", sample({"other": b"y" * 10000})))
    assert os.listdir(images.pulls) == []
