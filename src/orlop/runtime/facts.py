"""What a plan depends on beside the configuration: facts of the host, found by `host.probe_host`. Pure."""

from __future__ import annotations

import msgspec

from orlop.cgroups.facts import CgroupHost
from orlop.spec import capabilities

UNLIMITED = (1 << 64) - 1  # RLIM_INFINITY


class Limit(msgspec.Struct, frozen=True):
    """A resource limit of this process, as setrlimit(2) counts it."""

    soft: int = UNLIMITED
    hard: int = UNLIMITED


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and this process, as far as plans differ by them.

    `bounding` is the mask of capabilities that this process may hand on, `security_modules` those that are active
    (`apparmor`, `selinux`, ...), `limits` this process's own resource limits by name (`RLIMIT_NOFILE`), and
    `oom_score_adj` its own; both bound what can be set where CAP_SYS_RESOURCE is missing. `resctrl` is where that file
    system is mounted, if it is.
    """

    kernel: tuple[int, int] = (5, 10)
    uid: int = 0
    bounding: int = capabilities.ALL
    last_capability: int = len(capabilities.NAMES) - 1
    cgroups: CgroupHost = CgroupHost(mode="v2", mounts={}, unified="/sys/fs/cgroup")
    security_modules: frozenset[str] = frozenset()
    limits: dict[str, Limit] = {}
    oom_score_adj: int = 0
    resctrl: str = ""

    def may(self, capability: str) -> bool:
        """Whether this process has the capability to give or to use."""
        return bool(self.bounding >> capabilities.BITS[capability] & 1)
