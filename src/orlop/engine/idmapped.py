"""Whether root file systems can be given to a user namespace here: found out once, by trying."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orlop.runtime.host import probe_host
from orlop.runtime.idmaps import user_namespace
from orlop.snapshots.detached import detached
from orlop.snapshots.mounts import Bind, Mount, overlay
from orlop.spec.errors import OrlopError, os_errors
from orlop.spec.runtime import IDMapping
from orlop.sys.tree import remove_tree

if TYPE_CHECKING:
    from orlop.engine.engine import Engine

_RANGE = (IDMapping(container_id=0, host_id=100_000, size=65_536),)  # any will do


def find_obstacle(engine: Engine) -> str:
    """Why it can't be done, or nothing: the kernel (idmapped layers of an overlay are of Linux 5.19), the file system
    of the root directory, or the want of rights."""
    trial = engine.paths.snapshots / f".idmapped-{os.getpid()}"
    names = [str(trial / name) for name in ("lower", "upper", "work")]
    try:
        fd = user_namespace(_RANGE, _RANGE, probe_host())
        try:
            with os_errors("make a trial directory"):
                for name in names:
                    os.makedirs(name, exist_ok=True)
            lower, upper, work = names
            mount: Mount = overlay((lower,), upper, work) if engine.snapshots.stackable else Bind(upper)
            os.close(detached((mount,), fd))
            os.close(detached((Bind(lower),), fd))
        finally:
            os.close(fd)
    except OrlopError as error:
        return str(error).replace(str(trial), str(engine.paths.snapshots))
    finally:
        remove_tree(trial)
    return ""
