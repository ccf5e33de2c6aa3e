"""What a registry's bad answer means: one line of ours for every way to be refused. Pure.

A registry is hostile input: its words are shown escaped, on one line and cut short, and never decide the kind of
error; the status does.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from orlop.spec.document import known
from orlop.spec.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OrlopError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)

MAX_ERROR_BODY = 64 << 10  # bytes of an error document that are looked at
_MAX_WORDS = 200


class Asked(msgspec.Struct, frozen=True):
    """What was asked of whom, for messages: `what` is `manifest redis:7`, `name` the repository, `action` pull or
    push, `host` the registry that answered."""

    what: str
    name: str
    host: str
    action: str = "pull"


class Transient(Unavailable):
    """The same may well succeed a little later; `retry_after` is when the registry says so, in seconds, or None."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Interrupted(Transient):
    """The connection broke."""


class Throttled(Transient):
    """The registry wants fewer requests."""


class Unauthorized(PermissionDenied):
    """401: no credentials, wrong ones, or nothing there that may be shown."""


class _One(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: tuple[_One, ...] = ()


class _OAuth(msgspec.Struct):
    """Token servers answer in other shapes (RFC 6749, 5.2; Docker Hub's `details`)."""

    error: str = ""
    error_description: str = ""
    details: str = ""
    message: str = ""


# Status: (kind, line); {said} begins with ": " or is empty.
_LINES: dict[int, tuple[type[OrlopError], str]] = {
    401: (
        Unauthorized,
        "{action} access denied for {name}, repository does not exist or may require `orlop login`{said}",
    ),
    403: (PermissionDenied, "{action} access denied for {name} by registry {host}{said}"),
    404: (NotFound, "{what} not found in registry {host}{said}"),
    405: (FailedPrecondition, "registry {host} does not allow this for {what}{said}"),
    406: (NotFound, "registry {host} has no form of {what} that is understood here{said}"),
    408: (Transient, "registry {host} gave up waiting for the request for {what}{said}"),
    413: (ResourceExhausted, "registry {host} refuses {what}: too large{said}"),
    416: (Unavailable, "registry {host} refuses the range asked for of {what}{said}"),
    425: (Transient, "registry {host} is not ready for {what}{said}"),
    429: (Throttled, "registry {host} limits the rate of requests{wait}{said}"),
    507: (ResourceExhausted, "registry {host} has no space left for {what}{said}"),
}
_CLIENT_ERROR = (InvalidArgument, "registry {host} refuses {what}: {status}{said}")
_SERVER_ERROR = (Transient, "registry {host} failed on {what}: {status}{said}")
_STRANGE = (Unavailable, "registry {host} answered {what} with an unexpected {status}{said}")


def from_status(status: int, headers: Mapping[str, str], body: bytes, asked: Asked) -> OrlopError:
    """The error for an answer that is none. `headers` is asked for `Retry-After` and `Content-Type`."""
    kind, line = _LINES.get(status) or _by_hundred(status)
    delay = retry_after(headers.get("Retry-After", ""))
    text = line.format(
        what=asked.what,
        name=asked.name,
        host=asked.host,
        action=asked.action,
        status=status_text(status),
        said=said(body, headers.get("Content-Type", "")),
        wait=f", asks to wait {delay:g} s" if delay is not None else "",
    )
    return kind(text, delay) if issubclass(kind, Transient) else kind(text)


def _by_hundred(status: int) -> tuple[type[OrlopError], str]:
    return {4: _CLIENT_ERROR, 5: _SERVER_ERROR}.get(status // 100, _STRANGE)


def status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"status {status}"


def said(body: bytes, content_type: str) -> str:
    """What the error document says, as `: words`, or "" where it says nothing to a person."""
    if "html" in content_type.lower() or body.lstrip()[:1] == b"<":
        return ": a web page, not a registry's answer"
    words = _words(body[:MAX_ERROR_BODY])
    return f": {clean(words)}" if words else ""


def _words(body: bytes) -> str:
    try:
        errors = msgspec.json.decode(body, type=known(_Errors)).errors
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        errors = ()
    if errors:
        return errors[0].message or errors[0].code
    try:
        other = msgspec.json.decode(body, type=known(_OAuth))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return other.error_description or other.details or other.message or other.error


def clean(text: str, limit: int = _MAX_WORDS) -> str:
    """Foreign words for a line of ours: control characters and the like escaped, cut at `limit`, no final period."""
    cut = text[: limit + 1].strip()
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return shown[:limit] + "..." if len(shown) > limit else shown.rstrip(".")


def not_a_registry(host: str, content_type: str) -> OrlopError:
    """A success that is no answer: a captive portal, or another service on that port."""
    kind = clean(content_type.partition(";")[0], 60) or "no content type"
    return Unavailable(f"{host} answered with {kind}: not a registry, or something stands between")


def retry_after(value: str) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3), which is a number or a date; None where it is neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    if not value:
        return None
    from email.utils import parsedate_to_datetime
    from time import time

    try:
        return max(0.0, parsedate_to_datetime(value[:64]).timestamp() - time())
    except (ValueError, OverflowError):
        return None
