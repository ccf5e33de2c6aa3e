"""Run one CNI plugin: environment and JSON in, JSON or an error out (CNI specification, section 2).

A plugin is a program of someone else's: what it prints is bounded, how long it takes is too, and its error becomes
one line.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from orlop.spec import cancel
from orlop.spec.document import known
from orlop.spec.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OrlopError,
    ResourceExhausted,
    Unavailable,
    from_os,
)
from orlop.sys.procfs import descendants

TIMEOUT = 60.0  # seconds for one plugin
MAX_OUTPUT = 1 << 20
MAX_MESSAGE = 64 << 10

# error codes of the specification, section 5; all others are the plugin's own
_KINDS: dict[int, type[OrlopError]] = {
    1: InvalidArgument,  # incompatible CNI version
    2: InvalidArgument,  # unsupported field in network configuration
    3: NotFound,  # container unknown or does not exist
    4: InvalidArgument,  # invalid environment variables
    7: InvalidArgument,  # invalid network config
    11: Unavailable,  # try again later
    50: Unavailable,  # plugin not available (STATUS)
    51: Unavailable,
}


class PluginError(msgspec.Struct, frozen=True):
    """What a plugin prints when it fails."""

    code: int = 0
    msg: str = ""
    details: str = ""


_error_json = msgspec.json.Decoder(known(PluginError))


def find(kind: str, directories: Sequence[Path]) -> Path:
    """The program of a plugin type. A type is a file name, never a path."""
    if not kind or "/" in kind or kind in (".", "..") or not kind.isprintable():
        raise InvalidArgument(f"cni plugin type {kind[:64]!r}: not a file name")
    for directory in directories:
        path = directory / kind
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise NotFound(f"cni plugin {kind}: not in {', '.join(map(str, directories)) or 'any directory'}")


def run(program: Path, config: bytes, environment: Mapping[str, str], timeout: float = TIMEOUT) -> bytes:
    """Run a plugin to its end and return what it printed on standard output."""
    what = f"cni plugin {program.name} {environment.get('CNI_COMMAND', '')}".rstrip()
    try:
        process = _Process(program, environment)
    except OSError as error:
        raise from_os(error, what) from error
    try:
        process.converse(config, time.monotonic() + timeout, what)
        status = process.wait(time.monotonic() + timeout, what)
    finally:
        process.end()
    if status:
        raise _failure(what, status, bytes(process.output), bytes(process.message))
    return bytes(process.output)


def _failure(what: str, status: int, output: bytes, message: bytes) -> OrlopError:
    try:
        error = _error_json.decode(output)
    except msgspec.MsgspecError:
        error = PluginError()
    if error.msg or error.code:
        details = f" ({_line(error.details)})" if error.details else ""
        return _KINDS.get(error.code, Unavailable)(f"{what}: {_line(error.msg) or f'error {error.code}'}{details}")
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    text = _line(message.decode("utf-8", "replace")) or _line(output.decode("utf-8", "replace"))
    return Unavailable(f"{what}: {how}{': ' if text else ''}{text}")


def _line(text: str) -> str:
    """Foreign text as part of one line."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in words)[:400]


class _Process:
    """A child with three pipes, in a process group of its own."""

    def __init__(self, program: Path, environment: Mapping[str, str]) -> None:
        self.output, self.message = bytearray(), bytearray()
        self._reaped = False
        theirs: list[int] = []
        ours: list[int] = []
        try:
            for child_reads in (True, False, False):
                reader, writer = os.pipe2(os.O_CLOEXEC)
                theirs.append(reader if child_reads else writer)
                ours.append(writer if child_reads else reader)
            actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(_above_stdio(theirs))]
            self.pid = os.posix_spawn(
                program, [str(program)], dict(environment), file_actions=actions, setpgroup=0, setsigmask=[]
            )
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
        self._input, self._output, self._message = ours
        self._open = set(ours)

    def converse(self, data: bytes, deadline: float, what: str) -> None:
        """Feed standard input and collect both outputs until all are closed."""
        sinks = {self._output: (self.output, MAX_OUTPUT), self._message: (self.message, MAX_MESSAGE)}
        rest = memoryview(data)
        with selectors.PollSelector() as selector:
            os.set_blocking(self._input, False)
            selector.register(self._input, selectors.EVENT_WRITE)
            for fd in sinks:
                selector.register(fd, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(cancel.patience(max(0.0, deadline - time.monotonic())))
                cancel.check()
                if not ready and time.monotonic() >= deadline:
                    raise DeadlineExceeded(f"{what}: no answer within its time")
                for key, _ in ready:
                    fd = int(key.fd)
                    if fd == self._input:
                        rest = self._feed(rest)
                        done = not rest
                    else:
                        done = _drain(fd, *sinks[fd], what)
                    if done:
                        selector.unregister(fd)
                        self._shut(fd)

    def _feed(self, rest: memoryview) -> memoryview:
        try:
            return rest[os.write(self._input, rest) :]
        except BlockingIOError:
            return rest
        except BrokenPipeError:  # it does not want more
            return rest[:0]

    def _shut(self, fd: int) -> None:
        self._open.discard(fd)
        os.close(fd)

    def wait(self, deadline: float, what: str) -> int:
        """The exit status, negative for a signal. It has closed its outputs, so this rarely takes long."""
        pause = 0.0001
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._reaped = True
                return os.waitstatus_to_exitcode(status)
            cancel.check()
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{what}: it does not end")
            time.sleep(pause)
            pause = min(pause * 2, 0.02)

    def end(self) -> None:
        """Leave nothing of it: neither descriptors nor, if it still runs, the process and its children."""
        _close(list(self._open))
        if not self._reaped:
            _kill_tree(self.pid)
            os.waitpid(self.pid, 0)
            self._reaped = True


def _kill_tree(pid: int) -> None:
    """Kill a child with all that descends from it, in whatever group or session. What is stopped starts nothing more,
    and its number stays its own: so all are stopped before the first is killed."""
    found = {pid}
    _signal(pid, signal.SIGSTOP)
    while more := descendants(pid) - found:
        for other in more:
            _signal(other, signal.SIGSTOP)
        found |= more
    for other in found:
        _signal(other, signal.SIGKILL)
    try:
        os.killpg(pid, signal.SIGKILL)  # those whose parent has ended, too, where they stayed in the group
    except ProcessLookupError:
        return


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _above_stdio(fds: list[int]) -> list[int]:
    """Pipe ends whose numbers no dup2 onto 0, 1 and 2 can overwrite before its turn."""
    for position, fd in enumerate(fds):
        if fd <= 2:
            import fcntl

            fds[position] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            os.close(fd)
    return fds


def _drain(fd: int, sink: bytearray, limit: int, what: str) -> bool:
    data = os.read(fd, 1 << 16)
    if len(sink) + len(data) > limit:
        raise ResourceExhausted(f"{what}: prints more than {limit >> 10} KiB")
    sink += data
    return not data


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()
