"""Authentication against a registry: from a 401's challenge to the `Authorization` header of the next request.

The flow is the distribution project's token specification: Basic sends the credentials themselves; Bearer asks the
realm for a token, with GET and Basic credentials (or none), or with POST and a refresh token (OAuth 2).
"""

from __future__ import annotations

import base64
import re
import threading
import time
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from orlop.distribution.challenge import Challenge, parse_challenges
from orlop.distribution.credentials import Credential, Credentials
from orlop.distribution.errors import Asked, from_status
from orlop.distribution.hosts import Endpoint, is_insecure
from orlop.distribution.transport import Response, Transport, read_whole
from orlop.spec.document import known
from orlop.spec.errors import PermissionDenied, Unavailable

_CLIENT_ID = "orlop"
_MAX_ANSWER = 1 << 20
_DEFAULT_LIFETIME = 60  # seconds (token specification: when `expires_in` is absent)
_EARLY = 5  # seconds before its end when a token counts as expired
_TOKEN = re.compile(r"[\x21-\x7e]+")


class _Token(msgspec.Struct, frozen=True):
    header: str
    until: float


class _Answer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None
    refresh_token: str = ""


class _Known(msgspec.Struct):
    """What is known of one host: its last challenge, tokens by scopes. The lock makes parallel fetches share one."""

    lock: threading.Lock
    challenge: Challenge | None = None
    tokens: dict[tuple[str, ...], _Token] = msgspec.field(default_factory=dict)


class Authorizer:
    """Headers for requests, by host and scopes. Thread-safe. `offline` asks token servers for a refresh token too,
    which `refresh_tokens` then holds by host."""

    def __init__(self, transport: Transport, credentials: Credentials, *, offline: bool = False) -> None:
        self._transport, self._credentials, self._offline = transport, credentials, offline
        self._hosts: dict[str, _Known] = {}
        self._lock = threading.Lock()
        self.refresh_tokens: dict[str, str] = {}

    def known(self, endpoint: Endpoint, scopes: tuple[str, ...]) -> str:
        """The header that worked before, or "" where a request goes out bare."""
        token = self._host(endpoint).tokens.get(scopes)
        return token.header if token is not None and token.until > time.monotonic() else ""

    def answer(self, endpoint: Endpoint, header: str, scopes: tuple[str, ...], refused: str, asked: Asked) -> str:
        """The header to come back with after a 401 whose WWW-Authenticate is `header`; "" where there is none.

        `refused` is the header that was sent: one that another thread has replaced since is not asked for again.
        """
        host = self._host(endpoint)
        with host.lock:
            current = self.known(endpoint, scopes)
            if current and current != refused:
                return current
            host.tokens.pop(scopes, None)
            token = self._obtain(endpoint, parse_challenges(header), scopes, asked)
            if token is None:
                return ""
            host.tokens[scopes] = token
            return token.header

    def _host(self, endpoint: Endpoint) -> _Known:
        with self._lock:
            return self._hosts.setdefault(endpoint.authority, _Known(threading.Lock()))

    def _obtain(
        self, endpoint: Endpoint, challenges: tuple[Challenge, ...], scopes: tuple[str, ...], asked: Asked
    ) -> _Token | None:
        """Bearer is preferred: it does not show the registry the password."""
        by_scheme = {challenge.scheme: challenge for challenge in reversed(challenges)}
        credential = self._credentials.get(_credential_host(endpoint))
        if "bearer" in by_scheme:
            return self._bearer(endpoint, by_scheme["bearer"], scopes, credential, asked)
        if "basic" in by_scheme and credential is not None and (credential.username or credential.password):
            return _Token(_basic(credential), float("inf"))
        return None

    def _bearer(
        self,
        endpoint: Endpoint,
        challenge: Challenge,
        scopes: tuple[str, ...],
        credential: Credential | None,
        asked: Asked,
    ) -> _Token:
        if credential is not None and credential.registry_token:
            return _Token(_bearer(credential.registry_token, endpoint), float("inf"))
        realm = _checked_realm(endpoint, challenge.realm)
        wanted = (*scopes, *(scope for scope in challenge.scopes if scope not in scopes))
        response = self._ask(endpoint, realm, challenge.service, wanted, credential)
        return self._token(endpoint, response, realm, asked)

    def _ask(
        self, endpoint: Endpoint, realm: str, service: str, scopes: tuple[str, ...], credential: Credential | None
    ) -> Response:
        if credential is not None and credential.identity_token:
            form = refresh_form(service, scopes, credential.identity_token)
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return self._transport.send(endpoint, "POST", realm, headers, form)
        account = credential.username if credential is not None else ""
        url = token_url(realm, service, scopes, account, offline=self._offline)
        headers = {"Authorization": _basic(credential)} if credential is not None and account else {}
        return self._transport.send(endpoint, "GET", url, headers)

    def _token(self, endpoint: Endpoint, response: Response, realm: str, asked: Asked) -> _Token:
        host = urlsplit(realm).netloc
        body = read_whole(response, _MAX_ANSWER, "token", host)
        if response.status in (400, 401, 403):
            # OAuth says "invalid_grant" with 400 for a refresh token that has run out.
            raise from_status(401, response.headers, body, asked)
        if response.status != 200:
            raise from_status(response.status, response.headers, body, Asked("a token", asked.name, host))
        answer = _parse_answer(body, host)
        if answer.refresh_token:
            self.refresh_tokens[endpoint.authority] = answer.refresh_token
        lifetime = answer.expires_in or _DEFAULT_LIFETIME
        header = _bearer(answer.token or answer.access_token, endpoint)
        return _Token(header, time.monotonic() + max(lifetime - _EARLY, lifetime / 2))


