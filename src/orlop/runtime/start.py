"""`start`: lets a created container's process become its program (runtime.md, "Lifecycle", steps 7 to 9)."""

from __future__ import annotations

import errno
import os
import select
from typing import NoReturn

import msgspec

from orlop.runtime import hooks
from orlop.runtime.debug import debug
from orlop.runtime.handshake import MESSAGE_MAX, parse_message
from orlop.runtime.state import FIFO, Record, Store, state, status
from orlop.spec.errors import FailedPrecondition, from_os


def start(store: Store, identifier: str) -> None:
    """Start it, and return when its program runs and the poststart hooks have.

    Raises FailedPrecondition where it is not in the state `created`, and the failure of what still was to be done: of a
    startContainer hook, which ends the container and destroys it (runtime.md, step 7), or of execve.
    """
    record = store.load(identifier)
    with store.starting(identifier):
        now = status(record)
        if now == "running":
            raise FailedPrecondition(f"cannot start container {identifier}: it is already running")
        if now != "created":
            raise FailedPrecondition(f"cannot start container {identifier}: it is {now}")
        if store.spec(identifier).process is None:
            raise FailedPrecondition(f"cannot start container {identifier}: process: is missing")
        debug(f"start: process {record.init_process_pid} may go on")
        said = _let_go(store, record)
        record = msgspec.structs.replace(record, phase="running")
        store.save(record)
    if said:
        _fail(store, record, said)
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


def _let_go(store: Store, record: Record) -> bytes:
    """Let it go on to execve, and wait until it is there or has ended; hooks may take long. What it says of a failure.

    It gets two bytes, one to go on and one that it takes as the last thing before execve: what is left in the fifo when
    nobody has that open any more tells how far it came.
    """
    path = store.path(record.id, FIFO)
    try:
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # keeps what is in the fifo
        except BaseException:
            os.close(writer)
            raise
    except OSError as error:
        if error.errno == errno.ENXIO:  # nobody has it open: the process is not the one that waits
            raise FailedPrecondition(f"cannot start container {record.id}: it does not wait for a start") from None
        raise from_os(error, "open") from error
    try:
        try:
            os.write(writer, b"00")
        finally:
            os.close(writer)
        poll = select.poll()
        poll.register(reader, 0)  # only POLLHUP: no writer is left
        poll.poll()
        said = os.read(reader, MESSAGE_MAX)
    finally:
        os.close(reader)
    os.unlink(path)
    return said


def _fail(store: Store, record: Record, said: bytes) -> NoReturn:
    """The start has failed: the helper has left something in the fifo, its message or bytes that it never took."""
    from orlop.runtime.compile_process import execve
    from orlop.runtime.launch import failure_of
    from orlop.runtime.ops import Hook
    from orlop.runtime.plan import Step

    data, spec = said.lstrip(b"0"), store.spec(record.id)
    if not data:
        raise FailedPrecondition(f"cannot start container {record.id}: it ended before its program ran")
    assert spec.process is not None
    message, hooked = parse_message(data), spec.hooks.start_container if spec.hooks is not None else ()
    steps = [Step(Hook(hook.path, (), (), 0, b""), f"hooks.startContainer[{i}]") for i, hook in enumerate(hooked)]
    position = message.index - record.awaits - 1
    if position not in range(len(steps)):
        raise failure_of(execve(spec.process), message, spec.process.args[0])
    from orlop.runtime.delete import destroy

    destroy(store, record, spec)
    raise failure_of(steps[position], message, "")
