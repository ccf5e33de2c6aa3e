"""The daemon's socket: made here, or handed over by a service manager (sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orlop.spec.errors import AlreadyExists, InvalidArgument, from_os
from orlop.sys.lock import lock_file

PATH = "/run/orlop/runtime.sock"
_BACKLOG = 128


@contextmanager
def listening(path: str = PATH) -> Iterator[socket.socket]:
    """A socket that front ends connect to, root's alone; its file is removed at the end.

    The lock on `<path>.lock` tells whether a daemon is there: a socket without one is what a killed one has left.
    Raises AlreadyExists where one is.
    """
    passed = _passed()
    if passed is not None:
        with passed:
            yield passed
        return
    if len(os.fsencode(path)) > 107:
        raise InvalidArgument("--socket: a socket's path has at most 107 bytes")
    lock = Path(f"{path}.lock")
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o711, exist_ok=True)
        held = lock_file(lock, wait=False)
        if held is None:
            raise AlreadyExists(f"a daemon is listening on {path} already")
    except OSError as error:
        raise from_os(error, "--socket: make") from error
    try:
        with _bound(path) as listener:
            yield listener
    finally:
        lock.unlink(missing_ok=True)
        os.close(held)


@contextmanager
def _bound(path: str) -> Iterator[socket.socket]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        if os.path.lexists(path):
            os.unlink(path)
        listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise from_os(error, f"--socket: listen on {path}") from error
    finally:
        os.umask(before)
    mine = os.stat(path)
    try:
        with listener:
            yield listener
    finally:
        try:
            if os.path.samestat(os.stat(path), mine):
                os.unlink(path)
        except FileNotFoundError:
            pass


def _passed() -> socket.socket | None:
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    passed = socket.socket(fileno=3)
    passed.set_inheritable(False)
    if passed.family != socket.AF_UNIX or passed.type != socket.SOCK_SEQPACKET:
        raise InvalidArgument("LISTEN_FDS: the socket must be of the kind SOCK_SEQPACKET (ListenSequentialPacket=)")
    return passed
