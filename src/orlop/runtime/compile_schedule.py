"""How the kernel schedules the process and where it takes memory: scheduler, I/O priority, affinity, personality. Pure.

Sources: config.md, "process"; config-linux.md, "Personality" and "Memory Policy"; sched_setattr(2), ioprio_set(2).
"""

from __future__ import annotations

from collections.abc import Iterator

from orlop.runtime.ops import Affinity, IoPriority, MemoryPolicy, Personality, Scheduler
from orlop.runtime.plan import Step
from orlop.spec.errors import InvalidArgument
from orlop.spec.runtime import Linux, Process
from orlop.spec.runtime import Scheduler as SchedulerSpec

POLICIES: dict[str, int] = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
SCHEDULER_FLAGS: dict[str, int] = {
    "SCHED_FLAG_RESET_ON_FORK": 1, "SCHED_FLAG_RECLAIM": 2, "SCHED_FLAG_DL_OVERRUN": 4, "SCHED_FLAG_KEEP_POLICY": 8,
    "SCHED_FLAG_KEEP_PARAMS": 16, "SCHED_FLAG_UTIL_CLAMP_MIN": 32, "SCHED_FLAG_UTIL_CLAMP_MAX": 64,
}  # fmt: skip
IO_CLASSES: dict[str, int] = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
PERSONALITIES: dict[str, int] = {"LINUX": 0, "LINUX32": 8}
MEMORY_MODES: dict[str, int] = {
    "MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5, "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
MEMORY_FLAGS: dict[str, int] = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
_MOST_CPUS = 8192
_EVERYWHERE = b"\xff" * (_MOST_CPUS // 8)
_LEAST_TIME, _MOST_TIME = 1024, (1 << 63) - 1  # sched(7): nanoseconds of SCHED_DEADLINE


def check(process: Process) -> None:
    """Refuse wrong values with their JSON path."""
    if process.scheduler is not None:
        _scheduler(process)
    if process.io_priority is not None:
        _io_priority(process)
    if process.exec_cpu_affinity is not None:
        cpu_mask(process.exec_cpu_affinity.initial, "process.execCPUAffinity.initial")
        cpu_mask(process.exec_cpu_affinity.final, "process.execCPUAffinity.final")


def steps(process: Process, linux: Linux, init: bool) -> Iterator[Step]:
    """The steps in the process itself. The affinity is for processes that join a container, not for its first.

    Without one the process may run wherever its control group lets it: the affinity that the runtime's caller happens
    to have is nothing that the configuration asks for, and since Linux 6.2 joining a cpuset leaves it on.
    """
    where = "process.execCPUAffinity.final"
    if not init and process.exec_cpu_affinity is not None and process.exec_cpu_affinity.final:
        yield Step(Affinity(cpu_mask(process.exec_cpu_affinity.final, where)), where)
    else:
        yield Step(Affinity(_EVERYWHERE), "linux.resources.cpu.cpus")
    if linux.personality is not None:
        yield Step(Personality(personality(linux)), f"linux.personality ({linux.personality.domain})")
    if linux.memory_policy is not None:
        yield Step(memory_policy(linux), f"linux.memoryPolicy ({linux.memory_policy.mode})")
    if process.scheduler is not None:
        yield Step(_scheduler(process), f"process.scheduler ({process.scheduler.policy})")
    if process.io_priority is not None:
        yield Step(IoPriority(_io_priority(process)), f"process.ioPriority ({process.io_priority.class_})")


def initial_affinity(process: Process) -> Iterator[Step]:
    """The affinity before the process enters the container's control group."""
    if process.exec_cpu_affinity is not None and process.exec_cpu_affinity.initial:
        where = "process.execCPUAffinity.initial"
        yield Step(Affinity(cpu_mask(process.exec_cpu_affinity.initial, where)), where)


def _lookup(table: dict[str, int], name: str, where: str) -> int:
    if name not in table:
        raise InvalidArgument(f"{where}: unknown value {name[:64]!r}")
    return table[name]


def _scheduler(process: Process) -> Scheduler:
    wanted, where = process.scheduler, "process.scheduler"
    assert wanted is not None
    policy = _lookup(POLICIES, wanted.policy, f"{where}.policy")
    flags = 0
    for index, name in enumerate(wanted.flags):
        flags |= _lookup(SCHEDULER_FLAGS, name, f"{where}.flags[{index}]")
    for name, value, low, high in (("nice", wanted.nice, -20, 19), ("priority", wanted.priority, 0, 99)):
        if not low <= value <= high:
            raise InvalidArgument(f"{where}.{name}: {value} is not between {low} and {high}")
    _check_policy(wanted)
    return Scheduler(
        policy, flags, wanted.nice, wanted.priority, wanted.runtime or 0, wanted.deadline or 0, wanted.period or 0
    )


def _check_policy(wanted: SchedulerSpec) -> None:
    """The kernel itself refuses these; a nice value it takes with every policy, and uses with two."""
    where, policy = "process.scheduler", wanted.policy
    if wanted.priority and policy not in ("SCHED_FIFO", "SCHED_RR"):
        raise InvalidArgument(f"{where}.priority: is for SCHED_FIFO and SCHED_RR only")
    if policy == "SCHED_DEADLINE":
        _check_deadline(wanted)
    elif wanted.runtime or wanted.deadline or wanted.period:
        raise InvalidArgument(f"{where}: runtime, deadline and period are for SCHED_DEADLINE only")


def _check_deadline(wanted: SchedulerSpec) -> None:
    """What the kernel would refuse with a bare EINVAL (sched(7), "SCHED_DEADLINE"); nanoseconds."""
    runtime, deadline, period = wanted.runtime, wanted.deadline, wanted.period

    def wrong(name: str, text: str) -> InvalidArgument:
        return InvalidArgument(f"process.scheduler.{name}: sched_setattr: `SCHED_DEADLINE` {text}")

    for name, value in (("runtime", runtime), ("deadline", deadline)):
        if value is None:
            raise wrong(name, f"requires `{name}`")
        if value == 0:
            raise wrong(name, f"{name} must be greater than 0")
    assert runtime is not None
    assert deadline is not None
    for name, value in (("runtime", runtime), ("deadline", deadline), ("period", period or _LEAST_TIME)):
        if not _LEAST_TIME <= value <= _MOST_TIME:
            raise wrong(name, f"{name} ({value}) must be between {_LEAST_TIME} and {_MOST_TIME}")
    if runtime > deadline:
        raise wrong("runtime", f"runtime ({runtime}) must be <= deadline ({deadline})")
    if period and deadline > period:
        raise wrong("deadline", f"deadline ({deadline}) must be <= period ({period})")


def _io_priority(process: Process) -> int:
    wanted, where = process.io_priority, "process.ioPriority"
    assert wanted is not None
    class_ = _lookup(IO_CLASSES, wanted.class_, f"{where}.class")
    if not 0 <= wanted.priority <= 7:
        raise InvalidArgument(f"{where}.priority: {wanted.priority} is not between 0 and 7")
    return class_ << 13 | wanted.priority


def personality(linux: Linux) -> int:
    """The domain's number. The specification defines no flags yet."""
    wanted = linux.personality
    assert wanted is not None
    if wanted.flags:
        raise InvalidArgument(f"linux.personality.flags[0]: unknown flag {wanted.flags[0][:64]!r}")
    return _lookup(PERSONALITIES, wanted.domain, "linux.personality.domain")


def memory_policy(linux: Linux) -> MemoryPolicy:
    """set_mempolicy(2) counts one bit more than it reads, so `bits` is one more than the mask has."""
    wanted = linux.memory_policy
    assert wanted is not None
    mode = _lookup(MEMORY_MODES, wanted.mode, "linux.memoryPolicy.mode")
    for index, name in enumerate(wanted.flags):
        mode |= _lookup(MEMORY_FLAGS, name, f"linux.memoryPolicy.flags[{index}]")
    nodes = cpu_mask(wanted.nodes, "linux.memoryPolicy.nodes")
    return MemoryPolicy(mode, nodes, len(nodes) * 8 + 1 if nodes else 0)


def cpu_mask(text: str, where: str) -> bytes:
    """A list such as `0-3,7` as a little-endian mask in whole words of 8 bytes; empty for an empty list."""
    bits = 0
    for part in text.replace(" ", "").split(",") if text.strip() else ():
        first, dash, last = part.partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() and int(end[:6]) < _MOST_CPUS and len(end) < 6 for end in ends):
            raise InvalidArgument(f"{where}: {text[:64]!r} is not a list of numbers such as 0-3,7")
        low, high = int(ends[0]), int(ends[1])
        if low > high:
            raise InvalidArgument(f"{where}: {part!r} runs backwards")
        bits |= (1 << high + 1) - (1 << low)
    return bits.to_bytes((bits.bit_length() + 63) // 64 * 8, "little")
