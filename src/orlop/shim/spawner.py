"""A process that forks shims for a daemon: asking it costs less than loading a program for each container."""

from __future__ import annotations

import fcntl
import os
import socket
from _thread import allocate_lock
from collections.abc import Sequence

from orlop.shim import spawn

_MOST = 16384  # bytes of a request
_TITLE = 2000  # bytes that a shim has to show its arguments in
_REQUESTS = 3  # the descriptor


class Spawner:
    """Started with the first shim that is asked for, and again where it has ended. Safe for several threads."""

    def __init__(self) -> None:
        self._guard = allocate_lock()
        self._socket: socket.socket | None = None
        self.pid = 0  # its process, while there is one

    def spawn(self, arguments: Sequence[str], descriptors: Sequence[int]) -> bool:
        """Have a shim started with these arguments and descriptors, which it has from 3 on. False where that can't be
        asked for; then nothing has been started."""
        request = b"".join(os.fsencode(word) + b"\0" for word in arguments)
        if len(request) > _MOST:
            return False
        for _ in range(2):
            try:
                found = self._connected()
            except OSError:
                return False
            try:
                socket.send_fds(found, [request], descriptors)
                return True
            except ConnectionError:  # it was killed
                self._forget(found)
            except OSError:
                return False
        return False

    def close(self) -> None:
        """End it. Its shims go on."""
        if self._socket is not None:
            self._forget(self._socket)

    def _connected(self) -> socket.socket:
        with self._guard:
            if self._socket is None:
                self._socket, self.pid = self._start()
            return self._socket

    def _start(self) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # not the number itself, which would keep its close-on-exec flag
            high = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, _REQUESTS + 1)
            try:
                actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                    (os.POSIX_SPAWN_DUP2, 0, 1),
                    (os.POSIX_SPAWN_DUP2, 0, 2),
                    (os.POSIX_SPAWN_DUP2, high, _REQUESTS),
                ]
                arguments = ["orlop-shim", "--spawner", "." * _TITLE]
                return ours, os.posix_spawn(
                    spawn.PROGRAM, arguments, spawn.environment_of_shims(), file_actions=actions
                )
            except BaseException:
                ours.close()
                raise
            finally:
                os.close(high)

    def _forget(self, found: socket.socket) -> None:
        with self._guard:
            if self._socket is not found:
                return
            pid, self._socket, self.pid = self.pid, None, 0
        found.close()
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:  # somebody waits for all children
            pass
