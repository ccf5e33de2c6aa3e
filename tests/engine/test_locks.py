"""Locks of containers: between threads of one process and between processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.harness import nothing_more_open

from orlop.engine import Engine, locks
from orlop.spec import cancel
from orlop.spec.errors import Aborted, DeadlineExceeded

HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_waiting_thread_is_next_without_asking_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError("a thread of the same process must not poll")

    monkeypatch.setattr(locks.time, "sleep", sleep)
    order: list[str] = []
    waiting, wake = threading.Event(), threading.Event()

    def second() -> None:
        waiting.set()
        with locks.exclusive(tmp_path / "lock"):
            order.append("second")

    with locks.exclusive(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait()
        wake.wait(0.05)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert not locks._turns


def test_many_threads_hold_it_one_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with locks.exclusive(tmp_path / "lock"):
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1
    assert not locks._turns


def test_another_process_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    words = (sys.executable, "-c", HOLD, str(path))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DeadlineExceeded, match="another operation holds lock"), locks.exclusive(path, 0.05):
            pass
        holder.stdin.close()
        with locks.exclusive(path, 30):
            pass
    assert not locks._turns


def test_a_thread_that_waits_gives_up_in_time_or_when_its_caller_goes(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def wait(timeout: float, token: cancel.Token | None) -> None:
        try:
            with cancel.under(token), locks.exclusive(tmp_path / "lock", timeout):
                pass
        except (Aborted, DeadlineExceeded) as error:
            failures.append(error)

    token = cancel.Token()
    with locks.exclusive(tmp_path / "lock"):
        late = threading.Thread(target=wait, args=(0.05, None))
        late.start()
        late.join(10)
        assert [type(error) for error in failures] == [DeadlineExceeded]
        gone = threading.Thread(target=wait, args=(60.0, token))
        gone.start()
        token.cancel()
        gone.join(10)
        assert [type(error) for error in failures] == [DeadlineExceeded, Aborted]
    with locks.exclusive(tmp_path / "lock", 1):
        pass
    assert not locks._turns


def test_an_error_lets_go(tmp_path: Path) -> None:
    with nothing_more_open():
        for _ in range(3):
            with pytest.raises(ValueError), locks.exclusive(tmp_path / "lock"):
                raise ValueError
        with pytest.raises(Exception, match="lock"), locks.exclusive(tmp_path / "missing" / "lock"):
            pass
    assert not locks._turns


@pytest.mark.root
def test_what_a_killed_process_left_of_a_container_that_is_gone_goes(tmp_path: Path) -> None:
    engine = Engine(str(tmp_path / "root"), str(tmp_path / "state"), "k8s.io")
    left = engine.paths.lock("ab" * 32)
    assert engine.pods.recover() == ([], [])
    left.touch()
    assert engine.pods.recover() == ([], [])
    assert not left.exists()
    engine.close()
