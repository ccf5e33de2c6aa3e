"""`update` and `events`."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from orlop.cli.flags import Flag, Options, Syntax, switch, value
from orlop.runtime.state import Store
from orlop.spec.document import decode
from orlop.spec.errors import InvalidArgument, from_os
from orlop.spec.runtime import CPU, BlockIO, IntelRdt, Memory, Pids, Resources

if TYPE_CHECKING:
    from orlop.cli.runtime import Context

_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
# flag: (part of the resources, field, kind, help)
_LIMITS: dict[str, tuple[str, str, str, str]] = {
    "--blkio-weight": ("block_io", "weight", "number", "Weight of block I/O, 10 to 1000"),
    "--cpu-period": ("cpu", "period", "number", "Period of the processor quota, microseconds"),
    "--cpu-quota": ("cpu", "quota", "number", "Processor time per period, microseconds; -1 for no limit"),
    "--cpu-burst": ("cpu", "burst", "number", "Processor time that may be saved up, microseconds"),
    "--cpu-share": ("cpu", "shares", "number", "Weight among others"),
    "--cpu-rt-period": ("cpu", "realtime_period", "number", "Period of real-time processes, microseconds"),
    "--cpu-rt-runtime": ("cpu", "realtime_runtime", "number", "Time of real-time processes, microseconds"),
    "--cpu-idle": ("cpu", "idle", "number", "1: run only when nothing else does"),
    "--cpuset-cpus": ("cpu", "cpus", "text", "Processors, such as 0-2,4"),
    "--cpuset-mems": ("cpu", "mems", "text", "Memory nodes"),
    "--memory": ("memory", "limit", "size", "Limit of memory, bytes or with a unit"),
    "--memory-reservation": ("memory", "reservation", "size", "Soft limit of memory"),
    "--memory-swap": ("memory", "swap", "size", "Limit of memory and swap together; -1 for no limit"),
    "--kernel-memory": ("memory", "kernel", "size", "Limit of kernel memory"),
    "--kernel-memory-tcp": ("memory", "kernel_tcp", "size", "Limit of the kernel's TCP buffers"),
    "--pids-limit": ("pids", "limit", "number", "Number of processes; -1 for no limit"),
}
_PARTS: dict[str, type[msgspec.Struct]] = {"block_io": BlockIO, "cpu": CPU, "memory": Memory, "pids": Pids}


def update_command(options: Options, context: Context) -> int:
    """Change limits."""
    from orlop.runtime.update import overlaid, update

    resources = _from_file(options.resources) if options.resources else Resources()
    rdt = IntelRdt(l3_cache_schema=options.l3_cache_schema, mem_bw_schema=options.mem_bw_schema)
    update(Store(context.root), options.arguments[0], overlaid(resources, _from_flags(options)), rdt)
    return 0


def _from_file(path: str) -> Resources:
    """The file's LinuxResources; `-` is standard input."""
    try:
        if path == "-":
            return decode(sys.stdin.buffer.read(), Resources, "resources")
        with open(path, "rb") as file:
            return decode(file.read(), Resources, path)
    except OSError as error:
        raise from_os(error, "--resources: read") from error


def _from_flags(options: Options) -> Resources:
    parts: dict[str, dict[str, Any]] = {}
    for flag, (part, field, kind, _) in _LIMITS.items():
        if text := getattr(options, flag[2:].replace("-", "_")):
            parts.setdefault(part, {})[field] = text if kind == "text" else _number(text, flag, kind)
    return Resources(**{part: _PARTS[part](**fields) for part, fields in parts.items()})  # type: ignore[arg-type]


def _number(text: str, flag: str, kind: str) -> int:
    if text == "-1":
        return -1
    found = _SIZE.fullmatch(text)
    if found is None or (kind == "number" and not text.isdigit()):
        raise InvalidArgument(f"{flag}: {text[:40]!r} is not a {kind}")
    return int(float(found[1]) * 1024 ** _UNITS[found[2].lower()]) if found[2] or "." in found[1] else int(found[1])


def events_command(options: Options, context: Context) -> int:
    """Print events, one JSON object a line."""
    from orlop.runtime.events import follow, running, usage

    interval = _seconds(options.interval)
    record = running(Store(context.root), options.arguments[0])
    for event in (usage(record),) if options.stats else follow(record, interval):
        sys.stdout.write(msgspec.json.encode(event).decode() + "\n")
        sys.stdout.flush()
    return 0


def _seconds(text: str) -> float:
    """A duration such as `5s`, `500ms` or `1m`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text, re.ASCII)
    seconds = float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if not seconds:
        raise InvalidArgument(f"--interval: {text[:40]!r} is not a duration above zero, such as 5s")
    return seconds


def _flags() -> tuple[Flag, ...]:
    return (
        value("-r --resources", "File of LinuxResources as JSON; - for standard input", metavar="path"),
        *(value(flag, text, metavar=kind) for flag, (_, _, kind, text) in _LIMITS.items()),
        value("--l3-cache-schema", "Intel RDT's L3 cache schema"),
        value("--mem-bw-schema", "Intel RDT's memory bandwidth schema"),
    )


VERBS = {
    "update": (update_command, Syntax("CONTAINER", "Change the limits of a container", _flags(), 1, 1)),
    "events": (
        events_command,
        Syntax(
            "CONTAINER",
            "Show what a container uses, and when the kernel kills in it for lack of memory",
            (
                value("--interval", "Time between two reports", "5s", "duration"),
                switch("--stats", "Report once and end"),
            ),
            1,
            1,
        ),
    ),
}
