"""What `create`, `run` and `exec` share: descriptors to pass on, pid files, console sockets."""

from __future__ import annotations

import os
import socket

from orlop.cli.flags import Flag, Options, value
from orlop.spec.errors import InvalidArgument, from_os

FLAGS: tuple[Flag, ...] = (
    value("--console-socket", "Unix socket that gets the terminal's master", metavar="path"),
    value("--pidfd-socket", "Unix socket that gets a descriptor of the process (pidfd_open(2))", metavar="path"),
    value("--pid-file", "Write the process's pid to this file", metavar="path"),
    value(
        "--preserve-fds", "Pass this many further descriptors on, after standard ones and $LISTEN_FDS", "0", "number"
    ),
)
_MOST_PRESERVED = 32


def preserved(options: Options) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Descriptors to pass on, and what to add to the environment for socket activation (sd_listen_fds(3)).

    Each keeps its number. Of those that --preserve-fds counts, the ones that are not open are passed over.
    """
    text = options.preserve_fds
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise InvalidArgument(f"--preserve-fds: {text[:20]!r} is not a number")
    listening = _listening()
    for fd in range(3, 3 + listening):
        if not _inherited(fd):
            raise InvalidArgument(f"LISTEN_FDS: descriptor {fd} is not open")
    fds = tuple(fd for fd in range(3, 3 + listening + int(text)) if _inherited(fd))
    if len(fds) > _MOST_PRESERVED:
        raise InvalidArgument(f"--preserve-fds: more than {_MOST_PRESERVED} open descriptors")
    return fds, ((f"LISTEN_FDS={listening}", "LISTEN_PID=1") if listening else ())


def _inherited(fd: int) -> bool:
    """Whether it was open when this program began: what it has opened itself ends with exec, and is not to be given."""
    import fcntl

    try:
        return not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    except OSError:
        return False


def _listening() -> int:
    """How many sockets the caller passes. One who names no pid can't know ours; if what it counts is all there, it is
    for us, else the variable was left over by somebody."""
    text, pid = os.environ.get("LISTEN_FDS", "0"), os.environ.get("LISTEN_PID")
    count = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
    if pid is None:
        return count if all(map(_inherited, range(3, 3 + count))) else 0
    return count if pid == str(os.getpid()) else 0


def connect_console(options: Options) -> socket.socket | None:
    """A connection to the console socket, if one is named."""
    return _connect("--console-socket", options.console_socket) if options.console_socket else None


def _connect(flag: str, path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise from_os(error, f"{flag}: connect to {path}") from error
    return connection


def tell_process(options: Options, pid: int) -> None:
    """Tell of the process what the caller wants to know: its number in a file, itself over a socket."""
    write_pid(options, pid)
    if not options.pidfd_socket:
        return
    with _connect("--pidfd-socket", options.pidfd_socket) as connection:
        try:
            pidfd = os.pidfd_open(pid)
            try:
                socket.send_fds(connection, [b"pidfd"], [pidfd])
            finally:
                os.close(pidfd)
        except OSError as error:
            raise from_os(error, f"--pidfd-socket: send to {options.pidfd_socket}") from error


def write_pid(options: Options, pid: int) -> None:
    """Write the pid file at once, never half of it."""
    path = options.pid_file
    if not path:
        return
    beside = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")
    try:
        with open(beside, "w", encoding="ascii") as file:
            file.write(str(pid))
        os.rename(beside, path)
    except OSError as error:
        raise from_os(error, "--pid-file: write") from error
