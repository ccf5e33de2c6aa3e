"""HTTP to one endpoint: pools, TLS, redirects, and what went wrong in words. No authentication, no retries.

Bodies come back as they were sent: nothing is decoded, because digests are over the bytes on the wire.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import unquote, urljoin, urlsplit

import msgspec

from orlop.distribution.errors import Interrupted, clean
from orlop.distribution.hosts import Endpoint, Tls, is_insecure
from orlop.distribution.proxies import proxy_for
from orlop.spec.errors import DeadlineExceeded, FailedPrecondition, OrlopError, Unavailable
from orlop.standins import deferred

with deferred():
    import encodings.idna  # noqa: F401 - as every connection does

    import urllib3

Response = urllib3.BaseHTTPResponse
_MAX_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BLOCK = 1 << 20  # bytes of a body that are read and sent at once
_USER_AGENT = "orlop"
# TLS errors that say that the other side speaks plain HTTP
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF")


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds: to connect, and between two pieces of an answer."""

    connect: float = 15
    read: float = 60


class Stream(Protocol):
    """What a body is read from."""

    def read(self, count: int, /) -> bytes: ...

    def close(self) -> None: ...


class Upload(msgspec.Struct, frozen=True):
    """A body that can be sent again: `open` gives a fresh stream of `length` bytes."""

    open: Callable[[], Stream]
    length: int


class Transport:
    """Keeps connections. Thread-safe."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._pools: dict[tuple[Tls, str], urllib3.PoolManager] = {}
        self._plain: set[str] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            for pool in self._pools.values():
                pool.clear()

    def url(self, endpoint: Endpoint, path: str) -> str:
        """The URL of an API path such as `/library/redis/tags/list`; plain HTTP where that was found to be spoken."""
        scheme = "http" if endpoint.authority in self._plain else endpoint.scheme
        return f"{scheme}://{endpoint.authority}{endpoint.path}{path}"

    def send(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Upload | None = None,
    ) -> Response:
        """One request, redirects followed; the answer's body is unread. Raises `OrlopError`s only.

        `Authorization` and the endpoint's own headers stay with the host they were meant for.
        """
        sent = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"} | dict(endpoint.headers) | dict(headers)
        start = urlsplit(url).netloc
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._exchange(endpoint, method, url, sent, body)
            location = response.headers.get("Location", "") if response.status in _REDIRECTS else ""
            if not location:
                if urlsplit(url).netloc != start:
                    # Credentials are for the host that was asked: another one's wish for them is not heard.
                    response.headers.discard("WWW-Authenticate")
                return response
            discard(response)
            following = redirected(url, location, endpoint)
            if urlsplit(following).netloc != urlsplit(url).netloc:
                own = {"authorization", *(name.lower() for name, _ in endpoint.headers)}
                sent = {name: value for name, value in sent.items() if name.lower() not in own}
            if response.status == 303 and method != "HEAD":
                method, body = "GET", None
            url = following
        raise Unavailable(f"registry {endpoint.authority}: more than {_MAX_REDIRECTS} redirects")

    def _exchange(
        self, endpoint: Endpoint, method: str, url: str, headers: Mapping[str, str], body: bytes | Upload | None
    ) -> Response:
        """Over HTTPS, and over HTTP where the endpoint allows it and does not speak TLS."""
        parts = urlsplit(url)
        lenient = endpoint.plain_fallback and parts.netloc == endpoint.authority and parts.scheme == "https"
        try:
            return self._request(endpoint, method, url, headers, body)
        except urllib3.exceptions.HTTPError as error:
            if not (lenient and _speaks_no_tls(error)):
                raise explain(error, parts.netloc) from error
        plain = url.replace("https://", "http://", 1)
        try:
            response = self._request(endpoint, method, plain, headers, body)
        except urllib3.exceptions.HTTPError as error:
            raise explain(error, parts.netloc) from error
        self._plain.add(endpoint.authority)
        return response

    def _request(
        self, endpoint: Endpoint, method: str, url: str, headers: Mapping[str, str], body: bytes | Upload | None
    ) -> Response:
        pool = self._pool(_tls_for(endpoint, url), proxy_for(url, os.environ))
        sent = dict(headers)
        stream = body.open() if isinstance(body, Upload) else None
        if isinstance(body, Upload):
            sent["Content-Length"] = str(body.length)
        timeout = urllib3.Timeout(connect=endpoint.dial or self._timeouts.connect, read=self._timeouts.read)
        try:
            return pool.urlopen(
                method,
                url,
                body=body if isinstance(body, bytes) else stream,
                headers=sent,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
                timeout=timeout,
            )
        finally:
            if stream is not None:
                stream.close()

    def _pool(self, tls: Tls, proxy: str) -> urllib3.PoolManager:
        with self._lock:
            pool = self._pools.get((tls, proxy))
            if pool is None:
                pool = self._pools[tls, proxy] = _new_pool(tls, proxy)
        return pool


def _new_pool(tls: Tls, proxy: str) -> urllib3.PoolManager:
    context = _context(tls)
    if not proxy:
        return urllib3.PoolManager(maxsize=8, ssl_context=context, blocksize=_BLOCK)
    user = urlsplit(proxy)
    headers = None
    if user.username:
        pair = f"{unquote(user.username)}:{unquote(user.password or '')}"
        headers = urllib3.make_headers(proxy_basic_auth=pair)
    return urllib3.ProxyManager(proxy, proxy_headers=headers, maxsize=8, ssl_context=context, blocksize=_BLOCK)


def redirected(url: str, location: str, endpoint: Endpoint) -> str:
    """Where a `Location` leads. From HTTPS to HTTP it may only lead where plain HTTP is allowed anyway."""
    try:
        following = urljoin(url, location)
        before, after = urlsplit(url), urlsplit(following)
        usable = after.scheme in ("http", "https") and bool(after.hostname) and after.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Unavailable(f"registry {endpoint.authority}: redirect to {clean(location, 80)!r}")
    if before.scheme == "https" and after.scheme == "http" and not endpoint.plain_fallback:
        raise Unavailable(f"registry {endpoint.authority}: redirect from https to http refused")
    return following


def discard(response: Response) -> None:
    """Be done with an answer; a short rest is read so that the connection can be used again."""
    try:
        # Nothing remains of an answer to HEAD, whatever length it announces.
        if (response.length_remaining or 0) <= 64 << 10:
            response.read(64 << 10, decode_content=False)
    except (urllib3.exceptions.HTTPError, ValueError, OSError):
        pass  # nobody waits for these bytes
    response.close()


def read_whole(response: Response, limit: int, what: str, host: str) -> bytes:
    """The body, of at most `limit` bytes; more is refused. Closes the response."""
    data = b""
    try:
        while len(data) <= limit and (piece := response.read(limit + 1 - len(data), decode_content=False)):
            data += piece
    except urllib3.exceptions.HTTPError as error:
        raise explain(error, host) from error
    finally:
        response.close()
    if len(data) > limit:
        raise Unavailable(f"{what}: registry {host} sends more than the limit of {limit} bytes")
    return data


def _tls_for(endpoint: Endpoint, url: str) -> Tls:
    """An endpoint's settings are for its host; elsewhere (redirects, token servers) its CA is trusted, no more."""
    if urlsplit(url).hostname == endpoint.hostname:
        return endpoint.tls
    return Tls(ca=endpoint.tls.ca, skip_verify=is_insecure(urlsplit(url).netloc))


