"""Resource limits into writes to control files. Pure: `writes` decides, `apply` performs.

Sources: config-linux.md, "Control groups"; the kernel's admin-guide/cgroup-v1 and cgroup-v2. Where v2 counts
otherwise than v1, the conversions are those of the other runtimes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from orlop.cgroups.blkio import blkio_writes
from orlop.cgroups.devices import device_writes
from orlop.cgroups.facts import CgroupHost
from orlop.cgroups.write import Write
from orlop.spec.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from orlop.spec.runtime import CPU, HugepageLimit, Memory, NetworkResources, Pids, Rdma, Resources

WHERE = "linux.resources"
_MAX_INT = (1 << 63) - 1


def writes(resources: Resources | None, host: CgroupHost, *, update: bool = False) -> tuple[Write, ...]:
    """The writes that put `resources` in force in a fresh group, or with `update` in one that is in use.

    In a fresh group devices are denied unless `resources.devices` allows them, with no rules at all too; the devices
    that every container has are always allowed. An update leaves devices alone unless it names some. On v2, device
    rules are no files but a program (see `devices.program`).

    Raises InvalidArgument for a wrong value, and FailedPrecondition for a limit that this host can't put in force,
    both with the JSON path.
    """
    resources = resources or Resources()
    result = tuple(_all(resources, host.mode == "v2", update))
    for write in result:
        if write.controller in host.withheld and write.controller != "devices":
            raise PermissionDenied(
                f"{write.origin}: this user has no rights to a control group with the {write.controller} controller;"
                " leave the limit out, or have a group delegated"
            )
        if write.controller not in host.controllers and write.controller not in ("devices", "unified"):
            kind = "cgroup v2" if host.mode == "v2" else "cgroup v1"
            raise FailedPrecondition(f"{write.origin}: this host has no {write.controller} controller ({kind})")
    if "devices" not in host.controllers:
        # Who has no rights to the controller runs containers in user namespaces, where nodes are not made: what is
        # bound in is the user's own to use.
        if "devices" not in host.withheld and not all(rule.allow for rule in resources.devices):
            raise FailedPrecondition(f"{WHERE}.devices: this host has no devices controller (cgroup v1)")
        return tuple(write for write in result if write.controller != "devices")
    return result


def _all(resources: Resources, v2: bool, update: bool) -> Iterator[Write]:
    if not v2 and (resources.devices or not update):
        yield from device_writes(resources.devices)
    if resources.memory is not None:
        yield from (_memory_v2 if v2 else _memory_v1)(resources.memory)
    if resources.cpu is not None:
        yield from (_cpu_v2 if v2 else _cpu_v1)(resources.cpu)
    if resources.pids is not None:
        yield from _pids(resources.pids)
    if resources.block_io is not None:
        yield from blkio_writes(resources.block_io, v2)
    if resources.network is not None:
        yield from (_no_network if v2 else _network)(resources.network)
    yield from _hugetlb(resources.hugepage_limits, v2)
    yield from _rdma(resources.rdma)
    yield from _unified(resources.unified, v2)


def _number(value: int, where: str, low: int = -1, high: int = _MAX_INT) -> int:
    if not low <= value <= high:
        raise InvalidArgument(f"{WHERE}.{where}: {value} is not between {low} and {high}")
    return value


def _simple(value: int | None, controller: str, file: str, where: str, low: int = -1) -> Iterator[Write]:
    if value is not None:
        yield Write(controller, file, str(_number(value, where, low)), f"{WHERE}.{where}")


def _refuse(present: bool, where: str) -> None:
    if present:
        raise FailedPrecondition(f"{WHERE}.{where}: cgroup v2 has no such limit")


# --- memory


def _memory_v1(memory: Memory) -> Iterator[Write]:
    _check_memory(memory)
    yield from _simple(memory.limit, "memory", "memory.limit_in_bytes", "memory.limit")
    swap = memory.swap
    if memory.limit == -1 and not swap:
        swap = -1  # without a limit on memory one on memory and swap together makes no sense
    if swap:
        yield Write("memory", "memory.memsw.limit_in_bytes", str(swap), f"{WHERE}.memory.swap")
    yield from _simple(memory.reservation, "memory", "memory.soft_limit_in_bytes", "memory.reservation")
    yield from _simple(memory.kernel, "memory", "memory.kmem.limit_in_bytes", "memory.kernel")
    yield from _simple(memory.kernel_tcp, "memory", "memory.kmem.tcp.limit_in_bytes", "memory.kernelTCP")
    if memory.swappiness is not None:
        value = _number(memory.swappiness, "memory.swappiness", 0, 100)
        yield Write("memory", "memory.swappiness", str(value), f"{WHERE}.memory.swappiness")
    if memory.disable_oom_killer is not None:
        value = int(memory.disable_oom_killer)
        yield Write("memory", "memory.oom_control", str(value), f"{WHERE}.memory.disableOOMKiller")
    if memory.use_hierarchy is not None:
        # every kernel since 5.11 has the hierarchy always on and the file takes only 1
        yield Write("memory", "memory.use_hierarchy", str(int(memory.use_hierarchy)), f"{WHERE}.memory.useHierarchy")


def _memory_v2(memory: Memory) -> Iterator[Write]:
    _check_memory(memory)
    _refuse(bool(memory.kernel), "memory.kernel")
    _refuse(bool(memory.kernel_tcp), "memory.kernelTCP")
    _refuse(memory.swappiness is not None, "memory.swappiness")
    _refuse(bool(memory.disable_oom_killer), "memory.disableOOMKiller")
    _refuse(memory.use_hierarchy is False, "memory.useHierarchy")
    swap = swap_alone(memory)
    if swap is not None:
        # where swap accounting is off the file is missing, and then no swap is to be limited
        yield Write("memory", "memory.swap.max", _or_max(swap), f"{WHERE}.memory.swap", optional=swap <= 0)
    if memory.limit:
        guard = "memory.current" if memory.check_before_update and memory.limit > 0 else ""
        yield Write("memory", "memory.max", _or_max(memory.limit), f"{WHERE}.memory.limit", guard=guard)
    if memory.reservation:
        yield Write("memory", "memory.low", _or_max(memory.reservation), f"{WHERE}.memory.reservation")


def _check_memory(memory: Memory) -> None:
    for name, value in (
        ("limit", memory.limit),
        ("reservation", memory.reservation),
        ("swap", memory.swap),
        ("kernel", memory.kernel),
        ("kernelTCP", memory.kernel_tcp),
    ):
        if value is not None:
            _number(value, f"memory.{name}")
    limit, swap = memory.limit or 0, memory.swap or 0
    if swap > 0 and limit > swap:
        raise InvalidArgument(f"{WHERE}.memory.swap: {swap} is less than the memory limit of {limit}; it includes it")
    if limit > 0 and (memory.reservation or 0) > limit:
        raise InvalidArgument(f"{WHERE}.memory.reservation: {memory.reservation} is more than the limit of {limit}")


def swap_alone(memory: Memory) -> int | None:
    """The limit on swap alone, from v1's limit on memory and swap together (-1: none)."""
    limit, swap = memory.limit or 0, memory.swap or 0
    if swap <= 0:
        return -1 if swap == -1 or limit == -1 else None
    if limit <= 0:
        raise InvalidArgument(f"{WHERE}.memory.swap: needs memory.limit, of which it is the sum with swap")
    return swap - limit


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)


