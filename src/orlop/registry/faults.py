"""Faults on purpose: what a registry may do wrong, as rules that change its replies.

A rule applies to requests whose `METHOD path` its pattern finds, `count` times (None: always), after `skip` that it
lets pass. `Faults.change` is asked once for every reply.

    Registry(faults=[Fault(r"GET .*/blobs/", Cut(1000), count=1)])
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable

import msgspec

from orlop.registry.messages import CODES, Content, Reply, error


class Status(msgspec.Struct, frozen=True):
    """Answer this status, with the spec's error document, and Retry-After (seconds) where given."""

    status: int
    message: str = ""
    retry_after: str = ""

    def __call__(self, reply: Reply) -> Reply:
        code, known = next(((c, text) for c, (s, text) in CODES.items() if s == self.status), ("UNKNOWN", "unknown"))
        headers = {"retry-after": self.retry_after} if self.retry_after else {}
        return error(self.status, code, self.message or known, headers=headers)


class Html(msgspec.Struct, frozen=True):
    """Answer a web page, as a captive portal or a wrong port does."""

    status: int = 200
    body: bytes = b"<!DOCTYPE html><html><body><h1>It works</h1></body></html>"

    def __call__(self, reply: Reply) -> Reply:
        return Reply(self.status, {"content-type": "text/html"}, self.body)


class Cut(msgspec.Struct, frozen=True):
    """Break the connection after `after` bytes of the body."""

    after: int

    def __call__(self, reply: Reply) -> Reply:
        return msgspec.structs.replace(reply, cut=self.after)


class Hang(msgspec.Struct, frozen=True):
    """Say nothing for `seconds`, then answer."""

    seconds: float

    def __call__(self, reply: Reply) -> Reply:
        return msgspec.structs.replace(reply, delay=self.seconds)


class WrongDigest(msgspec.Struct, frozen=True):
    """Claim another digest in Docker-Content-Digest."""

    digest: str = "sha256:" + "0" * 64

    def __call__(self, reply: Reply) -> Reply:
        return msgspec.structs.replace(reply, headers=dict(reply.headers) | {"docker-content-digest": self.digest})


class Corrupt(msgspec.Struct, frozen=True):
    """Change the first byte of the body."""

    def __call__(self, reply: Reply) -> Reply:
        body = _body(reply)
        return msgspec.structs.replace(reply, body=bytes([body[0] ^ 1]) + body[1:] if body else body)


class WrongLength(msgspec.Struct, frozen=True):
    """Send `extra` bytes more (or fewer) than there are, with a Content-Length that agrees."""

    extra: int

    def __call__(self, reply: Reply) -> Reply:
        body = _body(reply)
        return msgspec.structs.replace(reply, body=body + b"x" * self.extra if self.extra > 0 else body[: self.extra])


class FalseLength(msgspec.Struct, frozen=True):
    """Announce another Content-Length than what is sent, and close."""

    extra: int

    def __call__(self, reply: Reply) -> Reply:
        return msgspec.structs.replace(reply, announce=reply.length + self.extra)


class Garbage(msgspec.Struct, frozen=True):
    """Send bytes that are no HTTP, and close. b"" closes at once."""

    data: bytes = b"\x00\xff\x13\x37 not http\r\n\r\n"

    def __call__(self, reply: Reply) -> Reply:
        return msgspec.structs.replace(reply, raw=self.data)


class Header(msgspec.Struct, frozen=True):
    """Set a response header."""

    name: str
    value: str

    def __call__(self, reply: Reply) -> Reply:
        return msgspec.structs.replace(reply, headers=dict(reply.headers) | {self.name: self.value})


class IgnoreRange(msgspec.Struct, frozen=True):
    """Answer the whole to a request for a part, as the protocol allows."""

    def __call__(self, reply: Reply) -> Reply:
        if reply.status != 206 or not isinstance(reply.body, Content):
            return reply
        size = int(reply.headers["content-range"].rpartition("/")[2])
        headers = {key: value for key, value in reply.headers.items() if key != "content-range"}
        return Reply(200, headers, Content(reply.body.file, 0, size))


class Redirect(msgspec.Struct, frozen=True):
    """Send the client elsewhere."""

    location: str
    status: int = 307

    def __call__(self, reply: Reply) -> Reply:
        return Reply(self.status, {"location": self.location})


Action = (
    Status
    | Html
    | Cut
    | Hang
    | WrongDigest
    | Corrupt
    | WrongLength
    | FalseLength
    | Garbage
    | Header
    | IgnoreRange
    | Redirect
)


class Fault(msgspec.Struct, frozen=True):
    """One rule; `where` is searched for in `METHOD path?query`."""

    where: str
    action: Action
    count: int | None = 1
    skip: int = 0


class Faults:
    """The rules of one registry and how often each one has struck. Thread-safe."""

    def __init__(self, rules: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._rules = [(rule, re.compile(rule.where)) for rule in rules]
        self._seen: dict[int, int] = {}

    def add(self, rule: Fault) -> None:
        with self._lock:
            self._rules.append((rule, re.compile(rule.where)))

    def clear(self) -> None:
        with self._lock:
            self._rules, self._seen = [], {}

    def change(self, what: str, reply: Reply) -> Reply:
        """The reply to send for the request `what` (`METHOD path?query`)."""
        with self._lock:
            due = [rule for index, (rule, where) in enumerate(self._rules) if where.search(what) and self._due(index)]
        for rule in due:
            reply = rule.action(reply)
        return reply

    def _due(self, index: int) -> bool:
        rule = self._rules[index][0]
        seen = self._seen[index] = self._seen.get(index, 0) + 1
        return seen > rule.skip and (rule.count is None or seen <= rule.skip + rule.count)


def _body(reply: Reply) -> bytes:
    if isinstance(reply.body, bytes):
        return reply.body
    with reply.body.file as file:
        file.seek(reply.body.offset)
        data = b""
        while len(data) < reply.body.length and (more := file.read(reply.body.length - len(data))):
            data += more
    return data
