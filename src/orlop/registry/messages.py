"""What a registry is asked and what it answers, as values; and the error codes of the distribution-spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import BinaryIO

import msgspec

# Code: (HTTP status, message) (distribution-spec, "Error Codes")
CODES: dict[str, tuple[int, str]] = {
    "BLOB_UNKNOWN": (404, "blob unknown to registry"),
    "BLOB_UPLOAD_INVALID": (400, "blob upload invalid"),
    "BLOB_UPLOAD_UNKNOWN": (404, "blob upload unknown to registry"),
    "DIGEST_INVALID": (400, "provided digest did not match uploaded content"),
    "MANIFEST_BLOB_UNKNOWN": (404, "manifest references a manifest or blob unknown to registry"),
    "MANIFEST_INVALID": (400, "manifest invalid"),
    "MANIFEST_UNKNOWN": (404, "manifest unknown to registry"),
    "NAME_INVALID": (400, "invalid repository name"),
    "NAME_UNKNOWN": (404, "repository name not known to registry"),
    "SIZE_INVALID": (413, "provided length did not match content length"),
    "UNAUTHORIZED": (401, "authentication required"),
    "DENIED": (403, "requested access to the resource is denied"),
    "UNSUPPORTED": (405, "the operation is unsupported"),
    "TOOMANYREQUESTS": (429, "too many requests"),
    "RANGE_INVALID": (416, "invalid content range"),
    "PAGINATION_NUMBER_INVALID": (400, "invalid number of results requested"),
}


class Request(msgspec.Struct, frozen=True):
    """One request. `read(n)` gives up to n bytes of the body, b"" at its end. `length` is None for a chunked body."""

    method: str
    path: str
    query: Mapping[str, tuple[str, ...]]
    headers: Mapping[str, str]
    read: Callable[[int], bytes]
    length: int | None = 0

    def parameter(self, name: str) -> str:
        return self.query.get(name, ("",))[0]

    def header(self, name: str) -> str:
        return self.headers.get(name.lower(), "")


class Content(msgspec.Struct, frozen=True):
    """A part of an open file that is to be sent; the sender closes it."""

    file: BinaryIO
    offset: int
    length: int


class Reply(msgspec.Struct, frozen=True):
    """One answer. The last three fields exist for faults: what is sent may be less than, or other than, what is said.

    `cut` breaks the connection after that many bytes of the body, `raw` is sent in place of any HTTP, `delay` is
    slept before (seconds), and `announce` is a false Content-Length.
    """

    status: int
    headers: Mapping[str, str] = {}
    body: bytes | Content = b""
    cut: int | None = None
    raw: bytes | None = None
    delay: float = 0
    announce: int | None = None

    @property
    def length(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.length


class Refused(Exception):
    """Ends the handling of a request with an error of the table above."""

    def __init__(self, code: str, detail: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(code)
        self.code, self.detail, self.headers = code, detail, dict(headers or {})

    def reply(self) -> Reply:
        status, message = CODES[self.code]
        return error(status, self.code, message, self.detail, self.headers)


def error(status: int, code: str, message: str, detail: str = "", headers: Mapping[str, str] | None = None) -> Reply:
    """A reply with the error document of the distribution-spec."""
    one = {"code": code, "message": message} | ({"detail": str(detail)} if detail else {})
    return json_reply(status, {"errors": [one]}, headers)


def json_reply(status: int, value: object, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, {"content-type": "application/json"} | dict(headers or {}), msgspec.json.encode(value))
