"""`kill`, `pause` and `resume`: acts on the processes of a container."""

from __future__ import annotations

import os
import signal

from orlop.cgroups import processes
from orlop.cgroups.probe import probe
from orlop.runtime.state import Record, Store, status
from orlop.spec.errors import FailedPrecondition, from_os


def kill(store: Store, identifier: str, number: int, everyone: bool = False) -> None:
    """Signal the container's first process, or with `everyone` all of them.

    Without a PID namespace of its own the first process's end is not that of the others: SIGKILL then goes to all.
    """
    record = store.load(identifier)
    if not record.alive and not everyone:
        raise FailedPrecondition(f"container {identifier} is not running: container not running")
    if number == signal.SIGKILL and (everyone or not _own_pids(store, record)):
        kill_all(record)
    elif everyone:
        _signal_all(record, number)
    else:
        _signal(record, number)
        if number == signal.SIGKILL:
            thaw(record)


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
    for pid in processes.pids(probe(), record.cgroup) if record.cgroup else (record.init_process_pid,):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        except OSError as error:
            raise from_os(error, f"signal process {pid}") from error


def kill_all(record: Record) -> None:
    """Kill every process of the container and return when they are gone."""
    if record.alive:
        try:
            os.kill(record.init_process_pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    processes.kill(probe(), record.cgroup)


def thaw(record: Record) -> None:
    """Let a paused container go on; one that is not paused is right."""
    host = probe()
    if processes.frozen(host, record.cgroup):
        processes.thaw(host, record.cgroup)


def frozen(record: Record) -> bool:
    return record.alive and processes.frozen(probe(), record.cgroup)


def pause(store: Store, identifier: str) -> None:
    """Freeze all processes."""
    record = store.load(identifier)
    now = status(record, frozen(record))
    if now not in ("running", "created"):
        raise FailedPrecondition(f"cannot pause container {identifier}: it is {now}")
    processes.freeze(probe(), record.cgroup)


def resume(store: Store, identifier: str) -> None:
    """Let them go on."""
    record = store.load(identifier)
    now = status(record, frozen(record))
    if now != "paused":
        raise FailedPrecondition(f"cannot resume container {identifier}: it is {now}, not paused")
    processes.thaw(probe(), record.cgroup)
