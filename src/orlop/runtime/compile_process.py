"""The process: limits, identity, capabilities, filter, program. What `create` and `exec` have in common. Pure.

The order is what the kernel asks for. Everything that needs privilege comes before the user changes. A seccomp filter
without no_new_privs needs CAP_SYS_ADMIN, which is kept for that one call and given up right after it; so in both cases
the filter comes last, and a profile need not allow what comes before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

import msgspec

from orlop.runtime import compile_schedule as schedule
from orlop.runtime.compile_layout import NONE, PROC_MAGIC, Layout
from orlop.runtime.facts import UNLIMITED, Host
from orlop.runtime.ops import (
    Ambient,
    BoundingSet,
    Capset,
    Chdir,
    Execve,
    FindExec,
    Groups,
    Prctl,
    Rlimit,
    Seccomp,
    SetIds,
    Sync,
    Umask,
    WriteFile,
)  # fmt: skip
from orlop.runtime.optable import SKIP_DENIED
from orlop.runtime.plan import Step
from orlop.spec import capabilities
from orlop.spec.errors import FailedPrecondition, InvalidArgument
from orlop.spec.runtime import Capabilities, Linux, Process

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS = 1, 4, 8, 38
SECCOMP_NEW_LISTENER = 8
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_UMASK = 0o022
_SYS_ADMIN = 1 << capabilities.BITS["CAP_SYS_ADMIN"]
_DIRECTORIES = 1 << capabilities.BITS["CAP_DAC_OVERRIDE"] | 1 << capabilities.BITS["CAP_DAC_READ_SEARCH"]
_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
_MOST_ID = (1 << 32) - 2  # -1 means "unchanged" to the kernel

# setrlimit(2); numbers of x86-64 and arm64
RLIMITS: dict[str, int] = {
    "RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}  # fmt: skip


# What a process may do about its groups. set: set them. keep: nothing, setting them is forbidden. either: that is not
# known, and they are kept where it is.
GroupRights = Literal["set", "keep", "either"]


class Filter(Protocol):
    """An assembled seccomp program and the flags to install it with (`seccomp.cache.Program`)."""

    @property
    def code(self) -> bytes: ...

    @property
    def flags(self) -> int: ...


class CapabilitySets(msgspec.Struct, frozen=True):
    """The five sets as masks."""

    bounding: int = 0
    effective: int = 0
    inheritable: int = 0
    permitted: int = 0
    ambient: int = 0


def check_process(process: Process, host: Host, user_namespace: bool) -> None:
    """Refuse what is wrong whatever the system. Raises InvalidArgument, FailedPrecondition, Unimplemented."""
    if not process.args:
        raise InvalidArgument("process.args: is empty")
    if not process.cwd.startswith("/"):
        raise InvalidArgument(f"process.cwd: {process.cwd[:128]!r} is not an absolute path")
    for name, values in (("args", process.args), ("env", process.env), ("cwd", (process.cwd,))):
        if any("\0" in value for value in values):
            raise InvalidArgument(f"process.{name}: has a NUL character in it")
    for index, entry in enumerate(process.env):
        if entry.find("=") < 1:
            raise InvalidArgument(f"process.env[{index}]: {entry[:64]!r} is not NAME=VALUE")
    if process.command_line:
        raise InvalidArgument("process.commandLine: is for Windows; use process.args")
    _check_ids(process)
    _check_modules(process, host)
    capability_sets(process.capabilities, available(host, user_namespace))
    schedule.check(process)
    for index in range(len(process.rlimits)):
        _check_rlimit(process, index)


def _check_ids(process: Process) -> None:
    user = process.user
    ids = (("uid", user.uid), ("gid", user.gid), *(("additionalGids", gid) for gid in user.additional_gids))
    for name, value in ids:
        if not 0 <= value <= _MOST_ID:
            raise InvalidArgument(f"process.user.{name}: {value} is not a valid id")
    if user.umask is not None and not 0 <= user.umask <= 0o777:
        raise InvalidArgument(f"process.user.umask: {user.umask} is not between 0 and {0o777}")
    if process.oom_score_adj is not None and not -1000 <= process.oom_score_adj <= 1000:
        raise InvalidArgument(f"process.oomScoreAdj: {process.oom_score_adj} is not between -1000 and 1000")


def _check_modules(process: Process, host: Host) -> None:
    for field, value, module in (
        ("apparmorProfile", process.apparmor_profile, "apparmor"),
        ("selinuxLabel", process.selinux_label, "selinux"),
    ):
        if value and module not in host.security_modules:
            raise FailedPrecondition(f"process.{field}: {module} is not active on this host")
        if not value.isprintable():
            raise InvalidArgument(f"process.{field}: {value[:64]!r} is no label")


def _check_rlimit(process: Process, index: int) -> None:
    limit, where = process.rlimits[index], f"process.rlimits[{index}]"
    if limit.type not in RLIMITS:
        raise InvalidArgument(f"{where}.type: unknown limit {limit.type[:64]!r}")
    if any(other.type == limit.type for other in process.rlimits[:index]):
        raise InvalidArgument(f"{where}.type: {limit.type} is there twice")
    for name, value in (("soft", limit.soft), ("hard", limit.hard)):
        if not 0 <= value <= UNLIMITED:
            raise InvalidArgument(f"{where}.{name}: {value} does not fit 64 bits")
    if limit.soft > limit.hard:
        raise InvalidArgument(f"{where}.soft: {limit.soft} is above the hard limit of {limit.hard}")


# --- capabilities


def available(host: Host, user_namespace: bool) -> int:
    """The capabilities that can be given: in a user namespace of its own all that the kernel knows."""
    known = (1 << host.last_capability + 1) - 1
    return known & (capabilities.ALL if user_namespace else host.bounding)


def capability_sets(wanted: Capabilities | None, limit: int) -> CapabilitySets:
    """The sets to be set: what is asked for, as far as this host can give it.

    What it can't give, or no kernel has, is left out, as the specification has it (see `ungranted`); so is an ambient
    capability that is not also permitted and inheritable, which the kernel refuses. Without `capabilities` a process
    gets none.
    """
    wanted = wanted or Capabilities()
    masks = {name: _known(getattr(wanted, name)) & limit for name in _SETS}
    beyond = masks["effective"] & ~masks["permitted"]
    if beyond:
        raise InvalidArgument(f"process.capabilities.effective: {capabilities.names(beyond)[0]} is not permitted")
    masks["ambient"] &= masks["permitted"] & masks["inheritable"]
    return CapabilitySets(**masks)


def ungranted(wanted: Capabilities | None, limit: int) -> tuple[str, ...]:
    """Names that are asked for and will not be given; the specification wants them told to the user."""
    if wanted is None:
        return ()
    asked = [name for field in _SETS for name in getattr(wanted, field)]
    unknown = dict.fromkeys(repr(name[:64]) for name in asked if name not in capabilities.BITS)
    return (*capabilities.names(_known(asked) & ~limit), *unknown)


def unraised(wanted: Capabilities | None, limit: int) -> tuple[str, ...]:
    """Ambient capabilities that are asked for and can be given, but for the sets that they would need."""
    if wanted is None:
        return ()
    raised = capability_sets(wanted, limit).ambient
    return capabilities.names(_known(wanted.ambient) & limit & ~raised)


def _known(names: Iterable[str]) -> int:
    return capabilities.mask(name for name in names if name in capabilities.BITS)


# --- steps


def outside_steps(process: Process, host: Host, user_namespace: bool, clamp: bool) -> Iterator[Step]:
    """What needs the runtime's own privileges and is inherited by the container's process."""
    score = process.oom_score_adj
    if score is not None:
        if clamp and not host.may("CAP_SYS_RESOURCE"):
            score = max(score, host.oom_score_adj)
        path, data = "/proc/self/oom_score_adj", str(score).encode()
        yield Step(WriteFile(NONE, path, 0, PROC_MAGIC, data), f"process.oomScoreAdj ({score})")
    if user_namespace and host.may("CAP_SYS_RESOURCE"):
        yield from _raised_limits(process, host)


def _raised_limits(process: Process, host: Host) -> Iterator[Step]:
    """In a user namespace nobody may raise a hard limit: done before it is entered."""
    for index, limit in enumerate(process.rlimits):
        own = host.limits.get(limit.type)
        if own is not None and limit.hard > own.hard:
            op = Rlimit(RLIMITS[limit.type], own.soft, limit.hard)
            yield Step(op, f"process.rlimits[{index}] ({limit.type})")


def label_steps(process: Process) -> Iterator[Step]:
    """Labels that take effect with the next execve. Written while the host's /proc is to be seen."""
    if process.apparmor_profile:
        data = f"exec {process.apparmor_profile}".encode()
        yield Step(
            WriteFile(NONE, "/proc/self/attr/apparmor/exec", 0, PROC_MAGIC, data),
            f"process.apparmorProfile ({process.apparmor_profile})",
        )
    if process.selinux_label:
        yield _selinux(process, "exec")


