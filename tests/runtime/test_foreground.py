"""Signals while a process is in the foreground: kept for it, and nobody else is touched by them."""

from __future__ import annotations

import os
import signal

from orlop.runtime.foreground import Foreground


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
    before = os.listdir("/proc/self/fd")
    with Foreground():
        pass
    assert os.listdir("/proc/self/fd") == before
