"""Drives CRIU (criu(8)), an external program: starts it, talks with it over its RPC, and finds out what went wrong."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from orlop.runtime.children import children
from orlop.runtime.compile_restore import Program, compile_service
from orlop.runtime.launch import launch
from orlop.runtime.plan import Plan
from orlop.spec import cancel
from orlop.spec.errors import (
    Aborted,
    ContainerExit,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    from_os,
)
from orlop.wire import criu as messages

OnNotify = Callable[[messages.Answer, Sequence[int]], None]
CONFIG_ANNOTATION = "org.criu.config"
_CONFIGS = ("/etc/criu/orlop.conf", "/etc/criu/crun.conf", "/etc/criu/runc.conf")
# what CRIU tries out, logs as an error, and does without: more descriptors, and whether there are tun devices
_NOISE = ("RLIMIT_NOFILE", "Unable to create tun")
_LOG_MAX = 16 << 20
_UNDOING = 30  # seconds that CRIU is given to let go of processes


def program(more: int = 0) -> Program:
    """CRIU as it is found in $PATH. Raises NotFound, and PermissionDenied for a user who is not root."""
    if os.geteuid() != 0:
        raise PermissionDenied("criu needs root")
    path = installed()
    if not path:
        raise NotFound("the program criu is not installed, or not in $PATH")
    environment = tuple(f"{name}={value}" for name, value in os.environ.items())
    return Program(path=path, environment=environment, more=more)


def installed() -> str:
    """The path of CRIU in $PATH, or an empty string."""
    paths = (os.path.join(directory, "criu") for directory in os.get_exec_path())
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), "")


def config_file(annotations: dict[str, str]) -> str:
    """The file of further options for CRIU: the one that the container names (an empty name is none), else the
    administrator's for Orlop, else crun's, else the one for all runtimes."""
    if CONFIG_ANNOTATION in annotations:
        return annotations[CONFIG_ANNOTATION]
    return next((path for path in _CONFIGS if os.path.exists(path)), "")


def log_path(work: str, name: str, config: str) -> str:
    """Where CRIU's log is: `name` in the directory `work`, unless the file of options says otherwise."""
    try:
        with open(config, encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.strip().replace("=", " ").partition(" ")
                if key == "log-file" and value.strip():
                    name = value.strip()
    except OSError:
        pass  # CRIU makes nothing of a missing file either
    return os.path.join(work, name)


@contextmanager
def directory(path: str, flag: str, make: bool) -> Iterator[int]:
    """An open directory for CRIU's files."""
    try:
        if make:
            os.makedirs(path, 0o700, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os(error, flag) from error
    try:
        yield fd
    finally:
        os.close(fd)


class Session:
    """A connection to CRIU, at whose end requests are served."""

    def __init__(self, connection: socket.socket, errors: int) -> None:
        """`errors`: a file to which CRIU writes what it says before it has a log. Both stay the caller's."""
        self._connection = connection
        self._errors = errors

    def features(self) -> messages.Features:
        """What it can do here."""
        self._send(messages.feature_check())
        return self._answer(lambda *_: None).features

    def request(self, kind: int, options: messages.Options, on_notify: OnNotify) -> messages.Answer:
        """Have a request served; the last answer, whether good or bad. `on_notify` gets what CRIU tells meanwhile, with
        descriptors that are closed when it returns; what it raises ends CRIU. Raises FailedPrecondition for a CRIU that
        dies, and Aborted where nobody waits for it any more."""
        self._send(messages.request(kind, options))
        return self._answer(on_notify)

    def _send(self, message: bytes) -> None:
        try:
            self._connection.send(message)
        except OSError as error:  # it is gone; `_answer` tells why
            if not isinstance(error, (BrokenPipeError, ConnectionResetError)):
                raise

    def _answer(self, on_notify: OnNotify) -> messages.Answer:
        while True:
            data, fds = self._receive()
            try:
                if not data:
                    raise FailedPrecondition(self._died())
                answer = messages.parse(data)
                if answer.type != messages.NOTIFY:
                    return answer
                on_notify(answer, fds)
                self._send(messages.notified())
            finally:
                for fd in fds:
                    os.close(fd)

    def _receive(self) -> tuple[bytes, list[int]]:
        self._await()
        space = socket.CMSG_SPACE(4 * 4)
        try:
            data, ancillary, flags, _ = self._connection.recvmsg(messages.MOST_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return b"", []
        fds = [fd for _, _, raw in ancillary for (fd,) in struct.iter_unpack("i", raw[: len(raw) // 4 * 4])]
        if flags & socket.MSG_TRUNC:
            for fd in fds:
                os.close(fd)
            raise InvalidArgument("criu: an answer is too long")
        return data, fds

    def _await(self) -> None:
        """Until there is something to receive. Raises Aborted."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        while (slice := cancel.patience(None)) is not None and not poll.poll(slice * 1000):
            cancel.check()

    def _died(self) -> str:
        reason = first_error(os.pread(self._errors, 1 << 16, 0).decode("utf-8", "replace"))
        return f"criu ended without an answer{': ' + reason if reason else ''} (see `criu check`)"


class Criu(Session):
    """One process of CRIU, a child of this one, with a connection to it.

    `plan` starts it with the connection and `more` as its descriptors 3, 4, ... (see `compile_restore`). Standard
    input and output are ours; what it says on standard error, before it has a log, is kept for its epitaph, unless it
    gets `stderr`. `directories` are what the plan hands over, and closed at the end.
    """

    def __init__(self, plan: Plan | None = None, more: Sequence[int] = (), stderr: int | None = None) -> None:
        self.directories: list[int] = []
        self._plan = plan or compile_service(program())
        self._more = more
        self._stderr = stderr
        self.pid = 0

    def __enter__(self) -> Criu:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(ours, os.memfd_create("criu"))
        stderr = self._errors if self._stderr is None else self._stderr
        try:
            with theirs:
                started = launch(
                    self._plan, stdio=(0, 1, stderr), inherit=(theirs.fileno(), *self._more), on_sync=self._on_sync
                )
        except ContainerExit as error:
            self._close()
            raise FailedPrecondition(f"cannot run criu: {error}") from None
        except BaseException:
            self._close()
            raise
        self.pid = started.pid
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        self._connection.close()  # without anybody to talk with it ends, and undoes what it has not finished
        if isinstance(error, Aborted):  # but not before it has something to say
            self._call_off()
        try:
            children().wait(self.pid)
        except ChildProcessError:
            pass
        self._close()

    def _call_off(self) -> None:
        """End a dump that nobody waits for. Killed, CRIU would leave the processes as it has them then, stopped or with
        its own code in them. So it may write nothing more, which is an error that it undoes all for (where it was
        started by `compile_stoppable`)."""
        import resource

        pidfd = os.pidfd_open(self.pid)
        try:
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (0, 0))
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(_UNDOING * 1000):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has just ended
        finally:
            os.close(pidfd)

    def _on_sync(self, name: str, pid: int, fds: Sequence[int]) -> None:
        self.directories += [os.dup(fd) for fd in fds]

    def _close(self) -> None:
        self._connection.close()
        for fd in self.directories:
            os.close(fd)
        os.close(self._errors)


def failure(answer: messages.Answer, what: str, log: str) -> FailedPrecondition:
    """The error of a request that failed: the reason from the log, and where that is."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            reason = first_error(file.read(_LOG_MAX))
    except OSError:
        return FailedPrecondition(f"{what}: {first_error(answer.message) or _errno(answer)} (there is no log at {log})")
    return FailedPrecondition(f"{what}: {reason or first_error(answer.message) or _errno(answer)} (more in {log})")


def _errno(answer: messages.Answer) -> str:
    return os.strerror(answer.errno).lower() if answer.errno > 0 else "criu does not say why"


def first_error(log: str) -> str:
    """The first error of a log, without time and place (`(00.1) Error (criu/x.c:1): text`): others follow from it."""
    for line in log.splitlines():
        _, error, text = line.partition("Error (")
        if error and not any(noise in text for noise in _NOISE):
            return printable(text.partition("): ")[2] or text)
    return ""


def printable(text: str) -> str:
    """One line that does nothing to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text.strip())[:400]
