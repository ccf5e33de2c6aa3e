"""Kernel parameters of a container (config-linux.md, "Sysctl"). Pure.

Only those are written that a namespace of the container has for itself: all others would change the host.
"""

from __future__ import annotations

from collections.abc import Iterator

from orlop.runtime.compile_layout import NONE, PROC_MAGIC
from orlop.runtime.namespaces import Namespaces
from orlop.runtime.ops import WriteFile
from orlop.runtime.plan import Step
from orlop.spec.errors import InvalidArgument

_IPC = frozenset(
    "kernel/msgmax kernel/msgmnb kernel/msgmni kernel/sem kernel/shmall kernel/shmmax kernel/shmmni "
    "kernel/shm_rmid_forced".split()
)
# prefix of a parameter, or the parameter itself: the namespace that it belongs to
_PREFIXES = (("net/", "network"), ("fs/mqueue/", "ipc"), ("user/", "user"))


def path_of(key: str) -> str:
    """The path below /proc/sys. Either separator may be used, whichever comes first; the other one then stands for a
    dot or slash in a name (sysctl(8)): `net.ipv4.conf.eth0/100.forwarding`."""
    first = next((character for character in key if character in "./"), "/")
    return key if first == "/" else key.translate({ord("."): "/", ord("/"): "."})


def check_sysctls(sysctls: dict[str, str], namespaces: Namespaces) -> None:
    """Refuse what does not belong to a namespace that the container has for itself."""
    for key, value in sysctls.items():
        where = f"linux.sysctl[{key[:128]!r}]"
        path = path_of(key)
        if "\0" in key or "\0" in value or any(part in ("", ".", "..") for part in path.split("/")):
            raise InvalidArgument(f"{where}: not the name of a kernel parameter")
        if path == "kernel/hostname":
            raise InvalidArgument(f"{where}: use hostname instead")
        needed = namespace_of(path)
        if needed is None:
            raise InvalidArgument(f"{where}: belongs to no namespace; it would change the host")
        if needed not in namespaces:
            raise InvalidArgument(f"{where}: would change the host without a {needed} namespace of the container")


def namespace_of(path: str) -> str | None:
    """The namespace that has this parameter for itself."""
    if path in _IPC:
        return "ipc"
    if path == "kernel/domainname":
        return "uts"
    return next((namespace for prefix, namespace in _PREFIXES if path.startswith(prefix)), None)


def sysctl_steps(sysctls: dict[str, str]) -> Iterator[Step]:
    """Written through the host's /proc, which shows the namespaces of whoever opens it."""
    for key, value in sysctls.items():
        op = WriteFile(NONE, f"/proc/sys/{path_of(key)}", 0, PROC_MAGIC, value.encode())
        yield Step(op, f"linux.sysctl ({key} = {value})")
