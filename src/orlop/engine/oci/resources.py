"""Resource limits and devices of a container. Pure.

`check_limits` has Docker's checks and wording; what only the host can know is checked in `resources`.
"""

from __future__ import annotations

import re

import msgspec

from orlop.engine.config import ContainerConfig, Limits, PodRequest
from orlop.engine.oci.facts import ContainerFacts, HostDevice
from orlop.spec.errors import InvalidArgument
from orlop.spec.runtime import CPU, BlockIO, Device, DeviceCgroup, HugepageLimit, Memory, Pids, Resources

MEMORY_MINIMUM = 6 << 20  # bytes; Docker's, below which a container hardly starts
_PERIOD = 100_000  # microseconds; the kernel's default
_DEVICE_RULE = r"([abc]) (\d{1,10}|\*):(\d{1,10}|\*) ([rwm]{1,3})"
_CPUSET = r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*"
_MAX = (1 << 63) - 1


def check_limits(limits: Limits, pod: bool = False) -> None:
    """A pod's limits come from a scheduler, which knows no least size."""
    if not pod:
        _check_memory(limits)
    _check_cpu(limits)
    if limits.blkio_weight and not 10 <= limits.blkio_weight <= 1000:
        raise InvalidArgument("range of blkio weight is from 10 to 1000")
    if limits.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    if limits.oom_score_adj is not None and not -1000 <= limits.oom_score_adj <= 1000:
        raise InvalidArgument(f"invalid value {limits.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    for rule in limits.device_cgroup_rules:
        device_rule(rule)
    for device in limits.devices:
        if not device.access or set(device.access) - set("rwm"):
            raise InvalidArgument(f"invalid device mode: {device.access[:16]}")
        if not device.source.startswith("/") or not device.target.startswith("/"):
            raise InvalidArgument(f"invalid device specification: {device.source[:64]}:{device.target[:64]}")


def _check_memory(limits: Limits) -> None:
    memory, swap, reservation = limits.memory or 0, limits.memory_swap or 0, limits.memory_reservation or 0
    if memory < 0 or reservation < 0 or swap < -1 or max(memory, swap, reservation) > _MAX:
        raise InvalidArgument("invalid memory limit: want a size of at least 6MB, or for swap also -1")
    if 0 < memory < MEMORY_MINIMUM:
        raise InvalidArgument("minimum memory limit allowed is 6MB")
    if memory and swap > 0 and swap < memory:
        raise InvalidArgument("minimum memoryswap limit should be larger than memory limit, see usage")
    if not memory and swap > 0:
        raise InvalidArgument("you should always set the Memory limit when using Memoryswap limit, see usage")
    if limits.memory_swappiness is not None and not -1 <= limits.memory_swappiness <= 100:
        raise InvalidArgument(f"invalid value: {limits.memory_swappiness}, valid memory swappiness range is 0-100")
    if 0 < reservation < MEMORY_MINIMUM:
        raise InvalidArgument("minimum memory reservation allowed is 6MB")
    if memory and reservation > memory:
        raise InvalidArgument("minimum memory limit can not be less than memory reservation limit, see usage")


def _check_cpu(limits: Limits) -> None:
    period, quota = limits.cpu_period or 0, limits.cpu_quota or 0
    if limits.nano_cpus:
        if limits.nano_cpus < 0:
            raise InvalidArgument("invalid value for --cpus: want a number above 0")
        for value, name in ((period, "Period"), (quota, "Quota")):
            if value:
                raise InvalidArgument(f"conflicting options: Nano CPUs and CPU {name} cannot both be set")
    if period and not 1000 <= period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if quota and (quota < -1 or 0 < quota < 1000):
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if limits.cpu_shares is not None and limits.cpu_shares < 0:
        raise InvalidArgument(f"invalid value {limits.cpu_shares} for cpu shares: can not be less than 0")
    for text, name in ((limits.cpuset_cpus, "cpus"), (limits.cpuset_mems, "mems")):
        if text and not re.fullmatch(_CPUSET, text):
            raise InvalidArgument(f"invalid value {text[:64]} for cpuset {name}")


def device_rule(text: str) -> DeviceCgroup:
    """Read `--device-cgroup-rule`, as `c 42:* rmw`."""
    found = re.fullmatch(_DEVICE_RULE, text)
    if not found:
        raise InvalidArgument(f"invalid device cgroup rule format: '{text[:64]}'")
    kind, major, minor, access = found.groups()
    return DeviceCgroup(
        allow=True,
        type=kind,
        major=None if major == "*" else int(major),
        minor=None if minor == "*" else int(minor),
        access=access,
    )


def resources(config: ContainerConfig, facts: ContainerFacts) -> Resources:
    return msgspec.structs.replace(limits_of(config, facts.processors), devices=_device_rules(config, facts))


def limits_of(config: ContainerConfig, processors: int) -> Resources:
    """All but the devices."""
    limits = config.limits
    return Resources(
        memory=_memory(limits, config.pod),
        cpu=_cpu(limits, processors),
        pids=None if limits.pids is None else Pids(limit=limits.pids if limits.pids > 0 else -1),
        block_io=BlockIO(weight=limits.blkio_weight) if limits.blkio_weight else None,
        hugepage_limits=tuple(
            HugepageLimit(page_size=size, limit=limit)
            for size, limit in sorted(config.pod.hugepages.items() if config.pod else ())
        ),
        unified=config.pod.unified if config.pod else {},
    )


def _memory(limits: Limits, pod: PodRequest | None) -> Memory | None:
    swap = limits.memory_swap
    if limits.memory and not swap and pod is not None:
        swap = limits.memory  # what kubelet means by no swap
    elif limits.memory and not swap:
        # Docker's documentation, "--memory-swap details": as much swap again as there is memory
        swap = min(2 * limits.memory, _MAX)
    memory = Memory(
        limit=limits.memory or None,
        swap=swap or None,
        reservation=limits.memory_reservation or None,
        swappiness=None if limits.memory_swappiness == -1 else limits.memory_swappiness,
        disable_oom_killer=True if limits.oom_kill_disable else None,
    )
    return None if memory == Memory() else memory


def check_processors(limits: Limits, processors: int) -> None:
    """Refuse more processors than the host has (0: unknown)."""
    _cpu(limits, processors)


def _cpu(limits: Limits, processors: int) -> CPU | None:
    period, quota = limits.cpu_period, limits.cpu_quota
    if limits.nano_cpus:
        if processors and limits.nano_cpus > processors * 10**9:
            raise InvalidArgument(
                f"range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available"
            )
        period, quota = _PERIOD, limits.nano_cpus * _PERIOD // 10**9
        if quota < 1000:
            raise InvalidArgument("invalid value for --cpus: the least is 0.01")
    _check_available(limits.cpuset_cpus, processors)
    cpu = CPU(
        shares=limits.cpu_shares or None,
        period=period or None,
        quota=quota or None,
        cpus=limits.cpuset_cpus,
        mems=limits.cpuset_mems,
    )
    return None if cpu == CPU() else cpu


def _check_available(cpus: str, processors: int) -> None:
    if cpus and processors:
        numbers = [int(number) for part in cpus.split(",") for number in part.split("-")]
        if max(numbers) >= processors:
            raise InvalidArgument(f"requested CPUs are not available - requested {cpus}, available: 0-{processors - 1}")


# --- devices


def _device_rules(config: ContainerConfig, facts: ContainerFacts) -> tuple[DeviceCgroup, ...]:
    if config.privileged:
        return (DeviceCgroup(allow=True, access="rwm"),)
    asked = tuple(
        DeviceCgroup(allow=True, type=device.type, major=device.major, minor=device.minor, access=device.access)
        for device in facts.devices
        if device.type in ("b", "c")
    )
    rules = tuple(device_rule(rule) for rule in config.limits.device_cgroup_rules)
    # what every container has (/dev/null and so on) is added by the runtime
    return (DeviceCgroup(allow=False, access="rwm"), *asked, *rules)


def devices(facts: ContainerFacts) -> tuple[Device, ...]:
    return tuple(_device(device) for device in facts.devices)


def _device(device: HostDevice) -> Device:
    return Device(
        type=device.type,
        path=device.path,
        major=device.major,
        minor=device.minor,
        file_mode=device.mode & 0o777,
        uid=device.uid,
        gid=device.gid,
    )