# --- cpu


def _cpu_v1(cpu: CPU) -> Iterator[Write]:
    yield from _simple(cpu.shares or None, "cpu", "cpu.shares", "cpu.shares", 0)
    yield from _simple(cpu.period or None, "cpu", "cpu.cfs_period_us", "cpu.period", 0)
    yield from _simple(cpu.quota or None, "cpu", "cpu.cfs_quota_us", "cpu.quota", -_MAX_INT)
    yield from _simple(cpu.burst, "cpu", "cpu.cfs_burst_us", "cpu.burst", 0)
    yield from _simple(cpu.realtime_period or None, "cpu", "cpu.rt_period_us", "cpu.realtimePeriod", 0)
    yield from _simple(cpu.realtime_runtime or None, "cpu", "cpu.rt_runtime_us", "cpu.realtimeRuntime", -1)
    yield from _cpu_both(cpu)


def _cpu_v2(cpu: CPU) -> Iterator[Write]:
    _refuse(bool(cpu.realtime_period), "cpu.realtimePeriod")
    _refuse(bool(cpu.realtime_runtime), "cpu.realtimeRuntime")
    if cpu.shares and not cpu.idle:  # an idle group takes no weight, and loses the one it has
        weight = weight_of_shares(_number(cpu.shares, "cpu.shares", 0))
        yield Write("cpu", "cpu.weight", str(weight), f"{WHERE}.cpu.shares")
    if cpu.quota or cpu.period:
        quota = "max" if not cpu.quota or cpu.quota < 0 else str(cpu.quota)
        period = _number(cpu.period or 100_000, "cpu.period", 0)
        yield Write("cpu", "cpu.max", f"{quota} {period}", f"{WHERE}.cpu.{'quota' if cpu.quota else 'period'}")
    yield from _simple(cpu.burst, "cpu", "cpu.max.burst", "cpu.burst", 0)
    yield from _cpu_both(cpu)


def _cpu_both(cpu: CPU) -> Iterator[Write]:
    yield from _simple(cpu.idle, "cpu", "cpu.idle", "cpu.idle", 0)
    for name in ("cpus", "mems"):
        value = getattr(cpu, name)
        if value:
            _check_list(value, f"cpu.{name}")
            yield Write("cpuset", f"cpuset.{name}", value, f"{WHERE}.cpu.{name}")