def keyring_label(process: Process) -> Iterator[Step]:
    """The session's keyring belongs to the process that will use it. execve takes this back."""
    if process.selinux_label:
        yield _selinux(process, "keycreate")


def _selinux(process: Process, what: str) -> Step:
    op = WriteFile(NONE, f"/proc/self/attr/{what}", 0, PROC_MAGIC, process.selinux_label.encode())
    return Step(op, f"process.selinuxLabel ({process.selinux_label})")


def process_steps(
    process: Process,
    linux: Linux,
    host: Host,
    slots: Layout,
    *,
    filter_: Filter | None,
    user_namespace: bool,
    groups: GroupRights,
    death_signal: int,
    clamp: bool,
    init: bool,
    keep_groups: bool = False,
) -> Iterator[Step]:
    """From a privileged process in place to one that only has to call execve. `keep_groups`: without groups of its own
    it keeps those of the caller."""
    sets = capability_sets(process.capabilities, available(host, user_namespace))
    yield from schedule.steps(process, linux, init)
    yield from _rlimits(process, host, clamp)
    if process.no_new_privileges:
        yield Step(Prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "process.noNewPrivileges")
    chdir = Step(Chdir(NONE, process.cwd), f"process.cwd ({process.cwd})")
    if not process.user.uid:
        yield chdir
    yield Step(BoundingSet(sets.bounding), "process.capabilities.bounding")
    yield from _identity(process, groups, keep_groups)
    early = _SYS_ADMIN if filter_ is not None and not process.no_new_privileges else 0
    if process.user.uid:  # with root's power and as the user: the directory may be open to one of them alone
        over = _DIRECTORIES & available(host, user_namespace) & (capabilities.ALL if user_namespace else host.effective)
        yield Step(Capset(sets.permitted | early | over, over, sets.inheritable), "process.cwd")
        yield chdir
    origin = "process.capabilities.permitted"
    yield Step(Capset(sets.permitted | early, sets.effective | early, sets.inheritable), origin)
    yield Step(Ambient(sets.ambient), "process.capabilities.ambient")
    if death_signal:  # after the last change of credentials, which clears it
        yield Step(Prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0), "runtime")
    if process.args:
        yield Step(FindExec(candidates(process)), f"process.args ({process.args[0]})")
    if filter_ is not None:
        yield from _filter(filter_, slots)
        if early:
            yield Step(Capset(sets.permitted, sets.effective, sets.inheritable), origin)


