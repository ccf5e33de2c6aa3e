"""Requests to a registry as the verbs need them: with authentication, and repeated where that is sensible."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

import msgspec

from orlop.distribution.auth import Authorizer
from orlop.distribution.errors import (
    MAX_ERROR_BODY,
    Asked,
    Transient,
    from_status,
)
from orlop.distribution.hosts import Endpoint
from orlop.distribution.transport import Response, Transport, Upload, discard
from orlop.spec.errors import OrlopError
from orlop.spec.reference import Reference

Progress = Callable[[str, int, int, str], None]
_AUTH_ROUNDS = 2  # a cached token that is refused, then a fresh one


class Retry(msgspec.Struct, frozen=True):
    """How often and how long to try again. `patience` is the longest wait, in seconds, that a server's Retry-After
    can ask for; more, and the error is shown at once. `sleep` is there for tests."""

    attempts: int = 5
    base: float = 0.1
    longest: float = 5
    patience: float = 20
    sleep: Callable[[float], None] = time.sleep

    def delay(self, attempt: int, asked: float | None = None) -> float | None:
        """Seconds to wait after failure number `attempt` (from 0), or None to give up. Jitter keeps the parallel
        fetches of one image from coming back in step."""
        if attempt + 1 >= self.attempts:
            return None
        if asked is not None:
            return asked if asked <= self.patience else None
        import random  # seldom needed

        return min(self.longest, self.base * 2.0**attempt) * random.uniform(0.75, 1.25)

    def wait(self, attempt: int, asked: float | None = None) -> bool:
        """Sleep before the next attempt; False when there is none."""
        delay = self.delay(attempt, asked)
        if delay is None:
            return False
        self.sleep(delay)
        return True


class Session(msgspec.Struct, frozen=True):
    transport: Transport
    authorizer: Authorizer
    retry: Retry = Retry()

    def request(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        asked: Asked,
        *,
        scopes: tuple[str, ...] = (),
        accepted: Collection[int] = (200,),
        headers: Mapping[str, str] | None = None,
        body: bytes | Upload | None = None,
        repeat: bool = True,
    ) -> Response:
        """An answer whose status is `accepted`, its body unread; anything else is raised as what it means.

        `url` is absolute, or an API path that begins with `/`. What is `Transient` is tried again, unless `repeat` is
        false: a step of an upload has an effect that must not come twice.
        """
        target = self.transport.url(endpoint, url) if url.startswith("/") else url
        attempt = 0
        while True:
            try:
                response = self._authorized(endpoint, method, target, asked, scopes, headers or {}, body)
                if response.status in accepted:
                    return response
                raise _refusal(response, asked)
            except Transient as error:
                if not repeat or not self.retry.wait(attempt, error.retry_after):
                    raise
            attempt += 1

    def _authorized(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        asked: Asked,
        scopes: tuple[str, ...],
        headers: Mapping[str, str],
        body: bytes | Upload | None,
    ) -> Response:
        """Send, and on a 401 come back with what it asks for."""
        own = url.partition("://")[2].partition("/")[0] == endpoint.authority
        header = self.authorizer.known(endpoint, scopes) if own else ""
        for _ in range(_AUTH_ROUNDS):
            sent = dict(headers) | ({"Authorization": header} if header else {})
            response = self.transport.send(endpoint, method, url, sent, body)
            if response.status != 401 or not own:
                return response
            challenge = response.headers.get("WWW-Authenticate", "")
            try:
                answer = self.authorizer.answer(endpoint, challenge, scopes, header, asked)
            except BaseException:
                discard(response)
                raise
            if not answer or answer == header:
                return response
            discard(response)
            header = answer
        return self.transport.send(endpoint, method, url, dict(headers) | {"Authorization": header}, body)


def _refusal(response: Response, asked: Asked) -> OrlopError:
    """The error for an answer. Its body may break too; the status alone is enough then."""
    try:
        body = response.read(MAX_ERROR_BODY, decode_content=False)
    except Exception:  # whatever breaks here, the refusal is what the caller must see
        body = b""
    response.close()
    return from_status(response.status, response.headers, body, asked)


class Remote(msgspec.Struct, frozen=True):
    """A repository at its endpoints: what every verb works on."""

    session: Session
    endpoints: tuple[Endpoint, ...]
    reference: Reference

    def able(self, capability: str) -> tuple[Endpoint, ...]:
        return tuple(e for e in self.endpoints if capability in e.capabilities)

    def asked(self, what: str, endpoint: Endpoint, action: str = "pull") -> Asked:
        return Asked(what, self.reference.familiar_name, endpoint.authority, action)

    def path(self, endpoint: Endpoint, rest: str) -> str:
        """The API path of something in the repository; a mirror is told which registry is meant."""
        namespace = f"{'&' if '?' in rest else '?'}ns={endpoint.namespace}" if endpoint.namespace else ""
        return f"/{self.reference.path}/{rest}{namespace}"

    def scopes(self, actions: str, *also: str) -> tuple[str, ...]:
        """Token scopes for this repository, and `pull` on others that blobs are mounted from."""
        others = sorted({f"repository:{path}:pull" for path in also if path != self.reference.path})
        return (f"repository:{self.reference.path}:{actions}", *others)
