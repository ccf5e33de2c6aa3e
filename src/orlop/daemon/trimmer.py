"""Memory that calls have used and freed goes back to the machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from orlop.sys import heaps

DELAY = 5.0  # seconds after a call's end; what others free meanwhile goes along
Submit = Callable[[None, Callable[[], None]], object]


class Trimmer:
    """Has a thread return freed memory after calls, at most every `DELAY` seconds: a millisecond of work. While there
    are no calls nothing wakes up. Belongs to the loop's thread.

    C libraries keep what was freed for whoever needs as much again. A daemon answers most calls with little, and some
    with a lot: after the lists of a full node it would keep two megabytes, after requests of 10 MB a hundred and more.
    """

    def __init__(self, submit: Submit, give_back: Callable[[], None] = heaps.give_back) -> None:
        self._submit = submit
        self._give_back = give_back
        self._timer: asyncio.TimerHandle | None = None

    def call_ended(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self._begin)

    def _begin(self) -> None:
        self._timer = None
        with contextlib.suppress(RuntimeError):  # the threads have ended: so does the daemon
            self._submit(None, self._give_back)
