"""What this runtime can do (features.md), read off the tables that it works by."""

from __future__ import annotations

from typing import Any

from orlop.cgroups.compile_systemd import PROPERTY
from orlop.runtime import compile_checks, compile_schedule, mount_options, namespaces
from orlop.runtime.annotations import ALL
from orlop.runtime.criu import CONFIG_ANNOTATION, installed
from orlop.seccomp import assemble
from orlop.spec import capabilities
from orlop.spec.runtime import VERSION
from orlop.sys.process import takes_seccomp_flags

CHECKPOINT = "org.opencontainers.runc.checkpoint.enabled"  # the name that engines look for


def features() -> dict[str, Any]:
    """The document, ready to be encoded."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": list(compile_checks.HOOKS),
        "mountOptions": list(mount_options.NAMES),
        "linux": {
            "namespaces": sorted(namespaces.FLAGS),
            "capabilities": list(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": _seccomp(),
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "memoryPolicy": {
                "modes": sorted(compile_schedule.MEMORY_MODES),
                "flags": sorted(compile_schedule.MEMORY_FLAGS),
            },
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {CHECKPOINT: "true" if installed() else "false"},
        "potentiallyUnsafeConfigAnnotations": sorted((*ALL, CONFIG_ANNOTATION, PROPERTY)),
    }


def _asked(flag: int) -> int:
    """The flag with the one that it does not go without."""
    return flag | (assemble.NEW_LISTENER if flag == assemble.FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"] else 0)


def _seccomp() -> dict[str, Any]:
    return {
        "enabled": True,
        "actions": sorted(assemble.ACTIONS),
        "operators": sorted(assemble.OPERATORS),
        "archs": sorted(assemble.ARCHITECTURES),
        "knownFlags": sorted(assemble.FLAGS),
        "supportedFlags": sorted(name for name, bit in assemble.FLAGS.items() if takes_seccomp_flags(_asked(bit))),
    }
