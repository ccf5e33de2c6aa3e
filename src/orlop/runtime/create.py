"""`create`, and the first half of `run`: a bundle becomes a container (runtime.md, "Lifecycle", steps 1 to 6)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from orlop.cgroups import apply as cgroups
from orlop.cgroups import driver
from orlop.cgroups.compile import writes
from orlop.cgroups.facts import CgroupHost, points, unescape, without
from orlop.cgroups.files import read
from orlop.cgroups.units import Place
from orlop.runtime import hooks, idmaps
from orlop.runtime.annotations import HOOKS_STDERR, HOOKS_STDOUT, SECCOMP_UNKNOWN, is_set
from orlop.runtime.children import children
from orlop.runtime.compile import CreateRequest, Terminal, compile_create, compile_from_outside
from orlop.runtime.compile_cgroups import born_inside, joins_early
from orlop.runtime.compile_checks import mounts_on_host
from orlop.runtime.compile_process import Filter, available, ungranted, unraised
from orlop.runtime.debug import debug
from orlop.runtime.facts import Host
from orlop.runtime.home import with_home
from orlop.runtime.host import probe_host
from orlop.runtime.launch import launch
from orlop.runtime.ops import AwaitStart
from orlop.runtime.plan import Plan
from orlop.runtime.state import CONFIG, FIFO, NOTIFY, HostRoot, Record, Store
from orlop.runtime.streams import null_streams, own_streams, stream_names
from orlop.spec.document import Document
from orlop.spec.errors import FailedPrecondition, InvalidArgument, from_os
from orlop.spec.runtime import Hooks, Linux, Process, Resources, RuntimeSpec, State, parse_runtime_spec
from orlop.sys.procfs import boot_id, start_time

if TYPE_CHECKING:
    from orlop.runtime.net_devices import Moved
    from orlop.runtime.notify import NotifySocket


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to create. `console` is a connected socket that the terminal's master is sent over; `on_console` takes the
    master instead. `preserve` are descriptors that the process gets by
    the same numbers. `start`: run through at once, instead
    of waiting for `start`. `warn` is told what had to be left out. `notify` is made in
    the container, and listens with `start`."""

    bundle: str
    id: str
    config: str = CONFIG  # relative to the bundle
    console: int | None = None
    on_console: Callable[[int], None] | None = None
    preserve: tuple[int, ...] = ()
    pivot: bool = True
    keyring: bool = True
    start: bool = False
    systemd: bool = False  # lets systemd make the control group
    cgroups: bool = True  # without, it has no control groups of its own
    rootless: bool | None = None  # whether to do without control groups that can't be had; None: unless one is root
    environment: tuple[str, ...] = ()  # added to process.env
    warn: Callable[[str], None] = lambda _: None
    notify: NotifySocket | None = None


def read_bundle(bundle: str, config: str = CONFIG) -> Document[RuntimeSpec]:
    """The configuration of a bundle, in a file of it or, with an absolute path, elsewhere."""
    path = os.path.join(bundle, config)
    try:
        with open(path, "rb") as file:
            return parse_runtime_spec(file.read())
    except OSError as error:
        raise from_os(error, "read") from error


def plan_of(
    spec: RuntimeSpec, bundle: str, identifier: str, host: Host, seccomp_cache: str, systemd: bool = False
) -> Plan:
    """The plan that `create` would run, with nothing made."""
    return plans_of(spec, bundle, identifier, host, seccomp_cache, systemd)[0]


def plans_of(
    spec: RuntimeSpec, bundle: str, identifier: str, host: Host, seccomp_cache: str, systemd: bool = False
) -> tuple[Plan, ...]:
    """The same, and those that the parent would run at each Sync("mounts") of it."""
    spec = idmaps.with_mappings(spec)
    groups, place = place_of(spec, host, identifier, systemd)
    request = CreateRequest(
        id=identifier,
        bundle=bundle,
        seccomp=seccomp_program(spec, seccomp_cache),
        cgroup_procs=cgroups.procs_paths(groups, place.path) if place.path else (),
        await_cgroup=place.adopted,
        await_start_slot=0,
        terminal="sync" if spec.process is not None and spec.process.terminal else "none",
        idmaps=_idmap_slots(spec, 1),
        links=_links(spec, bundle),
        make_devices=_makes_devices(host),
        netlink_slot=_netlink_slot(spec, 1 + len(_idmap_slots(spec, 1))),
    )
    return compile_create(spec, host, request), *compile_from_outside(spec, host, request)


