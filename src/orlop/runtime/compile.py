"""A configuration into the plan that makes its container. Pure: `compile_create(spec, host, request) -> Plan`.

The first stage is still outside: it takes hold of what the container's own rights would not reach, joins namespaces,
and clones the second stage into the new ones. That one furnishes the container in the order which the specification's
hooks and the kernel ask for, becomes the container's user, and ends in execve.

For who is not root on the machine the first stage makes the user namespace itself, and what else it has rights to only
there.

Sync points, at which the parent has something to do:

    cgroup    nothing is done yet: put the helper into the group that it is to make (only with `await_cgroup`)
    idmaps    the user namespace is there, for who is not root: write id maps, which at `created` then is done
    created   the namespaces are there: write id maps; with the netlink socket if one is asked for, by which the parent
              attaches the network when it has answered
    network   whatever follows needs the network (only with `netlink_slot`)
    hooks     before the root changes: run prestart and createRuntime hooks (only where there are any)
    mounts    mount what takes rights from outside: `compile_from_outside` has a plan for each time
    console   with the terminal's master (only with `terminal="sync"`)
    seccomp   with the listener (only where a rule notifies)
    ready     all is done but start (only with `await_start_slot`)
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from orlop.runtime import compile_cgroups, compile_checks, compile_mounts, compile_process
from orlop.runtime.annotations import KEEP_GROUPS, is_set
from orlop.runtime.compile_console import Terminal, console_steps, opened_outside
from orlop.runtime.compile_devices import device_steps, directory_itself, made_outside
from orlop.runtime.compile_devices import outside_steps as outside_devices
from orlop.runtime.compile_exec import ExecRequest, compile_exec
from orlop.runtime.compile_idmaps import ways
from orlop.runtime.compile_layout import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    NONE,
    O_CLOEXEC,
    O_DIRECTORY,
    O_NOFOLLOW,
    O_PATH,
    O_RDWR,
    OPEN_TREE_CLONE,
    PROC_MAGIC,
    Layout,
    layout,
)
from orlop.runtime.compile_mounts import Prepared, clean
from orlop.runtime.compile_process import PR_SET_DUMPABLE, Filter
from orlop.runtime.compile_sysctl import sysctl_steps
from orlop.runtime.facts import Host
from orlop.runtime.mount_options import ATTR_RDONLY, MS_PRIVATE, MS_REC, MS_SLAVE
from orlop.runtime.namespaces import FLAGS, NSFS_MAGIC, Namespaces, flags, namespaces
from orlop.runtime.ops import (
    AwaitStart,
    Chdir,
    Chroot,
    Clone,
    Close,
    Dup,
    Exit,
    Hook,
    Keyring,
    LinkUp,
    Mask,
    Mkdir,
    Mount,
    MountSetattr,
    MoveMount,
    MoveRoot,
    Op,
    Open,
    OpenTree,
    PivotRoot,
    Prctl,
    Propagation,
    SetDomainname,
    SetHostname,
    SetIds,
    Setns,
    Setsid,
    Socket,
    Sync,
    Umount,
    Unshare,
    WriteFile,
)
from orlop.runtime.optable import SKIP_DENIED, SKIP_MISSING, SKIP_UNSUPPORTED
from orlop.runtime.plan import Plan, Stage, Step
from orlop.spec.document import encode
from orlop.spec.errors import FailedPrecondition
from orlop.spec.runtime import Hook as HookSpec
from orlop.spec.runtime import IDMapping, Linux, Process, RuntimeSpec, State

__all__ = ["CreateRequest", "ExecRequest", "Terminal", "compile_create", "compile_exec", "compile_from_outside"]

_MNT_DETACH = 2
_AF_NETLINK, _SOCK_RAW, _NETLINK_ROUTE = 16, 3, 0


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants beside the configuration.

    Slots are those of descriptors that the caller hands over (`inherit` of `launch`, in order), except `netlink_slot`,
    which the plan fills with a socket in the container's network namespace and hands to the parent at Sync("created").

    `bundle` is the absolute directory that relative paths start from. `rootfs_slot` is a detached mount to take as the
    root instead of root.path. `seccomp` is the assembled program, needed where linux.seccomp is there. `cgroup_procs`
    are the files of all hierarchies to join through; their directories must exist, with `await_cgroup` after
    Sync("cgroup"). `preserve` are slots that stay open in the process, by the numbers that they have there. `idmaps`
    are slots of user namespaces for mapped mounts, by `compile_mounts.idmap_key`. `links` tells what links say that a
    mount with copy-symlink has as its source, by the mount's index. `make_devices`: the caller may make device nodes,
    and mounts of them, which a process in a user namespace may not. `hook_streams`: slots of what hooks in the
    container's namespaces write to, output and errors, and of the container's own two, which are put back.
    `whole_mounts` are where the host has all of proc or sysfs mounted: hidden where the root can't pivot. `clamp`
    lowers limits and the OOM score to what this host lets us set, where that is less than asked for.
    `rootfs_target` is a directory of the host where a root from `rootfs_slot` is, in the container's mount namespace,
    while hooks look for it. `null_streams` are those standard streams that are the host's null device.
    """

    id: str
    bundle: str = ""
    rootfs_slot: int | None = None
    rootfs_target: str = ""
    netlink_slot: int | None = None
    seccomp: Filter | None = None
    cgroup_procs: tuple[str, ...] = ()
    await_cgroup: bool = False
    terminal: Terminal = "none"
    console_slot: int | None = None
    await_start_slot: int | None = None
    parent_death_signal: int = 0
    preserve: dict[int, int] = {}
    idmaps: dict[str, int] = {}
    links: dict[int, str] = {}
    make_devices: bool = False
    hook_streams: tuple[int, ...] = ()
    pivot: bool = True
    whole_mounts: tuple[str, ...] = ()
    keyring: bool = True
    clamp: bool = False
    null_streams: tuple[int, ...] = ()


