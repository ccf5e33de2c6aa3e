"""Stays with a process in the foreground: passes signals on, carries a terminal's bytes, and returns how it ended."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orlop.runtime.children import children
from orlop.sys.signals import hold_back, let_through, received, signalfd

_KEPT = {signal.SIGPIPE, signal.SIGKILL, signal.SIGSTOP, signal.SIGURG}
_PASSED_ON = tuple(number for number in range(1, 65) if number not in _KEPT)  # SIGCHLD among them is for us
_CHUNK = 65536


class Foreground:
    """Collects signals from the moment it is entered, before the process is there, so that none is lost.

    with Foreground() as foreground:
        pid = ...                     # start a child; its terminal's master, if any, goes to foreground.master
        code = foreground.wait(pid)
    """

    def __init__(self) -> None:
        self.master = -1
        self._signals = -1
        self._mask = b""
        self._watched = -1
        self._act: Callable[[], bool] = lambda: True

    def take_master(self, master: int) -> None:
        """Carry this terminal from now on; the descriptor is closed at the end."""
        self.master = master
        _plain_newlines(master)
        _copy_size(master)

    def watch(self, fd: int, act: Callable[[], bool]) -> None:
        """Call `act` while there is something to read, until it returns True. The descriptor stays the caller's."""
        self._watched, self._act = fd, act

    def __enter__(self) -> Foreground:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as by the caller, it would keep every status from us
        self._mask = hold_back(_PASSED_ON)
        self._signals = signalfd(_PASSED_ON)
        return self

    def __exit__(self, *_: object) -> None:
        received(self._signals)  # what nobody has waited for must not strike when it is let through
        let_through(self._mask)
        self._drain()  # of a process that has not come up, what its hooks have said
        for fd in (self._signals, self.master):
            if fd >= 0:
                os.close(fd)

    def wait(self, pid: int) -> int:
        """Until the child has ended: its exit status, or 128 and the signal that ended it."""
        process = os.pidfd_open(pid)  # what is told that it has ended may be reaped already, and its number another's
        try:
            with _raw(0) if self.master >= 0 else _nothing():
                return _exit_status(self._loop(pid, process))
        finally:
            os.close(process)

    def _loop(self, pid: int, process: int) -> int:
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        if self.master >= 0:
            poll.register(self.master, select.POLLIN)
            poll.register(0, select.POLLIN)
        if self._watched >= 0:
            poll.register(self._watched, select.POLLIN)
        told = children().announce(pid)
        if told >= 0:
            poll.register(told, select.POLLIN)
        ended = False
        while True:
            done, status = children().wait(pid, os.WNOHANG) if told < 0 or ended else (0, 0)
            if done:
                self._drain()
                return status
            for fd, _ in poll.poll():
                if fd == told:
                    ended = True
                elif fd == self._signals:
                    self._pass_on(process)
                elif fd == self._watched:
                    if self._act():
                        poll.unregister(fd)
                        self._watched = -1
                elif not _copy(fd, 1 if fd == self.master else self.master):
                    poll.unregister(fd)

    def _pass_on(self, process: int) -> None:
        for number in received(self._signals):
            if number == signal.SIGWINCH and self.master >= 0:
                _copy_size(self.master)
            elif number != signal.SIGCHLD:
                try:
                    signal.pidfd_send_signal(process, number)
                except ProcessLookupError:  # its end is told in a moment
                    pass

    def _drain(self) -> None:
        """What the process has written last."""
        if self.master < 0:
            return
        poll = select.poll()
        poll.register(self.master, select.POLLIN)
        while poll.poll(0) and _copy(self.master, 1):
            pass


def _copy(source: int, target: int) -> bool:
    """Carry what is there; False at the end. A terminal without a slave reads as an error."""
    try:
        data = os.read(source, _CHUNK)
        while data:
            written = os.write(target, data)
            if written == len(data):
                return True
            data = data[written:]
    except OSError:
        pass
    return False


def _plain_newlines(master: int) -> None:
    """A newline leaves the container as such, as it would without a terminal: ours makes it carriage return and
    newline, and where our output is a file or a pipe nothing should."""
    attributes = termios.tcgetattr(master)
    attributes[1] &= ~termios.ONLCR
    termios.tcsetattr(master, termios.TCSANOW, attributes)


def _copy_size(master: int) -> None:
    try:
        fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        pass  # standard input is no terminal: the size stays as configured


@contextmanager
def _raw(fd: int) -> Iterator[None]:
    """The user's terminal passes every key on, until the end. What is shown there it still makes into lines."""
    try:
        before = termios.tcgetattr(fd)
    except termios.error:
        yield
        return
    try:
        tty.setraw(fd, termios.TCSANOW)  # what has been typed already is for the process
        attributes = termios.tcgetattr(fd)
        attributes[1] |= termios.OPOST
        termios.tcsetattr(fd, termios.TCSANOW, attributes)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