def _idmap_slots(spec: RuntimeSpec, first: int) -> dict[str, int]:
    from orlop.runtime.compile_mounts import idmap_key

    keys = [idmap_key(spec, index) for index in range(len(spec.mounts))]
    return {key: first + i for i, key in enumerate(dict.fromkeys(key for key in keys if key))}


def _makes_devices(host: Host) -> bool:
    """Whether device nodes can be made here, and mounts copied from one that is attached nowhere (Linux 6.15)."""
    if host.uid or host.kernel < (6, 15) or not host.may("CAP_MKNOD"):
        return False
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() == ["0", "0", "4294967295"]  # the initial user namespace


def _links(spec: RuntimeSpec, bundle: str) -> dict[int, str]:
    """What the sources with copy-symlink say, where they are links."""
    found = {}
    for index, mount in enumerate(spec.mounts):
        if "copy-symlink" in mount.options:
            try:
                found[index] = os.readlink(os.path.join(bundle, mount.source))
            except OSError:  # not a link, or not there: bound, or told then
                continue
    return found


def _netlink_slot(spec: RuntimeSpec, free: int) -> int | None:
    return free if spec.linux is not None and spec.linux.net_devices else None


def whole_mounts(mountinfo: str) -> tuple[str, ...]:
    """Where all of a proc or sysfs is mounted (proc_pid_mountinfo(5)), the last mounted first."""
    found = []
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split(" ")[3] == "/" and rest.split(" ")[0] in ("proc", "sysfs"):
            found.append(unescape(fields.split(" ")[4]))
    return tuple(reversed(found))


def place_of(
    spec: RuntimeSpec, host: Host, identifier: str, systemd: bool, rootless: bool | None = None
) -> tuple[CgroupHost, Place]:
    """The hierarchies that the container gets groups in, and their place, which has no path where it gets none."""
    wanted = spec.linux.cgroups_path if spec.linux else ""
    if systemd or not (host.lesser if rootless is None else rootless):
        held = without(host.cgroups, frozenset()) if host.lesser else host.cgroups
        return held, driver.placed(wanted, identifier, systemd)
    from orlop.cgroups.place import place

    groups, path = place(host.cgroups, wanted, identifier, not host.lesser, children().parent)
    return groups, Place(path)


def seccomp_program(spec: RuntimeSpec, cache: str) -> Filter | None:
    """The assembled filter, or None where the configuration has none."""
    if spec.linux is None or spec.linux.seccomp is None:
        return None
    if is_set(spec.annotations, SECCOMP_UNKNOWN):
        from orlop.seccomp.assemble import refuse_unknown

        refuse_unknown(spec.linux.seccomp)
    from orlop.seccomp.cache import program

    found = program(spec.linux.seccomp, cache)
    debug(f"seccomp filter flags: {found.flags}")
    return found


def create(store: Store, options: Options) -> Record:
    """Make the container. Of a failure nothing is left; its poststop hooks have run if its process ever was."""
    document = read_bundle(options.bundle, options.config)
    spec, host = document.value, probe_host()
    groups, place = host.cgroups, Place("")
    if options.cgroups:
        groups, place = place_of(spec, host, options.id, options.systemd, options.rootless)
    record = new_record(spec, options, place, points(groups) if host.lesser else ())
    if spec.process is not None:
        process = msgspec.structs.replace(spec.process, env=spec.process.env + options.environment)
        spec = msgspec.structs.replace(spec, process=with_home(process, record.rootfs))
    spec = idmaps.with_mappings(spec)
    if not options.cgroups:
        check_no_groups(spec, options.warn)
    directory = store.path(options.id, NOTIFY)
    if options.notify is not None:
        from orlop.runtime.notify import with_socket

        spec = with_socket(spec, directory)
    making = _Making(store, options, spec, host, record, groups)
    # whatever is wrong in the configuration shows before anything is made
    making.compile(dry=True)
    if options.cgroups and not place.path and spec.linux is not None:
        writes(spec.linux.resources, groups)  # to see that there is no limit without a group
    debug(f"create: the configuration of {options.bundle} is in order; container {options.id} is made")
    store.reserve(record)
    try:
        store.write(options.id, CONFIG, document.raw)
        if options.notify is not None:
            options.notify.make(directory)
            if options.start:
                options.notify.listen(directory)
        return making.make()
    except BaseException:
        making.undo()
        raise
    finally:
        if making.netlink >= 0:
            os.close(making.netlink)


