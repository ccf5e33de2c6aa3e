"""Makes of the profiles that a request names what the engine takes: the text of a file, a name that the host knows."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

import msgspec

from orlop._stubs.cri import api_pb2 as api
from orlop.cri import security
from orlop.engine.config import ContainerConfig
from orlop.runtime.host import security_modules
from orlop.spec.errors import FailedPrecondition, InvalidArgument, Unimplemented, from_os, os_errors

_LARGEST = 4 << 20  # bytes of a seccomp profile
_LOADED = "/sys/kernel/security/apparmor/profiles"
_LOCALHOST = "seccomp=localhost:"


def resolved(config: ContainerConfig, mounts: Sequence[api.Mount] = ()) -> ContainerConfig:
    """The request with the text of its seccomp profile in place of the path, and names of what the host has.

    Raises FailedPrecondition for what it lacks.
    """
    options = tuple(
        "seccomp=" + _text(option.removeprefix(_LOCALHOST)) if option.startswith(_LOCALHOST) else option
        for option in config.security_opt
    )
    assert config.pod is not None
    modules = security_modules()
    relabelled = [index for index, mount in enumerate(mounts) if mount.selinux_relabel]
    if relabelled and "selinux" in modules:
        raise Unimplemented(f"config.mounts[{relabelled[0]}].selinux_relabel: relabel the host's files with chcon")
    loaded = _loaded() if "apparmor" in modules else None
    pod = msgspec.structs.replace(
        config.pod,
        apparmor=security.apparmor(
            config.pod.apparmor, config.privileged, loaded is not None, loaded or frozenset[str]()
        ),
        selinux=security.selinux(config.pod.selinux, "selinux" in modules),
    )
    return msgspec.structs.replace(config, security_opt=options, pod=pod)


def _loaded(path: str = _LOADED) -> frozenset[str] | None:
    """The names of the profiles that the kernel has: lines such as `docker-default (enforce)`. None where securityfs is
    not mounted: nobody manages AppArmor there, whatever the kernel has, and other runtimes take it for off."""
    try:
        with open(path, encoding="utf-8") as file:
            return frozenset(line.rpartition(" (")[0] for line in file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os(error, "read the loaded profiles of AppArmor") from error


def _text(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidArgument(f"seccomp: localhost profile {path[:128]!r} is not an absolute path")
    with os_errors("read the seccomp profile"):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)  # a pipe would make this wait
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument(f"seccomp: localhost profile {path[:128]!r} is not a file")
        with os_errors("read the seccomp profile"), open(fd, "rb", closefd=False) as file:
            data = file.read(_LARGEST + 1)
    finally:
        os.close(fd)
    if len(data) > _LARGEST:
        raise InvalidArgument(f"seccomp: localhost profile {path[:128]!r} has more than {_LARGEST} bytes")
    text = data.decode("utf-8", "replace").strip()
    if not text.startswith("{"):
        raise FailedPrecondition(f"seccomp: localhost profile {path[:128]!r} is not a JSON object")
    return text