def _context(tls: Tls) -> ssl.SSLContext:
    if tls.skip_verify:
        # It was asked for in a configuration file; urllib3 would say so again on standard error, at each connection.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context()
    try:
        for path in tls.ca:
            context.load_verify_locations(path)
        for cert, key in tls.client:
            context.load_cert_chain(cert, key or None)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join((*tls.ca, *(path for pair in tls.client for path in pair if path)))
        raise FailedPrecondition(f"cannot load certificates from {files}: {clean(str(error))}") from error
    return context


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it wraps, outermost first."""
    chain: list[BaseException] = []
    todo: list[object] = [error]
    while todo:
        one = todo.pop(0)
        if isinstance(one, BaseException) and one not in chain and len(chain) < 20:
            chain.append(one)
            todo += [getattr(one, "reason", None), one.__cause__, one.__context__, *one.args]
    return chain


def _speaks_no_tls(error: BaseException) -> bool:
    """TLS failed in a way that plain HTTP explains, or nothing listens on the port (443 against 80)."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return False
        if isinstance(cause, ssl.SSLError) and any(text in str(cause).upper() for text in _NOT_TLS):
            return True
        if isinstance(cause, (ConnectionRefusedError, ConnectionResetError)):
            return True
    return False


def explain(error: BaseException, host: str) -> OrlopError:
    """The error for an exchange that came to nothing."""
    chain = _causes(error)

    def has(*kinds: type[BaseException]) -> BaseException | None:
        return next((cause for cause in chain if isinstance(cause, kinds)), None)

    if ours := has(OrlopError):
        return ours  # type: ignore[return-value]
    if failed := has(ssl.SSLCertVerificationError):
        reason = clean(getattr(failed, "verify_message", "") or str(failed)).lower()
        remedy = f"put its CA into /etc/orlop/certs.d/{host}/ca.crt"
        return Unavailable(f"registry {host}: certificate not trusted: {reason}; {remedy}")
    if has(ssl.SSLError):
        return Unavailable(f"registry {host}: no TLS: {clean(str(has(ssl.SSLError)))}")
    if has(urllib3.exceptions.NameResolutionError):
        return Unavailable(f"registry {host}: cannot resolve the host name")
    if has(ConnectionRefusedError):
        return Unavailable(f"registry {host}: connection refused")
    if has(urllib3.exceptions.ConnectTimeoutError):
        return DeadlineExceeded(f"registry {host}: no connection in time")
    if has(urllib3.exceptions.TimeoutError, TimeoutError):
        return DeadlineExceeded(f"registry {host}: no answer in time")
    if has(urllib3.exceptions.NewConnectionError):
        cause = has(OSError)
        return Unavailable(f"registry {host}: no connection: {clean(str(cause or error)).lower()}")
    if has(urllib3.exceptions.LocationValueError, urllib3.exceptions.LocationParseError):
        return Unavailable(f"registry {host}: bad address")
    return Interrupted(f"registry {host}: the connection broke: {_broken(chain)}")


def _broken(chain: list[BaseException]) -> str:
    text = next((str(c) for c in reversed(chain) if isinstance(c, Exception) and str(c)), "nothing was said")
    return clean(text, 120)
