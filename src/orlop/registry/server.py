"""The registry as an HTTP server: the standard library's threads below, routes, access and faults above.

with Registry(MemoryStorage()) as registry:
    ...                             # registry.address is "127.0.0.1:41234"
"""

from __future__ import annotations

import contextlib
import http.server
import io
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from orlop.registry.access import Access
from orlop.registry.faults import Fault, Faults
from orlop.registry.messages import Content, Refused, Reply, Request, error
from orlop.registry.repository import Repositories
from orlop.registry.storage import MemoryStorage, Storage
from orlop.registry.verbs import find

_COPY = 1 << 20
_REMEMBERED = 10_000  # answers that `Registry.seen` keeps


class Seen(msgspec.Struct, frozen=True):
    """A request that was answered, for whoever watches: `headers` has lower-case names."""

    method: str
    target: str
    headers: dict[str, str]
    status: int


class Registry:
    """A registry that serves while the `with` block runs, on `address` (`host:port`; port 0 takes a free one).

    `tls` is (certificate, key), PEM files. `faults` can be added to later through `.faults`; `.seen` grows by one
    for every answer.
    """

    def __init__(
        self,
        storage: Storage | None = None,
        *,
        auth: Access | None = None,
        faults: Iterable[Fault] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.repositories = Repositories(storage if storage is not None else MemoryStorage())
        self.auth = auth
        self.faults = Faults(faults)
        self.seen: deque[Seen] = deque(maxlen=_REMEMBERED)
        self._server = _Server((host, port), _handler(self), tls)
        self._thread: threading.Thread | None = None
        self.host, self.port = host, int(self._server.server_address[1])
        self.scheme = "https" if tls else "http"

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"

    def __enter__(self) -> Registry:
        # The poll interval bounds how long `shutdown` takes.
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, kwargs={"poll_interval": 0.02}, name="registry", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self.close()

    def serve_forever(self) -> None:
        """Serve in this thread until interrupted."""
        self._server.serve_forever()

    def close(self) -> None:
        """Stop listening, break every open connection and drop unfinished uploads."""
        self._server.server_close()
        self.repositories.abandon()

    def answer(self, request: Request, target: str, host: str) -> Reply:
        """From request to reply, faults included."""
        right = self._answer(request, host)
        reply = self.faults.change(f"{request.method} {target}", right)
        if isinstance(right.body, Content) and (reply.body is not right.body or reply.raw is not None):
            right.body.file.close()
        self.seen.append(Seen(request.method, target, dict(request.headers), reply.status))
        return reply

    def _answer(self, request: Request, host: str) -> Reply:
        try:
            if self.auth is not None and request.path == "/token":
                return self.auth.token(request) or error(404, "UNSUPPORTED", "no token end point")
            matched = find(request.method, request.path)
            if self.auth is not None:
                self.auth.check(request, matched.name, matched.route.action, f"{self.scheme}://{host or self.address}")
            return matched.route.verb(self.repositories, request, matched.match)
        except Refused as refused:
            return refused.reply()


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: Any, tls: tuple[Path, Path] | None) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._open: set[socket.socket] = set()
        self._context = _server_context(tls) if tls else None
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: that one asks the resolver for the host's name.
        socketserver.TCPServer.server_bind(self)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: the TLS handshake may not hold up the others."""
        if self._context is not None:
            request = self._context.wrap_socket(request, server_side=True)
        self._open.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            self._open.discard(request)
            if self._context is not None:
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that goes away, or speaks no TLS, is no event; anything else is a defect and shows."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError, ssl.SSLError)):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _server_context(tls: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls)
    return context


def _handler(registry: Registry) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(_Handler):
        owner = registry

    return Handler


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection: reads requests, sends replies."""

    owner: Registry
    protocol_version = "HTTP/1.1"
    server_version = "orlop-registry"
    sys_version = ""
    disable_nagle_algorithm = True
    timeout = 300

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `Registry.seen` is the log."""

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not headers.get("content-length", "0").strip().isdecimal():
            self.send_error(400)
            return
        reader = _body_reader(self.rfile, headers)
        parameters = {key: tuple(values) for key, values in parse_qs(query, keep_blank_values=True).items()}
        length = None if _chunked(headers) else int(headers.get("content-length") or 0)
        request = Request(self.command, unquote(path), parameters, headers, reader, length)
        reply = self.owner.answer(request, self.path, headers.get("host", ""))
        # An unread body would be taken for the next request.
        while self.command in ("POST", "PUT", "PATCH") and reader(_COPY):
            pass
        self._send(reply)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _serve

    def _send(self, reply: Reply) -> None:
        if reply.delay:
            time.sleep(reply.delay)
        if reply.raw is not None:  # no HTTP at all
            self.close_connection = True
            self.connection.sendall(reply.raw)
            return
        self._send_body(reply, self._head(reply))

    def _head(self, reply: Reply) -> bytes:
        if reply.cut is not None or reply.announce is not None:
            self.close_connection = True
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("docker-distribution-api-version", "registry/2.0")
        if reply.status != 204:
            self.send_header("content-length", str(reply.length if reply.announce is None else reply.announce))
        if self.close_connection:
            self.send_header("connection", "close")
        buffer: list[bytes] = self._headers_buffer  # type: ignore[attr-defined]
        head = b"".join(buffer) + b"\r\n"
        buffer.clear()
        return head

    def _send_body(self, reply: Reply, head: bytes) -> None:
        """Head and small bodies go out in one packet; files by sendfile."""
        limit = reply.length if reply.cut is None else min(reply.cut, reply.length)
        if self.command == "HEAD":
            limit = 0
        if isinstance(reply.body, bytes):
            self.connection.sendall(head + reply.body[:limit])
            return
        with reply.body.file as file:
            self.connection.sendall(head)
            if limit and isinstance(file, io.BytesIO):
                # `sendfile` would send a file that is no file in pieces of 8 KiB.
                self.connection.sendall(file.getbuffer()[reply.body.offset : reply.body.offset + limit])
            elif limit:
                self.connection.sendfile(file, reply.body.offset, limit)


def _chunked(headers: dict[str, str]) -> bool:
    return "chunked" in headers.get("transfer-encoding", "").lower()


def _body_reader(stream: Any, headers: dict[str, str]) -> Callable[[int], bytes]:
    """A function that reads the body and nothing after it. A body cut short raises ConnectionError."""
    if _chunked(headers):
        return _Chunks(stream).read
    left = int(headers.get("content-length") or 0)

    def read(count: int) -> bytes:
        nonlocal left
        data: bytes = stream.read1(min(count, left)) if left else b""
        if left and not data:
            raise ConnectionError("the body ended early")
        left -= len(data)
        return data

    return read


class _Chunks:
    """The chunked transfer coding (RFC 9112, 7.1), trailers dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._left, self._ended = stream, 0, False

    def read(self, count: int) -> bytes:
        if not self._left and not self._ended:
            self._next()
        if self._ended:
            return b""
        data: bytes = self._stream.read1(min(count, self._left))
        if not data:
            raise ConnectionError("the body ended early")
        self._left -= len(data)
        if not self._left:
            self._stream.readline(3)
        return data

    def _next(self) -> None:
        line = self._stream.readline(1024)
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError:
            raise ConnectionError("bad chunk size") from None
        if self._left == 0:
            self._ended = True
            while self._stream.readline(8192) not in (b"\r\n", b"\n", b""):
                pass
