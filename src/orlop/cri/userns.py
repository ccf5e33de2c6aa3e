"""User namespaces of pods: the interface's mappings as the engine has them. Pure (KEP-127, user_namespaces(7))."""

from __future__ import annotations

from collections.abc import Sequence

from orlop._stubs.cri import api_pb2 as api
from orlop.spec.errors import InvalidArgument

Ranges = tuple[tuple[int, int, int], ...]  # container, host, size
IdMaps = tuple[Ranges, Ranges]  # of users and of groups
_WHERE = "namespace_options.userns_options"
_MOST = (1 << 32) - 1  # the number after the last ID, which is none itself


def of_sandbox(options: api.NamespaceOption) -> IdMaps | None:
    """The mappings of the pod's user namespace; None where it has the host's."""
    maps = _maps(options)
    if maps is not None:
        for kind in ("pid", "ipc"):
            if getattr(options, kind) == api.NODE:
                raise InvalidArgument(f"namespace_options.{kind}: NODE and a user namespace exclude each other")
    return maps


def of_container(options: api.NamespaceOption, pod: IdMaps | None) -> IdMaps | None:
    """The pod's, which a container has to ask for in the same words."""
    asked = _maps(options)
    if asked != pod:
        raise InvalidArgument(f"{_WHERE}: a container has the user namespace of its pod sandbox, and none else")
    if pod is not None and (options.pid == api.NODE or options.ipc == api.NODE):
        raise InvalidArgument("namespace_options: NODE and a user namespace exclude each other")
    return pod


def _maps(options: api.NamespaceOption) -> IdMaps | None:
    asked = options.userns_options
    if not options.HasField("userns_options") or asked.mode == api.NODE:
        if asked.uids or asked.gids:
            raise InvalidArgument(f"{_WHERE}: mode NODE has no mappings")
        return None
    if asked.mode != api.POD:
        known = asked.mode in api.NamespaceMode.values()
        name = api.NamespaceMode.Name(asked.mode) if known else str(asked.mode)
        raise InvalidArgument(f"{_WHERE}.mode: {name} is not possible, only POD and NODE")
    return _of_pod(asked.uids, "uids"), _of_pod(asked.gids, "gids")


def _of_pod(mappings: Sequence[api.IDMapping], side: str) -> Ranges:
    if len(mappings) != 1:
        raise InvalidArgument(f"{_WHERE}.{side}: want one mapping, there are {len(mappings)}")
    found = ranges(mappings, f"{_WHERE}.{side}")
    if found[0][0] != 0:
        raise InvalidArgument(f"{_WHERE}.{side}[0].container_id: the container's 0 must be mapped")
    return found


def ranges(mappings: Sequence[api.IDMapping], where: str) -> Ranges:
    """Mappings as (container, host, size), each within the 32 bits of an ID."""
    for index, mapping in enumerate(mappings):
        if not mapping.length:
            raise InvalidArgument(f"{where}[{index}].length: is zero")
        for name in ("container_id", "host_id"):
            if getattr(mapping, name) + mapping.length > _MOST:
                raise InvalidArgument(f"{where}[{index}]: {name} and length lead beyond the last ID")
    return tuple((mapping.container_id, mapping.host_id, mapping.length) for mapping in mappings)


def of_mount(mount: api.Mount, where: str) -> IdMaps | None:
    """The mappings of one mount; None where its IDs stay as they are."""
    if not mount.uidMappings and not mount.gidMappings:
        return None
    for name, mappings in (("uidMappings", mount.uidMappings), ("gidMappings", mount.gidMappings)):
        if not mappings:
            raise InvalidArgument(f"{where}.{name}: uidMappings and gidMappings go together")
    return ranges(mount.uidMappings, f"{where}.uidMappings"), ranges(mount.gidMappings, f"{where}.gidMappings")


def sandbox_user(maps: IdMaps | None, wanted: int) -> str:
    """`uid:gid` of the sandbox's process: `wanted`, or root where that is not mapped."""
    mapped = maps is None or all(size > wanted for ((_, __, size),) in maps)
    return f"{wanted}:{wanted}" if mapped else "0:0"
