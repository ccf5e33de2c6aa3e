"""How long a group's tasks were held up for want of processor, memory or disk (Documentation/accounting/psi.rst)."""

from __future__ import annotations

import msgspec

from orlop.cgroups.facts import CgroupHost, Group
from orlop.cgroups.files import read


class Line(msgspec.Struct, frozen=True):
    """Percents of the last 10, 60 and 300 seconds, and all the time in nanoseconds."""

    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0
    total: int = 0


class Pressure(msgspec.Struct, frozen=True):
    """`some`: at least one task stood still; `full`: all did. None where the kernel does not say."""

    some: Line | None = None
    full: Line | None = None


def pressure(host: CgroupHost, path: str) -> dict[str, Pressure]:
    """By resource: cpu, memory, io. Only cgroup v2 counts it, and only a kernel that is built and started so."""
    if host.mode != "v2":
        return {}
    directory = Group(host, path).directory("unified")
    found = {}
    for resource in ("cpu", "memory", "io"):
        try:
            found[resource] = parse(read(f"{directory}/{resource}.pressure"))
        except OSError:  # not built in, or switched off
            continue
    return found


def parse(text: str) -> Pressure:
    """`some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same of `full`; total is in microseconds."""
    lines: dict[str, Line] = {}
    for words in (line.split() for line in text.splitlines()):
        values = dict(word.partition("=")[::2] for word in words[1:])
        lines[words[0]] = Line(
            float(values["avg10"]), float(values["avg60"]), float(values["avg300"]), int(values["total"]) * 1000
        )
    return Pressure(lines.get("some"), lines.get("full"))
