"""The WWW-Authenticate header (RFC 9110, 11.6.1), as registries use it. Pure.

Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/redis:pull"
Basic realm="my registry"
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

_MAX_HEADER = 8 << 10
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"\s*,?\s*({_TOKEN})(?=\s|,|$)\s*")
_PARAMETER = re.compile(rf'\s*,?\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=\s*(?:,|$))")


class Challenge(msgspec.Struct, frozen=True):
    """One way to authenticate; scheme and parameter names are in lower case."""

    scheme: str
    parameters: Mapping[str, str] = {}

    @property
    def realm(self) -> str:
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        return self.parameters.get("service", "")

    @property
    def scopes(self) -> tuple[str, ...]:
        return tuple(scope for scope in self.parameters.get("scope", "").split(" ") if scope)


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Every challenge of a header, in order. What does not follow the grammar ends the list, it raises nothing."""
    header = header[:_MAX_HEADER]
    found: list[Challenge] = []
    position = 0
    while match := _SCHEME.match(header, position):
        position = match.end()
        if opaque := _TOKEN68.match(header, position):
            position = opaque.end()
        parameters, position = _parameters(header, position)
        found.append(Challenge(match[1].lower(), parameters))
    return tuple(found)


def _parameters(header: str, position: int) -> tuple[dict[str, str], int]:
    parameters: dict[str, str] = {}
    while match := _PARAMETER.match(header, position):
        quoted, plain = match[2], match[3]
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
        parameters.setdefault(match[1].lower(), value)
        position = match.end()
    return parameters, position