def check_no_groups(spec: RuntimeSpec, warn: Callable[[str], None]) -> None:
    """Refuse what can't be without control groups. Rules for devices are in every configuration: they are told of."""
    linux, reason = spec.linux or Linux(), "cannot be without control groups (--cgroup-manager=disabled)"
    resources = linux.resources
    if resources is not None and msgspec.structs.replace(resources, devices=()) != Resources():
        raise InvalidArgument(f"linux.resources: {reason}")
    if resources is not None and resources.devices:
        warn(f"linux.resources.devices: {reason}; the rules are left out")
    own = any(namespace.type == "cgroup" for namespace in linux.namespaces)
    for index, mount in enumerate(spec.mounts):
        if mount.type in ("cgroup", "cgroup2") and not own and not {"bind", "rbind"} & set(mount.options):
            raise InvalidArgument(f"mounts[{index}].type: {mount.type} {reason}; give it a cgroup namespace")


def _awaits(plan: Plan) -> int:
    return next((i for i, step in enumerate(plan.stages[-1].steps) if isinstance(step.op, AwaitStart)), 0)


def new_record(spec: RuntimeSpec, options: Options, place: Place, hierarchies: tuple[str, ...]) -> Record:
    """What is known of a container before anything of it is made."""
    root = spec.root.path if spec.root else ""
    return Record(
        id=options.id,
        bundle=options.bundle,
        created=_timestamp(time.time_ns()),
        oci_version=spec.oci_version,
        boot_id=boot_id(),
        cgroup=place.path,
        unit=place.unit,
        hierarchies=hierarchies,
        rootfs=os.path.normpath(os.path.join(options.bundle, root)),
        owner=os.geteuid(),
        creator=os.getpid(),
        creator_start=start_time(os.getpid()) or 0,
        annotations=spec.annotations,
        descriptors=stream_names(),
        host_root=_host_root(spec, os.path.normpath(os.path.join(options.bundle, root))),
    )


def _host_root(spec: RuntimeSpec, rootfs: str) -> HostRoot | None:
    if not mounts_on_host(spec):
        return None
    from orlop.runtime import host_mounts

    return host_mounts.found(rootfs)


