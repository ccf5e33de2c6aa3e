"""`start`: lets a created container's process become its program (runtime.md, "Lifecycle", steps 7 to 9)."""

from __future__ import annotations

import errno
import os
import select

import msgspec

from orlop.runtime import hooks
from orlop.runtime.state import FIFO, Record, Store, state, status
from orlop.spec.errors import FailedPrecondition, from_os


def start(store: Store, identifier: str) -> None:
    """Start it, and return when its program runs and the poststart hooks have.

    Raises FailedPrecondition where it is not in the state `created`.
    """
    record = store.load(identifier)
    now = status(record)
    if now == "running":
        raise FailedPrecondition(f"cannot start container {identifier}: it is already running")
    if now != "created":
        raise FailedPrecondition(f"cannot start container {identifier}: it is {now}")
    _let_go(store, record)
    record = msgspec.structs.replace(record, phase="running")
    store.save(record)
    after_start(store, record)


def after_start(store: Store, record: Record) -> None:
    """Run the poststart hooks. One that fails ends the container, which is then destroyed (runtime.md, step 10)."""
    spec = store.spec(record.id)
    if spec.hooks is None or not spec.hooks.poststart:
        return
    try:
        # Its program may have ended meanwhile; these hooks are told of the moment that they are for.
        now = msgspec.structs.replace(state(record), status="running", pid=record.init_process_pid)
        hooks.run_hooks(spec.hooks.poststart, "hooks.poststart", now)
    except BaseException:
        from orlop.runtime.delete import destroy

        destroy(store, record, spec)
        raise


def _let_go(store: Store, record: Record) -> None:
    path = store.path(record.id, FIFO)
    try:
        fifo = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nobody has it open: the process is not the one that waits
            raise FailedPrecondition(f"cannot start container {record.id}: it does not wait for a start") from None
        raise from_os(error, "open") from error
    try:
        os.write(fifo, b"0")
        _await_exec(fifo)
    finally:
        os.close(fifo)
    os.unlink(path)


def _await_exec(fifo: int) -> None:
    """Wait until no reader is left: execve, or the process's end, has closed the fifo there. Hooks may take long."""
    poll = select.poll()
    poll.register(fifo, 0)  # only POLLERR
    poll.poll()
