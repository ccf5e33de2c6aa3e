"""A connection to systemd over D-Bus: calls one after the other, and the ends of jobs.

A manager listens on a socket of its own, where root and its user need no bus between (as systemctl does it), and on the
bus, which may be missing.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from orlop.cgroups.units import Bus
from orlop.spec.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OrlopError,
    PermissionDenied,
    Unavailable,
)
from orlop.wire.dbus import (
    ERROR,
    METHOD_CALL,
    METHOD_RETURN,
    OPENING,
    SIGNAL,
    Message,
    encode,
    opened,
    parse,
    socket_names,
)

SYSTEMD, MANAGER, OBJECT = "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager", "/org/freedesktop/systemd1"
_DAEMON, _DAEMON_OBJECT = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_MATCH = f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved',path='{OBJECT}'"
_SYSTEM_SOCKETS = ("/run/systemd/private", "/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket")
_CONNECT = 5.0  # seconds
_PATIENCE = 30.0  # seconds for an answer, and for a job to end
_CHUNK = 1 << 16

# error's name, without what they begin with: its kind
_ERRORS: dict[str, type[OrlopError]] = {
    "org.freedesktop.systemd1.NoSuchUnit": NotFound,
    "org.freedesktop.systemd1.UnitExists": AlreadyExists,
    "org.freedesktop.DBus.Error.AccessDenied": PermissionDenied,
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": PermissionDenied,
    "org.freedesktop.DBus.Error.InvalidArgs": InvalidArgument,
    "org.freedesktop.DBus.Error.PropertyReadOnly": InvalidArgument,
    "org.freedesktop.DBus.Error.ServiceUnknown": Unavailable,
}


def _sockets(bus: Bus) -> list[str]:
    """Where the manager or its bus may be, in the order to try; a variable that names the bus goes before all."""
    if bus == "system":
        return [*socket_names(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "")), *_SYSTEM_SOCKETS]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    named = socket_names(os.environ.get("DBUS_SESSION_BUS_ADDRESS", ""))
    return [f"{runtime}/systemd/private", *named, f"{runtime}/bus"] if runtime else named


class Connection:
    """To a manager; `connect` makes it. A context manager."""

    def __init__(self, stream: socket.socket, direct: bool) -> None:
        self._stream = stream
        self._direct = direct
        self._data = bytearray()
        self._serial = 0
        self._ended: dict[str, str] = {}  # jobs that have ended: their results
        self._subscribed = direct  # who is connected directly hears everything

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def open(self) -> None:
        """Be let in, and to a bus say hello."""
        self._stream.settimeout(_CONNECT)
        self._stream.sendall(OPENING)
        while not (taken := opened(bytes(self._data))):
            self._receive(time.monotonic() + _CONNECT)
        del self._data[:taken]
        if not self._direct:
            self._call(_DAEMON, _DAEMON_OBJECT, _DAEMON, "Hello")

    def call(self, member: str, signature: str = "", *values: Any) -> tuple[Any, ...]:
        """A method of the manager; what it answers. Raises an error with systemd's own words."""
        return self._call(SYSTEMD, OBJECT, MANAGER, member, signature, *values)

    def property(self, name: str) -> Any:
        """A property of the manager."""
        interface = "org.freedesktop.DBus.Properties"
        return self._call(SYSTEMD, OBJECT, interface, "Get", "ss", MANAGER, name)[0].value

    def job(self, member: str, signature: str, *values: Any) -> str:
        """A method that starts a job; how the job ended: `done`, `failed`, `timeout`, ..."""
        if not self._subscribed:
            self._call(_DAEMON, _DAEMON_OBJECT, _DAEMON, "AddMatch", "s", _MATCH)
            self.call("Subscribe")
            self._subscribed = True
        job = self.call(member, signature, *values)[0]
        deadline = time.monotonic() + _PATIENCE
        while job not in self._ended:
            self._next(deadline)
        return self._ended.pop(job)

    def _call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *values: Any
    ) -> tuple[Any, ...]:
        self._serial += 1
        call = Message(
            kind=METHOD_CALL,
            serial=self._serial,
            path=path,
            interface=interface,
            member=member,
            destination=destination,
            signature=signature,
            body=values,
        )
        try:
            self._stream.sendall(encode(call))
        except OSError as error:
            raise Unavailable(f"systemd: {member}: {(error.strerror or str(error)).lower()}") from error
        deadline = time.monotonic() + _PATIENCE
        while True:
            answer = self._next(deadline)
            if answer.reply_serial != self._serial:
                continue
            if answer.kind == METHOD_RETURN:
                return answer.body
            if answer.kind == ERROR:
                raise _error(member, answer)

    def _next(self, deadline: float) -> Message:
        """The next message; an end of a job is kept."""
        while True:
            message, taken = parse(bytes(self._data))
            if message is not None:
                break
            self._receive(deadline)
        del self._data[:taken]
        if message.kind == SIGNAL and message.member == "JobRemoved" and message.signature == "uoss":
            self._ended[message.body[1]] = message.body[3]
        return message

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self._stream.settimeout(left)
            data = self._stream.recv(_CHUNK)
        except TimeoutError:
            raise DeadlineExceeded(f"systemd: no answer in {_PATIENCE:g} seconds") from None
        except OSError as error:
            raise Unavailable(f"systemd: {(error.strerror or str(error)).lower()}") from error
        if not data:
            raise Unavailable("systemd: the connection was closed")
        self._data += data


def _error(member: str, answer: Message) -> OrlopError:
    text = answer.body[0] if answer.signature.startswith("s") else answer.error_name
    words = "".join(c if c.isprintable() else "?" for c in text).rstrip(".")
    return _ERRORS.get(answer.error_name, FailedPrecondition)(f"systemd: {member}: {words}")


def connect(bus: Bus) -> Connection:
    """A connection that may be used. Raises Unavailable, or PermissionDenied where the manager does not let us in."""
    tried: list[str] = []
    for path in _sockets(bus):
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.settimeout(_CONNECT)
            stream.connect(path)
            connection = Connection(stream, path.endswith("/systemd/private"))
            connection.open()
            return connection
        except (OSError, Unavailable, PermissionDenied, Internal) as error:
            stream.close()
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            tried.append(f"{path.replace(chr(0), '@')}: {reason.lower()}")
    if not tried:
        raise Unavailable("systemd: where the user's bus is is not known; set XDG_RUNTIME_DIR")
    raise Unavailable(f"systemd: cannot connect to the {bus} manager: {'; '.join(tried)[:400]}")
