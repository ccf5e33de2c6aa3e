"""A connection to the shim of one container."""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from orlop.shim.state import read_exit
from orlop.spec import cancel
from orlop.spec.errors import FailedPrecondition, Unavailable, from_os
from orlop.wire import frames
from orlop.wire.frames import Decoder, Exit, Frame, State

_SOCKET_PATH_MAX = 107  # bytes in sun_path, unix(7)


class ShimClient:
    """Talks to a running shim: `ShimClient(directory)` connects, and raises Unavailable where none listens.

    Requests are answered in order; output that arrives meanwhile is kept for `receive`. Not for several threads.
    """

    def __init__(self, directory: Path, connected: socket.socket | None = None) -> None:
        self.directory = directory
        self._socket = connected if connected is not None else _connect(directory)
        self._decoder = Decoder()
        self._arrived: deque[Frame] = deque()
        self._ended: Exit | None = None

    def __enter__(self) -> ShimClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        """The socket, to wait for with poll; look at `pending` first."""
        return self._socket.fileno()

    def close(self) -> None:
        """Leave. An owner that leaves without `done` has the shim run its on-exit program at the container's end."""
        self._socket.close()

    # --- requests

    def attach(self, stdin: bool = False, output: bool = True) -> None:
        """Receive all output from now on, and announce whether `send_stdin` will be used (see --stdin-once)."""
        self.request(frames.encode_attach(stdin, output))

    def signal(self, number: int) -> None:
        """Signal the container's first process. Raises FailedPrecondition when it has ended."""
        self.request(frames.encode_signal(number))

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size; the kernel sends SIGWINCH to its foreground processes."""
        self.request(frames.encode_resize(rows, columns))

    def own(self) -> None:
        """Take care of the container's end: the shim does not run its on-exit program if `done` follows."""
        self.request(frames.encode(frames.OWN))

    def done(self) -> None:
        """Everything that on-exit would do has been done. A shim that has left meanwhile (it waits ten seconds) has
        run on-exit instead, which finds nothing to do."""
        try:
            self.request(frames.encode(frames.DONE))
        except Unavailable:
            pass

    def status(self) -> State:
        return frames.decode_state(self.request(frames.encode(frames.STATUS), frames.STATE))

    def reopen_log(self) -> None:
        """Log to a new file, where the old one has been moved away. Raises FailedPrecondition without a log."""
        self.request(frames.encode(frames.REOPEN))

    def terminal(self, master: int) -> None:
        """Hand over the master of the terminal that was made inside the container (of a shim with `console`)."""
        try:
            socket.send_fds(self._socket, [frames.encode(frames.TERMINAL)], [master])
        except OSError as error:
            raise self._gone() from error
        self._answer(frames.OK)

    def exec_detached(
        self,
        plan: int,
        control: int,
        launch_program: int,
        stdio: tuple[int, int, int] | None = None,
        inherit: Sequence[int] = (),
    ) -> int:
        """Start the launch helper as a child of the shim, which reaps what it starts; the new process's pid.

        `control` is the helper's end of the socket on which the caller follows the handshake; close it after this call.
        A plan whose first stage waits for the caller before it clones must be followed by another thread meanwhile.
        """
        fds = [plan, control, launch_program, *(stdio or ()), *inherit]
        header = frames.encode(frames.EXEC, stream=frames.WITH_STDIO if stdio else 0)
        try:
            socket.send_fds(self._socket, [header], fds)
        except OSError as error:
            raise self._gone() from error
        return frames.decode_pid(self._answer(frames.PID))

    def wait(self, timeout: float | None = None) -> Exit | None:
        """How the container ended, or None when it has not within `timeout` seconds. Raises Aborted where the caller
        has gone meanwhile."""
        if self._ended is None:
            try:
                self.send(frames.encode(frames.WAIT))
            except Unavailable:
                pass  # what it has said or written before tells
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._ended is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if _readable(self._socket, cancel.patience(left)):
                self._collect()
                continue
            cancel.check()
            if deadline is not None and time.monotonic() >= deadline:
                return None
        return self._ended

    # --- streams

    def send(self, data: bytes) -> None:
        """Send encoded frames. Raises Unavailable when the shim is gone."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._gone() from error

    def send_some(self, data: bytes) -> int:
        """Send what the socket takes without waiting; how many bytes that was."""
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._gone() from error

    def send_stdin(self, data: bytes) -> None:
        self.send(frames.encode_stdin(data))

    def end_stdin(self) -> None:
        self.send(frames.encode(frames.STDIN_EOF))

    @property
    def pending(self) -> bool:
        """Whether `receive` has something without waiting for the socket."""
        return bool(self._arrived)

    def receive(self) -> Frame | None:
        """The next OUTPUT, EXIT or ERROR frame; None at the end of the connection. Waits for it."""
        while not self._arrived:
            try:
                data = self._socket.recv(131072)
            except InterruptedError:
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._arrived.extend(frame for frame in self._decoder.feed(data) if frame.type != frames.OK)
        return self._arrived.popleft()

    def collect(self) -> bool:
        """Take what one read of the socket brings, for `receive`; False at the end of the connection."""
        try:
            self._arrived.extend(frame for frame in self._recv() if frame.type != frames.OK)
        except Unavailable:
            return False
        return True

    # --- answers

    def request(self, data: bytes, wanted: int = frames.OK) -> Frame:
        """Send an encoded frame and wait for its answer; ERROR is raised as FailedPrecondition."""
        self.send(data)
        return self._answer(wanted)

    def _answer(self, wanted: int) -> Frame:
        while True:
            for frame in self._next():
                if frame.type == frames.ERROR:
                    raise FailedPrecondition(frame.payload.decode(errors="replace"))
                if frame.type == wanted:
                    return frame

    def _next(self) -> list[Frame]:
        """What one recv brings, without the output, which is kept for `receive`."""
        answers = []
        for frame in self._recv():
            if frame.type in (frames.OUTPUT, frames.EXIT):
                self._arrived.append(frame)
            else:
                answers.append(frame)
        return answers

    def _collect(self) -> None:
        try:
            received = self._recv()
        except Unavailable:
            # A shim that left before it saw this connection has written the status first.
            self._ended = read_exit(self.directory)
            if self._ended is None:
                raise
            return
        for frame in received:
            if frame.type == frames.EXIT:
                self._ended = frames.decode_exit(frame)

    def _recv(self) -> list[Frame]:
        try:
            data = self._socket.recv(131072)
        except ConnectionResetError:
            data = b""
        if not data:
            raise self._gone()
        return self._decoder.feed(data)

    def _gone(self) -> Unavailable:
        return Unavailable(f"the shim at {self.directory} is gone")


def _readable(sock: socket.socket, timeout: float | None) -> bool:
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(None if timeout is None else int(timeout * 1000 + 0.999)))


def _connect(directory: Path) -> socket.socket:
    path = os.path.join(directory, "shim.sock")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
            sock.connect(path)
        else:
            _connect_long(sock, directory)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        sock.close()
        raise Unavailable(f"no shim listens at {directory}") from error
    except OSError as error:
        sock.close()
        raise from_os(error, f"connect to the shim at {directory}") from error
    return sock


def _connect_long(sock: socket.socket, directory: Path) -> None:
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{fd}/shim.sock")
    finally:
        os.close(fd)