class _Context(msgspec.Struct, frozen=True):
    """All that the parts below look at."""

    spec: RuntimeSpec
    linux: Linux
    process: Process
    host: Host
    request: CreateRequest
    namespaces: Namespaces
    slots: Layout
    mounts: tuple[Prepared, ...]

    @property
    def user_namespace(self) -> bool:
        return "user" in self.namespaces

    @property
    def made_devices(self) -> tuple[int, ...]:
        wanted = self.user_namespace and self.own_mounts and self.request.make_devices and not self.host.lesser
        return made_outside(self.linux, wanted and not _own_dev(self))

    @property
    def keeps_groups(self) -> bool:
        return is_set(self.spec.annotations, KEEP_GROUPS)

    @property
    def joins_outside(self) -> bool:
        """Whether the first stage enters the control groups: later their files are out of reach, or not ours.

        Otherwise the container's process does, so that the helper never counts against a limit of processes.
        """
        return self.user_namespace or "mount" in self.namespaces.joined

    @property
    def groups(self) -> compile_process.GroupRights:
        if "user" in self.namespaces.new:
            allowed = ways(self.host, self.linux.uid_mappings, self.linux.gid_mappings).groups and self.host.setgroups
            return "set" if allowed else "keep"
        return compile_process.group_rights(self.host, "user" in self.namespaces.joined)

    @property
    def own_mounts(self) -> bool:
        return "mount" in self.namespaces

    @property
    def mounts_on_host(self) -> bool:
        """Whether its mounts are made in the host's mount namespace, in a copy of the root that lies over the root."""
        return bool(compile_checks.mounts_on_host(self.spec)) and self.root_path is not None

    @property
    def root_path(self) -> str | None:
        """Where the root is to be copied from, unless it was handed in."""
        if self.request.rootfs_slot is not None:
            return None
        assert self.spec.root is not None
        return posixpath.normpath(posixpath.join(self.request.bundle, self.spec.root.path))


def compile_create(spec: RuntimeSpec, host: Host, request: CreateRequest) -> Plan:
    """The plan for a new container.

    Raises InvalidArgument for what is wrong in the configuration, FailedPrecondition for what this host can't do, and
    Unimplemented for what Orlop can't do yet; each names the field by its JSON path.
    """
    compile_checks.check(spec, host, request.bundle, waits=request.await_start_slot is not None)
    context = _context(spec, host, request)
    return Plan(
        (
            Stage("outside", tuple(_outside(context))),
            Stage("container", tuple(_inside(context))),
        )
    )


