"""What containers and pods use."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from orlop._stubs.cri import api_pb2 as api
from orlop.cgroups.pressure import Pressure, pressure
from orlop.cgroups.stats import MemoryUsage, Statistics, statistics
from orlop.cri import answers, containers
from orlop.cri.node import Node
from orlop.engine.records import Container
from orlop.network.counters import Counters, counters
from orlop.spec.errors import InvalidArgument, NotFound


def _wrapped(value: int | None) -> api.UInt64Value | None:
    return None if value is None else api.UInt64Value(value=value)


# --- containers


def container_stats(node: Node, container: Container) -> api.ContainerStats:
    request = answers.container_request(container)
    now = time.time_ns()
    attributes = api.ContainerAttributes(
        id=container.id,
        metadata=request.config.metadata,
        labels=request.config.labels,
        annotations=request.config.annotations,
    )
    layer = writable_layer(node, container, now)
    if not container.running:
        return api.ContainerStats(attributes=attributes, writable_layer=layer)
    path = container.record.cgroup
    used = statistics(node.engine.cgroups, path)
    stalls = pressure(node.engine.cgroups, path)
    return api.ContainerStats(
        attributes=attributes,
        cpu=_cpu(node, container.id, container.record.started, now, used, stalls.get("cpu")),
        memory=_memory(now, used.memory, stalls.get("memory")),
        writable_layer=layer,
        swap=_swap(now, used.memory),
        io=api.IoUsage(timestamp=now, psi=_psi(stalls.get("io"))) if "io" in stalls else None,
    )


def _cpu(
    node: Node, identifier: str, started: float, now: int, used: Statistics, stalls: Pressure | None
) -> api.CpuUsage | None:
    if used.cpu is None:
        return None
    return api.CpuUsage(
        timestamp=now,
        usage_core_nano_seconds=_wrapped(used.cpu.total),
        usage_nano_cores=_wrapped(node.samples.rate(identifier, now, used.cpu.total, started)),
        psi=_psi(stalls),
    )


def _memory(now: int, memory: MemoryUsage | None, stalls: Pressure | None) -> api.MemoryUsage | None:
    if memory is None:
        return None
    working = max(0, memory.usage - memory.inactive_file)
    stat = memory.stat
    return api.MemoryUsage(
        timestamp=now,
        working_set_bytes=_wrapped(working),
        available_bytes=None if memory.limit is None else _wrapped(max(0, memory.limit - working)),
        usage_bytes=_wrapped(memory.usage),
        rss_bytes=_wrapped(stat.get("total_rss", stat.get("anon", 0))),
        page_faults=_wrapped(stat.get("total_pgfault", stat.get("pgfault", 0))),
        major_page_faults=_wrapped(stat.get("total_pgmajfault", stat.get("pgmajfault", 0))),
        psi=_psi(stalls),
    )


def _swap(now: int, memory: MemoryUsage | None) -> api.SwapUsage | None:
    if memory is None or memory.swap is None:
        return None
    available = None
    if memory.swap_limit is not None:
        available = max(0, memory.swap_limit - (memory.limit or 0) - memory.swap)
    return api.SwapUsage(
        timestamp=now, swap_available_bytes=_wrapped(available), swap_usage_bytes=_wrapped(memory.swap)
    )


def _psi(stalls: Pressure | None) -> api.PsiStats | None:
    if stalls is None:
        return None
    return api.PsiStats(
        **{
            name: api.PsiData(Total=line.total, Avg10=line.avg10, Avg60=line.avg60, Avg300=line.avg300)
            for name, line in (("Full", stalls.full), ("Some", stalls.some))
            if line is not None
        }
    )


def writable_layer(node: Node, container: Container, now: int) -> api.FilesystemUsage:
    """What the container has written, as measured a moment ago."""
    return node.samples.disk(container.id, lambda: _layer(node, container, now))


def _layer(node: Node, container: Container, now: int) -> api.FilesystemUsage:
    used = node.engine.snapshots.usage(container.id)
    return api.FilesystemUsage(
        timestamp=now,
        fs_id=api.FilesystemIdentifier(mountpoint=str(node.engine.paths.snapshots)),
        used_bytes=_wrapped(used.size),
        inodes_used=_wrapped(used.entries),
    )


async def one(node: Node, request: api.ContainerStatsRequest) -> api.ContainerStatsResponse:
    def work() -> api.ContainerStatsResponse:
        return api.ContainerStatsResponse(stats=container_stats(node, containers.find(node, request.container_id)))

    return await node.call(work)


async def list_all(node: Node, request: api.ListContainerStatsRequest) -> api.ListContainerStatsResponse:
    return api.ListContainerStatsResponse(stats=await node.call(_chosen, node, request.filter))


async def stream(
    node: Node, request: api.StreamContainerStatsRequest
) -> AsyncIterator[api.StreamContainerStatsResponse]:
    found = await node.call(_chosen, node, request.filter)
    for piece in answers.pieces(found):
        yield api.StreamContainerStatsResponse(container_stats=piece)


def _chosen(node: Node, wanted: api.ContainerStatsFilter) -> list[api.ContainerStats]:
    """Of containers that run. One that ends or goes meanwhile is left out."""
    match = api.ContainerFilter(
        id=wanted.id, pod_sandbox_id=wanted.pod_sandbox_id, label_selector=wanted.label_selector
    )
    found = []
    for container in running(node):
        if not answers.container_matches(answers.container_item(container), match):
            continue
        try:
            found.append(container_stats(node, container))
        except NotFound:
            continue
    return found


def running(node: Node) -> list[Container]:
    """The containers of pods that run, without the sandboxes."""
    everything = node.containers()
    node.samples.forget({container.id for container in everything})
    return [c for c in everything if c.running and c.config.pod is not None and c.config.pod.sandbox]


def by_pod(node: Node) -> dict[str, list[Container]]:
    """The same by the ID of their sandbox."""
    members: dict[str, list[Container]] = {}
    for container in running(node):
        if container.config.pod is not None:
            members.setdefault(container.config.pod.sandbox, []).append(container)
    return members


# --- pods


def pod_stats(node: Node, sandbox: Container, members: list[Container]) -> api.PodSandboxStats:
    """Of a pod with its containers that run, `members`. Its use is that of its own group's and theirs together."""
    request = answers.pod_request(sandbox)
    now = time.time_ns()
    stats = [container_stats(node, container) for container in members]
    own = statistics(node.engine.cgroups, sandbox.record.cgroup) if sandbox.running else Statistics()
    linux = api.LinuxPodSandboxStats(containers=stats)
    if sandbox.running:
        total = (own.cpu.total if own.cpu else 0) + sum(s.cpu.usage_core_nano_seconds.value for s in stats)
        linux.cpu.CopyFrom(
            api.CpuUsage(
                timestamp=now,
                usage_core_nano_seconds=_wrapped(total),
                usage_nano_cores=_wrapped(node.samples.rate(sandbox.id, now, total, sandbox.record.started)),
            )
        )
        linux.memory.CopyFrom(_sum(now, own.memory, [s.memory for s in stats]))
        linux.process.CopyFrom(
            api.ProcessUsage(timestamp=now, process_count=_wrapped(_processes(node, sandbox, members)))
        )
        if (network := _network(now, sandbox)) is not None:
            linux.network.CopyFrom(network)
    return api.PodSandboxStats(
        attributes=api.PodSandboxAttributes(
            id=sandbox.id,
            metadata=request.config.metadata,
            labels=request.config.labels,
            annotations=request.config.annotations,
        ),
        linux=linux,
    )


