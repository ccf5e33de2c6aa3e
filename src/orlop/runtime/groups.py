"""The control groups of a container, and its processes also where it has none."""

from __future__ import annotations

import os

from orlop.cgroups import processes
from orlop.cgroups.facts import CgroupHost, points, without
from orlop.cgroups.probe import probe
from orlop.runtime.state import Record
from orlop.spec.errors import FailedPrecondition


def hierarchies(record: Record, act: str = "reach") -> CgroupHost:
    """Those in which the container has a group. Raises FailedPrecondition where it has none, which `act` needs."""
    if not record.cgroup:
        raise FailedPrecondition(f"cannot {act} container {record.id}: it has no control groups of its own")
    return reduced(record, probe())


def reduced(record: Record, host: CgroupHost) -> CgroupHost:
    """`host` as far as the container has groups in it."""
    if not record.hierarchies:
        return host
    return without(host, frozenset(points(host)) - frozenset(record.hierarchies))


def pids(record: Record) -> tuple[int, ...]:
    """All processes of the container, those of its group, or else of its PID namespace and of what they started."""
    if record.cgroup:
        return processes.pids(hierarchies(record), record.cgroup)
    return _of_namespace(record)


def _of_namespace(record: Record) -> tuple[int, ...]:
    if not record.alive:
        return ()  # with the first process of a PID namespace all others end
    wanted = _namespace(record.init_process_pid)
    if wanted is None:  # it waits for its start, is closed to us, and alone
        return (record.init_process_pid,)
    if wanted == _namespace(os.getpid()):
        raise FailedPrecondition(
            f"cannot tell the processes of container {record.id}: it has no control group or PID namespace of its own"
        )
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    found = {pid for pid in numbers if _namespace(pid) == wanted}
    parents = {pid: _parent(pid) for pid in numbers}
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more  # in PID namespaces below
    return tuple(sorted(found))


def _namespace(pid: int) -> tuple[int, int] | None:
    try:
        about = os.stat(f"/proc/{pid}/ns/pid")
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b") ")[2].split()[1])
    except (OSError, IndexError):
        return 0