def _context(spec: RuntimeSpec, host: Host, request: CreateRequest) -> _Context:
    linux = spec.linux or Linux()
    spec = msgspec.structs.replace(spec, linux=linux)
    if linux.seccomp is not None and request.seccomp is None:
        raise FailedPrecondition("linux.seccomp: the request brings no assembled program for it")
    found = namespaces(linux)
    slots = layout(
        request.rootfs_slot,
        request.netlink_slot,
        request.console_slot,
        request.await_start_slot,
        *request.preserve.values(),
        *request.idmaps.values(),
        *request.hook_streams,
    )
    c = _Context(spec, linux, spec.process or Process(cwd="/"), host, request, found, slots, ())
    mounts = compile_mounts.prepare(
        spec,
        request.bundle,
        slots,
        "user" in found,
        request.idmaps,
        request.links,
        own_network="network" in found,
        root=c.root_path or "",
        moved=c.root_path is not None and _attach_point(c) != c.root_path,
        whole=_whole(host),
    )
    return msgspec.structs.replace(c, mounts=mounts)


def _whole(host: Host) -> tuple[str, ...]:
    """Options of a copy of the host's sysfs by those who can't leave out what is mounted on it: read-only all through,
    where the kernel has that (mount_setattr(2), Linux 5.12)."""
    if not host.lesser:
        return ()
    return ("rbind", "rro") if host.kernel >= (5, 12) else ("rbind",)


# --- outside


def _outside(c: _Context) -> Iterator[Step]:
    if c.host.lesser:
        yield from _outside_of_user(c)
        return
    yield from outside_devices(c.linux, c.made_devices, c.slots)  # before rules for devices bind this process
    yield from _taken_along(c)
    yield from _time(c)
    yield from _trees(c)
    yield from _join(c)
    yield from _birth(c)


def _taken_along(c: _Context) -> Iterator[Step]:
    """What is had from outside, beside trees of mounts."""
    if c.request.await_cgroup:
        yield Step(Sync("cgroup", ()), "linux.cgroupsPath")
    yield from compile_process.outside_steps(c.process, c.host, c.user_namespace, c.request.clamp)
    for offset, (name, path) in enumerate(c.namespaces.joined.items()):
        yield Step(Open(c.slots.namespaces + offset, NONE, path, O_CLOEXEC, 0, NSFS_MAGIC), _namespace(name, path))
    if c.joins_outside:
        yield from compile_cgroups.joins(c.request.cgroup_procs, c.host)
    yield from _birthplace(c)


def _birthplace(c: _Context) -> tuple[Step, ...]:
    return tuple(compile_cgroups.birthplace(c.request.cgroup_procs, c.host, c.slots.cgroup))


def _trees(c: _Context) -> Iterator[Step]:
    if not (c.own_mounts or c.mounts_on_host):
        return
    if c.user_namespace and c.root_path is not None:
        op = OpenTree(c.slots.root, NONE, c.root_path, OPEN_TREE_CLONE | AT_RECURSIVE)
        yield Step(op, f"root.path ({c.root_path})")
    yield from compile_mounts.open_sources(c.mounts)
    if c.request.terminal == "inherit":
        yield from opened_outside(c.slots)


def _birth(c: _Context, before: frozenset[str] = frozenset()) -> Iterator[Step]:
    """The container's process, in the new namespaces but those that there have been made `before`."""
    if "network" in c.namespaces.joined:
        yield from _netlink(c)
    # The root of a control group namespace is where its maker stands, which the child does only once it is born.
    late = {"time", "cgroup"} | before
    yield Step(Clone(flags(c.namespaces.new - late), c.slots.cgroup if _birthplace(c) else NONE), "linux.namespaces")


