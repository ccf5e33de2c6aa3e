"""Readiness of the program, for systemd: a socket in the container, whose READY= is passed on (sd_notify(3)).

The container finds it at /run/notify/notify.sock, in a directory of its state that is bound there. Of what it sends,
nothing but lines that begin with READY= reaches the host, and only the first of them; with it goes MAINPID=, for the
process that stands for the container there.
"""

from __future__ import annotations

import os
import select
import socket

import msgspec

from orlop.spec.errors import FailedPrecondition, InvalidArgument, from_os
from orlop.spec.runtime import Mount, RuntimeSpec

NAME, INSIDE = "notify.sock", "/run/notify"
_BARRIER_SECONDS = 30.0
_MESSAGE_MAX = 4096


def with_socket(spec: RuntimeSpec, directory: str) -> RuntimeSpec:
    """`spec` with the directory that the socket is in, and the variable that tells of it."""
    if spec.process is None:
        return spec
    options = ("bind", "nosuid", "noexec", "nodev", "ro")
    mount = Mount(destination=INSIDE, type="bind", source=directory, options=options)
    process = msgspec.structs.replace(spec.process, env=(*spec.process.env, f"NOTIFY_SOCKET={INSIDE}/{NAME}"))
    return msgspec.structs.replace(spec, process=process, mounts=(*spec.mounts, mount))


class NotifySocket:
    """One container's socket, and the one of the host that it speaks to: a path, or `@` and an abstract name."""

    def __init__(self, host: str) -> None:
        if host[:1] not in ("/", "@") or "\0" in host:
            raise InvalidArgument(f"--notify-socket: {host[:64]!r} is neither a path nor an abstract socket")
        self._host = "\0" + host[1:] if host[0] == "@" else host
        self._socket: socket.socket | None = None

    def make(self, directory: str) -> None:
        """Make the directory, with nobody listening yet."""
        try:
            os.mkdir(directory, 0o755)
        except OSError as error:
            raise from_os(error, "--notify-socket: make") from error

    def listen(self, directory: str) -> None:
        """Be the one who receives. Raises FailedPrecondition for a container that was made without a socket."""
        try:
            parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise FailedPrecondition("--notify-socket: the container was created without one") from None
        path = f"/proc/self/fd/{parent}/{NAME}"  # a socket's path has 107 bytes at most
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            if os.path.lexists(path):
                os.unlink(path)
            self._socket.bind(path)
            os.chmod(path, 0o777)
        except OSError as error:
            raise from_os(error, "--notify-socket: make") from error
        finally:
            os.close(parent)

    def fileno(self) -> int:
        """Readable when the container has said something; -1 when nobody listens any more."""
        return -1 if self._socket is None else self._socket.fileno()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def heard(self, main_pid: int) -> bool:
        """Take one message. Whether it was the one that counts, which has then been passed on."""
        if self._socket is None:
            return False
        ready = ready_line(self._socket.recv(_MESSAGE_MAX))
        if not ready:
            return False
        self.close()
        self._send(ready + b"\n")
        self._send(b"MAINPID=%d\n" % main_pid)
        return True

    def wait(self, pid: int) -> None:
        """Until the process has said that it is ready, and the host has taken note, or has ended."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.register(self.fileno(), select.POLLIN)
            while True:
                ready = {fd for fd, _ in poll.poll()}
                if self.fileno() in ready:
                    if self.heard(pid):
                        return self._barrier()
                elif pidfd in ready:
                    return None
        finally:
            os.close(pidfd)

    def _barrier(self) -> None:
        """Stay until the host has read all: it looks up who sent it (sd_notify_barrier(3))."""
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                self._send(b"BARRIER=1", write)
            finally:
                os.close(write)
            select.select([read], [], [], _BARRIER_SECONDS)
        finally:
            os.close(read)

    def _send(self, data: bytes, fd: int = -1) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
                host.connect(self._host)
                socket.send_fds(host, [data], [fd] if fd >= 0 else [])
        except OSError as error:
            raise from_os(error, "--notify-socket: tell the host") from error


def ready_line(message: bytes) -> bytes:
    """The line that says READY=, or nothing."""
    return next((line for line in message.split(b"\n") if line.startswith(b"READY=")), b"")