def group_rights(host: Host, joins_user: bool) -> GroupRights:
    """In this process's own user namespace, or one that it joins. Who has CAP_SETGID must not come into that with
    groups that can't be given up there: they would be its owner's to use. Who has not is the owner."""
    if not host.setgroups:
        return "keep"
    return "either" if joins_user and not host.has("CAP_SETGID") else "set"


def group_steps(gids: tuple[int, ...], rights: GroupRights, origin: str) -> Iterator[Step]:
    """Have these groups and no others, as far as there is a right to."""
    if gids and rights == "keep":
        raise FailedPrecondition(f"{origin}: groups can't be set in this user namespace, where setgroups is denied")
    if rights != "keep":
        yield Step(Groups(gids), origin, SKIP_DENIED if rights == "either" and not gids else 0)


def _identity(process: Process, groups: GroupRights, keep_groups: bool) -> Iterator[Step]:
    user = process.user
    yield Step(Prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "process.user")
    if user.additional_gids or not keep_groups:
        yield from group_steps(user.additional_gids, groups, "process.user.additionalGids")
    yield Step(SetIds(user.uid, user.gid), f"process.user ({user.uid}:{user.gid})")
    yield Step(Prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0), "process.user")
    yield Step(Umask(DEFAULT_UMASK if user.umask is None else user.umask), "process.user.umask")


def _filter(filter_: Filter, slots: Layout) -> Iterator[Step]:
    listens = bool(filter_.flags & SECCOMP_NEW_LISTENER)
    yield Step(Seccomp(filter_.flags, slots.listener if listens else NONE, filter_.code), "linux.seccomp")
    if listens:
        yield Step(Sync("seccomp", (slots.listener,)), "linux.seccomp.listenerPath")


def _rlimits(process: Process, host: Host, clamp: bool) -> Iterator[Step]:
    for index, limit in enumerate(process.rlimits):
        soft, hard = limit.soft, limit.hard
        own = host.limits.get(limit.type)
        if clamp and own is not None and not host.may("CAP_SYS_RESOURCE"):
            soft, hard = min(soft, own.hard), min(hard, own.hard)
        yield Step(Rlimit(RLIMITS[limit.type], soft, hard), f"process.rlimits[{index}] ({limit.type})")


# --- program


def candidates(process: Process) -> tuple[str, ...]:
    """The paths to try in turn: the program itself where it has a slash in it, else it in each directory of PATH."""
    program = process.args[0]
    if "/" in program or not program:
        return (program,)
    path = next((entry[5:] for entry in process.env if entry.startswith("PATH=")), "") or DEFAULT_PATH
    # an empty element means the working directory (execvp(3))
    return tuple(dict.fromkeys(f"{directory or '.'}/{program}" for directory in path.split(":")))


def execve(process: Process) -> Step:
    """The end of the last stage."""
    return Step(Execve(candidates(process), process.args, process.env), f"process.args ({process.args[0]})")