def _outside_of_user(c: _Context) -> Iterator[Step]:
    """The same for who is not root on the machine.

    Files in /proc of a process that is not dumpable are root's, so that it could neither write its own nor get id maps
    from the parent. While it is, only this user's processes see it: it is in no namespace of a container but a user
    namespace of its own. Who may not mount where it stands takes hold of trees only in a mount namespace that the new
    user namespace owns; who may does it before, with the rights that it has over files.
    """
    yield Step(Prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "runtime")
    yield from _taken_along(c)
    if c.host.may_mount:
        yield from _trees(c)
        yield from _join(c)
    before = frozenset[str]()
    if "user" in c.namespaces.new:
        before = frozenset({"user"})
        yield Step(Unshare(FLAGS["user"]), "linux.namespaces (user)")
        yield Step(Sync("idmaps", ()), "linux.uidMappings")
    yield from _time(c)
    yield Step(Prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "runtime")
    if not c.host.may_mount:
        yield from _join(c)
        if c.user_namespace and "mount" in c.namespaces.new:
            before |= {"mount"}
            yield Step(Unshare(FLAGS["mount"]), "linux.namespaces (mount)")
        yield from _trees(c)
    yield from _birth(c, before)


def _namespace(name: str, path: str) -> str:
    return f"linux.namespaces ({name} at {path})"


def _join(c: _Context) -> Iterator[Step]:
    """Join namespaces, the user namespace last: with root's rights outside the others can be joined whoever owns
    them. Without those it comes first, and gives the rights over those it owns."""
    order = [item for item in enumerate(c.namespaces.joined.items()) if not (item[1][0] == "cgroup" and _born_first(c))]
    order.sort(key=lambda item: (item[1][0] == "user") == c.host.may_mount)
    for offset, (name, path) in order:
        yield Step(Setns(c.slots.namespaces + offset, FLAGS[name]), _namespace(name, path))


def _born_first(c: _Context) -> bool:
    """Whether a control group namespace is joined only by the child. From inside of one, nothing is born out of a
    group outside of it (ENOENT: cgroup-v2, "Delegation"); in a new user namespace, the right to join one is gone."""
    procs = compile_cgroups.birthplace(c.request.cgroup_procs, c.host, c.slots.cgroup)
    return "user" not in c.namespaces.new and any(procs)


def _time(c: _Context) -> Iterator[Step]:
    """Offsets can be set only while no process is in the namespace: it is made for children, of which the container's
    process is the first."""
    if "time" not in c.namespaces.new:
        return
    yield Step(Unshare(FLAGS["time"]), "linux.namespaces (time)")
    if c.linux.time_offsets:
        lines = (f"{clock} {offset.secs} {offset.nanosecs}\n" for clock, offset in c.linux.time_offsets.items())
        op = WriteFile(NONE, "/proc/self/timens_offsets", 0, PROC_MAGIC, "".join(lines).encode())
        yield Step(op, "linux.timeOffsets")


# --- inside


def _inside(c: _Context) -> Iterator[Step]:
    yield from _created(c)
    yield from _own_identity(c)
    yield from _isolation(c)
    yield from _file_system(c)
    if early := _needs_network_early(c):
        yield from _network(c)
    yield from _kernel(c)
    yield from _hooks(c)
    yield from compile_process.label_steps(c.process)  # after hooks of the host, which are not to run by them
    yield from _enter_root(c)
    yield from _null_streams(c)
    if not early:
        yield from _network(c)
    yield from compile_process.process_steps(
        c.process,
        c.linux,
        c.host,
        c.slots,
        filter_=c.request.seccomp if c.linux.seccomp is not None else None,
        user_namespace=c.user_namespace,
        groups=c.groups,
        death_signal=c.request.parent_death_signal,
        clamp=c.request.clamp,
        init=True,
        keep_groups=c.keeps_groups,
    )
    yield from _start(c)


def _created(c: _Context) -> Iterator[Step]:
    if "network" not in c.namespaces.joined:
        yield from _netlink(c)
    fds = () if c.request.netlink_slot is None else (c.request.netlink_slot,)
    yield Step(Sync("created", fds), "runtime")


def _netlink(c: _Context) -> Iterator[Step]:
    """A socket that the parent may use: of a namespace that is joined it is opened while its owner's rights are there,
    of a new one by the process that is born with them (netlink_capable asks for those of the opener)."""
    if c.request.netlink_slot is not None:
        op = Socket(c.request.netlink_slot, _AF_NETLINK, _SOCK_RAW | O_CLOEXEC, _NETLINK_ROUTE)
        yield Step(op, "linux.namespaces (network)")


