"""Whether whoever asked for the work still wants it.

A front that may lose its caller runs the work `under` a token and cancels that when the caller goes. Whatever waits for
something outside asks `check` now and then. Work without a token, as a command line's, is never cancelled.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from orlop.spec.errors import Aborted

SLICE = 0.1  # seconds: how long a wait lasts before it asks again


class Token:
    """Cancelled once, by any thread, for good; or by itself, after `seconds`, or together with `above`."""

    __slots__ = ("_above", "_until", "cancelled")

    def __init__(self, seconds: float | None = None, above: Token | None = None) -> None:
        self.cancelled = False
        self._above = above
        self._until = None if seconds is None else time.monotonic() + seconds

    @property
    def late(self) -> bool:
        """Whether its own time is over."""
        return self._until is not None and time.monotonic() > self._until

    def cancel(self) -> None:
        self.cancelled = True

    def check(self) -> None:
        """Raises Aborted where nobody wants the work any more."""
        if self.cancelled:
            raise Aborted("the caller has gone")
        if self.late:
            raise Aborted("it took too long")
        if self._above is not None:
            self._above.check()


_current: ContextVar[Token | None] = ContextVar("orlop-cancel", default=None)


@contextmanager
def under(token: Token | None) -> Iterator[None]:
    """The block's work, in this thread, belongs to a token; None: it is done whatever happens, as what cleans up is."""
    before = _current.set(token)
    try:
        yield
    finally:
        _current.reset(before)


def current() -> Token | None:
    """The token of the work that this thread does, for threads that it has do parts of it."""
    return _current.get()


def check() -> None:
    """Raises Aborted where nobody wants this thread's work any more."""
    if (token := _current.get()) is not None:
        token.check()


def patience(left: float | None) -> float | None:
    """How long to wait at once, of `left` seconds (None: no end); `check` comes after it."""
    if _current.get() is None:
        return left
    return SLICE if left is None else min(left, SLICE)
