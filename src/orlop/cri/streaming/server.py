"""The streaming server: URLs for requests, and whoever comes for them.

server = Server(backend)
await server.start()
server.url(Exec("0123", ("ls",), stdout=True))     # http://127.0.0.1:41234/exec/5NTGKI...
"""

from __future__ import annotations

import asyncio
import logging
import time

from orlop.cri.streaming.backend import Attach, Backend, Exec, PortForward, Request
from orlop.cri.streaming.limits import Limits
from orlop.cri.streaming.link import close, keep_alive
from orlop.cri.streaming.tokens import Tokens
from orlop.cri.streaming.upgrade import Exchange, HeaderList, Refused, websocket_headers
from orlop.cri.streaming.upgrade import Request as HTTPRequest
from orlop.spec.errors import FailedPrecondition, InvalidArgument, os_errors
from orlop.wire import kubestream

_log = logging.getLogger(__name__)

_VERBS: dict[type[Request], str] = {Exec: "exec", Attach: "attach", PortForward: "portforward"}
_VERSION = "x-stream-protocol-version"
_WEBSOCKET_PROTOCOL = "sec-websocket-protocol"
_CLOSING = 1.0  # seconds for the last bytes to leave


class Server:
    """Listens on `host` and `port` (0: a free one). Whoever reaches it and knows a token has what the token is for, so
    it stays on the loopback address unless the kubelet is elsewhere."""

    def __init__(self, backend: Backend, host: str = "127.0.0.1", port: int = 0, limits: Limits | None = None) -> None:
        self._backend = backend
        self._host = host
        self._port = port
        self._limits = limits or Limits()
        self._tokens = Tokens(time.monotonic, self._limits.token, self._limits.tokens)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        with os_errors(f"streaming server: listen on {self._host} port {self._port}"):
            self._server = await asyncio.start_server(self._accepted, self._host, self._port)

    @property
    def base(self) -> str:
        """The beginning of all URLs."""
        if self._server is None or not self._server.sockets:
            raise FailedPrecondition("the streaming server is not running")
        port = self._server.sockets[0].getsockname()[1]
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{port}"

    def url(self, request: Request) -> str:
        """A URL for one use, soon. Raises InvalidArgument, and ResourceExhausted where too many are unused."""
        _check(request)
        return f"{self.base}/{_VERBS[type(request)]}/{self._tokens.issue(request)}"

    async def close(self) -> None:
        """Stops listening, and ends all connections: their calls of the backend are cancelled and have returned."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()
        self._server = None

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        keep_alive(writer.get_extra_info("socket"))
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = Exchange(reader, writer)
        try:
            await self._converse(exchange)
        except Refused as refused:
            await exchange.refuse(refused)
        except ConnectionError:
            pass  # the client has gone
        except Exception:
            _log.exception("streaming connection")
        finally:
            await close(writer, _CLOSING)

    async def _converse(self, exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(self._limits.creation):
                http = await exchange.receive()
        except TimeoutError:
            raise Refused(408, f"no request in {self._limits.creation:g} s") from None
        if http is None:
            return
        if len(self._tasks) > self._limits.connections:
            raise Refused(503, f"{self._limits.connections} streaming connections are open: try again later")
        request = self._find(http)
        if http.upgrade == "websocket":
            await self._websocket(exchange, http, request)
        elif http.upgrade:
            await self._spdy(exchange, http, request)
        else:
            raise Refused(400, "this URL is for streaming: upgrade to SPDY/3.1 or websocket")

    def _find(self, http: HTTPRequest) -> Request:
        verb, _, token = http.target.partition("?")[0].removeprefix("/").partition("/")
        if verb not in _VERBS.values():
            raise Refused(404, f"no such path; there are {', '.join(f'/{verb}/TOKEN' for verb in _VERBS.values())}")
        if http.method not in ("GET", "POST"):
            raise Refused(405, f"method {http.method[:20]}: use GET or POST", [("Allow", "GET, POST")])
        request = self._tokens.take(token)
        if request is None or _VERBS[type(request)] != verb:
            raise Refused(404, "the token is unknown, was used before, or has expired: ask for a new URL")
        return request

    async def _spdy(self, exchange: Exchange, http: HTTPRequest, request: Request) -> None:
        known = _PORT_FORWARD if isinstance(request, PortForward) else kubestream.REMOTE_COMMAND
        protocol, headers = _negotiate(http, _VERSION, known, "X-Accepted-Stream-Protocol-Versions")
        if protocol.name:
            headers.append(("X-Stream-Protocol-Version", protocol.name))
        link = await exchange.switch([("Upgrade", "SPDY/3.1"), *headers])
        from orlop.cri.streaming import port_forward, remote_command  # what sessions need comes with the first

        if isinstance(request, PortForward):
            await port_forward.over_spdy(link, self._backend, request, self._limits)
        else:
            await remote_command.over_spdy(link, self._backend, request, protocol, self._limits)

    async def _websocket(self, exchange: Exchange, http: HTTPRequest, request: Request) -> None:
        from orlop.cri.streaming import port_forward, remote_command

        known = _PORT_FORWARD_WEBSOCKET if isinstance(request, PortForward) else kubestream.REMOTE_COMMAND_WEBSOCKET
        protocol, _ = _negotiate(http, _WEBSOCKET_PROTOCOL, known, None)
        tunnel = protocol.name == kubestream.TUNNEL
        if (
            isinstance(request, PortForward)
            and not tunnel
            and (why := port_forward.port_error(protocol, request.ports))
        ):
            raise Refused(400, why)
        link = await exchange.switch(websocket_headers(http, protocol.name))
        if not isinstance(request, PortForward):
            await remote_command.over_websocket(link, self._backend, request, protocol, self._limits)
        elif tunnel:
            await port_forward.over_tunnel(link, self._backend, request, self._limits)
        else:
            await port_forward.over_websocket(link, self._backend, request, protocol, self._limits)


_PORT_FORWARD = {kubestream.PORT_FORWARD: kubestream.Protocol(kubestream.PORT_FORWARD, 1)}
_PORT_FORWARD_WEBSOCKET = kubestream.PORT_FORWARD_WEBSOCKET | {
    kubestream.TUNNEL: kubestream.Protocol(kubestream.TUNNEL, 1)
}
# A client that names no version. Of port-forward there is only one; over WebSocket, channels are meant.
_UNNAMED = kubestream.Protocol("", 1)


def _negotiate(
    http: HTTPRequest, header: str, known: dict[str, kubestream.Protocol], accepted: str | None
) -> tuple[kubestream.Protocol, HeaderList]:
    offered = http.tokens(header)
    if not offered:
        return _UNNAMED, []
    protocol = kubestream.choose(offered, known)
    if protocol is None:
        names = ", ".join(known)
        headers = [(accepted, name) for name in known] if accepted else []
        raise Refused(
            403, f"no common protocol: the client offers {', '.join(offered)[:200]}; there are {names}", headers
        )
    return protocol, []


def _check(request: Request) -> None:
    if isinstance(request, PortForward):
        bad = next((port for port in request.ports if not 0 < port < 65536), None)
        if bad is not None:
            raise InvalidArgument(f"port {bad}: 1 to 65535 are ports")
        return
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidArgument("stdin, stdout, stderr: at least one is needed")
    if request.tty and request.stderr:
        raise InvalidArgument("stderr: with tty it is part of stdout, ask for one of them")
    if isinstance(request, Exec) and not request.command:
        raise InvalidArgument("cmd: empty")
