from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from tests.harness import wait_for

from orlop.shim import logs
from orlop.wire.logline import encode_line, format_time


def write(path: Path, first: int, last: int, stream: str = "stdout") -> None:
    with path.open("ab") as file:
        for i in range(first, last):
            file.write(encode_line(f"line {i}\n".encode(), stream, format_time(i * 10**9)))


def numbers(path: Path, **selection: object) -> list[int]:
    return [int(line.text.split()[1]) for line in logs.read(path, **selection)]  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Lines 0 to 29 in three files."""
    path = tmp_path / "c.log"
    write(tmp_path / "c.log.2", 0, 10)
    write(tmp_path / "c.log.1", 10, 20)
    write(path, 20, 30)
    return path


def test_reads_rotated_files_oldest_first(log: Path) -> None:
    assert numbers(log) == list(range(30))


def test_gap_in_the_numbers_is_passed_over(log: Path) -> None:
    log.with_name("c.log.1").rename(log.with_name("c.log.4"))
    assert numbers(log) == [*range(10, 20), *range(10), *range(20, 30)]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 25, 30, 99])
def test_tail_counts_across_files(log: Path, count: int) -> None:
    assert numbers(log, tail=count) == list(range(max(0, 30 - count), 30))


def test_tail_reads_only_the_end(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    write(path, 0, 20000)
    began = time.thread_time()  # of the processor: what else the machine does counts for nothing
    assert numbers(path, tail=2) == [19998, 19999]
    assert time.thread_time() - began < 0.1


def test_tail_across_block_boundaries(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    write(path, 0, 3000)
    for count in (700, 1000, 2999, 3000):
        assert numbers(path, tail=count) == list(range(3000 - count, 3000))


def test_since_and_until(log: Path) -> None:
    assert numbers(log, since=25 * 10**9) == list(range(25, 30))
    assert numbers(log, since="1970-01-01T00:00:05Z", until="8") == [5, 6, 7, 8]


def test_streams_apart(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    write(path, 0, 2)
    write(path, 2, 4, "stderr")
    assert numbers(path, stdout=False) == [2, 3]
    assert numbers(path, stderr=False) == [0, 1]


def test_no_log_is_an_empty_log(tmp_path: Path) -> None:
    assert numbers(tmp_path / "none" / "c.log") == []


def test_damage_is_noted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    write(path, 0, 1)
    with path.open("ab") as file:
        file.write(b'{"log":"half\n' + b"x" * 300_000 + b"\n")
    write(path, 1, 2)
    with path.open("ab") as file:
        file.write(b'{"log":"cu')
    lines = list(logs.read(path))
    assert [line.text.split()[0] for line in lines] == ["line", "orlop:", "orlop:", "line", "orlop:"]
    assert "300000 bytes" in lines[2].text
    assert "cut off" in lines[4].text


def follow(path: Path, state: Path, got: list[int]) -> threading.Thread:
    def read() -> None:
        for line in logs.read(path, follow=True, directory=state):
            got.append(int(line.text.split()[1]))

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def test_follows_across_rotation_until_the_end(tmp_path: Path) -> None:
    import fcntl

    path, state, got = tmp_path / "log" / "c.log", tmp_path / "state", []
    path.parent.mkdir()
    state.mkdir()
    lock = os.open(state / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    write(path, 0, 5)
    thread = follow(path, state, got)
    for i in range(5, 500, 5):
        write(path, i, i + 5)
        if i % 50 == 0:
            for k in (3, 2, 1):
                source = path.with_name(f"c.log.{k - 1}") if k > 1 else path
                if source.exists():
                    source.rename(path.with_name(f"c.log.{k}"))
            # never more than two files behind, as the third is lost
            wait_for(lambda seen=i - 50: len(got) >= seen, "the reader")
    (state / "exit").write_text("0 0 1 0\n")
    os.close(lock)
    thread.join(10)
    assert not thread.is_alive()
    assert got == list(range(500))
