"""Who may use a registry: Basic authentication, or bearer tokens from the registry's own token end point.

The token flow is that of the distribution project's token specification: a 401 names realm, service and scope; the
client fetches a token there, with Basic credentials (GET) or a refresh token (POST), and comes back with it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import parse_qs

import msgspec

from orlop.registry.messages import Refused, Reply, Request, json_reply

ALL_ACTIONS = frozenset({"pull", "push", "delete"})
_MAX_FORM = 64 << 10


class Access(Protocol):
    """`check` returns where the request may go on, and raises `Refused` where not."""

    def check(self, request: Request, name: str, action: str, base_url: str) -> None: ...

    def token(self, request: Request) -> Reply | None:
        """The answer of the token end point, or None where there is none."""


class Basic:
    """User name and password with every request (RFC 7617)."""

    def __init__(self, users: Mapping[str, str], realm: str = "orlop registry") -> None:
        self.users, self.realm = dict(users), realm

    def check(self, request: Request, name: str, action: str, base_url: str) -> None:
        if user_of(request, self.users) is None:
            raise Refused("UNAUTHORIZED", headers={"www-authenticate": f'Basic realm="{self.realm}"'})

    def token(self, request: Request) -> Reply | None:
        return None


class Token:
    """Bearer tokens. `grants(user, repository)` says which actions a user ("" is nobody) has; by default every user
    has all, and nobody has `pull` where `anonymous_pull`. Tokens live for `lifetime` seconds."""

    def __init__(
        self,
        users: Mapping[str, str],
        service: str = "orlop-registry",
        *,
        anonymous_pull: bool = False,
        lifetime: float = 300,
        grants: Callable[[str, str], frozenset[str]] | None = None,
    ) -> None:
        self.users, self.service, self.lifetime = dict(users), service, lifetime
        self.anonymous_pull = anonymous_pull
        self.grants = grants or self._default_grants
        self._key = secrets.token_bytes(32)

    def _default_grants(self, user: str, _: str) -> frozenset[str]:
        if user:
            return ALL_ACTIONS
        return frozenset({"pull"}) if self.anonymous_pull else frozenset()

    def check(self, request: Request, name: str, action: str, base_url: str) -> None:
        scheme, _, sent = request.header("authorization").partition(" ")
        claims = self._open(sent) if scheme.lower() == "bearer" else None
        if claims is not None and (not action or action in claims.get("access", {}).get(name, ())):
            return
        raise Refused("UNAUTHORIZED", headers={"www-authenticate": self._challenge(name, action, base_url, claims)})

    def _challenge(self, name: str, action: str, base_url: str, claims: object) -> str:
        text = f'Bearer realm="{base_url}/token",service="{self.service}"'
        if name:
            text += f',scope="repository:{name}:{"pull,push" if action == "push" else action}"'
        return text + (',error="insufficient_scope"' if claims is not None else "")

    def token(self, request: Request) -> Reply | None:
        """GET with Basic credentials or none; POST with a password or a refresh token (OAuth 2)."""
        form = request.query if request.method == "GET" else _form(request)
        user = self._user(request, form)
        if user is None:
            raise Refused("UNAUTHORIZED", "incorrect username or password")
        scopes = [scope for value in form.get("scope", ()) for scope in value.split(" ")]
        sealed = self._seal({"user": user, "access": self._granted(user, scopes)}, self.lifetime)
        answer = {"token": sealed, "access_token": sealed, "expires_in": int(self.lifetime)}
        if user and (_first(form, "offline_token") == "true" or _first(form, "access_type") == "offline"):
            answer["refresh_token"] = self._seal({"refresh": user}, 30 * 86400)
        return json_reply(200, answer)

    def _user(self, request: Request, form: Mapping[str, tuple[str, ...]]) -> str | None:
        grant = _first(form, "grant_type")
        if grant == "refresh_token":
            claims = self._open(_first(form, "refresh_token"))
            return str(claims["refresh"]) if claims is not None and "refresh" in claims else None
        if grant == "password":
            return _verified(self.users, _first(form, "username"), _first(form, "password"))
        return user_of(request, self.users) if request.header("authorization") else ""

    def _granted(self, user: str, scopes: list[str]) -> dict[str, list[str]]:
        granted: dict[str, list[str]] = {}
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            if kind == "repository":
                granted[name] = sorted(self.grants(user, name) & set(actions.split(",")))
        return granted

    def _seal(self, claims: dict[str, object], lifetime: float) -> str:
        body = base64.urlsafe_b64encode(msgspec.json.encode(claims | {"until": time.time() + lifetime})).decode()
        return f"{body}.{self._signature(body)}"

    def _open(self, sealed: str) -> dict[str, dict[str, list[str]]] | None:
        body, _, signature = sealed.partition(".")
        if not hmac.compare_digest(self._signature(body).encode(), signature.encode()):
            return None
        claims = msgspec.json.decode(base64.urlsafe_b64decode(body))
        return claims if claims["until"] > time.time() else None

    def _signature(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()


def user_of(request: Request, users: Mapping[str, str]) -> str | None:
    """The user whose Basic credentials the request carries, or None."""
    scheme, _, encoded = request.header("authorization").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return _verified(users, user, password)


def _verified(users: Mapping[str, str], user: str, password: str) -> str | None:
    known = users.get(user)
    same = hmac.compare_digest((known or "").encode(), password.encode())
    return user if same and known is not None else None


def _form(request: Request) -> dict[str, tuple[str, ...]]:
    data = b""
    while len(data) <= _MAX_FORM and (more := request.read(_MAX_FORM)):
        data += more
    if len(data) > _MAX_FORM:
        raise Refused("SIZE_INVALID")
    return {key: tuple(values) for key, values in parse_qs(data.decode("utf-8", "replace")).items()}


def _first(form: Mapping[str, tuple[str, ...]], name: str) -> str:
    return form.get(name, ("",))[0]
