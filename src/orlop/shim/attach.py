"""Connects this process's standard streams to a container: through its shim, or to a terminal's master held here.

Nothing in the loop blocks but its poll: a container whose input is full while its output waits must not stall with its
client. Whatever happens, the user's terminal gets its modes back.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import stat
from typing import Protocol

import msgspec

from orlop.shim.client import ShimClient
from orlop.shim.keys import KeyFinder, parse_detach_keys
from orlop.spec.errors import FailedPrecondition, Unavailable
from orlop.sys import tty as terminal
from orlop.wire import frames
from orlop.wire.frames import Exit

__all__ = ["Detached", "attach_streams", "copy_terminal", "parse_detach_keys"]

_READ = 32768
_PIPE_ROOM = select.PIPE_BUF  # bytes that a pipe or terminal takes without blocking when poll says it is writable
_QUEUE = 262144  # bytes on their way in either direction before the side they come from has to wait

# Like Docker, except that job control stays the shell's: a user may stop and continue this process.
_PROXIED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGTERM,
)
# With a terminal the keys do that; these would end this process with the terminal in raw mode.
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_TERMINAL = (*_ENDING, signal.SIGWINCH, signal.SIGCONT)


class Detached(msgspec.Struct, frozen=True):
    """The user typed the detach keys; the container goes on."""


class Link(Protocol):
    """The container's side of the copying."""

    ended: bool  # nothing more comes

    @property
    def pending(self) -> bool:
        """Whether there is something to receive that poll does not know of."""

    def fileno(self) -> int: ...
    def receive(self) -> list[tuple[int, bytes]]:
        """Output as (stream, data); called when readable."""

    def write(self, data: bytes) -> int:
        """Take some bytes of encoded input without blocking; how many."""

    def input(self, data: bytes) -> bytes:
        """Keys or data, encoded."""

    def end_of_input(self) -> bytes: ...
    def resize(self, rows: int, columns: int) -> None: ...
    def signal(self, number: int) -> None: ...


def attach_streams(
    client: ShimClient,
    *,
    tty: bool = False,
    stdin: bool = False,
    detach_keys: bytes = b"\x10\x11",
    proxy_signals: bool = True,
    streams: frozenset[str] = frozenset(),
    redraw: bool = False,
    fds: tuple[int, int, int] = (0, 1, 2),
) -> Exit | Detached:
    """Copy streams until the container ends or the user detaches.

    The client has called `attach`. `streams` of "stdout" and "stderr" limits what is shown (empty: both). Without a
    terminal, signals go to the container's first process if `proxy_signals`. With one, `redraw` makes a program that
    already runs draw its screen anew. The detach keys hold where stdin is a terminal's.

    Raises BrokenPipeError when an output is closed, Unavailable when the shim was killed; a terminated process
    restores its terminal first, then dies of its signal.
    """
    link = _ShimLink(client)
    shown = {
        number
        for number, name in ((1, "stdout"), (2, "stderr"))
        if not streams & {"stdout", "stderr"} or name in streams
    }
    signals = _TERMINAL if tty else _PROXIED if proxy_signals else ()
    loop = _Loop(link, fds, stdin, KeyFinder(detach_keys) if tty else None, shown, tty, signals)
    loop.run(redraw)
    if loop.detached:
        return Detached()
    ended = client.wait(0 if link.ended else None) if link.exit is None else link.exit
    if ended is None:
        raise Unavailable(f"the shim at {client.directory} is gone")
    return ended


def copy_terminal(
    master: int, *, stdin: bool = True, detach_keys: bytes = b"\x10\x11", fds: tuple[int, int, int] = (0, 1, 2)
) -> Detached | None:
    """Copy between this process's terminal and the master side of another; None when that one has ended (all who had
    it open have closed it). The master stays the caller's to close; it is made non-blocking."""
    os.set_blocking(master, False)
    loop = _Loop(_MasterLink(master), fds, stdin, KeyFinder(detach_keys), {1}, True, _TERMINAL)
    loop.run(False)
    return Detached() if loop.detached else None


class _ShimLink:
    def __init__(self, client: ShimClient) -> None:
        self._client = client
        self.exit: Exit | None = None
        self.ended = False

    @property
    def pending(self) -> bool:
        return self._client.pending

    def fileno(self) -> int:
        return self._client.fileno()

    def receive(self) -> list[tuple[int, bytes]]:
        output = []
        while not self.ended:
            frame = self._client.receive()
            if frame is None:
                self.ended = True
            elif frame.type == frames.EXIT:
                self.exit = frames.decode_exit(frame)
                self.ended = True
            elif frame.type == frames.OUTPUT:
                output.append((frame.stream, frame.payload))
            if not self._client.pending:
                break
        return output

    def write(self, data: bytes) -> int:
        try:
            return self._client.send_some(data)
        except Unavailable:
            return len(data)  # its end is found by reading

    def input(self, data: bytes) -> bytes:
        return frames.encode_stdin(data)

    def end_of_input(self) -> bytes:
        return frames.encode(frames.STDIN_EOF)

    def resize(self, rows: int, columns: int) -> None:
        self._aside(frames.encode_resize(rows, columns))

    def signal(self, number: int) -> None:
        self._aside(frames.encode_signal(number))

    def _aside(self, request: bytes) -> None:
        """Through a connection of its own: on this one it would stand behind input that nobody reads."""
        try:
            with ShimClient(self._client.directory) as client:
                client.request(request)
        except (Unavailable, FailedPrecondition):
            pass  # it has ended meanwhile, which this link is about to be told


