"""Tokens: each good for one request, once, and for a short time. Nothing is read or written here."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from orlop.cri.streaming.backend import Request
from orlop.spec.errors import ResourceExhausted


class Tokens:
    """Requests that wait for their client. `now`: seconds of a clock that never goes back."""

    def __init__(self, now: Callable[[], float], lifetime: float, most: int) -> None:
        self._now = now
        self._lifetime = lifetime
        self._most = most
        self._waiting: dict[str, tuple[float, Request]] = {}  # oldest first

    def issue(self, request: Request) -> str:
        """A token for the request. Raises ResourceExhausted where too many wait."""
        self._expire()
        if len(self._waiting) >= self._most:
            raise ResourceExhausted(f"{self._most} streaming requests wait for their clients: try again later")
        token = uuid.uuid4().hex  # 122 bits of the kernel's randomness: whoever can guess it has the container
        self._waiting[token] = (self._now() + self._lifetime, request)
        return token

    def take(self, token: str) -> Request | None:
        """The request, for the first who asks in time."""
        self._expire()
        _, request = self._waiting.pop(token, (0.0, None))
        return request

    def _expire(self) -> None:
        now = self._now()
        while self._waiting:
            token = next(iter(self._waiting))
            if self._waiting[token][0] > now:
                return
            del self._waiting[token]
