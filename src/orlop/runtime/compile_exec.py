"""A further process in a container: into the plan that starts it. Pure: `compile_exec(spec, process, host, request)`.

Everything is joined through one descriptor of the container's first process (setns(2) with a pidfd), so that no path
of the container is looked at from outside.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from orlop.runtime import compile_cgroups, compile_process
from orlop.runtime.annotations import KEEP_GROUPS, is_set
from orlop.runtime.compile_console import Terminal, console_steps
from orlop.runtime.compile_layout import NONE, Layout, layout
from orlop.runtime.compile_process import PR_SET_DUMPABLE, Filter
from orlop.runtime.compile_schedule import initial_affinity
from orlop.runtime.facts import Host
from orlop.runtime.namespaces import FLAGS, namespaces
from orlop.runtime.ops import Chroot, Clone, Dup, Keyring, Prctl, SetIds, Setns, Setsid, Sync
from orlop.runtime.optable import SKIP_UNSUPPORTED
from orlop.runtime.plan import Plan, Stage, Step
from orlop.spec.errors import FailedPrecondition
from orlop.spec.runtime import Linux, Process, RuntimeSpec


class ExecRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants beside container and process; slots are those of descriptors that it hands over.

    `pidfd_slot` holds a pidfd of the container's first process; `root_slot` its root directory, needed where the
    container has no mount namespace. `seccomp` is the assembled program for linux.seccomp. `terminal`: as in
    `CreateRequest`. `cgroup_procs` are the files to join the container's groups through, at
    which the parent helps at Sync("cgroup") with `await_cgroup`. `preserve` are slots that
    stay open in the process, as 3, 4, ...
    """

    id: str
    pidfd_slot: int = 0
    root_slot: int | None = None
    seccomp: Filter | None = None
    cgroup_procs: tuple[str, ...] = ()
    await_cgroup: bool = False
    terminal: Terminal = "none"
    console_slot: int | None = None
    parent_death_signal: int = 0
    preserve: dict[int, int] = {}
    keyring: bool = True
    clamp: bool = False


def compile_exec(spec: RuntimeSpec, process: Process, host: Host, request: ExecRequest) -> Plan:
    """The plan for another process in the running container of `spec`. Raises as `compile_create` does."""
    linux = spec.linux or Linux()
    user_namespace = any(namespace.type == "user" for namespace in linux.namespaces)
    compile_process.check_process(process, host, user_namespace)
    if linux.seccomp is not None and request.seccomp is None:
        raise FailedPrecondition("linux.seccomp: the request brings no assembled program for it")
    slots = layout(request.root_slot, request.pidfd_slot, request.console_slot, *request.preserve.values())
    keep_groups = is_set(spec.annotations, KEEP_GROUPS)
    inside = _inside(linux, process, host, request, slots, user_namespace, keep_groups)
    return Plan(
        (
            Stage("outside", tuple(_outside(linux, process, host, request, slots, user_namespace))),
            Stage("container", tuple(inside)),
        )
    )


def _outside(
    linux: Linux, process: Process, host: Host, request: ExecRequest, slots: Layout, user_namespace: bool
) -> Iterator[Step]:
    if request.await_cgroup:
        yield Step(Sync("cgroup", ()), "linux.cgroupsPath")
    if host.lesser:  # see `compile`
        yield Step(Prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "runtime")
    yield from compile_process.outside_steps(process, host, user_namespace, request.clamp)
    if host.lesser:
        yield Step(Prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "runtime")
    yield from initial_affinity(process)
    yield from compile_cgroups.joins(request.cgroup_procs, host)
    birthplace = tuple(compile_cgroups.birthplace(request.cgroup_procs, host, slots.cgroup))
    yield from birthplace
    yield from compile_process.label_steps(process)
    if request.keyring:
        yield from compile_process.keyring_label(process)
    joined = namespaces(linux).flags
    if birthplace:
        joined &= ~FLAGS["cgroup"]
    if joined:
        yield Step(Setns(request.pidfd_slot, joined), "linux.namespaces")
    yield Step(Clone(0, slots.cgroup if birthplace else NONE), "linux.namespaces (pid)")


def _inside(
    linux: Linux,
    process: Process,
    host: Host,
    request: ExecRequest,
    slots: Layout,
    user_namespace: bool,
    keep_groups: bool,
) -> Iterator[Step]:
    groups = compile_process.group_rights(host, user_namespace)
    yield Step(Sync("created", ()), "runtime")
    if "cgroup" in namespaces(linux) and any(compile_cgroups.birthplace(request.cgroup_procs, host, slots.cgroup)):
        # From inside of it, nothing can be born out of a group outside of it: ENOENT (cgroup-v2, "Delegation")
        yield Step(Setns(request.pidfd_slot, FLAGS["cgroup"]), "linux.namespaces (cgroup)")
    if request.root_slot is not None:
        yield Step(Chroot(request.root_slot), "root.path")
    if user_namespace:
        first = [min((m.container_id for m in side), default=0) for side in (linux.uid_mappings, linux.gid_mappings)]
        yield Step(SetIds(*first), "linux.uidMappings")
        if not keep_groups:
            yield from compile_process.group_steps((), groups, "linux.gidMappings")
    yield Step(Setsid(), "process")
    if request.keyring:
        yield Step(Keyring(f"_ses.{request.id}"), "process", SKIP_UNSUPPORTED)
    yield from console_steps(
        process, slots, request.terminal, request.console_slot, mounts=False, ptmx=(NONE, "/dev/ptmx")
    )
    yield from compile_process.process_steps(
        process,
        linux,
        host,
        slots,
        filter_=request.seccomp if linux.seccomp is not None else None,
        user_namespace=user_namespace,
        groups=groups,
        death_signal=request.parent_death_signal,
        clamp=request.clamp,
        init=False,
        keep_groups=keep_groups,
    )
    for number, slot in request.preserve.items():
        yield Step(Dup(slot, number), "preserved descriptors")
    yield compile_process.execve(process)
