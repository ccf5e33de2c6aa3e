"""Mounts into a container that runs, and out of it again, as plans. Pure.

Sources are copied where the caller stands; the helper then joins the container's mount namespace, with the user
namespace that owns it, and attaches them below its root, in which every destination is looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from orlop.runtime import compile_mounts
from orlop.runtime.compile_layout import NONE, O_DIRECTORY, O_PATH, Layout, layout
from orlop.runtime.compile_mounts import Prepared, clean
from orlop.runtime.mount_options import MS_REMOUNT, MS_SLAVE
from orlop.runtime.namespaces import FLAGS, namespaces
from orlop.runtime.ops import Exit, Mount, MoveMount, Open, SetIds, Setns, Umount
from orlop.runtime.plan import Plan, Stage, Step
from orlop.spec.errors import FailedPrecondition, InvalidArgument
from orlop.spec.runtime import Linux, RuntimeSpec
from orlop.spec.runtime import Mount as MountSpec

_MNT_DETACH = 2
_PIDFD = 0  # slot of a pidfd of the container's first process


def compile_add(spec: RuntimeSpec, mounts: tuple[MountSpec, ...], bundle: str) -> Plan:
    """The plan that adds `mounts` to the container of `spec`, in order. Relative sources start at `bundle`.

    Raises InvalidArgument for what is wrong in a mount, or can be made with the container only.
    """
    linux, slots = _checked(spec), layout(None, _PIDFD)
    changed = msgspec.structs.replace(spec, mounts=mounts)
    network = "network" in namespaces(linux)
    prepared = compile_mounts.prepare(changed, bundle, slots, True, {}, {}, own_network=network)
    for item in prepared:
        _check(item)
    return Plan((Stage("outside", (*_adding(linux, prepared, slots), Step(Exit(0), "runtime"))),))


def compile_remove(spec: RuntimeSpec, destinations: Sequence[str]) -> Plan:
    """The plan that takes what is mounted at the destinations away, the last one first, also where it is in use."""
    linux, slots = _checked(spec), layout(None, _PIDFD)
    steps = list(_entered(linux, slots))
    for index, destination in reversed(list(enumerate(destinations))):
        target = clean(destination)
        if target == "/" or "\0" in target:
            raise InvalidArgument(f"mounts[{index}].destination: {destination[:128]!r} is not a path inside the root")
        steps.append(Step(Umount(slots.root, target, _MNT_DETACH), f"mounts[{index}] ({target})"))
    return Plan((Stage("outside", (*steps, Step(Exit(0), "runtime"))),))


def attached(plan: Plan, index: int) -> tuple[str, ...]:
    """The destinations at which something was mounted before the plan's step `index`."""
    done = plan.stages[0].steps[:index]
    return tuple(step.op.target for step in done if isinstance(step.op, (MoveMount, Mount)))


def _checked(spec: RuntimeSpec) -> Linux:
    linux = spec.linux or Linux()
    if "mount" not in namespaces(linux):
        raise FailedPrecondition("mounts: the container has no mount namespace: they would be the host's")
    return linux


def _check(item: Prepared) -> None:
    where = f"mounts[{item.index}]"
    if item.control_groups or item.strict:  # a second proc or sysfs would have nothing masked in it
        raise InvalidArgument(f"{where}.type: {item.mount.type} can be mounted only when the container is created")
    if not item.options.bind and item.options.propagation:
        raise InvalidArgument(f"{where}.options: propagation is for mounts made with the container, and bind mounts")
    if item.options.flags & MS_REMOUNT or item.change_only:
        raise InvalidArgument(f"{where}.options: changes of what is there already are not additions")
    if "copy-symlink" in item.mount.options:
        raise InvalidArgument(f"{where}.options: copy-symlink is for mounts made with the container")
    if item.options.target_itself:
        raise InvalidArgument(f"{where}.options: dest-nofollow is for mounts made with the container")
    if item.target == "/":
        raise InvalidArgument(f"{where}.destination: the root can't be covered in a container that runs")
    if item.options.bind and item.opened == NONE:
        raise InvalidArgument(f"{where}: is one bind mount too many at once")


def _adding(linux: Linux, prepared: tuple[Prepared, ...], slots: Layout) -> Iterator[Step]:
    yield from compile_mounts.open_sources(prepared)
    yield from _entered(linux, slots)
    user_namespace = "user" in namespaces(linux)
    for item in prepared:
        yield from compile_mounts.mount_steps(item, slots, MS_SLAVE, user_namespace, live=True)
    yield from compile_mounts.held_steps(prepared, slots)


def _entered(linux: Linux, slots: Layout) -> Iterator[Step]:
    """Inside, as root of the user namespace where there is one, with a hold of the root."""
    found = namespaces(linux)
    joined = FLAGS["mount"] | (FLAGS["user"] if "user" in found else 0)
    joined |= FLAGS["ipc"] if "ipc" in found else 0  # mqueue shows that of its mounter
    yield Step(Setns(_PIDFD, joined), "linux.namespaces")
    if "user" in found:
        first = (min((m.container_id for m in side), default=0) for side in (linux.uid_mappings, linux.gid_mappings))
        yield Step(SetIds(*first), "linux.uidMappings")
    yield Step(Open(slots.root, NONE, "/", O_PATH | O_DIRECTORY, 0, 0), "root")