def _timestamp(nanoseconds: int) -> str:
    """RFC 3339 with nanoseconds, in UTC."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09}Z"


class _Making:
    """One creation: what has been made so far, so that it can be undone."""

    def __init__(
        self, store: Store, options: Options, spec: RuntimeSpec, host: Host, record: Record, groups: CgroupHost
    ) -> None:
        self.store = store
        self.options = options
        self.spec = spec
        self.host = host
        self.record = record
        self.groups = groups
        self.compiled: tuple[CreateRequest, Plan] | None = None
        self.new_group: cgroups.New | None = None
        self.inherited: list[int] = []
        self.mine: list[int] = []  # of those, the ones to close here
        self.cgroup_made = False
        self.bound = 0  # mounts that were made for it from outside
        self.netlink = -1  # of the container's network namespace, where `moved` are
        self.moved: tuple[Moved, ...] = ()

    @property
    def linux(self) -> Linux:
        return self.spec.linux or Linux()

    @property
    def process(self) -> Process:
        """That of the configuration; without one, what the container's first process is until a start is refused."""
        return self.spec.process or Process(cwd="/")

    @property
    def hooks(self) -> Hooks:
        return self.spec.hooks or Hooks()

    def make(self) -> Record:
        """All steps; the record at the end."""
        options = self.options
        self._warn()
        try:
            plan = self.compile(dry=False)
            if not self.record.cgroup:
                self.cgroup_made = True  # there is nothing to make, and yet processes to kill
            elif not self.record.place.adopted and joins_early(plan):
                self._make_group()
            elif not self.record.place.adopted and born_inside(plan):
                self._begin_group()
            own_streams(self.process.user, self.linux)
            self.record = msgspec.structs.replace(self.record, awaits=_awaits(plan))
            launched = launch(
                plan,
                inherit=self.inherited,
                on_sync=self._on_sync,
                until="" if options.start else "ready",
                on_clone=self._born,
                meanwhile=None if self.record.place.adopted or not self.record.cgroup else self._limit_group,
            )
        finally:
            for fd in self.mine:
                os.close(fd)
            self.mine.clear()
        return self._recorded(launched.pid, phase="running" if options.start else "created")

    def _begin_group(self) -> cgroups.New:
        debug(f"control group: {self.record.cgroup} in {len(points(self.groups))} hierarchies")
        self.new_group = cgroups.begin(self.groups, self.record.cgroup, self.linux.resources)
        return self.new_group

    def _make_group(self) -> cgroups.New:
        self.new_group = cgroups.finish(self.new_group or self._begin_group())
        self.cgroup_made = True
        return self.new_group

    def _limit_group(self) -> None:
        """While the helper starts and makes namespaces, which takes as long. It then waits at Sync("created")."""
        cgroups.limit(self.new_group if self.cgroup_made and self.new_group else self._make_group())

    def compile(self, dry: bool) -> Plan:
        """The plan; with `dry` only to see that there is one, with nothing opened."""
        options, process = self.options, self.spec.process
        start = None if options.start else self._inherit(None if dry else self._fifo())
        console = None if options.console is None else self._inherit(options.console, mine=False)
        preserve = {fd: self._inherit(fd, mine=False) for fd in options.preserve}
        idmapped = self._idmaps(dry)
        streams = self._hook_streams(dry, len(self.inherited) + (len(idmapped) if dry else 0))
        free = len(self.inherited) + (len(idmapped) if dry else 0)
        request = CreateRequest(
            id=options.id,
            bundle=options.bundle,
            seccomp=self._seccomp(),
            cgroup_procs=cgroups.procs_paths(self.groups, self.record.cgroup) if self.record.cgroup else (),
            await_cgroup=self.record.place.adopted,
            terminal=self._terminal() if process is not None and process.terminal else "none",
            preserve=preserve,
            idmaps=idmapped,
            links=_links(self.spec, options.bundle),
            make_devices=bool(self.linux.devices) and _makes_devices(self.host),
            hook_streams=streams,
            netlink_slot=_netlink_slot(self.spec, free),
            pivot=options.pivot,
            whole_mounts=() if options.pivot else whole_mounts(read("/proc/self/mountinfo")),
            keyring=options.keyring,
            await_start_slot=start,
            console_slot=console,
            null_streams=null_streams(),
        )
        if dry:
            self.inherited.clear()
        # The request names slots, not descriptors: it is the same both times, and so is the plan.
        if self.compiled is None or self.compiled[0] != request:
            self.compiled = request, compile_create(self.spec, self.host, request)
        return self.compiled[1]

    def _seccomp(self) -> Filter | None:
        if self.compiled is not None:
            return self.compiled[0].seccomp
        return seccomp_program(self.spec, os.path.join(self.store.root, ".seccomp"))

    def _terminal(self) -> Terminal:
        if self.options.console is None and self.options.on_console is None:
            raise InvalidArgument("process.terminal: a detached container needs --console-socket")
        return "socket" if self.options.console is not None else "sync"

    def _inherit(self, fd: int | None, mine: bool = True) -> int:
        self.inherited.append(-1 if fd is None else fd)
        if fd is not None and mine:
            self.mine.append(fd)
        return len(self.inherited) - 1

    def _idmaps(self, dry: bool) -> dict[str, int]:
        if not any(mount.uid_mappings or "idmap" in "".join(mount.options) for mount in self.spec.mounts):
            return {}
        if dry:
            return _idmap_slots(self.spec, len(self.inherited))
        return {key: self._inherit(fd) for key, fd in idmaps.user_namespaces(self.spec, self.host).items()}

    def _hook_streams(self, dry: bool, first: int) -> tuple[int, ...]:
        """For hooks that the helper runs: where annotations have them write to, and what comes back after them."""
        named = {HOOKS_STDOUT, HOOKS_STDERR} & self.spec.annotations.keys()
        if not named or not (self.hooks.create_container or self.hooks.start_container):
            return ()
        opened = (None, None) if dry else hooks.open_streams(self.spec.annotations)
        for number, fd in enumerate(opened, 1):
            self._inherit(number if fd is None else fd, mine=fd is not None)
        for number in (1, 2):
            self._inherit(number, mine=False)
        return tuple(range(first, first + 4))

    def _fifo(self) -> int:
        path = self.store.path(self.options.id, FIFO)
        try:
            os.mkfifo(path, 0o600)
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise from_os(error, "make") from error

    def _warn(self) -> None:
        own = any(namespace.type == "user" for namespace in self.linux.namespaces)
        limit = available(self.host, own)
        for name in ungranted(self.process.capabilities, limit):
            self.options.warn(f"process.capabilities: {name} cannot be granted here and is left out")
        for name in unraised(self.process.capabilities, limit):
            self.options.warn(
                f"process.capabilities.ambient: can't raise ambient capability {name}: it is not both permitted and"
                " inheritable"
            )

    # --- while the helper runs

    def _on_sync(self, name: str, pid: int, fds: Sequence[int]) -> None:
        getattr(self, f"_at_{name}")(pid, fds)

    def _at_cgroup(self, pid: int, fds: Sequence[int]) -> None:
        driver.adopt(self.groups, self.record.place, self.linux.resources, self.spec.annotations, pid)
        self.cgroup_made = True

    def _born(self, pid: int) -> None:
        """The process is on its way to Sync("created"); nothing of it may outlive us that is not recorded by then."""
        self.store.publish(self._recorded(pid))

    def _at_created(self, pid: int, fds: Sequence[int]) -> None:
        if self._new_user_namespace() and not self.host.lesser:
            self._map(pid)
        if self.linux.intel_rdt is not None:
            from orlop.runtime import resctrl

            resctrl.make(self.linux.intel_rdt, self.record.id, self.host.resctrl)
            resctrl.join(self.linux.intel_rdt, self.record.id, self.host.resctrl, pid)
        if self.linux.net_devices:
            from orlop.runtime import net_devices

            self.netlink = os.dup(fds[0])
            self.moved = net_devices.move(self.linux.net_devices, pid, fds[0])

    def _at_network(self, pid: int, fds: Sequence[int]) -> None:
        """What there is to do has been done at Sync("created")."""

    def _at_idmaps(self, pid: int, fds: Sequence[int]) -> None:
        self._map(pid)

    def _new_user_namespace(self) -> bool:
        return any(namespace.type == "user" and not namespace.path for namespace in self.linux.namespaces)

    def _map(self, pid: int) -> None:
        idmaps.write_maps(pid, self.linux.uid_mappings, self.linux.gid_mappings, self.host)

    def _at_mounts(self, pid: int, fds: Sequence[int]) -> None:
        assert self.compiled is not None
        request = self.compiled[0]
        plan = compile_from_outside(self.spec, self.host, request)[self.bound]
        self.bound += 1
        pidfd = os.pidfd_open(pid)
        try:
            inherit = (pidfd, *(self.inherited[slot] for slot in request.idmaps.values()))
            children().wait(launch(plan, inherit=inherit).pid)
        finally:
            os.close(pidfd)

    def _at_hooks(self, pid: int, fds: Sequence[int]) -> None:
        state = self._state("creating")
        hooks.run_hooks(self.hooks.prestart, "hooks.prestart", state)
        hooks.run_hooks(self.hooks.create_runtime, "hooks.createRuntime", state)

    def _at_console(self, pid: int, fds: Sequence[int]) -> None:
        if self.options.on_console is None:
            raise FailedPrecondition("process.terminal: nobody takes the terminal")
        self.options.on_console(os.dup(fds[0]))

    def _at_seccomp(self, pid: int, fds: Sequence[int]) -> None:
        from orlop.runtime.listener import hand_over

        assert self.linux.seccomp is not None
        hand_over(self.linux.seccomp, fds[0], self._state("creating"), pid)

    def _at_ready(self, pid: int, fds: Sequence[int]) -> None:
        """The state says so only when the helper is left alone, which `make` does."""

    def _recorded(self, pid: int, phase: str = "creating") -> Record:
        self.record = msgspec.structs.replace(
            self.record, init_process_pid=pid, init_process_start=start_time(pid) or 0, phase=phase
        )
        self.store.save(self.record)
        return self.record

    def _state(self, status: str) -> State:
        record = self.record
        return State(
            oci_version=record.oci_version,
            id=record.id,
            status=status,  # type: ignore[arg-type]
            pid=record.init_process_pid,
            bundle=record.bundle,
            annotations=record.annotations,
        )

    def undo(self) -> None:
        """Take back what was made, as `delete --force` would."""
        from orlop.runtime.delete import destroy

        if self.moved:
            from orlop.runtime import net_devices

            net_devices.bring_back(self.moved, self.netlink)
        try:
            children().wait(self.record.init_process_pid, os.WNOHANG) if self.record.init_process_pid else None
        except ChildProcessError:
            pass
        if self.new_group is not None and not self.cgroup_made:
            cgroups.discard(self.new_group)
        ran = bool(self.record.init_process_pid)
        destroy(self.store, self.record, self.spec if ran else None, self.options.warn, self.cgroup_made)
