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

    `bounding` is the mask of capabilities that this process may hand on, `effective` of those that it has,
    `security_modules` those that are active (`apparmor`, `selinux`, ...), `limits` this process's own resource limits
    by name (`RLIMIT_NOFILE`), and `oom_score_adj` its own; both bound what can be set without CAP_SYS_RESOURCE.
    `resctrl` is where that file system is mounted, if it is.

    `user_namespace`: this process is in another user namespace than the machine's first, and its capabilities count
    for what that one owns. `may_mount`: among that is the mount namespace it is in. `setgroups`: groups can be set in
    its user namespace (user_namespaces(7)). `id_helpers` are the paths of newuidmap and newgidmap, by name, where they
    are needed and there. `own_groups` are the control groups that this process is in, by v1 controller, with an empty
    name for v2, where a container may have to do with them.
    """

    kernel: tuple[int, int] = (5, 10)
    uid: int = 0
    gid: int = 0
    bounding: int = capabilities.ALL
    effective: int = capabilities.ALL
    user_namespace: bool = False
    may_mount: bool = True
    setgroups: bool = True
    id_helpers: dict[str, str] = {}
    own_groups: dict[str, str] = {}
    last_capability: int = len(capabilities.NAMES) - 1
    cgroups: CgroupHost = CgroupHost(mode="v2", mounts={}, unified="/sys/fs/cgroup")
    security_modules: frozenset[str] = frozenset()
    limits: dict[str, Limit] = {}
    oom_score_adj: int = 0
    resctrl: str = ""

    def may(self, capability: str) -> bool:
        """Whether this process has the capability over the machine, to give or to use."""
        return not self.user_namespace and self.has(capability)

    @property
    def lesser(self) -> bool:
        """Whether this process is not root on the machine."""
        return self.user_namespace or not self.has("CAP_SYS_ADMIN")

    def has(self, capability: str) -> bool:
        """Whether this process has the capability, be it over its own user namespace only."""
        return bool(self.bounding & self.effective & 1 << capabilities.BITS[capability])