class _MasterLink:
    pending = False

    def __init__(self, master: int) -> None:
        self._master = master
        self.ended = False

    def fileno(self) -> int:
        return self._master

    def receive(self) -> list[tuple[int, bytes]]:
        try:
            data = os.read(self._master, _READ)
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno != errno.EIO:  # what a master reads once all slaves are closed
                raise
            data = b""
        self.ended = not data
        return [(1, data)] if data else []

    def write(self, data: bytes) -> int:
        try:
            return os.write(self._master, data)
        except BlockingIOError:
            return 0

    def input(self, data: bytes) -> bytes:
        return data

    def end_of_input(self) -> bytes:
        return b"\x04"

    def resize(self, rows: int, columns: int) -> None:
        terminal.resize(self._master, rows, columns)

    def signal(self, number: int) -> None:
        """A terminal's processes get their signals from its keys."""


class _Output:
    """One of this process's outputs, with what waits for it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.queue = bytearray()
        # A file never blocks and never polls as full; anything else gets only what poll promises.
        self._most = 1 << 20 if stat.S_ISREG(os.fstat(fd).st_mode) else _PIPE_ROOM

    def flush(self) -> None:
        while self.queue and _writable(self.fd):
            try:
                del self.queue[: os.write(self.fd, self.queue[: self._most])]
            except BlockingIOError:
                return


class _Loop:
    def __init__(
        self,
        link: Link,
        fds: tuple[int, int, int],
        stdin: bool,
        keys: KeyFinder | None,
        shown: set[int],
        tty: bool,
        signals: tuple[int, ...],
    ) -> None:
        self._link, self._keys, self._tty, self._signals = link, keys, tty, signals
        self._stdin = fds[0]
        self._input_open = stdin
        self._to_container = bytearray()
        self._outputs = {number: _Output(fds[number]) for number in shown}
        self._raw = terminal.RawMode(fds[0])
        self._screen = fds[1]
        self.detached = False
        self._killed_by = 0

    def run(self, redraw: bool) -> None:
        pipe = terminal.SignalPipe(self._signals)
        try:
            if self._tty:
                if self._input_open:
                    self._raw.enter()
                self._resize(redraw)
            if self._link.pending:
                self._receive()
            while not self._finished():
                self._turn(pipe)
            if self.detached and self._to_container:
                self._link.write(bytes(self._to_container))  # typed before the detach keys
        finally:
            self._raw.restore()
            pipe.close()
        if self._killed_by:
            signal.signal(self._killed_by, signal.SIG_DFL)
            os.kill(os.getpid(), self._killed_by)

    def _finished(self) -> bool:
        waiting = any(output.queue for output in self._outputs.values())
        return self.detached or bool(self._killed_by) or (self._link.ended and not waiting)

    def _turn(self, pipe: terminal.SignalPipe) -> None:
        ready = dict(self._poller(pipe).poll())
        if pipe.fileno() in ready:
            for number in pipe.read():
                self._on_signal(number)
        for output in self._outputs.values():
            output.flush()
        events = ready.get(self._link.fileno(), 0)
        if events & select.POLLOUT:
            del self._to_container[: self._link.write(bytes(self._to_container[:_READ]))]
        if events & ~select.POLLOUT and not self._link.ended and self._room():
            self._receive()
        if ready.get(self._stdin, 0) & ~select.POLLOUT and self._input_open and not self._link.ended:
            self._read_input()

    def _poller(self, pipe: terminal.SignalPipe) -> select.poll:
        wanted = {pipe.fileno(): select.POLLIN}

        def want(fd: int, event: int) -> None:  # one descriptor may serve as several streams
            wanted[fd] = wanted.get(fd, 0) | event

        for output in self._outputs.values():
            if output.queue:
                want(output.fd, select.POLLOUT)
        if not self._link.ended:
            if self._room():
                want(self._link.fileno(), select.POLLIN)
            if self._to_container:
                want(self._link.fileno(), select.POLLOUT)
            if self._input_open and len(self._to_container) < _QUEUE:
                want(self._stdin, select.POLLIN)
        poll = select.poll()
        for fd, events in wanted.items():
            poll.register(fd, events)
        return poll

    def _room(self) -> bool:
        return all(len(output.queue) < _QUEUE for output in self._outputs.values())

    def _receive(self) -> None:
        for stream, data in self._link.receive():
            if stream in self._outputs:
                self._outputs[stream].queue += data
        for output in self._outputs.values():
            output.flush()

    def _read_input(self) -> None:
        try:
            data = os.read(self._stdin, _READ)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # a background process whose terminal has gone
                raise
            data = b""
        passed = data
        if self._keys is not None:
            passed, self.detached = self._keys.feed(data) if data else (self._keys.flush(), False)
        if passed:
            self._to_container += self._link.input(passed)
        if not data:
            self._to_container += self._link.end_of_input()
            self._input_open = False

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            self._resize(False)
        elif number == signal.SIGCONT:
            if self._input_open:
                self._raw.enter()
            self._resize(False)
        elif self._tty:
            self._killed_by = number
        else:
            self._link.signal(number)

    def _resize(self, redraw: bool) -> None:
        size = terminal.size(self._screen) or terminal.size(self._stdin)
        if size is None or 0 in size:
            return
        if redraw:  # the kernel tells a program of its size only when that changes
            self._link.resize(size[0] + 1, size[1])
        self._link.resize(*size)


def _writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))