def _sum(now: int, own: MemoryUsage | None, others: list[api.MemoryUsage]) -> api.MemoryUsage:
    parts = [*others]
    if (mine := _memory(now, own, None)) is not None:
        parts.append(mine)
    return api.MemoryUsage(
        timestamp=now,
        working_set_bytes=_wrapped(sum(part.working_set_bytes.value for part in parts)),
        usage_bytes=_wrapped(sum(part.usage_bytes.value for part in parts)),
        rss_bytes=_wrapped(sum(part.rss_bytes.value for part in parts)),
        page_faults=_wrapped(sum(part.page_faults.value for part in parts)),
        major_page_faults=_wrapped(sum(part.major_page_faults.value for part in parts)),
    )


def _processes(node: Node, sandbox: Container, members: list[Container]) -> int:
    used = (statistics(node.engine.cgroups, c.record.cgroup).pids for c in (sandbox, *members))
    return sum(pids.current for pids in used if pids is not None)


def _network(now: int, sandbox: Container) -> api.NetworkUsage | None:
    """None for pods on the node's own network."""
    if sandbox.config.network.mode == "host":
        return None
    devices = [_interface(device) for device in counters(sandbox.record.pid) if device.name != "lo"]
    usual = sandbox.record.attachment.interface if sandbox.record.attachment else "eth0"
    return api.NetworkUsage(
        timestamp=now,
        default_interface=next((device for device in devices if device.name == usual), None),
        interfaces=[device for device in devices if device.name != usual],
    )


def _interface(device: Counters) -> api.NetworkInterfaceUsage:
    return api.NetworkInterfaceUsage(
        name=device.name,
        rx_bytes=_wrapped(device.rx_bytes),
        rx_errors=_wrapped(device.rx_errors),
        tx_bytes=_wrapped(device.tx_bytes),
        tx_errors=_wrapped(device.tx_errors),
    )


async def one_pod(node: Node, request: api.PodSandboxStatsRequest) -> api.PodSandboxStatsResponse:
    def work() -> api.PodSandboxStatsResponse:
        if not request.pod_sandbox_id:
            raise InvalidArgument("pod_sandbox_id is missing")
        sandbox = node.engine.pods.get(request.pod_sandbox_id)
        members = by_pod(node).get(sandbox.id, [])
        return api.PodSandboxStatsResponse(stats=pod_stats(node, sandbox, members))

    return await node.call(work)


async def list_pods(node: Node, request: api.ListPodSandboxStatsRequest) -> api.ListPodSandboxStatsResponse:
    return api.ListPodSandboxStatsResponse(stats=await node.call(_chosen_pods, node, request.filter))


async def stream_pods(
    node: Node, request: api.StreamPodSandboxStatsRequest
) -> AsyncIterator[api.StreamPodSandboxStatsResponse]:
    found = await node.call(_chosen_pods, node, request.filter)
    for piece in answers.pieces(found):
        yield api.StreamPodSandboxStatsResponse(pod_sandbox_stats=piece)


def _chosen_pods(node: Node, wanted: api.PodSandboxStatsFilter) -> list[api.PodSandboxStats]:
    match = api.PodSandboxFilter(id=wanted.id, label_selector=wanted.label_selector)
    members = by_pod(node)
    found = []
    for sandbox in node.sandboxes():
        if sandbox.running and answers.sandbox_matches(answers.pod_sandbox(sandbox), match):
            try:
                found.append(pod_stats(node, sandbox, members.get(sandbox.id, [])))
            except NotFound:
                continue
    return found