def _needs_network_early(c: _Context) -> bool:
    """Whether the network is needed before the process itself is there: by hooks, or for a setting of an interface."""
    return c.spec.hooks is not None or any(".conf." in name or ".neigh." in name for name in c.linux.sysctl)


def _network(c: _Context) -> Iterator[Step]:
    """Wait until the parent has attached the network, which it does while the file system is made."""
    if c.request.netlink_slot is not None:
        yield Step(Sync("network", ()), "linux.namespaces (network)")


def _own_identity(c: _Context) -> Iterator[Step]:
    """In a user namespace: become its root, as soon as the parent has written the maps."""
    if not c.user_namespace:
        return
    origin = "linux.uidMappings" if "user" in c.namespaces.new else "linux.namespaces (user)"
    yield Step(SetIds(_first(c.linux.uid_mappings), _first(c.linux.gid_mappings)), origin)
    if not c.keeps_groups:
        yield from compile_process.group_steps((), c.groups, origin)


def _first(mappings: tuple[IDMapping, ...]) -> int:
    """0 where it is mapped, else the lowest id that is; 0 for a namespace whose maps are not known."""
    return min((mapping.container_id for mapping in mappings), default=0)


def _isolation(c: _Context) -> Iterator[Step]:
    if not c.joins_outside:
        yield from compile_cgroups.joins(c.request.cgroup_procs, c.host)
    if "cgroup" in c.namespaces.new:
        yield Step(Unshare(FLAGS["cgroup"]), "linux.namespaces (cgroup)")
    elif "cgroup" in c.namespaces.joined and _born_first(c):
        path = c.namespaces.joined["cgroup"]
        slot = c.slots.namespaces + list(c.namespaces.joined).index("cgroup")
        yield Step(Setns(slot, FLAGS["cgroup"]), _namespace("cgroup", path))
    yield Step(Setsid(), "process")
    if c.request.keyring:
        yield from compile_process.keyring_label(c.process)
        yield Step(Keyring(f"_ses.{c.request.id}"), "process", SKIP_UNSUPPORTED)
    if "network" in c.namespaces.new:
        yield Step(LinkUp("lo"), "linux.namespaces (network)")


def _file_system(c: _Context) -> Iterator[Step]:
    """The root with all that is mounted and made in it, before it becomes the root."""
    if not (c.own_mounts or c.mounts_on_host):
        assert c.root_path is not None
        yield Step(Open(c.slots.root, NONE, c.root_path, O_PATH, 0, 0), f"root.path ({c.root_path})")
        yield from console_steps(c.process, c.slots, c.request.terminal, c.request.console_slot, mounts=False)
        return
    if c.own_mounts:
        path = None if c.user_namespace else c.root_path
        yield from compile_mounts.root_steps(c.spec, c.slots, path, _root_target(c))
    else:
        yield from compile_mounts.covering_root(c.slots, c.root_path or "")
    for item in c.mounts:
        if item.control_groups:
            yield from _cgroup_mount(c, item)
        elif _from_outside(c, item):
            yield Step(Sync("mounts", ()), item.origin)
        else:
            yield from compile_mounts.mount_steps(item, c.slots, _peers(c), c.user_namespace)
            if not c.own_mounts and item.options.bind and not item.keeps_peers:
                yield from compile_mounts.no_peer(item, c.slots)
    if not _own_dev(c):
        if not any(item.target == "/dev" for item in c.mounts):
            yield from directory_itself(c.slots, "/dev")
        yield from device_steps(c.spec, c.slots, c.user_namespace or c.host.user_namespace, c.made_devices)
    yield from console_steps(c.process, c.slots, c.request.terminal, c.request.console_slot, mounts=True)
    if clean(c.process.cwd) != "/":
        yield Step(Mkdir(c.slots.root, clean(c.process.cwd), 0o755, 0, 0), f"process.cwd ({c.process.cwd})")


def _root_target(c: _Context) -> str:
    """The root's own path, but in a user namespace only where a hook wants it: it may be out of reach there."""
    hooked = c.spec.hooks is not None and bool(c.spec.hooks.create_container)
    if c.root_path is None:
        return c.request.rootfs_target if hooked and c.request.rootfs_target else "/"
    return c.root_path if hooked or not c.user_namespace else "/"


