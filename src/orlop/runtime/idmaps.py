"""Writes id maps of user namespaces, and makes user namespaces to map the ids of mounts by (mount_setattr(2))."""

from __future__ import annotations

import os

from orlop.runtime import compile_mounts
from orlop.runtime.children import children
from orlop.runtime.launch import launch
from orlop.runtime.namespaces import FLAGS
from orlop.runtime.ops import Clone, Exit, Sync
from orlop.runtime.plan import Plan, Stage, Step
from orlop.spec.errors import from_os
from orlop.spec.runtime import IDMapping, RuntimeSpec

Mappings = tuple[IDMapping, ...]


def write_maps(pid: int, uids: Mappings, gids: Mappings) -> None:
    """Map the ids of the user namespace of `pid` (user_namespaces(7)). A map is written at once, and only once."""
    for name, field, mappings in (("uid_map", "uidMappings", uids), ("gid_map", "gidMappings", gids)):
        text = "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)
        try:
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise from_os(error, f"linux.{field}: write") from error


def user_namespaces(spec: RuntimeSpec) -> dict[str, int]:
    """A descriptor of a user namespace for each different mapping of mounts, by `compile_mounts.idmap_key`."""
    found: dict[str, int] = {}
    for index in range(len(spec.mounts)):
        key = compile_mounts.idmap_key(spec, index)
        maps = compile_mounts.idmap_of(spec, index)
        if maps is not None and key not in found:
            found[key] = _user_namespace(*maps)
    return found


def _user_namespace(uids: Mappings, gids: Mappings) -> int:
    """A process is needed to make one; it ends as soon as its namespace is held."""
    held: list[int] = []

    def hold(_: str, pid: int, __: list[int]) -> None:
        write_maps(pid, uids, gids)
        held.append(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC))

    origin = "mounts (idmap)"
    plan = Plan(
        (
            Stage("outside", (Step(Clone(FLAGS["user"], -1), origin),)),
            Stage("holder", (Step(Sync("created", ()), origin), Step(Exit(0), origin))),
        )
    )
    launched = launch(plan, on_sync=hold)
    children().wait(launched.pid)
    return held[0]
