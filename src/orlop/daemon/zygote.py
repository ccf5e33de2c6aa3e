"""The daemon's process: keeps workers, which accept front ends and run their commands.

This is the one place where Python forks. A command of the runtime owns its process: working directory, umask,
environment, standard streams and signal handlers are the caller's, which threads would share. A fresh interpreter
would cost what the daemon is there to save. Fork is safe here because this process has a single thread, holds no lock
and no connection to anything but its listening socket, and imports neither gRPC nor SQLite.

A fork costs a millisecond, and the worker then copies the pages that it touches, which costs two. Both are paid before
anybody waits, and a worker is used again (see `worker`). It takes front ends from the socket itself: nothing stands
between. This process only hears of it, to have another one ready, and to end the worker whose front end was killed.

When the code on disk changes, what is in memory is another runtime than a cold start would be. The daemon then turns
front ends away until the change is over, and executes itself anew: same process, same socket, and the commands under
way go on (see `listen.Inherited`).
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import orlop
from orlop.daemon.caller import Standing, standing
from orlop.daemon.listen import Listener
from orlop.daemon.warm import import_all, rehearse
from orlop.daemon.worker import IS_FREE, TAKES, Worker, far
from orlop.runtime.spawn import launch_program
from orlop.spec.errors import Internal, from_os
from orlop.sys.inotify import Watch
from orlop.sys.syscalls import libc

SPARES = 2  # workers that wait
SETTLING = 1.0  # seconds without a further change until the code on disk counts as whole
_REHEARSALS = 12  # an interpreter specializes a function's code when that has run eight times
_PR_SET_PDEATHSIG = 1


class _Child:
    """A worker as the daemon sees it: `orders` leads there, `connection` to the front end that it serves."""

    def __init__(self, pid: int, orders: socket.socket, connection: socket.socket | None = None) -> None:
        self.pid = pid
        self.orders = orders
        self.connection = connection

    def close(self) -> None:
        self.orders.close()
        if self.connection is not None:
            self.connection.close()


class Zygote:
    """Serves `listener` until SIGTERM or SIGINT; commands under way are then waited for."""

    def __init__(self, listener: Listener, spares: int = SPARES) -> None:
        self._listener = listener
        self._wanted = spares
        self._children: dict[int, _Child] = {}
        self._stopping = False
        self._stale_since = 0.0
        self._poll = select.poll()
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        """Until the last command has ended after a signal to stop."""
        self._prepare()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, _noted)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._poll.register(self._reader, select.POLLIN)
        self._poll.register(self._watch.fileno(), select.POLLIN)
        for pid, orders, connection in self._listener.children:
            self._adopt(_Child(pid, orders, connection))
        self._reap()  # who has ended while nobody listened
        while not (self._stopping and not self._children):
            self._fill()
            for fd, _ in self._poll.poll(self._patience()):
                self._event(fd)
            if self._stale_since and not self._stopping and time.monotonic() >= self._stale_since + SETTLING:
                self._begin_anew()

    def _prepare(self) -> None:
        try:
            self._watch = Watch(*_directories())  # first: what changes from now on is not what is imported
        except OSError as error:
            raise from_os(error, "serve: watch the program's files") from error
        import_all()
        for _ in range(_REHEARSALS):
            rehearse()
        mine = standing("self")
        if mine is None:
            raise Internal("daemon: /proc is not mounted")
        self._mine: Standing = mine
        self._program = far(launch_program())
        gc.collect()
        gc.freeze()
        self._listener.socket.setblocking(False)
        # What workers tell is heard when nothing else is to run: it must not keep a command from going on.
        self._waits = os.sched_getscheduler(0) == os.SCHED_OTHER
        if self._waits:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

    def _patience(self) -> int | None:
        """Milliseconds."""
        return None if not self._stale_since or self._stopping else int(SETTLING * 1000) + 1

    def _event(self, fd: int) -> None:
        if fd == self._reader:
            self._signals(os.read(self._reader, 512))
        elif fd == self._watch.fileno():
            self._changed()
        elif fd == self._listener.socket.fileno():
            self._turn_away()
        else:
            child = next((child for child in self._children.values() if fd in _fds(child)), None)
            if child is not None:
                self._hear(child)
                # What was heard may have put another connection in the place, and under the number, of this one.
                if child.connection is not None and _is_over(child.connection):
                    self._hung_up(child)

    def _signals(self, numbers: bytes) -> None:
        if signal.SIGCHLD in numbers:
            self._reap()
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._stop()

    # --- workers

    def _hear(self, child: _Child) -> None:
        """What a worker says. A front end's end that is seen together with the worker's word comes after it."""
        while True:
            flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC  # which socket.recv_fds would drop
            try:
                word, ancillary, _, _ = child.orders.recvmsg(1, socket.CMSG_SPACE(4), flags)
            except OSError:
                return
            if word == TAKES and ancillary:
                self._watch_connection(child, socket.socket(fileno=int.from_bytes(ancillary[0][2][:4], sys.byteorder)))
            elif word == IS_FREE:
                self._forget_connection(child)
            else:  # it has ended, or is about to
                self._poll.unregister(child.orders)
                return

    def _watch_connection(self, child: _Child, connection: socket.socket) -> None:
        self._forget_connection(child)
        child.connection = connection
        self._poll.register(connection, 0)  # only its end

    def _forget_connection(self, child: _Child) -> None:
        if child.connection is not None:
            self._poll.unregister(child.connection)
            child.connection.close()
            child.connection = None

    def _hung_up(self, child: _Child) -> None:
        """A front end that was killed: as a command that is killed, its worker does nothing more."""
        self._forget_connection(child)
        os.kill(child.pid, signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if child := self._children.pop(pid, None):
                for connection in (child.orders, child.connection):
                    if connection is not None:
                        self._unregister(connection)
                child.close()

    def _unregister(self, connection: socket.socket) -> None:
        try:
            self._poll.unregister(connection)
        except KeyError:
            pass

    def _fill(self) -> None:
        """Fork what is missing, send away what is too many."""
        if self._stopping or self._stale_since:
            return
        idle = [child for child in self._children.values() if child.connection is None and child.orders.fileno() >= 0]
        if not idle:
            self._fork()
        while len(self._children) < self._wanted:
            self._fork()
        for child in idle[self._wanted :]:
            self._dismiss(child)

    def _dismiss(self, child: _Child) -> None:
        """It leaves when it has served who has come meanwhile."""
        if child.orders.fileno() >= 0:
            child.orders.shutdown(socket.SHUT_WR)

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
        self._adopt(_Child(pid, ours))

    def _adopt(self, child: _Child) -> None:
        self._children[child.pid] = child
        self._poll.register(child.orders, select.POLLIN)
        if child.connection is not None:
            self._poll.register(child.connection, 0)

    def _child(self, orders: socket.socket, mother: int) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        mine, listener = far(orders.detach()), far(self._listener.socket.detach())
        for other in self._children.values():
            other.close()  # a front end must see its own worker's end
        os.closerange(3, 256)
        libc("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        self._as_before()
        if os.getppid() != mother:
            return
        rehearse()
        Worker(socket.socket(fileno=listener), socket.socket(fileno=mine), self._mine, self._program).run()
        os._exit(0)

    # --- the end, and the beginning again

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        if self._stale_since:
            self._poll.unregister(self._listener.socket)
        for child in self._children.values():
            self._dismiss(child)
        self._listener.refuse()

    def _changed(self) -> None:
        if not any(name.endswith(".py") or name.startswith("orlop-") for name in self._watch.names()):
            return
        if not self._stale_since and not self._stopping:
            self._poll.register(self._listener.socket, select.POLLIN)
            for child in self._children.values():
                self._dismiss(child)
        self._stale_since = time.monotonic()

    def _turn_away(self) -> None:
        try:
            self._listener.socket.accept()[0].close()
        except OSError:  # a worker that leaves has taken it
            pass

    def _as_before(self) -> None:
        """Be scheduled as the daemon was started. SCHED_RESET_ON_FORK would take a nice value from workers, too."""
        if self._waits:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

    def _begin_anew(self) -> NoReturn:
        busy = [child for child in self._children.values() if child.connection is not None]
        self._listener.hand_on((child.pid, child.orders, child.connection) for child in busy)
        signal.set_wakeup_fd(-1)
        self._as_before()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _fds(child: _Child) -> Iterator[int]:
    yield child.orders.fileno()
    if child.connection is not None:
        yield child.connection.fileno()


def _is_over(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))


def _directories() -> list[Path]:
    """Where the code is."""
    top = Path(orlop.__path__[0])
    return [top, *(path for path in top.rglob("*") if path.is_dir() and path.name != "__pycache__")]


def _noted(number: int, frame: object) -> None:
    """Python writes the signal's number to the wake-up pipe; that is all."""