def _check_list(text: str, where: str) -> None:
    """A list of numbers as in `0-3,7` (cpuset(7), "List format"), also with a stride as in `0-7:2/4`."""
    import re

    if not re.fullmatch(r"\d{1,6}(-\d{1,6}(:\d{1,6}/\d{1,6})?)?(,\d{1,6}(-\d{1,6}(:\d{1,6}/\d{1,6})?)?)*", text):
        raise InvalidArgument(f"{WHERE}.{where}: {text[:64]!r} is not a list such as 0-3,7")


def weight_of_shares(shares: int) -> int:
    """v1's cpu.shares (2 to 262144, by default 1024) as v2's cpu.weight (1 to 10000, by default 100).

    A curve through the three pairs of least, default and most, as runc 1.3.2 and crun 1.23 have it. Before them, a
    straight line made of the default 1024 a weight of 39.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    logarithm = math.log2(shares)
    return math.ceil(10 ** ((logarithm * logarithm + 125 * logarithm) / 612 - 7 / 34))


# --- the others


def _pids(pids: Pids) -> Iterator[Write]:
    if pids.limit is not None:
        # without a limit it is -1 today; 0 was, when the field could not be absent
        yield Write("pids", "pids.max", str(pids.limit) if pids.limit > 0 else "max", f"{WHERE}.pids.limit")


def _hugetlb(limits: tuple[HugepageLimit, ...], v2: bool) -> Iterator[Write]:
    check_page_sizes(limits)
    for index, limit in enumerate(limits):
        where = f"hugepageLimits[{index}]"
        size = limit.page_size
        value = str(_number(limit.limit, f"{where}.limit", 0, (1 << 64) - 1))
        suffixes = ("max", "rsvd.max") if v2 else ("limit_in_bytes", "rsvd.limit_in_bytes")
        for suffix in suffixes:
            # reservations are counted since Linux 5.7
            optional = suffix.startswith("rsvd")
            yield Write("hugetlb", f"hugetlb.{size}.{suffix}", value, f"{WHERE}.{where}", optional=optional)


def check_page_sizes(limits: tuple[HugepageLimit, ...]) -> None:
    """Refuse what no kernel names a file of its controller by (config-linux.md, "Huge page limits"; the pattern is
    that of the specification's schema). Whether this host has pages of a size shows when the limit is set."""
    for index, limit in enumerate(limits):
        number, unit = limit.page_size[:-2], limit.page_size[-2:]
        if not (number.isascii() and number.isdigit() and not number.startswith("0") and unit in ("KB", "MB", "GB")):
            where = f"{WHERE}.hugepageLimits[{index}].pageSize"
            raise InvalidArgument(f"{where}: {limit.page_size[:32]!r} is not a size such as 2MB")


def _network(network: NetworkResources) -> Iterator[Write]:
    if network.class_id is not None:
        value = _number(network.class_id, "network.classID", 0, 0xFFFFFFFF)
        yield Write("net_cls", "net_cls.classid", str(value), f"{WHERE}.network.classID")
    for index, entry in enumerate(network.priorities):
        where = f"{WHERE}.network.priorities[{index}]"
        if not entry.name or any(character.isspace() or character in "/\0" for character in entry.name):
            raise InvalidArgument(f"{where}.name: {entry.name[:32]!r} is not an interface's name")
        _number(entry.priority, f"network.priorities[{index}].priority", 0, 0xFFFFFFFF)
        yield Write("net_prio", "net_prio.ifpriomap", f"{entry.name} {entry.priority}", where)


def _no_network(network: NetworkResources) -> Iterator[Write]:
    _refuse(network.class_id is not None, "network.classID")
    _refuse(bool(network.priorities), "network.priorities")
    return iter(())


def _rdma(limits: dict[str, Rdma]) -> Iterator[Write]:
    for device, limit in limits.items():
        where = f"{WHERE}.rdma.{device[:64]}"
        if not device or any(character.isspace() or character in "/\0" for character in device):
            raise InvalidArgument(f"{where}: {device[:64]!r} is not a device's name")
        parts = [
            f"{name}={value}"
            for name, value in (("hca_handle", limit.hca_handles), ("hca_object", limit.hca_objects))
            if value is not None
        ]
        if not parts:
            raise InvalidArgument(f"{where}: needs hcaHandles or hcaObjects")
        yield Write("rdma", "rdma.max", " ".join((device, *parts)), where)


def _unified(values: dict[str, str], v2: bool) -> Iterator[Write]:
    for file, value in values.items():
        where = f"{WHERE}.unified.{file[:64]}"
        if not v2:
            raise FailedPrecondition(
                f"{where}: invalid configuration: needs cgroup v2, and this host has its controllers on cgroup v1"
            )
        if "/" in file or "." not in file.strip(".") or "\0" in file or "\0" in value:
            raise InvalidArgument(f"{where}: not the name of a control file")
        controller = file.partition(".")[0]
        # a file such as io.max takes one line a write
        for line in value.splitlines() or ("",):
            yield Write("unified" if controller == "cgroup" else controller, file, line, where)
