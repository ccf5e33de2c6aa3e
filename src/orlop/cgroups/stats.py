"""What a group has used so far."""

from __future__ import annotations

import os

import msgspec

from orlop.cgroups.facts import CgroupHost, Group
from orlop.cgroups.files import read, read_keys, read_number

_TICK = 10_000_000  # nanoseconds of USER_HZ, which cpuacct.stat counts in
_UNLIMITED = 1 << 60  # v1 says "none" with the largest number of whole pages


class CpuUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Nanoseconds of processor time, and how often the quota held the group back."""

    total: int = 0
    user: int = 0
    system: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0
    each: tuple[int, ...] = ()  # `total` by processor, which v1 alone counts


class MemoryUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes. `inactive_file` is page cache that goes first; `docker stats` shows usage without it. No limit is None."""

    usage: int = 0
    peak: int | None = None
    limit: int | None = None
    swap: int | None = None
    swap_limit: int | None = None  # on memory and swap together, whatever the kernel's own file counts
    inactive_file: int = 0
    failures: int = 0
    stat: dict[str, int] = {}


class PidsUsage(msgspec.Struct, frozen=True, kw_only=True):
    current: int = 0
    limit: int | None = None


class DeviceIO(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes and operations of one block device."""

    major: int
    minor: int
    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


class HugepageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes in pages of one size, reservations with them where the kernel counts those; and refusals."""

    usage: int = 0
    peak: int = 0  # v1 alone
    failures: int = 0


class CpusetUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Processors and memory nodes that are used; v1's other settings by the names of their files."""

    cpus: str = ""
    mems: str = ""
    settings: dict[str, int] = {}


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """A part is None where the host has no controller for it."""

    cpu: CpuUsage | None = None
    memory: MemoryUsage | None = None
    pids: PidsUsage | None = None
    block_io: tuple[DeviceIO, ...] | None = None
    hugepages: dict[str, HugepageUsage] | None = None  # by size, as in `2MB`
    cpuset: CpusetUsage | None = None


def statistics(host: CgroupHost, path: str) -> Statistics:
    """The counters of the group and of those below it. Of a group that is gone they are zero."""
    group = Group(host, path)
    v2 = host.mode == "v2"
    return Statistics(
        cpu=_cpu_v2(group) if v2 else _cpu_v1(group),
        memory=(_memory_v2(group) if v2 else _memory_v1(group)) if group.has("memory") else None,
        pids=_pids(group) if group.has("pids") else None,
        block_io=_io(group, v2) if group.has("io" if v2 else "blkio") else None,
        hugepages=_hugepages(group, v2) if group.has("hugetlb") else None,
        cpuset=_cpuset(group, v2) if group.has("cpuset") else None,
    )


def oom_kills(host: CgroupHost, path: str) -> int:
    """How many processes of the group the kernel has killed for lack of memory."""
    group = Group(host, path)
    if not group.has("memory"):
        return 0
    file = "memory.events" if host.mode == "v2" else "memory.oom_control"
    return read_keys(f"{group.directory('memory')}/{file}").get("oom_kill", 0)


def _cpu_v2(group: Group) -> CpuUsage:
    stat = read_keys(f"{group.directory('unified')}/cpu.stat")
    return CpuUsage(
        total=stat.get("usage_usec", 0) * 1000,
        user=stat.get("user_usec", 0) * 1000,
        system=stat.get("system_usec", 0) * 1000,
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_time=stat.get("throttled_usec", 0) * 1000,
    )


def _cpu_v1(group: Group) -> CpuUsage | None:
    if not group.has("cpuacct"):
        return None
    accounts = group.directory("cpuacct")
    split = read_keys(f"{accounts}/cpuacct.stat")
    throttling = read_keys(f"{group.directory('cpu')}/cpu.stat") if group.has("cpu") else {}
    return CpuUsage(
        total=read_number(f"{accounts}/cpuacct.usage") or 0,
        user=split.get("user", 0) * _TICK,
        system=split.get("system", 0) * _TICK,
        periods=throttling.get("nr_periods", 0),
        throttled_periods=throttling.get("nr_throttled", 0),
        throttled_time=throttling.get("throttled_time", 0),
        each=_numbers(f"{accounts}/cpuacct.usage_percpu"),
    )


def _numbers(path: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in read(path).split())
    except FileNotFoundError:
        return ()


def _memory_v2(group: Group) -> MemoryUsage:
    directory = group.directory("memory")
    stat = read_keys(f"{directory}/memory.stat")
    limit, swap_limit = read_number(f"{directory}/memory.max"), read_number(f"{directory}/memory.swap.max")
    return MemoryUsage(
        usage=read_number(f"{directory}/memory.current") or 0,
        peak=read_number(f"{directory}/memory.peak"),
        limit=limit,
        swap=read_number(f"{directory}/memory.swap.current"),
        swap_limit=None if limit is None or swap_limit is None else limit + swap_limit,
        inactive_file=stat.get("inactive_file", 0),
        failures=read_keys(f"{directory}/memory.events").get("max", 0),
        stat=stat,
    )


def _memory_v1(group: Group) -> MemoryUsage:
    directory = group.directory("memory")
    stat = read_keys(f"{directory}/memory.stat")
    usage, limit = read_number(f"{directory}/memory.usage_in_bytes"), read_number(f"{directory}/memory.limit_in_bytes")
    both = read_number(f"{directory}/memory.memsw.usage_in_bytes")
    both_limit = read_number(f"{directory}/memory.memsw.limit_in_bytes")
    return MemoryUsage(
        usage=usage or 0,
        peak=read_number(f"{directory}/memory.max_usage_in_bytes"),
        limit=None if limit is None or limit >= _UNLIMITED else limit,
        swap=None if both is None else max(0, both - (usage or 0)),
        swap_limit=None if both_limit is None or both_limit >= _UNLIMITED else both_limit,
        inactive_file=stat.get("total_inactive_file", 0),
        failures=read_number(f"{directory}/memory.failcnt") or 0,
        stat=stat,
    )


def _pids(group: Group) -> PidsUsage:
    directory = group.directory("pids")
    return PidsUsage(current=read_number(f"{directory}/pids.current") or 0, limit=read_number(f"{directory}/pids.max"))


def _io(group: Group, v2: bool) -> tuple[DeviceIO, ...]:
    found: dict[tuple[int, int], dict[str, int]] = {}
    for numbers, field, value in _io_v2(group) if v2 else _io_v1(group):
        found.setdefault(numbers, {})[field] = value
    return tuple(DeviceIO(major=major, minor=minor, **fields) for (major, minor), fields in sorted(found.items()))


_Counter = tuple[tuple[int, int], str, int]
_V2_FIELDS = {"rbytes": "read_bytes", "wbytes": "write_bytes", "rios": "reads", "wios": "writes"}


def _io_v2(group: Group) -> list[_Counter]:
    """io.stat: `8:0 rbytes=1 wbytes=2 ...`."""
    found: list[_Counter] = []
    for line in _lines(f"{group.directory('io')}/io.stat"):
        for item in line[1:]:
            key, _, value = item.partition("=")
            if key in _V2_FIELDS:
                found.append((_device(line[0]), _V2_FIELDS[key], int(value)))
    return found


def _io_v1(group: Group) -> list[_Counter]:
    """blkio.throttle.io_*_recursive: `8:0 Read 1`."""
    found: list[_Counter] = []
    for file, fields in (
        ("blkio.throttle.io_service_bytes_recursive", {"Read": "read_bytes", "Write": "write_bytes"}),
        ("blkio.throttle.io_serviced_recursive", {"Read": "reads", "Write": "writes"}),
    ):
        for line in _lines(f"{group.directory('blkio')}/{file}"):
            if len(line) == 3 and line[1] in fields:
                found.append((_device(line[0]), fields[line[1]], int(line[2])))
    return found


def _lines(path: str) -> list[list[str]]:
    try:
        return [line.split() for line in read(path).splitlines() if ":" in line.split(" ")[0]]
    except FileNotFoundError:
        return []


def _device(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(":")
    return int(major), int(minor)


# --- huge pages and processors


def _hugepages(group: Group, v2: bool) -> dict[str, HugepageUsage]:
    """Of the files `hugetlb.2MB.current` and `hugetlb.2MB.rsvd.current` the latter counts more."""
    directory, suffix = group.directory("hugetlb"), ".current" if v2 else ".usage_in_bytes"
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return {}
    sizes = sorted({name.split(".")[1] for name in names if name.startswith("hugetlb.") and name.endswith(suffix)})
    found = {}
    for size in sizes:
        reserved = f"hugetlb.{size}.rsvd"
        start = f"{directory}/{reserved if reserved + suffix in names else f'hugetlb.{size}'}"
        failures = (
            read_keys(f"{directory}/hugetlb.{size}.events").get("max", 0) if v2 else read_number(f"{start}.failcnt")
        )
        found[size] = HugepageUsage(
            usage=read_number(start + suffix) or 0,
            peak=read_number(f"{start}.max_usage_in_bytes") or 0,
            failures=failures or 0,
        )
    return found


CPUSET_SETTINGS = (
    "cpu_exclusive",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
)


def _cpuset(group: Group, v2: bool) -> CpusetUsage:
    start = f"{group.directory('cpuset')}/cpuset."
    lists = []
    for name in ("cpus.effective", "mems.effective") if v2 else ("cpus", "mems"):
        try:
            lists.append(read(start + name).strip())
        except FileNotFoundError:
            lists.append("")
    settings = (
        {} if v2 else {name: number for name in CPUSET_SETTINGS if (number := read_number(start + name)) is not None}
    )
    return CpusetUsage(cpus=lists[0], mems=lists[1], settings=settings)
