"""What the streaming server asks of whoever runs containers.

A request has been checked when its URL was made. The server calls the backend once a client has come and its streams
are there. A call is cancelled when the client goes, when the connection has been idle for too long and when the server
closes: the backend ends the process that it started for `exec`, and lets go of the container or the pod otherwise. An
OrlopError is told to the client.

Streams are asynchronous and bounded. `read` waits for bytes; as long as nobody reads, the client is made to wait.
`write` waits while the client is slow, so that no more than some hundred kilobytes are ever kept for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from orlop.wire.kubestream import Size


class ClientGone(ConnectionError):
    """The client has closed the stream, or its connection. A call may let it pass."""


class Input(Protocol):
    async def read(self) -> bytes:
        """Some bytes, as soon as there are any; none at the end."""


class Output(Protocol):
    async def write(self, data: bytes) -> None:
        """Raises ClientGone."""

    async def close(self) -> None:
        """The end, for the client to see. Repeatable; what is left open is closed when the call returns."""


class Duplex(Input, Output, Protocol):
    """A connection: each direction ends on its own."""


class Stdio(msgspec.Struct, frozen=True):
    """Streams of a process; missing where the request has none."""

    stdin: Input | None = None
    stdout: Output | None = None
    stderr: Output | None = None
    sizes: AsyncIterator[Size] | None = None
    """Of the client's terminal: the newest one, when it has changed. Ends with the connection at the latest."""


class Exec(msgspec.Struct, frozen=True):
    container: str
    command: tuple[str, ...]
    tty: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


class Attach(msgspec.Struct, frozen=True):
    container: str
    tty: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


class PortForward(msgspec.Struct, frozen=True):
    sandbox: str
    ports: tuple[int, ...] = ()
    """For WebSocket clients that use channels; others name a port for every connection."""


Request = Exec | Attach | PortForward


class Backend(Protocol):
    async def exec(self, request: Exec, stdio: Stdio) -> int:
        """Runs a command to its end; its exit status."""

    async def attach(self, request: Attach, stdio: Stdio) -> None:
        """Passes streams of the first process until it ends, or until the client's input does, where that is not also
        the end of the container's."""

    async def port_forward(self, sandbox: str, port: int, connection: Duplex) -> None:
        """Connects to a port in the pod, and passes bytes until both directions have ended."""
