"""Runs one command of `orlop-runtime` for a front end, in a process that has everything imported already.

The process is wholly the command's: standard streams, working directory, environment, umask and signals are the front
end's, and what the command's code does to them ends with it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import sys
from typing import TextIO

from orlop.cli.runtime import main
from orlop.daemon.caller import Standing, standing
from orlop.daemon.front import FrontChildren
from orlop.runtime.children import entrust
from orlop.spec.errors import InvalidArgument
from orlop.wire.front import COLD, EXIT, MOST_BYTES, MOST_FDS, PROTOCOL, STANDARD, TAKEN, Command, pack, parse_command

FAR = 256  # own descriptors stand from here on; below, a command sees what its caller has
_CREDENTIALS = struct.Struct("3i")


def serve(connection: socket.socket, mine: Standing, program: int) -> None:
    """Run the front end's command, or tell it to do so itself. `program` is the launch helper's sealed file."""
    pid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
    if pid == 0 or standing(str(pid)) != mine:
        _tell(connection, pack(COLD))
        return
    _tell(connection, pack(TAKEN, os.getpid(), PROTOCOL))
    try:
        command, fds = _receive(connection)
    except InvalidArgument:
        _tell(connection, pack(COLD))
        return
    except ConnectionResetError:
        return
    take_over(command, fds, pid)
    entrust(FrontChildren(connection, pid, program))
    code = main(command.arguments[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    _tell(connection, pack(EXIT, code & 0xFF))


def _receive(connection: socket.socket) -> tuple[Command, list[int]]:
    """The command and its descriptors. Raises InvalidArgument."""
    space = socket.CMSG_SPACE(MOST_FDS * 4)
    data, ancillary, flags, _ = connection.recvmsg(MOST_BYTES + 1, space, socket.MSG_CMSG_CLOEXEC)
    fds = [fd for _, _, raw in ancillary for (fd,) in struct.iter_unpack("i", raw[: len(raw) // 4 * 4])]
    if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC) or len(fds) < STANDARD:
        raise InvalidArgument("front end: descriptors or words are missing")
    return parse_command(data), fds


def take_over(command: Command, fds: list[int], pid: int) -> None:
    """Become the process that the front end, `pid`, would have become."""
    far = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FAR) for fd in fds]
    os.closerange(3, FAR)
    for number, fd in enumerate((*far[:3], *far[STANDARD:])):
        os.dup2(fd, number)
    os.fchdir(far[3])
    for fd in far:
        os.close(fd)
    os.umask(command.umask)
    for number in command.ignored - {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):  # two real-time signals are the C library's
            continue
    _set_environment(command.environment, pid)
    sys.argv = list(command.arguments)
    # Python had its streams from the daemon, with the daemon's buffering.
    sys.stdout, sys.stderr = _stream(1, "surrogateescape"), _stream(2, "backslashreplace")


def _stream(fd: int, errors: str) -> TextIO:
    return open(fd, "w", buffering=-1 if fd == 1 else 1, encoding="utf-8", errors=errors, closefd=False)


def _set_environment(environment: dict[str, str], pid: int) -> None:
    """Descriptors that were passed to the front end (sd_listen_fds(3)) are now this process's."""
    if environment.get("LISTEN_PID") == str(pid):
        environment = environment | {"LISTEN_PID": str(os.getpid())}
    if dict(os.environ) != environment:
        os.environ.clear()
        os.environ.update(environment)


def _tell(connection: socket.socket, message: bytes) -> bool:
    """False where nobody is there any more."""
    try:
        connection.send(message)
    except OSError:
        return False
    return True
