"""Resource limits into properties of a unit, as systemd counts them (org.freedesktop.systemd1(5), systemd.
resource-control(5)). Pure: `properties` decides, `systemd` sends.

What systemd knows of a group it writes again whenever it likes, so it is told all that it has a word for. The rest, and
everything in full precision, then stands in the control files themselves (see `compile`).
"""

from __future__ import annotations

from collections.abc import Iterator

from orlop.cgroups.blkio import io_weight
from orlop.cgroups.compile import WHERE, swap_alone, weight_of_shares
from orlop.cgroups.devices import Rule, letters, rules
from orlop.cgroups.units import Unit
from orlop.spec.errors import InvalidArgument
from orlop.spec.runtime import CPU, BlockIO, DeviceCgroup, Memory, Resources, ThrottleDevice
from orlop.wire.dbus import Variant
from orlop.wire.gvariant import parse

INFINITY = (1 << 64) - 1  # CGROUP_LIMIT_MAX and USEC_INFINITY
PROPERTY = "org.systemd.property."  # prefix of annotations
_IDLE_SINCE = 252  # version whose CPUWeight may be `idle`
_SECOND = 1_000_000  # microseconds
_STEP = 10_000  # systemd keeps whole percents of a processor
_DEFAULT_PERIOD = 100_000

Property = tuple[str, Variant]


def start_properties(unit: Unit, pid: int, v2: bool) -> tuple[Property, ...]:
    """What makes the unit a container's: where it is, and that systemd leaves what is below it alone.

    A slice has neither processes nor delegation of its own.
    """
    found = [("Description", Variant("s", f"container {unit.name}"))]
    if unit.is_slice:
        found.append(("Wants", Variant("as", [unit.slice])))
    else:
        found += [
            ("Slice", Variant("s", unit.slice)),
            ("Delegate", Variant("b", True)),
            ("PIDs", Variant("au", [pid])),
        ]
    # A controller that is counted from the start needs no move later.
    accounts = ("Memory", "CPU", "IO" if v2 else "BlockIO", "Tasks")
    found += [(f"{name}Accounting", Variant("b", True)) for name in accounts]
    return (*found, ("DefaultDependencies", Variant("b", False)))


def needs_version(resources: Resources | None) -> bool:
    """Whether the properties depend on systemd's version."""
    return resources is not None and (
        (resources.cpu is not None and resources.cpu.idle is not None) or "cpu.idle" in resources.unified
    )


def properties(resources: Resources | None, v2: bool, version: int = 0, update: bool = False) -> tuple[Property, ...]:
    """The limits. Devices are told for a new unit, and in an update where it names some. Wrong values are left for
    `compile.writes` to name, which comes before."""
    resources = resources or Resources()
    return tuple(_all(resources, v2, version, update))


def _all(resources: Resources, v2: bool, version: int, update: bool) -> Iterator[Property]:
    if resources.devices or not update:
        yield from _devices(resources.devices)
    if resources.memory is not None:
        yield from _memory(resources.memory, v2)
    if resources.cpu is not None:
        yield from _cpu(resources.cpu, v2, version)
    if resources.pids is not None and resources.pids.limit is not None:
        yield _number("TasksMax", resources.pids.limit if resources.pids.limit > 0 else -1)
    if resources.block_io is not None:
        yield from _block_io(resources.block_io, v2)
    if v2:
        yield from _unified(resources.unified, version)


def _number(name: str, value: int) -> Property:
    return name, Variant("t", INFINITY if value < 0 else value)


def _memory(memory: Memory, v2: bool) -> Iterator[Property]:
    if memory.limit:
        yield _number("MemoryMax" if v2 else "MemoryLimit", memory.limit)
    if v2:
        if memory.reservation:
            yield _number("MemoryLow", memory.reservation)
        if (swap := swap_alone(memory)) is not None:
            yield _number("MemorySwapMax", swap)


def _cpu(cpu: CPU, v2: bool, version: int) -> Iterator[Property]:
    if cpu.idle and v2:
        yield from _idle(version)
    elif cpu.shares:
        yield _number("CPUWeight", weight_of_shares(cpu.shares)) if v2 else _number("CPUShares", cpu.shares)
    elif cpu.idle == 0 and v2 and version >= _IDLE_SINCE:
        yield _number("CPUWeight", 100)
    if cpu.quota or cpu.period:
        yield from _quota(cpu.quota or -1, cpu.period or 0)
    if v2:
        for name, text in (("AllowedCPUs", cpu.cpus), ("AllowedMemoryNodes", cpu.mems)):
            if text:
                yield name, Variant("ay", mask(text))


def _idle(version: int) -> Iterator[Property]:
    """An older systemd has no word for it, and a weight would take it back."""
    if version >= _IDLE_SINCE:
        yield _number("CPUWeight", 0)


