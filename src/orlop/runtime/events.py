"""What `events` tells of a container: its use of resources, and that the kernel killed for lack of memory."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from typing import Any

from orlop.cgroups import apply as cgroups
from orlop.cgroups.facts import CgroupHost
from orlop.cgroups.stats import CpuUsage, DeviceIO, MemoryUsage, PidsUsage, Statistics
from orlop.runtime.kill import frozen
from orlop.runtime.state import Record, Store, status
from orlop.spec.errors import FailedPrecondition

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
    return {"type": "stats", "id": record.id, "data": data(cgroups.statistics(cgroups.probe(), record.cgroup))}


def follow(record: Record, interval: float) -> Iterator[dict[str, Any]]:
    """Events until the container ends: its use every `interval` seconds, and each time that the kernel killed."""
    host = cgroups.probe()
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


def data(found: Statistics) -> dict[str, Any]:
    """Counters in the words and units that engines read: nanoseconds and bytes."""
    return {
        "cpu": _cpu(found.cpu or CpuUsage()),
        "cpuset": {},
        "memory": _memory(found.memory or MemoryUsage()),
        "pids": _pids(found.pids or PidsUsage()),
        "blkio": _block_io(found.block_io or ()),
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _cpu(cpu: CpuUsage) -> dict[str, Any]:
    return {
        "usage": {"total": cpu.total, "kernel": cpu.system, "user": cpu.user},
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
