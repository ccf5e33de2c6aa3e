"""Finds out what plans depend on: reads the facts of this machine and of this process."""

from __future__ import annotations

import os
from functools import lru_cache

from orlop.cgroups.facts import CgroupHost
from orlop.cgroups.files import read
from orlop.cgroups.probe import probe
from orlop.runtime.children import children
from orlop.runtime.facts import UNLIMITED, Host, Limit
from orlop.spec import capabilities
from orlop.spec.errors import FailedPrecondition, from_os

# a line of /proc/self/limits: the limit's name in setrlimit(2)
_LIMITS = {
    "Max cpu time": "RLIMIT_CPU",
    "Max file size": "RLIMIT_FSIZE",
    "Max data size": "RLIMIT_DATA",
    "Max stack size": "RLIMIT_STACK",
    "Max core file size": "RLIMIT_CORE",
    "Max resident set": "RLIMIT_RSS",
    "Max processes": "RLIMIT_NPROC",
    "Max open files": "RLIMIT_NOFILE",
    "Max locked memory": "RLIMIT_MEMLOCK",
    "Max address space": "RLIMIT_AS",
    "Max file locks": "RLIMIT_LOCKS",
    "Max pending signals": "RLIMIT_SIGPENDING",
    "Max msgqueue size": "RLIMIT_MSGQUEUE",
    "Max nice priority": "RLIMIT_NICE",
    "Max realtime priority": "RLIMIT_RTPRIO",
    "Max realtime timeout": "RLIMIT_RTTIME",
}
_WHOLE = ["0", "0", "4294967295"]  # the map of the machine's first user namespace
_NAME_WIDTH = 26  # of the first column
_STATUS = "/proc/self/status"


def probe_host(cgroups: CgroupHost | None = None) -> Host:
    """The facts, read anew with each call: a fifth of a millisecond, most of it for the mounts, in which control groups
    are looked for unless the caller knows them. Raises where /proc is not mounted."""
    try:
        status = _read(_STATUS)
        return Host(
            kernel=kernel_version(os.uname().release),
            uid=os.geteuid(),
            gid=os.getegid(),
            bounding=_mask(status, "CapBnd:"),
            **_rights(_mask(status, "CapEff:")),  # type: ignore[arg-type]
            last_capability=_last_capability(),
            cgroups=_control_groups() if cgroups is None else cgroups,
            security_modules=security_modules(),
            limits=parse_limits(_read(f"/proc/{children().parent}/limits")),
            oom_score_adj=int(_read(f"/proc/{children().parent}/oom_score_adj")),
            resctrl=_resctrl(),
        )
    except OSError as error:
        raise from_os(error, "read") from error


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 1) for `6.1.0-18-amd64`."""
    major, _, rest = release.partition(".")
    digits = rest[: next((i for i, c in enumerate(rest) if not c.isdigit()), len(rest))]
    return int(major), int(digits or 0)


@lru_cache(8)
def parse_limits(text: str) -> dict[str, Limit]:
    """Read /proc/PID/limits (proc_pid_limits(5))."""
    found = {}
    for line in text.splitlines()[1:]:
        name = _LIMITS.get(line[:_NAME_WIDTH].strip())
        values = line[_NAME_WIDTH:].split()
        if name and len(values) >= 2:
            soft, hard = (UNLIMITED if value == "unlimited" else int(value) for value in values[:2])
            found[name] = Limit(soft, hard)
    return found


def _read(path: str) -> str:
    return read(path)


def bounding_set() -> int:
    """The capabilities that this process could ever have, as a mask."""
    return _mask(_read(_STATUS), "CapBnd:")


@lru_cache
def _last_capability() -> int:
    return int(_read("/proc/sys/kernel/cap_last_cap"))  # of the kernel


def own_groups(text: str) -> dict[str, str]:
    """Read /proc/PID/cgroup (cgroups(7)): groups by v1 controller, or by the name of a hierarchy such as name=systemd;
    that of v2 by an empty name."""
    found = dict[str, str]()
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        found |= dict.fromkeys(names.split(","), path.rstrip("/"))
    return found


def _mask(status: str, name: str) -> int:
    at = status.index(f"\n{name}") + len(name) + 1
    return int(status[at : status.index("\n", at)], 16)


def _rights(effective: int) -> dict[str, object]:
    """What this process may do, where that is not what root may on a machine of its own."""
    inside = _read("/proc/self/uid_map").split() != _WHOLE
    if not inside and effective & 1 << capabilities.BITS["CAP_SYS_ADMIN"]:
        return {"effective": effective}
    from orlop.runtime.rights import id_helpers, owns_mounts

    return {
        "effective": effective,
        "user_namespace": inside,
        "may_mount": bool(effective & 1 << capabilities.BITS["CAP_SYS_ADMIN"]) and owns_mounts(),
        "own_groups": own_groups(_read(f"/proc/{children().parent}/cgroup")),
        "setgroups": _read("/proc/self/setgroups").strip() != "deny",
        "id_helpers": {} if effective & 1 << capabilities.BITS["CAP_SETUID"] else id_helpers(),
    }


def _resctrl() -> str:
    """A kernel without it lacks the directory to mount it on."""
    if not os.path.isdir("/sys/fs/resctrl"):
        return ""
    from orlop.runtime.resctrl import mounted

    return mounted()


def _control_groups() -> CgroupHost:
    """Without control groups a container without limits can still run."""
    try:
        return probe()
    except FailedPrecondition:
        return CgroupHost(mode="v2", mounts={}, unified="")


@lru_cache
def security_modules() -> frozenset[str]:
    """Which modules are there, until the next boot; AppArmor counts only where it is switched on (a kernel may list it
    and not use it)."""
    try:
        found = set(_read("/sys/kernel/security/lsm").split(","))
    except OSError:
        found = set()
    if os.path.exists("/sys/fs/selinux/enforce"):
        found.add("selinux")
    try:
        enabled = _read("/sys/module/apparmor/parameters/enabled").startswith("Y")
    except OSError:
        enabled = False
    return frozenset(found | {"apparmor"} if enabled else found - {"apparmor"})
