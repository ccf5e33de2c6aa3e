"""Writes id maps of user namespaces, and makes user namespaces to map the ids of mounts by (mount_setattr(2))."""

from __future__ import annotations

import os

import msgspec

from orlop.runtime import compile_mounts
from orlop.runtime.children import children
from orlop.runtime.compile_idmaps import Mappings, Way, ways
from orlop.runtime.facts import Host
from orlop.runtime.launch import launch
from orlop.runtime.namespaces import FLAGS
from orlop.runtime.ops import Clone, Exit, Sync
from orlop.runtime.plan import Plan, Stage, Step
from orlop.spec.errors import PermissionDenied, from_os
from orlop.spec.runtime import IDMapping, Linux, RuntimeSpec


def write_maps(pid: int, uids: Mappings, gids: Mappings, host: Host) -> None:
    """Map the ids of the user namespace of `pid` (user_namespaces(7)). A map is written at once, and only once."""
    found = ways(host, uids, gids)
    if found.gids == "own" and host.setgroups:
        _write(pid, "setgroups", "deny", "linux.gidMappings")
    _map(pid, "uid_map", uids, found.uids, host.id_helpers.get("newuidmap", ""), "linux.uidMappings")
    _map(pid, "gid_map", gids, found.gids, host.id_helpers.get("newgidmap", ""), "linux.gidMappings")


def _map(pid: int, name: str, mappings: Mappings, way: Way, helper: str, where: str) -> None:
    if way == "helper":
        numbers = (str(number) for m in mappings for number in (m.container_id, m.host_id, m.size))
        _help(helper, pid, name, tuple(numbers), where)
    else:
        _write(pid, name, "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings), where)


def _write(pid: int, name: str, text: str, where: str) -> None:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise from_os(error, f"{where}: write") from error


def _help(helper: str, pid: int, name: str, numbers: tuple[str, ...], where: str) -> None:
    """Have newuidmap(1) or newgidmap(1) do it, which are more than we are. The map tells whether it was done."""
    said = os.memfd_create("said", os.MFD_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((null, null, said))]
        child = os.posix_spawn(helper, (helper, str(pid), *numbers), {}, file_actions=actions, setsigmask=())
        try:
            os.waitpid(child, 0)
        except ChildProcessError:  # this process ignores SIGCHLD
            pass
        with open(f"/proc/{pid}/{name}", "rb") as file:
            if file.read(1):
                return
        reason = os.pread(said, 1024, 0).decode("utf-8", "replace").strip().splitlines()
    except OSError as error:
        raise from_os(error, f"{where}: {helper}") from error
    finally:
        os.close(said)
        os.close(null)
    raise PermissionDenied(f"{where}: {reason[0] if reason else f'{helper} failed'}")


def with_mappings(spec: RuntimeSpec) -> RuntimeSpec:
    """The configuration where a new user namespace has mappings: without any, the caller's own id is the container's
    root, and his subordinate ids (subuid(5), subgid(5)) follow it."""
    linux = spec.linux
    if linux is None or not any(n.type == "user" and not n.path for n in linux.namespaces):
        return spec
    changes = {}
    if not linux.uid_mappings:
        changes["uid_mappings"] = default_mappings(os.geteuid(), "/etc/subuid")
    if not linux.gid_mappings:
        changes["gid_mappings"] = default_mappings(os.getegid(), "/etc/subgid")
    return msgspec.structs.replace(spec, linux=msgspec.structs.replace(linux, **changes)) if changes else spec


def default_mappings(own: int, file: str) -> Mappings:
    """The mappings that somebody has who names none."""
    result = [IDMapping(container_id=0, host_id=own, size=1)]
    for first, size in _subordinate(file):
        result.append(IDMapping(container_id=sum(m.size for m in result), host_id=first, size=size))
    return tuple(result)


def _subordinate(file: str) -> list[tuple[int, int]]:
    """The ranges that a file hands to this user, by name or number."""
    import pwd

    uid = os.geteuid()
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as lines:
            fields = [line.strip().split(":") for line in lines]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise from_os(error, "read") from error
    ranges = [(int(f[1]), int(f[2])) for f in fields if len(f) == 3 and f[0] in names and (f[1] + f[2]).isdigit()]
    return [(first, size) for first, size in ranges if size > 0]


def user_namespaces(spec: RuntimeSpec, host: Host, own: int = -1) -> dict[str, int]:
    """A descriptor of a user namespace for each different mapping of mounts, by `compile_mounts.idmap_key`. The caller
    closes them. `own` is one with the container's mappings, where it is there already."""
    found: dict[str, int] = {}
    linux = spec.linux or Linux()
    for index in range(len(spec.mounts)):
        key = compile_mounts.idmap_key(spec, index)
        if joined := compile_mounts.joined_idmap(spec, index):
            if key not in found:
                found[key] = _opened(joined, index)
            continue
        maps = compile_mounts.idmap_of(spec, index)
        if maps is not None and key not in found:
            mine = own >= 0 and maps == (linux.uid_mappings, linux.gid_mappings)
            found[key] = os.dup(own) if mine else user_namespace(*maps, host)
    return found


def _opened(path: str, index: int) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os(error, f"mounts[{index}].options: idmap: open") from error


def user_namespace(uids: Mappings, gids: Mappings, host: Host) -> int:
    """A descriptor of a new user namespace. A process is needed to make one; it ends as soon as that is held."""
    held: list[int] = []

    def hold(_: str, pid: int, __: list[int]) -> None:
        write_maps(pid, uids, gids, host)
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