def _attach_point(c: _Context) -> str:
    return compile_mounts.attach_point(c.spec, _root_target(c))


def _from_outside(c: _Context, item: Prepared) -> bool:
    """Whether it takes rights of the machine's root, over ids of the host's and over file systems, where the mounts
    before it are."""
    return bool(item.inside) and c.user_namespace and not c.host.lesser


def compile_from_outside(spec: RuntimeSpec, host: Host, request: CreateRequest) -> tuple[Plan, ...]:
    """For each Sync("mounts") of the plan of the same arguments, the one that the parent runs meanwhile.

    A source in the root that is to be bound into a user namespace: it is opened, and its ids mapped, with the rights
    of root on the machine, but in the container's mount namespace; the rest is done with the container's own rights,
    as if its own process did it. Slot 0 is a pidfd of that process, and those of `idmaps` follow in order.
    """
    c = _context(spec, host, request)
    return tuple(Plan((Stage("mounts", tuple(_bound_in(c, i))),)) for i in c.mounts if _from_outside(c, i))


def _bound_in(c: _Context, item: Prepared) -> Iterator[Step]:
    handed = {slot: 1 + index for index, slot in enumerate(c.request.idmaps.values())}
    slots, origin = layout(None, 0, *handed.values()), item.origin
    item = msgspec.structs.replace(item, idmap=handed.get(item.idmap, NONE))
    yield Step(Setns(0, FLAGS["mount"]), origin)
    yield Step(Open(slots.root, NONE, _attach_point(c), O_PATH | O_DIRECTORY, 0, 0), origin)
    yield from compile_mounts.open_late(item, slots)
    yield Step(Setns(0, FLAGS["user"]), origin)
    yield Step(SetIds(_first(c.linux.uid_mappings), _first(c.linux.gid_mappings)), origin)
    yield from compile_mounts.bound_steps(item, slots, 0, True)
    yield Step(Exit(0), origin)


def _peers(c: _Context) -> int:
    """What becomes of trees that were opened outside: peers of the host's mounts only beneath a root that is shared."""
    return {"shared": 0, "rshared": 0, "private": MS_PRIVATE, "rprivate": MS_PRIVATE}.get(
        c.linux.rootfs_propagation, MS_SLAVE
    )


def _own_dev(c: _Context) -> bool:
    """Whether /dev is bound from elsewhere, with all that belongs in it."""
    return any(item.target == "/dev" and item.options.bind for item in c.mounts)


def _cgroup_mount(c: _Context, item: Prepared) -> Iterator[Step]:
    groups = c.host.cgroups
    if "cgroup" in c.namespaces:
        mounts = tuple(groups.mounts.items()) if groups.mode != "v2" else ()
        yield from compile_mounts.own_cgroup_steps(item, c.slots, mounts, groups.unified)
        return
    directories = {path.removesuffix("/cgroup.procs") for path in c.request.cgroup_procs}
    group = _group(groups.unified, groups.mounts, directories)
    shown = compile_mounts.hierarchies(groups.mounts, groups.unified, group) if groups.mode != "v2" else ()
    found = tuple(_shown(c, each, directories) for each in shown)
    unified = groups.unified + group if directories else groups.unified + c.host.own_groups.get("", "")
    yield from compile_mounts.cgroup_steps(item, c.slots, found, unified)


def _shown(c: _Context, hierarchy: compile_mounts.Hierarchy, directories: set[str]) -> compile_mounts.Hierarchy:
    """A hierarchy as the container sees it; where it has no group of its own, with that of this process."""
    if hierarchy.directory in directories or not c.host.own_groups:
        return hierarchy
    name = hierarchy.data.partition(",")[0]  # of a v1 controller; of v2 empty
    point = c.host.cgroups.mounts.get(name, c.host.cgroups.unified)
    return msgspec.structs.replace(hierarchy, directory=point + c.host.own_groups.get(name, ""))