def _quota(quota: int, period: int) -> Iterator[Property]:
    """Microseconds in a period as microseconds in a second, in steps that systemd keeps, rounded up: what the container
    limits below itself must still fit."""
    if period:
        yield _number("CPUQuotaPeriodUSec", period)
    share = -1 if quota < 0 else -(-quota * _SECOND // ((period or _DEFAULT_PERIOD) * _STEP)) * _STEP
    yield _number("CPUQuotaPerSecUSec", share)


def mask(text: str) -> bytes:
    """A list such as `0-3,7` as a bit for each number, the lowest first."""
    bits = 0
    for part in text.strip().split(","):
        first, _, rest = part.partition("-")
        last, _, stride = rest.partition(":")
        used, _, group = stride.partition("/")
        try:
            low, high = int(first), int(last or first)
            taken, every = (int(used), int(group)) if stride else (1, 1)
        except ValueError:
            raise InvalidArgument(f"{WHERE}.cpu: {text[:64]!r} is not a list such as 0-3,7") from None
        if not 0 <= low <= high < 1 << 20 or not 0 < taken <= every:
            raise InvalidArgument(f"{WHERE}.cpu: {text[:64]!r} is not a list such as 0-3,7")
        bits |= sum(1 << n for n in range(low, high + 1) if (n - low) % every < taken)
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


# --- block devices


def _block_io(block_io: BlockIO, v2: bool) -> Iterator[Property]:
    if block_io.weight:
        yield _number("IOWeight", io_weight(block_io.weight)) if v2 else _number("BlockIOWeight", block_io.weight)
    if not v2:
        return
    for device in block_io.weight_device:
        if device.weight:
            path = f"/dev/block/{device.major}:{device.minor}"
            yield "IODeviceWeight", Variant("a(st)", [(path, io_weight(device.weight))])
    yield from _throttled("IOReadBandwidthMax", block_io.throttle_read_bps_device)
    yield from _throttled("IOWriteBandwidthMax", block_io.throttle_write_bps_device)
    yield from _throttled("IOReadIOPSMax", block_io.throttle_read_iops_device)
    yield from _throttled("IOWriteIOPSMax", block_io.throttle_write_iops_device)


def _throttled(name: str, devices: tuple[ThrottleDevice, ...]) -> Iterator[Property]:
    """A rate of zero is none."""
    if devices:
        yield name, Variant("a(st)", [(f"/dev/block/{d.major}:{d.minor}", d.rate or INFINITY) for d in devices])


# --- devices


def _devices(devices: tuple[DeviceCgroup, ...]) -> Iterator[Property]:
    """systemd knows devices that are allowed and nothing else: it is told no less than the rules allow, and the group's
    own program or lists hold the rules themselves."""
    allowed = _allowed(devices)
    yield "DevicePolicy", Variant("s", "auto" if allowed is None else "strict")
    yield "DeviceAllow", Variant("a(ss)", [])  # empties the list, which entries are added to
    if allowed:
        yield "DeviceAllow", Variant("a(ss)", allowed)


def _allowed(devices: tuple[DeviceCgroup, ...]) -> list[tuple[str, str]] | None:
    """Names of devices with accesses; None where rules begin with all being allowed."""
    everything, kept = False, list[Rule]()
    for rule in rules(devices):
        if rule.type == "a":
            everything, kept = rule.allow, []
        elif rule.allow:
            kept.append(rule)
        else:
            kept = [old for old in kept if not (rule.covers(old) and not old.access & ~rule.access)]
    if everything:
        return None
    return list(dict.fromkeys((_device_name(rule), letters(rule.access)) for rule in kept))


def _device_name(rule: Rule) -> str:
    """A device by its numbers, or a group of them; one minor number of all majors has no name but all."""
    kind = "char" if rule.type == "c" else "block"
    if rule.major is None:
        return f"{kind}-*"
    return f"{kind}-{rule.major}" if rule.minor is None else f"/dev/{kind}/{rule.major}:{rule.minor}"


# --- unified

# control file: property of one number
_NUMBERS = {
    "cpu.weight": "CPUWeight",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.max": "MemoryMax",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}
_LISTS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}
_SUFFIXES = {letter: 1 << 10 * power for power, letter in enumerate("kmgtpe", 1)}


def _unified(values: dict[str, str], version: int) -> Iterator[Property]:
    for file, text in values.items():
        where = f"{WHERE}.unified.{file[:64]}"
        if file in _NUMBERS:
            if text.strip() != "idle":
                yield _number(_NUMBERS[file], _count(text, where))
        elif file in _LISTS:
            yield _LISTS[file], Variant("ay", mask(text))
        elif file == "cpu.max":
            quota, _, period = text.strip().partition(" ")
            yield from _quota(_count(quota, where), _count(period or str(_DEFAULT_PERIOD), where))
        elif file == "cpu.idle" and text.strip() == "1":
            yield from _idle(version)


def _count(text: str, where: str) -> int:
    """A number as the kernel reads it in these files, with a suffix such as M too; -1 for `max`."""
    text = text.strip().lower()
    if text == "max":
        return -1
    factor = _SUFFIXES.get(text[-1:], 1)
    digits = text if factor == 1 else text[:-1]
    if not (digits.isascii() and digits.isdigit()) or int(digits) * factor > INFINITY:
        raise InvalidArgument(f"{where}: {text[:32]!r} is neither a number nor max")
    return int(digits) * factor


# --- annotations


def annotated(annotations: dict[str, str]) -> tuple[Property, ...]:
    """Properties that annotations give, `org.systemd.property.NAME` with a value in GVariant's text form. A NAME that
    ends in `Sec` is in seconds, and becomes the one in microseconds that systemd knows."""
    return tuple(
        _annotated(key.removeprefix(PROPERTY), text) for key, text in annotations.items() if key.startswith(PROPERTY)
    )


def _annotated(name: str, text: str) -> Property:
    where = f"annotations.{PROPERTY}{name[:64]}"
    if len(name) < 3 or not (name.isascii() and name.isalpha()):
        raise InvalidArgument(f"{where}: {name[:64]!r} is not the name of a property")
    try:
        value = parse(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}: {error}") from None
    stem = name.removesuffix("Sec")
    if stem != name and stem[-1].islower():
        if value.signature not in tuple("nqiuxtd") or not 0 <= value.value * _SECOND <= INFINITY:
            raise InvalidArgument(f"{where}: {text[:64]!r} is not a number of seconds")
        return f"{stem}USec", Variant("t", int(value.value * _SECOND))
    return name, value
