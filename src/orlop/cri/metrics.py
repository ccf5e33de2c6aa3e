"""Metrics of pods and containers in Prometheus' terms, by the names that cAdvisor has made usual.

A metric is a line of the tables below: what it is, which labels it has besides those that all have, and how it is read
from what was measured. Values are whole numbers, so times are whole seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from functools import cached_property

import msgspec

from orlop._stubs.cri import api_pb2 as api
from orlop.cgroups import apply as cgroups
from orlop.cgroups.pressure import Pressure, pressure
from orlop.cgroups.stats import CpuUsage, DeviceIO, MemoryUsage, Statistics, statistics
from orlop.cri import answers
from orlop.cri.node import Node
from orlop.cri.processes import Processes, processes
from orlop.cri.stats import by_pod, writable_layer
from orlop.engine.records import Container
from orlop.network.counters import Counters, counters
from orlop.spec.errors import NotFound

PODS = 100  # in one answer of a stream
LABELS = ("container", "id", "image", "name", "namespace", "pod")
_SECOND = 1_000_000_000
_UNLIMITED = 0  # as cAdvisor says that there is no limit

Values = Iterable[tuple[tuple[str, ...], int]]  # further labels and the value


class Measured:
    """What is known of one container at one moment; each part is looked up when a metric first asks for it."""

    def __init__(self, node: Node, container: Container) -> None:
        self._node = node
        self.store = str(node.engine.paths.snapshots)
        self.container = container
        self.now = time.time_ns()

    @cached_property
    def used(self) -> Statistics:
        return statistics(self._node.engine.cgroups, self.container.record.cgroup)

    @property
    def cpu(self) -> CpuUsage:
        return self.used.cpu or CpuUsage()

    @property
    def memory(self) -> MemoryUsage:
        return self.used.memory or MemoryUsage()

    def stat(self, *names: str) -> int:
        """The first of these that memory.stat has: v1's names for the group with those below it, and v2's."""
        return next((self.memory.stat[name] for name in names if name in self.memory.stat), 0)

    @property
    def disks(self) -> tuple[DeviceIO, ...]:
        return self.used.block_io or ()

    @cached_property
    def oom(self) -> int:
        return cgroups.oom_kills(self._node.engine.cgroups, self.container.record.cgroup)

    @cached_property
    def stalls(self) -> dict[str, Pressure]:
        return pressure(self._node.engine.cgroups, self.container.record.cgroup)

    @cached_property
    def processes(self) -> Processes:
        return processes(cgroups.pids(self._node.engine.cgroups, self.container.record.cgroup))

    @cached_property
    def layer(self) -> api.FilesystemUsage:
        return writable_layer(self._node, self.container, self.now)

    @cached_property
    def filesystem(self) -> os.statvfs_result:
        return os.statvfs(self.store)

    @cached_property
    def devices(self) -> tuple[Counters, ...]:
        return tuple(found for found in counters(self.container.record.pid) if found.name != "lo")


class Metric(msgspec.Struct, frozen=True):
    name: str
    help: str
    read: Callable[[Measured], Values]
    labels: tuple[str, ...] = ()
    counter: bool = True


def _one(read: Callable[[Measured], int]) -> Callable[[Measured], Values]:
    return lambda measured: [((), read(measured))]


def _io(reads: str, writes: str | None = None) -> Callable[[Measured], Values]:
    """A counter of each disk, under the name of its device, or also by operation."""

    def read(measured: Measured) -> Values:
        for disk in measured.disks:
            device = f"{disk.major}:{disk.minor}"
            if writes is None:
                yield (device,), getattr(disk, reads)
            else:
                yield (device, str(disk.major), str(disk.minor), "Read"), getattr(disk, reads)
                yield (device, str(disk.major), str(disk.minor), "Write"), getattr(disk, writes)

    return read


def _net(field: str) -> Callable[[Measured], Values]:
    return lambda measured: [((device.name,), getattr(device, field)) for device in measured.devices]


def _stalled(resource: str, line: str) -> Callable[[Measured], Values]:
    def read(measured: Measured) -> Values:
        found = getattr(measured.stalls.get(resource), line, None)
        return [] if found is None else [((), found.total // _SECOND)]

    return read


def _faults(measured: Measured) -> Values:
    faults = measured.stat("total_pgfault", "pgfault")
    major = measured.stat("total_pgmajfault", "pgmajfault")
    return [(("pgfault", "container"), faults), (("pgmajfault", "container"), major)]


def _nofile(measured: Measured) -> Values:
    return [(("max_open_files",), limit)] if (limit := measured.processes.open_files_limit) is not None else []


CONTAINER: tuple[Metric, ...] = (
    Metric("container_cpu_usage_seconds_total", "Processor time used.", _one(lambda m: m.cpu.total // _SECOND)),
    Metric("container_cpu_user_seconds_total", "Processor time in user mode.", _one(lambda m: m.cpu.user // _SECOND)),
    Metric(
        "container_cpu_system_seconds_total", "Processor time in the kernel.", _one(lambda m: m.cpu.system // _SECOND)
    ),
    Metric("container_cpu_cfs_periods_total", "Enforcement periods that have passed.", _one(lambda m: m.cpu.periods)),
    Metric(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the quota ran out.",
        _one(lambda m: m.cpu.throttled_periods),
    ),
    Metric(
        "container_cpu_cfs_throttled_seconds_total",
        "Time that the quota held tasks back.",
        _one(lambda m: m.cpu.throttled_time // _SECOND),
    ),
    Metric(
        "container_memory_usage_bytes", "Memory in use, page cache included.", _one(lambda m: m.memory.usage), (), False
    ),
    Metric(
        "container_memory_working_set_bytes",
        "Memory in use without inactive file pages.",
        _one(lambda m: max(0, m.memory.usage - m.memory.inactive_file)),
        (),
        False,
    ),
    Metric(
        "container_memory_max_usage_bytes", "The most memory in use.", _one(lambda m: m.memory.peak or 0), (), False
    ),
    Metric("container_memory_rss", "Anonymous memory.", _one(lambda m: m.stat("total_rss", "anon")), (), False),
    Metric("container_memory_cache", "Page cache.", _one(lambda m: m.stat("total_cache", "file")), (), False),
    Metric(
        "container_memory_mapped_file",
        "Files mapped into memory.",
        _one(lambda m: m.stat("total_mapped_file", "file_mapped")),
        (),
        False,
    ),
    Metric("container_memory_swap", "Swap in use.", _one(lambda m: m.memory.swap or 0), (), False),
    Metric(
        "container_memory_kernel_usage", "Memory of the kernel's.", _one(lambda m: m.stat("kernel", "slab")), (), False
    ),
    Metric("container_memory_failcnt", "Times that the limit was met.", _one(lambda m: m.memory.failures)),
    Metric("container_memory_failures_total", "Page faults.", _faults, ("failure_type", "scope")),
    Metric("container_oom_events_total", "Processes killed for want of memory.", _one(lambda m: m.oom)),
    Metric(
        "container_blkio_device_usage_total",
        "Bytes moved to and from disks.",
        _io("read_bytes", "write_bytes"),
        ("device", "major", "minor", "operation"),
    ),
    Metric("container_fs_reads_bytes_total", "Bytes read from disks.", _io("read_bytes"), ("device",)),
    Metric("container_fs_reads_total", "Reads from disks.", _io("reads"), ("device",)),
    Metric("container_fs_writes_bytes_total", "Bytes written to disks.", _io("write_bytes"), ("device",)),
    Metric("container_fs_writes_total", "Writes to disks.", _io("writes"), ("device",)),
    Metric(
        "container_fs_usage_bytes",
        "Bytes in the writable layer.",
        lambda m: [((_device(m),), m.layer.used_bytes.value)],
        ("device",),
        False,
    ),
    Metric(
        "container_fs_limit_bytes",
        "Bytes that the layer's file system holds.",
        lambda m: [((_device(m),), m.filesystem.f_blocks * m.filesystem.f_frsize)],
        ("device",),
        False,
    ),
    Metric(
        "container_fs_inodes_total",
        "Inodes of the layer's file system.",
        lambda m: [((_device(m),), m.filesystem.f_files)],
        ("device",),
        False,
    ),
    Metric(
        "container_fs_inodes_free",
        "Free inodes of the layer's file system.",
        lambda m: [((_device(m),), m.filesystem.f_ffree)],
        ("device",),
        False,
    ),
    Metric("container_processes", "Processes.", _one(lambda m: m.processes.count), (), False),
    Metric("container_threads", "Threads.", _one(lambda m: m.processes.threads), (), False),
    Metric(
        "container_threads_max",
        "The most threads there may be; 0 without a limit.",
        _one(lambda m: (m.used.pids.limit if m.used.pids else None) or _UNLIMITED),
        (),
        False,
    ),
    Metric("container_file_descriptors", "Open descriptors.", _one(lambda m: m.processes.descriptors), (), False),
    Metric("container_sockets", "Open sockets.", _one(lambda m: m.processes.sockets), (), False),
    Metric("container_ulimits_soft", "Soft limits of the first process.", _nofile, ("ulimit",), False),
    Metric(
        "container_start_time_seconds",
        "When it was started, since the epoch.",
        _one(lambda m: int(m.container.record.started)),
        (),
        False,
    ),
    Metric(
        "container_last_seen", "When this was measured, since the epoch.", _one(lambda m: m.now // _SECOND), (), False
    ),
    Metric(
        "container_spec_cpu_period",
        "Length of a period in microseconds.",
        _one(lambda m: m.container.config.limits.cpu_period or 100_000),
        (),
        False,
    ),
    Metric(
        "container_spec_cpu_quota",
        "Microseconds of processor time in a period.",
        lambda m: [((), quota)] if (quota := m.container.config.limits.cpu_quota or 0) > 0 else [],
        (),
        False,
    ),
    Metric(
        "container_spec_cpu_shares",
        "Weight among groups that want the processor.",
        _one(lambda m: m.container.config.limits.cpu_shares or 1024),
        (),
        False,
    ),
    Metric(
        "container_spec_memory_limit_bytes",
        "Limit of memory; 0 without one.",
        _one(lambda m: m.memory.limit or _UNLIMITED),
        (),
        False,
    ),
    Metric(
        "container_spec_memory_swap_limit_bytes",
        "Limit of memory and swap; 0 without one.",
        _one(lambda m: m.memory.swap_limit or _UNLIMITED),
        (),
        False,
    ),
    Metric(
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is kept from being reclaimed first; 0 without any.",
        _one(lambda m: m.container.config.limits.memory_reservation or _UNLIMITED),
        (),
        False,
    ),
    *(
        Metric(
            f"container_pressure_{resource}_{word}_seconds_total",
            f"Time that {who} stood still for want of {what}.",
            _stalled(resource, line),
        )
        for resource, what in (("cpu", "processor"), ("memory", "memory"), ("io", "disk"))
        for word, line, who in (("waiting", "some", "a task"), ("stalled", "full", "all tasks"))
    ),
)
POD: tuple[Metric, ...] = tuple(
    Metric(f"container_network_{way}_{name}_total", f"{text} {verb}.", _net(f"{field}_{column}"), ("interface",))
    for way, verb, field in (("receive", "received", "rx"), ("transmit", "sent", "tx"))
    for name, column, text in (
        ("bytes", "bytes", "Bytes"),
        ("packets", "packets", "Packets"),
        ("packets_dropped", "dropped", "Packets dropped that were to be"),
        ("errors", "errors", "Errors of what was"),
    )
)


def _device(measured: Measured) -> str:
    info = os.stat(measured.store)
    return f"{os.major(info.st_dev)}:{os.minor(info.st_dev)}"


def _metrics(table: tuple[Metric, ...], measured: Measured, labels: tuple[str, ...]) -> list[api.Metric]:
    return [
        api.Metric(
            name=metric.name,
            timestamp=measured.now,
            metric_type=api.COUNTER if metric.counter else api.GAUGE,
            label_values=[*labels, *further],
            value=api.UInt64Value(value=max(0, value)),
        )
        for metric in table
        for further, value in metric.read(measured)
    ]


def _pod(node: Node, sandbox: Container, members: list[Container]) -> api.PodSandboxMetrics:
    request = answers.pod_request(sandbox)
    meta = request.config.metadata
    labels = ("POD", f"/{sandbox.record.cgroup.lstrip('/')}", "", sandbox.id, meta.namespace, meta.name)
    own_network = sandbox.config.network.mode != "host"
    found = []
    for container in members:
        name = answers.container_request(container).config.metadata.name
        image = container.config.image
        identity = (name, container.record.cgroup, image, container.id, meta.namespace, meta.name)
        try:
            metrics = _metrics(CONTAINER, Measured(node, container), identity)
        except NotFound:
            continue  # it has ended meanwhile
        found.append(api.ContainerMetrics(container_id=container.id, metrics=metrics))
    return api.PodSandboxMetrics(
        pod_sandbox_id=sandbox.id,
        metrics=_metrics(POD, Measured(node, sandbox), labels) if own_network else [],
        container_metrics=found,
    )


def _all(node: Node) -> list[api.PodSandboxMetrics]:
    members = by_pod(node)
    found = []
    for sandbox in node.sandboxes():
        if sandbox.running:
            try:
                found.append(_pod(node, sandbox, members.get(sandbox.id, [])))
            except NotFound:
                continue
    return found


async def descriptors(node: Node, request: api.ListMetricDescriptorsRequest) -> api.ListMetricDescriptorsResponse:
    return api.ListMetricDescriptorsResponse(
        descriptors=[
            api.MetricDescriptor(name=metric.name, help=metric.help, label_keys=[*LABELS, *metric.labels])
            for metric in (*CONTAINER, *POD)
        ]
    )


async def pods(node: Node, request: api.ListPodSandboxMetricsRequest) -> api.ListPodSandboxMetricsResponse:
    return api.ListPodSandboxMetricsResponse(pod_metrics=await node.call(_all, node))


async def stream(
    node: Node, request: api.StreamPodSandboxMetricsRequest
) -> AsyncIterator[api.StreamPodSandboxMetricsResponse]:
    found = await node.call(_all, node)
    for piece in answers.pieces(found, PODS):
        yield api.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=piece)
