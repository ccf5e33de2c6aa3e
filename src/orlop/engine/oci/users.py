"""The user namespace of a pod: what its mappings say of ids inside and outside. Pure (user_namespaces(7))."""

from __future__ import annotations

from collections.abc import Sequence

from orlop.engine.config import ContainerConfig
from orlop.engine.users import Identity
from orlop.spec.errors import InvalidArgument
from orlop.spec.runtime import IDMapping

Range = tuple[int, int, int]  # container, host, size


def ranges(config: ContainerConfig) -> tuple[Sequence[Range], Sequence[Range]]:
    """Those of users and of groups; empty without a user namespace."""
    return config.pod.id_maps if config.pod is not None and config.pod.id_maps is not None else ((), ())


def mappings(config: ContainerConfig, side: int) -> tuple[IDMapping, ...]:
    """As a configuration has them: of users (0) or groups (1)."""
    return id_mappings(ranges(config)[side])


def id_mappings(found: Sequence[Range]) -> tuple[IDMapping, ...]:
    return tuple(IDMapping(container_id=inside, host_id=outside, size=size) for inside, outside, size in found)


def on_host(identifier: int, found: Sequence[Range]) -> int:
    """The host's number of an id in the container. Where nothing is mapped they are the same; an id that is not mapped
    is nobody's there, and becomes that of root."""
    if not found:
        return identifier
    for wanted in (identifier, 0):
        for inside, outside, size in found:
            if inside <= wanted < inside + size:
                return outside + wanted - inside
    return found[0][1]


def check_mapped(config: ContainerConfig, identity: Identity) -> None:
    """Refuse a user or a group that the pod's user namespace does not have."""
    uids, gids = ranges(config)
    if uids and not _mapped(identity.uid, uids):
        raise InvalidArgument(f"user {identity.uid}: is not mapped in the pod's user namespace")
    for gid in (identity.gid, *identity.groups) if gids else ():
        if not _mapped(gid, gids):
            raise InvalidArgument(f"group {gid}: is not mapped in the pod's user namespace")


def _mapped(identifier: int, found: Sequence[Range]) -> bool:
    return any(inside <= identifier < inside + size for inside, _, size in found)
