"""The ids of this run's ordinary user, which no other run on the machine has at the same time."""

from __future__ import annotations

import socket

COUNT = 65536  # subordinate ids
_RUNS = 100  # at once


def _claim() -> tuple[int, socket.socket]:
    """A number that is this run's until its process ends: an abstract socket's name can be bound once, and goes with
    it (unix(7))."""
    for number in range(_RUNS):
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            held.bind(f"\0orlop-test-user-{number}")
        except OSError:
            held.close()
            continue
        return number, held
    raise RuntimeError(f"{_RUNS} runs have a user each already")


_NUMBER, _HELD = _claim()
UID = GID = 12345 + _NUMBER
FIRST = 300000 + _NUMBER * COUNT
