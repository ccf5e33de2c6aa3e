"""The daemon's socket: made here, handed over by a service manager (sd_listen_fds(3)), or by the daemon that this
process was until it executed itself anew."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orlop.spec.errors import AlreadyExists, InvalidArgument, from_os
from orlop.sys.lock import lock_file

_NAME = "orlop/runtime.sock"
_BACKLOG = 128
_INHERITED = "ORLOP_SERVE_INHERITED"  # process id; numbers of socket and lock (-1: none); of each child, see `Child`

Child = tuple[int, socket.socket, socket.socket | None]  # pid, the socket it gets orders by, its front end's connection


def default_path() -> str:
    """Where the front end looks: a place of root's, or of the user's own. Raises InvalidArgument without one."""
    if os.geteuid() == 0:
        return f"/run/{_NAME}"
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if not own.startswith("/"):
        raise InvalidArgument("--socket: is needed where $XDG_RUNTIME_DIR is not set")
    return f"{own}/{_NAME}"


class Listener:
    """The socket that front ends connect to. `children` serve some already, from before."""

    def __init__(self, listener: socket.socket, lock: int, children: tuple[Child, ...] = ()) -> None:
        self.socket = listener
        self.children = children
        self.lock = lock  # -1: the socket is the service manager's

    def refuse(self) -> None:
        """Nobody is served any more. Who waits already, and who comes, is told so at once; unless the socket is the
        service manager's, which then starts another daemon."""
        if self.lock >= 0:
            self.socket.shutdown(socket.SHUT_RDWR)
            while True:
                try:
                    self.socket.accept()[0].close()
                except OSError:
                    break
        self.socket.close()

    def hand_on(self, children: Iterable[Child]) -> None:
        """Keep all that is open over execve(2), and tell the program where it is."""
        words = [str(os.getpid()), str(_keep(self.socket.fileno())), str(_keep(self.lock))]
        for pid, orders, connection in children:
            words += [str(pid), str(_keep(orders.fileno())), str(_keep(connection.fileno() if connection else -1))]
        os.environ[_INHERITED] = " ".join(words)


def _keep(fd: int) -> int:
    if fd >= 0:
        os.set_inheritable(fd, True)
    return fd


@contextmanager
def listening(path: str, given: int = -1) -> Iterator[Listener]:
    """A socket that front ends connect to, this user's alone; its file is removed at the end.

    The lock on `<path>.lock` tells whether a daemon is there: a socket without one is what a killed one has left.
    Raises AlreadyExists where one is. `given` is a descriptor that listens already.
    """
    listener = _inherited() or (_checked(given) if given >= 0 else None) or _passed() or _made(path)
    mine = None if listener.lock < 0 else os.stat(path)
    try:
        with listener.socket:
            yield listener
    finally:
        if mine is not None:
            try:
                if os.path.samestat(os.stat(path), mine):
                    os.unlink(path)
            except FileNotFoundError:
                pass
            Path(f"{path}.lock").unlink(missing_ok=True)
            os.close(listener.lock)


def _made(path: str) -> Listener:
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
        return Listener(_bound(path), held)
    except BaseException:
        lock.unlink(missing_ok=True)
        os.close(held)
        raise


def _bound(path: str) -> socket.socket:
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
    return listener


def _passed() -> Listener | None:
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return _checked(3)


def _checked(fd: int) -> Listener:
    passed = socket.socket(fileno=fd)
    passed.set_inheritable(False)
    if passed.family != socket.AF_UNIX or passed.type != socket.SOCK_SEQPACKET:
        raise InvalidArgument("LISTEN_FDS: the socket must be of the kind SOCK_SEQPACKET (ListenSequentialPacket=)")
    return Listener(passed, -1)


def _inherited() -> Listener | None:
    """What `hand_on` has kept. The daemon of another version may have said it otherwise: then it is not understood,
    and the workers see their daemon's end of the connection close."""
    words = os.environ.pop(_INHERITED, "").split()
    if len(words) < 3 or len(words) % 3 or words[0] != str(os.getpid()):
        return None
    numbers = [int(word) for word in words]
    children = tuple(
        (pid, _taken_up(orders), _taken_up(connection) if connection >= 0 else None)
        for pid, orders, connection in zip(numbers[3::3], numbers[4::3], numbers[5::3], strict=True)
    )
    if numbers[2] >= 0:
        os.set_inheritable(numbers[2], False)
    return Listener(_taken_up(numbers[1]), numbers[2], children)


def _taken_up(fd: int) -> socket.socket:
    found = socket.socket(fileno=fd)
    found.set_inheritable(False)
    return found
