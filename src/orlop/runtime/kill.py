"""`kill`, `pause` and `resume`: acts on the processes of a container."""

from __future__ import annotations

import os
import select
import signal

from orlop.cgroups import processes
from orlop.runtime import groups
from orlop.runtime.state import Record, Store, status
from orlop.spec.errors import DeadlineExceeded, FailedPrecondition, from_os

_PATIENCE = 10.0  # seconds


def kill(store: Store, identifier: str, number: int, everyone: bool = False) -> None:
    """Signal the container's first process, or with `everyone` all of them.

    Without a PID namespace of its own the first process's end is not that of the others: SIGKILL then goes to all.
    """
    record = store.load(identifier)
    if not record.alive and not everyone and not (number == signal.SIGKILL and _left(record)):
        raise FailedPrecondition(f"container {identifier} is not running: container not running")
    if number == signal.SIGKILL and (everyone or not _own_pids(store, record)):
        kill_all(record)
    elif everyone:
        _signal_all(record, number)
    else:
        _signal(record, number)
        if number == signal.SIGKILL:
            thaw(record)


def _left(record: Record) -> bool:
    """Whether processes have outlived the first one, which without a PID namespace of its own is none special."""
    return bool(record.cgroup and groups.pids(record))


def _own_pids(store: Store, record: Record) -> bool:
    linux = store.spec(record.id).linux
    return linux is not None and any(ns.type == "pid" and not ns.path for ns in linux.namespaces)


def _signal(record: Record, number: int) -> None:
    """Through a pidfd, so that a process that got the pid meanwhile is never hit."""
    try:
        pidfd = os.pidfd_open(record.init_process_pid)
        try:
            if not record.alive:
                raise ProcessLookupError
            signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)
    except ProcessLookupError:
        raise FailedPrecondition(f"container {record.id} is not running: container not running") from None
    except OSError as error:
        raise from_os(error, f"signal container {record.id}") from error


def _signal_all(record: Record, number: int) -> None:
    for pid in groups.pids(record):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        except OSError as error:
            raise from_os(error, f"signal process {pid}") from error


def kill_all(record: Record) -> None:
    """Kill every process of the container and return when they are gone.

    Without a control group, that is its PID namespace, which ends with its first process; without that either, only the
    first process is known.
    """
    pidfd = _first(record)
    try:
        if pidfd is not None:
            _kill(pidfd)
        if record.cgroup:
            processes.kill(groups.hierarchies(record), record.cgroup)
        elif pidfd is not None:
            _await(pidfd, record)
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _first(record: Record) -> int | None:
    """A pidfd of the first process, or None when that has ended."""
    if not record.alive:
        return None
    try:
        pidfd = os.pidfd_open(record.init_process_pid)
    except ProcessLookupError:
        return None
    if record.alive:
        return pidfd
    os.close(pidfd)
    return None


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _await(pidfd: int, record: Record) -> None:
    """A pidfd can be read once the process has ended: that of a PID namespace's first after all others."""
    if not select.select([pidfd], [], [], _PATIENCE)[0]:
        raise DeadlineExceeded(f"container {record.id} is still there {_PATIENCE:g} seconds after it was killed")


def thaw(record: Record) -> None:
    """Let a paused container go on; one that is not paused is right."""
    if frozen(record):
        processes.thaw(groups.hierarchies(record), record.cgroup)


def frozen(record: Record) -> bool:
    return record.alive and bool(record.cgroup) and processes.frozen(groups.hierarchies(record), record.cgroup)


def pause(store: Store, identifier: str) -> None:
    """Freeze all processes."""
    record = store.load(identifier)
    now = status(record, frozen(record))
    if now not in ("running", "created"):
        raise FailedPrecondition(f"cannot pause container {identifier}: it is {now}")
    processes.freeze(groups.hierarchies(record, "pause"), record.cgroup)


def resume(store: Store, identifier: str) -> None:
    """Let them go on."""
    record = store.load(identifier)
    now = status(record, frozen(record))
    if now != "paused":
        raise FailedPrecondition(f"cannot resume container {identifier}: it is {now}, not paused")
    processes.thaw(groups.hierarchies(record), record.cgroup)
