"""Block I/O limits (config-linux.md, "Block IO") as v1's blkio files or v2's io files."""

from __future__ import annotations

from collections.abc import Iterator

from orlop.cgroups.write import Write
from orlop.spec.errors import FailedPrecondition, InvalidArgument
from orlop.spec.runtime import BlockIO, ThrottleDevice

WHERE = "linux.resources.blockIO"

# field of BlockIO: (JSON name, v1's file, v2's key in io.max)
_THROTTLES: dict[str, tuple[str, str, str]] = {
    "throttle_read_bps_device": ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    "throttle_write_bps_device": ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    "throttle_read_iops_device": ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    "throttle_write_iops_device": ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
}


def blkio_writes(block_io: BlockIO, v2: bool) -> Iterator[Write]:
    yield from _weights(block_io, v2)
    for field, (name, file, key) in _THROTTLES.items():
        for index, device in enumerate(getattr(block_io, field)):
            yield _throttle(device, f"{WHERE}.{name}[{index}]", file, key, v2)


def _throttle(device: ThrottleDevice, where: str, file: str, key: str, v2: bool) -> Write:
    if device.rate < 0:
        raise InvalidArgument(f"{where}.rate: {device.rate} is negative")
    numbers = f"{device.major}:{device.minor}"
    if v2:
        return Write("io", "io.max", f"{numbers} {key}={device.rate or 'max'}", where)
    return Write("blkio", file, f"{numbers} {device.rate}", where)


def _weights(block_io: BlockIO, v2: bool) -> Iterator[Write]:
    """Weights act through the BFQ scheduler's files where it is loaded, else through the kernel's other ones."""
    if block_io.leaf_weight:
        _no_leaf(f"{WHERE}.leafWeight")
    if block_io.weight:
        _check(block_io.weight, f"{WHERE}.weight")
        yield _weight("", block_io.weight, f"{WHERE}.weight", v2)
    for index, device in enumerate(block_io.weight_device):
        where = f"{WHERE}.weightDevice[{index}]"
        if device.leaf_weight:
            _no_leaf(f"{where}.leafWeight")
        if device.weight:
            _check(device.weight, f"{where}.weight")
            yield _weight(f"{device.major}:{device.minor}", device.weight, f"{where}.weight", v2)


def _no_leaf(where: str) -> None:
    raise FailedPrecondition(f"{where}: no kernel since 5.0 has leaf weights")


def _check(weight: int, where: str) -> None:
    if not 10 <= weight <= 1000:
        raise InvalidArgument(f"{where}: {weight} is not between 10 and 1000")


def _weight(device: str, weight: int, where: str, v2: bool) -> Write:
    prefix = f"{device} " if device else ""
    if v2:
        plain = Write("io", "io.weight", f"{device or 'default'} {io_weight(weight)}", where)
        return Write("io", "io.bfq.weight", f"{prefix}{weight}", where, alternative=plain)
    suffix = "weight_device" if device else "weight"
    value = f"{prefix}{weight}"
    bfq = Write("blkio", f"blkio.bfq.{suffix}", value, where)
    return Write("blkio", f"blkio.{suffix}", value, where, alternative=bfq)


def io_weight(weight: int) -> int:
    """v1's weight (10 to 1000) as v2's io.weight (1 to 10000), on a straight line."""
    return 1 + (weight - 10) * 9999 // 990
