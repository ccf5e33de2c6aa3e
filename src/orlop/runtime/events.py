"""What `events` tells of a container: its use of resources, and that the kernel killed for lack of memory."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from typing import Any

from orlop.cgroups import apply as cgroups
from orlop.cgroups.facts import CgroupHost
from orlop.cgroups.pressure import Pressure, pressure
from orlop.cgroups.stats import CPUSET_SETTINGS, CpusetUsage, CpuUsage, DeviceIO, MemoryUsage, PidsUsage, Statistics
from orlop.network.counters import Counters, counters
from orlop.runtime import groups
from orlop.runtime.kill import frozen
from orlop.runtime.state import Record, Store, status
from orlop.spec.errors import FailedPrecondition, NotFound

_UNLIMITED = (1 << 64) - 1
_LOOK = 0.2  # seconds between two looks at the counter of kills


def running(store: Store, identifier: str) -> Record:
    """The record of a container that has processes."""
    record = store.load(identifier)
    now = status(record, frozen(record))
    if now not in ("created", "running", "paused"):
        raise FailedPrecondition(f"container {identifier} is not running: it is {now}")
    return record


def usage(record: Record) -> dict[str, Any]:
    """One event of type stats."""
    host = groups.hierarchies(record, "watch")
    found = data(cgroups.statistics(host, record.cgroup), pressure(host, record.cgroup), _carried(record))
    return {"type": "stats", "id": record.id, "data": found}


def _carried(record: Record) -> tuple[Counters, ...] | None:
    """What the devices of the container's own network namespace have carried; of the host's it is none of its use."""
    pid = record.init_process_pid
    try:
        if os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
            return None
        return counters(pid)
    except (OSError, NotFound):  # it has just ended
        return None


def follow(record: Record, interval: float) -> Iterator[dict[str, Any]]:
    """Events until the container ends: its use every `interval` seconds, and each time that the kernel killed."""
    host = groups.hierarchies(record, "watch")
    kills, due = cgroups.oom_kills(host, record.cgroup), time.monotonic()
    pidfd = os.pidfd_open(record.init_process_pid)
    try:
        ended = False
        while not ended:
            if not record.alive:
                return
            if time.monotonic() >= due:
                yield usage(record)
                due += interval
            ended = bool(select.select([pidfd], [], [], max(0.0, min(_LOOK, due - time.monotonic())))[0])
            kills, more = _kills(host, record, kills)
            for _ in range(more):
                yield {"type": "oom", "id": record.id}
    finally:
        os.close(pidfd)


def _kills(host: CgroupHost, record: Record, before: int) -> tuple[int, int]:
    now = cgroups.oom_kills(host, record.cgroup)
    return max(now, before), max(0, now - before)  # a group that is gone counts none


def data(
    found: Statistics, pressures: dict[str, Pressure] | None = None, devices: tuple[Counters, ...] | None = None
) -> dict[str, Any]:
    """Counters in the words and units that engines read: nanoseconds and bytes."""
    stalled = {name: {"psi": _psi(pressure)} for name, pressure in (pressures or {}).items()}
    return {
        "cpu": _cpu(found.cpu or CpuUsage()) | stalled.get("cpu", {}),
        "cpuset": _cpuset(found.cpuset or CpusetUsage()),
        "memory": _memory(found.memory or MemoryUsage()) | stalled.get("memory", {}),
        "pids": _pids(found.pids or PidsUsage()),
        "blkio": _block_io(found.block_io or ()) | stalled.get("io", {}),
        "hugetlb": {
            size: {"usage": pages.usage, "max": pages.peak, "failcnt": pages.failures}
            for size, pages in (found.hugepages or {}).items()
        },
        "intel_rdt": {},
        "network_interfaces": None if devices is None else [_device(each) for each in devices],
    }


def _psi(pressure: Pressure) -> dict[str, Any]:
    """The kernel's own words and units, microseconds."""
    return {
        name: {"avg10": line.avg10, "avg60": line.avg60, "avg300": line.avg300, "total": line.total // 1000}
        for name, line in (("some", pressure.some), ("full", pressure.full))
        if line is not None
    }


def _cpuset(cpuset: CpusetUsage) -> dict[str, Any]:
    lists = {name: _listed(text) for name, text in (("cpus", cpuset.cpus), ("mems", cpuset.mems)) if text}
    return lists | {name: cpuset.settings.get(name, 0) for name in CPUSET_SETTINGS}


def _listed(text: str) -> list[int]:
    """[0, 1, 2, 7] of `0-2,7`."""
    ends = [part.partition("-")[::2] for part in text.split(",")]
    return [number for first, last in ends for number in range(int(first), int(last or first) + 1)]


def _device(device: Counters) -> dict[str, Any]:
    """With the names of the structure's fields, as they are read."""
    return {
        "".join(word.capitalize() for word in field.split("_")): getattr(device, field)
        for field in device.__struct_fields__
    }


def _cpu(cpu: CpuUsage) -> dict[str, Any]:
    return {
        "usage": {"total": cpu.total, "kernel": cpu.system, "user": cpu.user}
        | ({"percpu": cpu.each} if cpu.each else {}),
        "throttling": {
            "periods": cpu.periods,
            "throttledPeriods": cpu.throttled_periods,
            "throttledTime": cpu.throttled_time,
        },
    }


def _memory(memory: MemoryUsage) -> dict[str, Any]:
    swap = memory.swap or 0
    entry = {
        "limit": _UNLIMITED if memory.limit is None else memory.limit,
        "usage": memory.usage,
        "max": memory.peak or 0,
        "failcnt": memory.failures,
    }
    return {
        "cache": memory.stat.get("total_cache", memory.stat.get("file", 0)),
        "usage": entry,
        "swap": {
            "limit": _UNLIMITED if memory.swap_limit is None else memory.swap_limit,
            "usage": memory.usage + swap,
            "failcnt": 0,
        },
        "kernel": {"limit": _UNLIMITED, "failcnt": 0},
        "kernelTCP": {"limit": _UNLIMITED, "failcnt": 0},
        "raw": memory.stat,
    }


def _pids(pids: PidsUsage) -> dict[str, int]:
    return {"current": pids.current} | ({} if pids.limit is None else {"limit": pids.limit})


def _block_io(devices: tuple[DeviceIO, ...]) -> dict[str, Any]:
    def entries(read: str, write: str) -> list[dict[str, Any]]:
        return [
            {"major": device.major, "minor": device.minor, "op": op, "value": getattr(device, field)}
            for device in devices
            for op, field in (("Read", read), ("Write", write))
        ]

    return {
        "ioServiceBytesRecursive": entries("read_bytes", "write_bytes"),
        "ioServicedRecursive": entries("reads", "writes"),
    }
