"""The terminal of this process: raw mode, size, and the signals that come with it."""

from __future__ import annotations

import os
import signal
import termios
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

# indices into what tcgetattr(3) gives
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6


def size(fd: int) -> tuple[int, int] | None:
    """Rows and columns, or None where the descriptor is no terminal."""
    try:
        return termios.tcgetwinsize(fd)
    except (termios.error, OSError):
        return None


def resize(fd: int, rows: int, columns: int) -> None:
    """Set the size; the kernel sends SIGWINCH to the foreground processes when it has changed."""
    try:
        termios.tcsetwinsize(fd, (rows, columns))
    except termios.error as error:
        raise OSError(error.args[0], os.strerror(error.args[0]), "TIOCSWINSZ") from error


class RawMode:
    """A terminal that passes every key on as it is (cfmakeraw(3)), until `restore`. No terminal: nothing happens."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before: list[Any] | None = None

    def enter(self) -> None:
        """Also again, after a stopped process was continued and its shell has changed the modes."""
        if not os.isatty(self._fd):
            return
        now = termios.tcgetattr(self._fd)
        if self._before is None:
            self._before = now
        termios.tcsetattr(self._fd, termios.TCSANOW, _raw(now))

    def restore(self) -> None:
        if self._before is None:
            return
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        except termios.error:
            pass  # the terminal has hung up: there is nothing left to restore
        self._before = None


def _raw(modes: list[Any]) -> list[Any]:
    raw = [*modes[:_CC], list(modes[_CC])]
    raw[_IFLAG] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    raw[_OFLAG] &= ~termios.OPOST
    raw[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    raw[_CFLAG] = raw[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    raw[_CC][termios.VMIN], raw[_CC][termios.VTIME] = 1, 0
    return raw


class SignalPipe:
    """Signals as bytes on a descriptor, to wait for with poll beside other things.

    Python's handlers run between bytecodes of the main thread only; in another thread no signal is taken over, and
    nothing ever comes out of the pipe.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._wakeup: int | None = None
        try:
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        except ValueError:  # not the main thread
            return
        for number in numbers:
            self._before[number] = signal.signal(number, _ignore)

    def fileno(self) -> int:
        return self._reader

    def read(self) -> bytes:
        """The numbers of the signals that have come, one byte each."""
        try:
            return os.read(self._reader, 512)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Give every signal back to whom it belonged."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if self._wakeup is not None:
            signal.set_wakeup_fd(self._wakeup)
        os.close(self._reader)
        os.close(self._writer)


def _ignore(number: int, frame: FrameType | None) -> None:
    """A handler must be there for the number to be written to the pipe."""