def _parse_answer(body: bytes, host: str) -> _Answer:
    try:
        answer = msgspec.json.decode(body, type=known(_Answer))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unavailable(f"token server {host}: the answer is not a token document") from None
    if not (answer.token or answer.access_token):
        raise Unavailable(f"token server {host}: the answer holds no token")
    return answer


def token_url(realm: str, service: str, scopes: tuple[str, ...], account: str, *, offline: bool = False) -> str:
    """The URL of a GET for a token. Spaces are %20: not every server reads + so."""
    query = [("service", service)] if service else []
    query += [("scope", scope) for scope in scopes]
    query += [("account", account)] if account else []
    query += [("client_id", _CLIENT_ID), ("offline_token", "true")] if offline else []
    return realm + ("&" if "?" in realm else "?") + urlencode(query, quote_via=quote, safe=":/,")


def refresh_form(service: str, scopes: tuple[str, ...], refresh_token: str) -> bytes:
    form = {
        "grant_type": "refresh_token",
        "service": service,
        "client_id": _CLIENT_ID,
        "scope": " ".join(scopes),
        "refresh_token": refresh_token,
    }
    return urlencode({key: value for key, value in form.items() if value}).encode()


def _checked_realm(endpoint: Endpoint, realm: str) -> str:
    """A realm is the registry's word: credentials that came for HTTPS don't go to plain HTTP because of it."""
    try:
        parts = urlsplit(realm)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise Unavailable(f"registry {endpoint.authority}: names no usable token server")
    weaker = parts.scheme == "http" and endpoint.scheme == "https" and not endpoint.plain_fallback
    if weaker and not is_insecure(parts.netloc):
        raise PermissionDenied(f"registry {endpoint.authority}: its token server {parts.netloc} is not https")
    return realm


def _credential_host(endpoint: Endpoint) -> str:
    return "docker.io" if endpoint.authority == "registry-1.docker.io" else endpoint.authority


def _basic(credential: Credential) -> str:
    pair = f"{credential.username}:{credential.password}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _bearer(token: str, endpoint: Endpoint) -> str:
    if not _TOKEN.fullmatch(token):
        raise Unavailable(f"registry {endpoint.authority}: the token holds characters that no token has")
    return "Bearer " + token
