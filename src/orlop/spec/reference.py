"""Image references with Docker's normalisation: `redis:alpine` is `docker.io/library/redis:alpine`.

The grammar is that of the distribution project's reference documentation: an optional domain, a path of lower-case
components, an optional tag and an optional digest.
"""

from __future__ import annotations

import re

import msgspec

from orlop.spec.digest import Digest
from orlop.spec.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_HOST}(?:\.{_HOST})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")  # spares most names the compiling of an expression
_MAX_NAME = 255


class Reference(msgspec.Struct, frozen=True):
    """A full reference. `domain` and `path` are always set; `tag` and `digest` may be empty, but not both
    after `parse_reference` with a default tag."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """`docker.io/library/redis`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """`redis`: the name as Docker shows it."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        head, _, rest = self.path.partition("/")
        return rest if head == "library" and rest and "/" not in rest else self.path

    @property
    def familiar(self) -> str:
        """`redis:alpine`."""
        return self.familiar_name + self._suffix()

    def __str__(self) -> str:
        return self.name + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str, default_tag: str = DEFAULT_TAG) -> Reference:
    """Read what a user typed. Without a tag and a digest, `default_tag` is filled in ("" leaves it empty)."""
    shown = repr(text[:80])
    if not text:
        raise InvalidArgument("image reference is empty")
    if len(text) == 64 and re.fullmatch(r"[a-f0-9]{64}", text):
        raise InvalidArgument(f"image reference {shown}: 64 hex digits are an image ID, not a name")
    rest, at, digest = text.partition("@")
    if at:
        digest = Digest(digest)
    domain, rest = _split_domain(rest)
    path, colon, tag = rest.partition(":")
    if colon and not (0 < len(tag) <= 128 and _PLAIN.issuperset(tag)) and not re.fullmatch(_TAG, tag):
        raise InvalidArgument(f"image reference {shown}: bad tag {tag[:40]!r}")
    if domain != DEFAULT_DOMAIN and not re.fullmatch(_DOMAIN, domain):
        raise InvalidArgument(f"image reference {shown}: bad registry host {domain[:40]!r}")
    for component in path.split("/"):
        if not (component and _PLAIN.issuperset(component)) and not re.fullmatch(_COMPONENT, component):
            raise InvalidArgument(f"image reference {shown}: {_why(component)}")
    if len(domain) + 1 + len(path) > _MAX_NAME:
        raise InvalidArgument(f"image reference {shown}...: the name is longer than {_MAX_NAME} characters")
    return Reference(domain, path, tag or ("" if digest else default_tag), digest)


def _split_domain(text: str) -> tuple[str, str]:
    head, slash, rest = text.partition("/")
    if not slash or not (any(c in head for c in ".:[") or head == "localhost" or head.lower() != head):
        head, rest = DEFAULT_DOMAIN, text
    if head == "index.docker.io":
        head = DEFAULT_DOMAIN
    if head == DEFAULT_DOMAIN and "/" not in rest:
        rest = "library/" + rest
    return head, rest


def _why(component: str) -> str:
    if not component:
        return "a component of the name is empty"
    if component.lower() != component and re.fullmatch(_COMPONENT, component.lower()):
        return "repository names are lower case"
    return f"bad name component {component[:40]!r}"
