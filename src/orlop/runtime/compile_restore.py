"""The plans that start CRIU. Pure.

To dump, CRIU runs as this process would run it. To restore, it runs in the container's control groups, so that what it
starts is born there, and in a mount namespace that goes with it, in which the root file system is attached where CRIU
wants it: on a mount of its own whose parent nothing covers. No mount is left on the host, whoever is killed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from orlop.runtime import compile_cgroups
from orlop.runtime.compile_external import bound
from orlop.runtime.compile_layout import (
    AT_RECURSIVE,
    NONE,
    O_DIRECTORY,
    O_RDWR,
    O_WRONLY,
    OPEN_TREE_CLONE,
    Layout,
    layout,
)
from orlop.runtime.compile_mounts import Prepared
from orlop.runtime.facts import Host
from orlop.runtime.mount_options import MS_REC, MS_SLAVE
from orlop.runtime.namespaces import FLAGS, NSFS_MAGIC
from orlop.runtime.ops import (
    Clone,
    Dup,
    Execve,
    Exit,
    LinkUp,
    Mkdir,
    Mount,
    MoveMount,
    Open,
    OpenTree,
    Propagation,
    Setns,
    Sync,
    Target,
    Umount,
    Unshare,
)
from orlop.runtime.plan import Plan, Stage, Step

SERVICE_FD = 3  # CRIU's end of the connection; further descriptors are 4, 5, ...
_MNT_DETACH = 2
_MS_NOSUID_NODEV = 2 | 4


class Program(msgspec.Struct, frozen=True):
    """How to start CRIU: the file, the environment, and how many descriptors it gets after its connection. All are
    handed over by the parent, the connection first."""

    path: str
    environment: tuple[str, ...]
    more: int = 0


def compile_service(program: Program) -> Plan:
    """CRIU, here and as we are."""
    return Plan((Stage("criu", tuple(_service(program))),))


def compile_stoppable(program: Program) -> Plan:
    """As `compile_service`, with SIGXFSZ ignored: a limit to the size of files is then an error of CRIU's writes, and
    not its death (setrlimit(2)). Shells ignore what they are told to trap with nothing, and hand that on."""
    (*before, last) = _service(program)
    assert isinstance(last.op, Execve)
    script = f'trap "" XFSZ && exec "$0" swrk {SERVICE_FD}'
    shell = Execve(("/bin/sh",), ("sh", "-c", script, program.path), program.environment)
    return Plan((Stage("criu", (*before, Step(shell, "criu"))),))


def _service(program: Program) -> Iterator[Step]:
    for slot in range(1 + program.more):
        yield Step(Dup(slot, SERVICE_FD + slot), "criu")
    argv = ("criu", "swrk", str(SERVICE_FD))
    yield Step(Execve((program.path,), argv, program.environment), "criu")


def compile_restore(
    program: Program,
    rootfs: str,
    place: str,
    directories: tuple[str, str],
    mounts: tuple[Prepared, ...],
    procs: Sequence[str],
    host: Host,
) -> Plan:
    """CRIU, for a container whose root file system is `rootfs`. `place` is a directory of the host that CRIU does not
    need to see: the root is attached at `root_at(place)`. `directories` are those of the image and of the log, which
    the parent gets at Sync("directories"). `procs` are the files to join the control groups by."""
    slots = layout(None, *range(1 + program.more))
    birthplace = tuple(compile_cgroups.birthplace(procs, host, slots.cgroup))
    outside = (
        *compile_cgroups.joins(procs, host),
        *birthplace,
        Step(Clone(FLAGS["mount"], slots.cgroup if birthplace else NONE), "criu"),
    )
    inside = (*_attach(slots, rootfs, place), *_stands(slots, mounts), *_attach_anew(slots, rootfs, place))
    inside += tuple(_directories(slots, directories))
    return Plan((Stage("outside", outside), Stage("criu", (*inside, *_service(program)))))


def compile_handed_restore(
    program: Program,
    place: str,
    directories: tuple[str, str],
    mounts: tuple[Prepared, ...],
    procs: Sequence[str],
    host: Host,
    await_cgroup: bool,
) -> Plan:
    """As `compile_restore`, in a process that becomes CRIU and whose standard streams are to be the container's.

    Handed over are, in this order: CRIU's connection, a file for what it says before it has a log, the root file
    system as a detached mount, and `program.more` descriptors. CRIU has the container's streams as SERVICE_FD + 1 to 3,
    and the further ones from SERVICE_FD + 4 on. With `await_cgroup` the parent puts the process into its groups at
    Sync("cgroup"), else it enters those of `procs`.
    """
    connection, errors, root, further = 0, 1, 2, 3
    slots = layout(root, *range(further + program.more))
    streams = (slots.null, slots.master, slots.slave)
    steps: list[Step] = [Step(Sync("cgroup", ()), "linux.cgroupsPath")] if await_cgroup else []
    if not await_cgroup:
        steps += compile_cgroups.enters(procs, host)
    steps += (
        *(
            Step(Open(slot, NONE, f"/proc/self/fd/{fd}", O_WRONLY if fd else 0, 0, 0), "process")
            for fd, slot in enumerate(streams)
        ),
        Step(Unshare(FLAGS["mount"]), "criu"),
        *_place(place),
        Step(MoveMount(root, NONE, root_at(place)), "root.path"),
        Step(OpenTree(slots.file, NONE, root_at(place), OPEN_TREE_CLONE | AT_RECURSIVE), "root.path"),
        *_stands(slots, mounts),
        Step(Umount(NONE, root_at(place), _MNT_DETACH), "criu"),
        Step(MoveMount(slots.file, NONE, root_at(place)), "root.path"),  # as it was before the mounts
        *_directories(slots, directories),
        Step(Open(slots.tty, NONE, "/dev/null", O_RDWR, 0, 0), "criu"),
        *(Step(Dup(slots.tty, fd), "criu") for fd in (0, 1)),
        Step(Dup(errors, 2), "criu"),
        *(
            Step(Dup(slot, SERVICE_FD + number), "criu")
            for number, slot in enumerate((connection, *streams, *range(further, further + program.more)))
        ),
        Step(Execve((program.path,), ("criu", "swrk", str(SERVICE_FD)), program.environment), "criu"),
    )
    return Plan((Stage("criu", tuple(steps)),))


def _directories(slots: Layout, paths: tuple[str, str]) -> Iterator[Step]:
    """CRIU finds them as descriptors of its client, goes there and mounts in there, which it can do in mounts of its
    own namespace alone: hence they are opened here."""
    yield Step(Open(slots.tree, NONE, paths[0], O_DIRECTORY, 0, 0), "--image-path")
    yield Step(Open(slots.file, NONE, paths[1], O_DIRECTORY, 0, 0), "--work-path")
    yield Step(Sync("directories", (slots.tree, slots.file)), "criu")


def root_at(place: str) -> str:
    return f"{place}/root"


def _attach(slots: Layout, rootfs: str, place: str) -> Iterator[Step]:
    """A first copy of the root, to furnish."""
    yield from _place(place)
    yield from _root(slots, rootfs, place)


def _place(place: str) -> Iterator[Step]:
    yield Step(Propagation(NONE, "/", MS_SLAVE | MS_REC), "criu")
    yield Step(Mount("tmpfs", NONE, place, "tmpfs", _MS_NOSUID_NODEV, "mode=700,size=64k"), "criu")
    yield Step(Mkdir(NONE, root_at(place), 0o755, 0, 0), "criu")


def _root(slots: Layout, rootfs: str, place: str) -> Iterator[Step]:
    origin = f"root.path ({rootfs})"
    yield Step(OpenTree(slots.root, NONE, rootfs, OPEN_TREE_CLONE | AT_RECURSIVE), origin)
    yield Step(MoveMount(slots.root, NONE, root_at(place)), origin)


def _stands(slots: Layout, mounts: tuple[Prepared, ...]) -> Iterator[Step]:
    """Make what the mounts stand on where it is missing, as at the container's creation, also inside of what is bound.
    What stands on a file system of the container's own comes back with that."""
    made: list[str] = []
    binds = bound(mounts)
    for item in mounts:
        if item.change_only or any(item.target.startswith(path + "/") for path in made):
            continue
        if item in binds:
            flags = OPEN_TREE_CLONE | (AT_RECURSIVE if item.options.flags & MS_REC else 0)
            yield Step(OpenTree(slots.tree, NONE, item.source, flags), item.origin)
            yield Step(Target(slots.root, item.target, slots.tree, 0), item.origin)
            yield Step(MoveMount(slots.tree, slots.root, item.target), item.origin)
        else:
            made.append(item.target)
            yield Step(Target(slots.root, item.target, NONE, 0), item.origin)


def _attach_anew(slots: Layout, rootfs: str, place: str) -> Iterator[Step]:
    """A second copy in place of the first: without the mounts, which CRIU makes."""
    yield Step(Umount(NONE, root_at(place), _MNT_DETACH), "criu")
    yield from _root(slots, rootfs, place)


def compile_loopback(namespace: str) -> Plan:
    """Bring up `lo` in a network namespace, given by its file: an empty one is all that CRIU makes."""
    steps = (
        Step(Open(0, NONE, namespace, 0, 0, NSFS_MAGIC), "linux.namespaces (network)"),
        Step(Setns(0, FLAGS["network"]), "linux.namespaces (network)"),
        Step(LinkUp("lo"), "linux.namespaces (network)"),
        Step(Exit(0), "linux.namespaces (network)"),
    )
    return Plan((Stage("network", steps),))
