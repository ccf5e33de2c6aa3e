"""Signals while a process is in the foreground: kept for it, and nobody else is touched by them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness import nothing_more_open

from orlop.runtime.foreground import Foreground

_ALONE = "ORLOP_TEST_ALONE"


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest) -> None:
    """A process of its own: signals to this one might reach a thread that an earlier test has left, as gRPC's do."""
    if os.environ.get(_ALONE):
        return
    words = [sys.executable, "-m", "pytest", "-q", f"{Path(__file__)}::{request.node.name}"]
    done = subprocess.run(words, env=os.environ | {_ALONE: "1"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    pytest.skip("passed in a process of its own")


def test_a_signal_from_before_the_process_is_there_reaches_it() -> None:
    with Foreground() as foreground:
        os.kill(os.getpid(), signal.SIGUSR1)
        script = "trap 'exit 5' USR1; while :; do sleep 0.01; done"
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ, setsigmask=())
        assert foreground.wait(pid) in (5, 128 + signal.SIGUSR1)  # it may be told before it has set its trap


def test_afterwards_signals_are_as_before_and_none_is_left() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        with Foreground():
            os.kill(os.getpid(), signal.SIGUSR2)
            assert heard == []
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask | {signal.SIGUSR1}
        assert heard == []
        os.kill(os.getpid(), signal.SIGUSR2)
        assert heard == [signal.SIGUSR2]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGUSR2, before)


def test_descriptors_are_closed() -> None:
    with nothing_more_open(), Foreground():
        pass
