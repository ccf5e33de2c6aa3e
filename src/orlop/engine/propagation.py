"""Whether a bind mount can propagate as it is asked to: that is up to the mount of the host that it is a copy of
(mount_namespaces(7), "Shared subtrees")."""

from __future__ import annotations

import os

from orlop.engine.config import MountRequest
from orlop.spec.errors import FailedPrecondition, os_errors


def check(request: MountRequest) -> None:
    """Raise FailedPrecondition where the host's mount has no peers to propagate to, or from. The kernel would say
    nothing, and nothing would ever appear."""
    kind = request.propagation.removeprefix("r")
    if kind not in ("shared", "slave"):
        return
    with os_errors("find the mount of a bind source"):
        fd = os.open(request.source, os.O_PATH | os.O_CLOEXEC)
        try:
            with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
                number = next(line.split()[1] for line in info if line.startswith("mnt_id:"))
        finally:
            os.close(fd)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            line = next((line for line in mounts if line.partition(" ")[0] == number), "")
    fields = peers(line)
    if "shared" in fields or (kind == "slave" and "master" in fields):
        return
    wanted = "a shared mount" if kind == "shared" else "a shared or slave mount"
    raise FailedPrecondition(
        f"bind source {request.source[:128]}: propagation {request.propagation} needs {wanted}, and the host's is"
        " private; make it one with mount --make-shared"
    )


def peers(line: str) -> frozenset[str]:
    """The names of a line's optional fields in mountinfo: `shared`, `master` (proc_pid_mountinfo(5))."""
    head = line.partition(" - ")[0].split()
    return frozenset(field.partition(":")[0] for field in head[6:])