def _group(unified: str, mounts: dict[str, str], directories: set[str]) -> str:
    """The container's path in every hierarchy, found by taking off the mount points."""
    for point in (unified, *mounts.values()):
        for directory in directories:
            if point and directory.startswith(point + "/"):
                return directory[len(point) :]
    return ""


def _kernel(c: _Context) -> Iterator[Step]:
    """What is the kernel's, not the file system's. Written while the host's /proc is there."""
    yield from sysctl_steps(c.linux.sysctl)
    if c.spec.hostname:
        yield Step(SetHostname(c.spec.hostname), f"hostname ({c.spec.hostname})")
    if c.spec.domainname:
        yield Step(SetDomainname(c.spec.domainname), f"domainname ({c.spec.domainname})")


def _hooks(c: _Context) -> Iterator[Step]:
    hooks = c.spec.hooks
    if hooks is None:
        return
    if hooks.prestart or hooks.create_runtime:
        yield Step(Sync("hooks", ()), "hooks.createRuntime" if hooks.create_runtime else "hooks.prestart")
    if hooks.create_container:  # as in other runtimes, the root that is to be is where they work
        yield Step(Chdir(c.slots.root, "/"), "hooks.createContainer")
    yield from _hook_steps(c, hooks.create_container, "hooks.createContainer", "creating")


def _hook_steps(
    c: _Context, hooks: tuple[HookSpec, ...], where: str, status: Literal["creating", "created"]
) -> Iterator[Step]:
    """Hooks in the container's namespaces. They see the container's process by the pid that it has there."""
    state = State(
        oci_version=c.spec.oci_version,
        id=c.request.id,
        status=status,
        pid=1 if "pid" in c.namespaces.new else 0,
        bundle=c.request.bundle,
        annotations=c.spec.annotations,
    )
    # startContainer hooks are programs of the container: without an environment of their own they get its process's
    own = c.process.env if where == "hooks.startContainer" else ()
    if hooks:
        yield from _streams(c.request.hook_streams[:2], where)
    for index, hook in enumerate(hooks):
        op = Hook(hook.path, hook.args or (hook.path,), hook.env or own, (hook.timeout or 0) * 1000, encode(state))
        yield Step(op, f"{where}[{index}]")
    if hooks and c.request.hook_streams:
        terminal = c.request.terminal != "none"
        yield from _streams((c.slots.slave,) * 2 if terminal else c.request.hook_streams[2:], where)


def _streams(slots: tuple[int, ...], where: str) -> Iterator[Step]:
    """Make two slots the standard output and the standard error."""
    for number, slot in enumerate(slots, 1):
        yield Step(Dup(slot, number), where)


def _enter_root(c: _Context) -> Iterator[Step]:
    assert c.spec.root is not None
    if not (c.own_mounts or c.mounts_on_host):
        yield Step(Chroot(c.slots.root), "root.path")
        return
    yield from compile_mounts.held_steps(c.mounts, c.slots)
    yield from _hidden(c)
    if c.spec.root.readonly:
        yield Step(MountSetattr(c.slots.root, AT_EMPTY_PATH, ATTR_RDONLY, 0, 0, NONE), "root.readonly")
    if not c.own_mounts:
        yield Step(Chroot(c.slots.root), "root.path")
        return
    if not c.request.pivot:
        yield from _nothing_whole(c)
    op: Op = PivotRoot(c.slots.root) if c.request.pivot else MoveRoot(c.slots.root)
    yield Step(op, "root.path")
    yield from compile_mounts.root_propagation(c.spec)
    if c.request.await_start_slot is not None:  # while it waits for start, nothing of this is held open
        s = c.slots
        for slot in (s.root, s.tree, s.file, s.null, s.master, s.slave, s.tty):
            yield Step(Close(slot), "runtime")


def _nothing_whole(c: _Context) -> Iterator[Step]:
    """A root that is only moved leaves the host's mounts in the namespace. While a whole /proc or /sys is among them
    the kernel lets a user namespace below mount another, with nothing masked in it (mount_too_revealing)."""
    inside = (c.root_path or "/").rstrip("/") + "/"
    for path in c.request.whole_mounts:
        if path.startswith(inside):
            continue
        origin = f"root.path (hides the host's {path})"
        if c.user_namespace:  # what it was born with it can't take off, but cover
            yield Step(Mount("tmpfs", NONE, path, "tmpfs", ATTR_RDONLY, ""), origin)
            continue
        yield Step(Propagation(NONE, path, MS_SLAVE | MS_REC), origin)
        yield Step(Umount(NONE, path, _MNT_DETACH), origin)


