"""How a process gets into its control groups without waiting for the kernel. Pure.

A write to `cgroup.procs` moves a whole thread group, for which the kernel stops every fork and exit on the machine: it
waits for an RCU grace period, some 10 ms. Two ways around it: in v1, a write of 0 to `tasks` moves the writing thread
alone, without that lock (since Linux 5.5), and the helper has one thread; in v2, a process is born in its group
(clone3(2), CLONE_INTO_CGROUP).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orlop.runtime.compile_layout import CGROUP2_MAGIC, CGROUP_MAGIC, NONE, O_CLOEXEC, O_DIRECTORY, O_PATH
from orlop.runtime.facts import Host
from orlop.runtime.ops import Open, WriteFile
from orlop.runtime.plan import Plan, Step

_ORIGIN = "linux.cgroupsPath"
_PROCS = "cgroup.procs"


def joins(procs: Sequence[str], host: Host) -> Iterator[Step]:
    """The calling process enters the v1 groups that `procs`, files called cgroup.procs, belong to."""
    for path in procs:
        if not _unified(path, host):
            yield Step(WriteFile(NONE, path.removesuffix(_PROCS) + "tasks", 0, CGROUP_MAGIC, b"0"), _ORIGIN)


def enters(procs: Sequence[str], host: Host) -> Iterator[Step]:
    """The calling process enters all groups of `procs`, though the kernel may make it wait."""
    yield from joins(procs, host)
    for path in procs:
        if _unified(path, host):
            yield Step(WriteFile(NONE, path, 0, CGROUP2_MAGIC, b"0"), _ORIGIN)


def birthplace(procs: Sequence[str], host: Host, slot: int) -> Iterator[Step]:
    """Opens the v2 group of `procs`, if there is one, for the next Clone to start its child in."""
    for path in procs:
        if _unified(path, host):
            directory = path.removesuffix("/" + _PROCS)
            yield Step(Open(slot, NONE, directory, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, CGROUP2_MAGIC), _ORIGIN)


def joins_early(plan: Plan) -> bool:
    """Whether the plan needs the v1 groups before its first Clone; otherwise only once it goes on after the sync point
    `created`."""
    return _early(plan, CGROUP_MAGIC)


def born_inside(plan: Plan) -> bool:
    """Whether the plan needs the v2 group before its first Clone."""
    return _early(plan, CGROUP2_MAGIC)


def _early(plan: Plan, magic: int) -> bool:
    return any(isinstance(step.op, (Open, WriteFile)) and step.op.magic == magic for step in plan.stages[0].steps)


def _unified(path: str, host: Host) -> bool:
    return bool(host.cgroups.unified) and path.startswith(host.cgroups.unified + "/")
