"""Runs commands of `orlop-runtime` for front ends, one after the other, in a process that has everything imported.

While a command runs the process is wholly its: standard streams, working directory, environment, umask and signals are
the front end's. Between two commands nothing of the first is left. What a command may touch is known: nothing in the
runtime changes its own process's namespaces, rights or limits (the launch helper does that), so descriptors, directory,
umask, signals and environment are all there is; each is set at the start of a command, and taken back at its end, when
nobody waits any more. A process that ends a command with anything but success, or with a descriptor more than it began
with, serves no other.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import socket
import struct
import sys
from typing import TextIO

from orlop.cgroups.probe import keep
from orlop.cli.runtime import main
from orlop.daemon.caller import Standing, standing
from orlop.daemon.front import FrontChildren
from orlop.runtime.children import entrust
from orlop.spec.errors import InvalidArgument
from orlop.wire.front import COLD, EXIT, MOST_BYTES, MOST_FDS, PROTOCOL, STANDARD, TAKEN, Command, pack, parse_command

FAR = 256  # own descriptors stand from here on; below, a command sees what its caller has
TAKES, IS_FREE = (
    b"t",
    b"f",
)  # what a worker tells the daemon: that it serves the connection sent along, or none any more
_LIFE = 500  # commands of one worker, lest what leaks somewhere adds up
_COLLECT = 16  # commands between two searches for cyclic garbage
_INTERPRETERS = {signal.SIGPIPE, signal.SIGXFSZ}  # Python ignores them from the start
_CREDENTIALS = struct.Struct("3i")


class Worker:
    """Serves connections that it accepts itself. `orders` leads to the daemon: its end sends the worker away. `mine` is
    what callers must be, `program` the launch helper's sealed file."""

    def __init__(self, listener: socket.socket, orders: socket.socket, mine: Standing, program: int) -> None:
        self._listener = listener
        self._orders = orders
        self._mine = mine
        self._program = program
        with select.epoll() as poll:
            self._poll = select.epoll.fromfd(fcntl.fcntl(poll.fileno(), fcntl.F_DUPFD_CLOEXEC, FAR))
        # One connection wakes one worker: the first that waits, which is the one whose memory is warmest.
        self._poll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._poll.register(orders, select.EPOLLIN)

    def run(self) -> None:
        """Until it is sent away, or has to go."""
        _let_go()
        keep(far(os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)))
        before = _descriptors()
        for number in range(_LIFE):
            connection = self._wait()
            if connection is None:
                return
            with connection:
                code = self._serve(connection)
            if code != 0 or _descriptors() != before:
                return
            if number % _COLLECT == _COLLECT - 1:
                gc.collect()

    def _wait(self) -> socket.socket | None:
        """The next connection; None to leave. A connection that woke this worker has woken no other: it goes first."""
        while True:
            ready = {fd for fd, _ in self._poll.poll()}
            if self._listener.fileno() in ready:
                try:
                    connection = self._listener.accept()[0]
                    return socket.socket(connection.family, connection.type, 0, far(connection.detach()))
                except OSError:  # it is gone again, or another one has it, or nobody is served any more
                    pass
            if self._orders.fileno() in ready:
                return None

    def _serve(self, connection: socket.socket) -> int:
        """Run the front end's command, or tell it to do so itself. Its status; 0 where nothing was done."""
        pid, uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if uid != os.geteuid() or pid == 0 or not _tell(connection, pack(TAKEN, os.getpid(), PROTOCOL)):
            return 0
        self._report(TAKES, connection.fileno())
        code = self._obey(connection, pid)
        # In this order: when the front end has gone, the daemon knows already that it need not end this process.
        self._report(IS_FREE)
        if code is None:
            _tell(connection, pack(COLD))
            return 0
        if _tell(connection, pack(EXIT, code)):
            _until_gone(connection)
        return code

    def _report(self, word: bytes, *fds: int) -> None:
        """To a daemon that is gone nothing need be said."""
        try:
            socket.send_fds(self._orders, [word], fds)
        except OSError:
            pass

    def _obey(self, connection: socket.socket, pid: int) -> int | None:
        """The command's exit status, or None if it is not for us. The front end prepares the command while its place is
        looked at. It is read in any case: a connection closed with something unread in it is an error over there."""
        ours = standing(str(pid)) == self._mine
        try:
            command, fds = _receive(connection)
        except InvalidArgument:
            return None
        except OSError:
            return 0
        if not ours:
            for fd in fds:
                os.close(fd)
            return None
        take_over(command, fds, pid)
        entrust(FrontChildren(connection, pid, self._program))
        code = main(command.arguments[1:])
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                code = code or 1
        _release(command)
        return code & 0xFF


def _receive(connection: socket.socket) -> tuple[Command, list[int]]:
    """The command and its descriptors. Raises InvalidArgument, then with none left open."""
    space = socket.CMSG_SPACE(MOST_FDS * 4)
    data, ancillary, flags, _ = connection.recvmsg(MOST_BYTES + 1, space, socket.MSG_CMSG_CLOEXEC)
    fds = [fd for _, _, raw in ancillary for (fd,) in struct.iter_unpack("i", raw[: len(raw) // 4 * 4])]
    try:
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC) or len(fds) < STANDARD:
            raise InvalidArgument("front end: descriptors or words are missing")
        return parse_command(data), fds
    except InvalidArgument:
        for fd in fds:
            os.close(fd)
        raise


def take_over(command: Command, fds: list[int], pid: int) -> None:
    """Become the process that the front end, `pid`, would have become."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FAR) for fd in fds]
    os.closerange(3, FAR)
    for number, fd in enumerate((*high[:3], *high[STANDARD:])):
        os.dup2(fd, number)
    os.fchdir(high[3])
    for fd in high:
        os.close(fd)
    os.umask(command.umask)
    for number in _ignorable(command):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):  # two real-time signals are the C library's
            continue
    _set_environment(command.environment, pid)
    sys.argv = list(command.arguments)
    # Python had its streams from the daemon, with the daemon's buffering.
    sys.stdout, sys.stderr = _stream(1, "surrogateescape"), _stream(2, "backslashreplace")


def _ignorable(command: Command) -> frozenset[int]:
    return command.ignored - {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP} - _INTERPRETERS


def _stream(fd: int, errors: str) -> TextIO:
    return open(fd, "w", buffering=-1 if fd == 1 else 1, encoding="utf-8", errors=errors, closefd=False)


def _set_environment(environment: dict[str, str], pid: int) -> None:
    """Descriptors that were passed to the front end (sd_listen_fds(3)) are now this process's."""
    if environment.get("LISTEN_PID") == str(pid):
        environment = environment | {"LISTEN_PID": str(os.getpid())}
    if dict(os.environ) != environment:
        os.environ.clear()
        os.environ.update(environment)


def _release(command: Command) -> None:
    """Let go of all that the caller lent, before it is told the end: whoever reads its pipes then sees theirs."""
    _let_go()
    os.umask(0o077)
    os.chdir("/")
    for number in _ignorable(command):
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            continue
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _let_go() -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(3, FAR)


def _descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def _until_gone(connection: socket.socket) -> None:
    """Until the front end has ended: afterwards no signal comes from it, which would strike the next command."""
    try:
        while connection.recv(64):
            pass
    except OSError:
        pass


def far(fd: int) -> int:
    """Move a descriptor out of the range that commands see."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FAR)
    os.close(fd)
    return high


def _tell(connection: socket.socket, message: bytes) -> bool:
    """False where nobody is there any more."""
    try:
        connection.send(message)
    except OSError:
        return False
    return True