def _null_streams(c: _Context) -> Iterator[Step]:
    """The container's own null device in place of the host's: a descriptor of the host's /dev would lead out of the
    mount namespace, and a process that has one can't be checkpointed."""
    if c.request.terminal != "none" or not c.own_mounts or _own_dev(c) or not c.request.null_streams:
        return
    yield Step(Close(c.slots.null), "process")  # a missing one then leaves the slot empty, and the rest does nothing
    yield Step(Open(c.slots.null, NONE, "/dev/null", O_RDWR | O_NOFOLLOW, 0, 0), "process", SKIP_MISSING | SKIP_DENIED)
    for fd in c.request.null_streams:
        yield Step(Dup(c.slots.null, fd), "process")
    yield Step(Close(c.slots.null), "process")


def _hidden(c: _Context) -> Iterator[Step]:
    """Masked and read-only paths; what is missing needs neither.

    Those in /proc and /sys are looked for in the very file system that is meant. Were /proc swapped for another
    directory after it was mounted, all of them would be missing there, and none hidden where they are.
    """
    held = ""
    over = tuple((m.target + "/", m) for m in reversed(c.mounts) if not m.change_only)
    if c.linux.masked_paths:
        yield Step(Open(c.slots.null, NONE, "/dev/null", O_PATH, 0, 0), "linux.maskedPaths")
    for index, path in enumerate(c.linux.masked_paths):
        origin, point = f"linux.maskedPaths[{index}]", _kernel_mount(over, clean(path))
        yield from _held(c, held, held := point, origin)
        yield Step(Mask(c.slots.file if point else c.slots.root, clean(path)[len(point) :], c.slots.null), origin)
    for index, path in enumerate(c.linux.readonly_paths):
        origin, tree, point = f"linux.readonlyPaths[{index}]", c.slots.tree, _kernel_mount(over, clean(path))
        yield from _held(c, held, held := point, origin)
        at, inside = c.slots.file if point else c.slots.root, clean(path)[len(point) :]
        yield Step(Close(tree), origin)  # a missing path then leaves the slot empty, and the rest does nothing
        yield Step(OpenTree(tree, at, inside, OPEN_TREE_CLONE | AT_RECURSIVE), f"{origin} ({path})", SKIP_MISSING)
        yield Step(MoveMount(tree, at, inside), origin)
        yield Step(MountSetattr(tree, AT_EMPTY_PATH | AT_RECURSIVE, ATTR_RDONLY, 0, 0, NONE), origin)


def _kernel_mount(over: Sequence[tuple[str, Prepared]], path: str) -> str:
    """The mount of proc or sysfs that a path is in by its name, or an empty string. `over` are all mounts, the last one
    first, with what the paths inside begin with."""
    for prefix, mount in over:
        if path.startswith(prefix):
            return mount.target if mount.strict else ""
    return ""


def _held(c: _Context, held: str, wanted: str, origin: str) -> Iterator[Step]:
    """Hold the mount at `wanted`, unless it is held already."""
    if wanted and wanted != held:
        magic = next(m.strict for m in reversed(c.mounts) if m.target == wanted and not m.change_only)
        yield Step(Open(c.slots.file, c.slots.root, wanted, O_PATH | O_NOFOLLOW | O_DIRECTORY, 0, magic), origin)


def _start(c: _Context) -> Iterator[Step]:
    for number, slot in c.request.preserve.items():
        yield Step(Dup(slot, number), "preserved descriptors")
    if c.request.await_start_slot is not None:
        yield Step(Sync("ready", ()), "runtime")
        yield Step(AwaitStart(c.request.await_start_slot), "start")
    if c.spec.hooks is not None:
        yield from _hook_steps(c, c.spec.hooks.start_container, "hooks.startContainer", "created")
    if c.spec.process is not None:  # without one there is nothing that a start could run
        yield compile_process.execve(c.process)
