"""The daemon's process: accepts front ends and hands each to a worker that it has forked beforehand.

This is the one place where Python forks. A command of the runtime owns its process: working directory, umask,
environment, standard streams and signal handlers are the caller's, which threads would share. A fresh interpreter
would cost what the daemon is there to save. Fork is safe here because this process has a single thread, holds no lock
and no connection to anything but its listening socket, and imports neither gRPC nor SQLite.

A fork costs a millisecond, and the worker then copies the pages that it touches. Both are paid before anybody waits:
spare workers have run through a plan once when a front end comes.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import socket
import struct

from orlop.daemon import worker
from orlop.daemon.caller import standing
from orlop.daemon.warm import import_all, rehearse
from orlop.runtime.spawn import launch_program
from orlop.spec.errors import Internal
from orlop.sys.syscalls import libc

SPARES = 2
_PR_SET_PDEATHSIG = 1
_CREDENTIALS = struct.Struct("3i")


class Zygote:
    """Serves `listener` until SIGTERM or SIGINT; commands under way are then waited for."""

    def __init__(self, listener: socket.socket, spares: int = SPARES) -> None:
        self._listener = listener
        self._wanted = spares
        self._spares: dict[int, socket.socket] = {}  # pid: where a connection is sent to
        self._busy: dict[int, socket.socket] = {}  # pid: its front end's connection
        self._stopping = False
        self._poll = select.poll()
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        """Until the last command has ended after a signal to stop."""
        import_all()
        rehearse()
        mine = standing("self")
        if mine is None:
            raise Internal("daemon: /proc is not mounted")
        self._mine, self._program = mine, _far(launch_program())
        gc.collect()
        gc.freeze()
        self._listener.setblocking(False)
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(self._reader, select.POLLIN)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, _noted)
        while not (self._stopping and not self._busy):
            self._fill()
            for fd, _ in self._poll.poll():
                self._event(fd)

    def _event(self, fd: int) -> None:
        if fd == self._reader:
            self._signals(os.read(self._reader, 512))
        elif fd == self._listener.fileno():
            self._accept()
        else:
            self._hung_up(fd)

    def _signals(self, numbers: bytes) -> None:
        if signal.SIGCHLD in numbers:
            self._reap()
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._stop()

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._poll.unregister(self._listener)
        self._listener.close()
        for spare in self._spares.values():
            spare.close()  # it leaves
        self._spares.clear()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it is gone again, or there are no descriptors left: then it loses patience
            return
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(raw)[1] != 0:
            connection.close()
            return
        if not self._spares:
            self._fork()
        pid = next(iter(self._spares))
        with self._spares.pop(pid) as spare:
            try:
                socket.send_fds(spare, [b"c"], [connection.fileno()])
            except OSError:  # a worker that was killed: the front end helps itself
                connection.close()
                return
        self._busy[pid] = connection
        self._poll.register(connection, 0)  # only its end

    def _hung_up(self, fd: int) -> None:
        """A front end that was killed: as a command that is killed, its worker does nothing more."""
        pid = next((pid for pid, connection in self._busy.items() if connection.fileno() == fd), 0)
        if pid:
            self._poll.unregister(fd)
            os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if connection := self._busy.pop(pid, None):
                try:
                    self._poll.unregister(connection)
                except KeyError:
                    pass
                connection.close()
            if spare := self._spares.pop(pid, None):
                spare.close()

    def _fill(self) -> None:
        """Fork what is missing, when nobody waits for it."""
        while not self._stopping and len(self._spares) + len(self._busy) < self._wanted:
            self._fork()
        while not self._stopping and not self._spares:
            self._fork()

    def _fork(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            mother = os.getpid()
            pid = os.fork()
            if pid == 0:
                try:
                    self._child(theirs, mother)
                finally:
                    os._exit(1)
        self._spares[pid] = ours

    def _child(self, orders: socket.socket, mother: int) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        orders_fd = _far(orders.detach())
        for other in (*self._busy.values(), *self._spares.values()):
            other.close()  # a front end must see its own worker's end
        os.closerange(3, worker.FAR)
        orders = socket.socket(fileno=orders_fd)
        libc("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != mother:
            return
        rehearse()
        _, fds, _, _ = socket.recv_fds(orders, 1, 1)
        if fds:
            worker.serve(socket.socket(fileno=_far(fds[0])), self._mine, self._program)
        os._exit(0)


def _far(fd: int) -> int:
    """Move a descriptor out of the range that commands see."""
    far = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, worker.FAR)
    os.close(fd)
    return far


def _noted(number: int, frame: object) -> None:
    """Python writes the signal's number to the wake-up pipe; that is all."""
