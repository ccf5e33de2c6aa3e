"""Starts a container: its spec becomes a plan, a shim runs the plan, and this process follows the handshake."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from orlop.cgroups import apply as cgroups
from orlop.engine import groups, lifecycle, locks, settle
from orlop.engine.attaching import Attaching
from orlop.engine.bundle import Bundle, make_bundle, networked, user_namespace_of
from orlop.engine.oci.users import on_host
from orlop.engine.records import Container
from orlop.engine.steps import reached
from orlop.runtime.compile import CreateRequest, compile_create
from orlop.runtime.compile_cgroups import joins_early
from orlop.runtime.host import probe_host
from orlop.runtime.launch import Launched, OnSync, follow, launch_program, prepare, send_plan
from orlop.runtime.plan import Plan
from orlop.shim.client import ShimClient
from orlop.shim.spawn import Shim
from orlop.shim.spawn import start as start_shim
from orlop.spec import cancel
from orlop.spec.errors import (
    Aborted,
    FailedPrecondition,
    NotFound,
    OrlopError,
    ResourceExhausted,
    exit_code,
    os_errors,
)
from orlop.spec.runtime import IDMapping
from orlop.sys import procfs

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A container that runs. `client` is attached to its streams where that was asked for; the caller closes it."""

    container: Container
    client: ShimClient | None = None


def start(
    engine: Engine,
    container: Container,
    attach: bool = False,
    stdin: bool = False,
    policy: bool = False,
    own: bool = False,
) -> Started:
    """Start a container that does not run. On failure everything is undone and the record carries the reason.

    With `own` the result carries a client that owns the container's end, as with `attach`, but receives no output.
    `policy` says that it is started again by its restart policy, and only if nobody has stopped it meanwhile.
    """
    with settle.held(engine, container.id) as now:
        container = _present(engine, container, now)
        if policy and (container.state != lifecycle.RESTARTING or container.record.stopped_by_user):
            raise Aborted(f"container {container.name} was stopped before it could be started again")
        if container.config.pod is not None and container.state != lifecycle.CREATED:
            raise FailedPrecondition(f"container {container.id[:12]} is {container.state}: it is started once")
        if container.running and not (attach or own):
            return Started(container=container)
        place = groups.wanted(container)
        container = engine.containers.store.change(
            container.id,
            "start",
            owner=locks.this_process(),
            boot_id=procfs.boot_id(),
            cgroup=place.path,
            slice=place.unit.slice if place.unit is not None else "",
            networked=networked(container.config),
            error="",
            exit_code=0,
            oom_killed=False,
            stopped_by_user=False,
            restart_count=container.record.restart_count + 1 if policy else 0,
        )
        reached("start.recorded")
        try:
            return _start(engine, container, attach, stdin, own)
        except BaseException as error:
            with cancel.under(None):
                _undo(engine, container, error)
            raise


def _present(engine: Engine, container: Container, now: Container | None) -> Container:
    if now is None:
        raise NotFound(f"no such container: {container.name}")
    if settle.holds(now) and now.state == lifecycle.EXITED:
        now = settle.release(engine, now)
    return now


def _start(engine: Engine, container: Container, attach: bool, stdin: bool, own: bool) -> Started:
    run = engine.paths.run(container.id)
    run.mkdir(mode=0o710, exist_ok=True)
    with joined_user_namespace(engine, container) as user, engine.rootfs(container, user) as root:
        bundle = make_bundle(engine, container, root, user)
        reached("start.files")
        if container.config.oci_runtime is not None:
            return _by_another_runtime(engine, container, bundle, root, attach, stdin, own)
        if container.config.checkpoint:
            return _from_checkpoint(engine, container, bundle, root, attach or own)
        with _id_mapped(bundle, user) as idmaps:
            return _launch(engine, container, bundle, root, idmaps, attach, stdin, own)


@contextmanager
def joined_user_namespace(engine: Engine, container: Container) -> Iterator[int]:
    """A descriptor of the user namespace of the container's pod, or -1."""
    path = user_namespace_of(engine, container)
    if not path:
        yield -1
        return
    with os_errors("open the pod's user namespace"):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not user_namespace_of(engine, container):  # it would have been another process's by now
            raise FailedPrecondition(f"container {container.name}: its pod has ended")
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _id_mapped(bundle: Bundle, own: int) -> Iterator[dict[str, int]]:
    """Descriptors of the user namespaces that ids of mounts are mapped by."""
    if not any(mount.uid_mappings for mount in bundle.spec.mounts):
        yield {}
        return
    from orlop.runtime.idmaps import user_namespaces

    found = user_namespaces(bundle.spec, probe_host(), own)
    try:
        yield found
    finally:
        for fd in found.values():
            os.close(fd)


def _launch(
    engine: Engine,
    container: Container,
    bundle: Bundle,
    root: int,
    idmaps: dict[str, int],
    attach: bool,
    stdin: bool,
    own: bool,
) -> Started:
    resources = bundle.spec.linux.resources if bundle.spec.linux else None
    attaching = Attaching(engine, container) if bundle.networked else None
    plan = Plan(())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:

        def meanwhile() -> None:
            """While shim and helper start, and then while the kernel makes namespaces: the helper waits for its plan,
            then at Sync("created")."""
            nonlocal plan
            theirs.close()
            plan = compile_plan(engine, container, bundle, tuple(idmaps))
            group = None
            if not container.record.slice:  # else systemd makes it at Sync("cgroup")
                group = cgroups.begin(engine.cgroups, container.record.cgroup, resources)
            if group is not None and joins_early(plan):
                group = cgroups.finish(group)
            send_plan(ours, plan, (root, *idmaps.values()))
            if group is not None:
                cgroups.limit(cgroups.finish(group))
                reached("start.cgroup")
            if attaching is not None:
                attaching.begin()

        control, shim = _shim(engine, container, bundle, theirs.fileno(), attach or own, meanwhile=meanwhile)
    client = shim.client
    try:
        if client is not None and attach:
            client.attach(stdin=stdin)
        with control:
            launched = _follow(engine, container, plan, control, bundle, attaching)
        return _begun(engine, container, bundle, launched.pid, client, attaching)
    except BaseException:
        if client is not None:
            client.close()
        raise


def _begun(
    engine: Engine,
    container: Container,
    bundle: Bundle,
    pid: int,
    client: ShimClient | None,
    attaching: Attaching | None = None,
) -> Started:
    """What follows once Orlop's own runtime has the process run."""
    reached("start.launched")
    if bundle.spec.hooks is not None:
        from orlop.engine import container_hooks

        container_hooks.started(engine, container, bundle.spec, pid)
    return Started(container=_running(engine, container, pid, attaching), client=client)


def _shim(
    engine: Engine,
    container: Container,
    bundle: Bundle,
    plan: int,
    connect: bool,
    pid_file: str = "",
    meanwhile: Callable[[], None] | None = None,
    inherit: tuple[int, ...] = (),
) -> tuple[socket.socket, Shim]:
    """The container's supervisor, which has begun to run the plan (see `shim.spawn.start`); the socket on which to
    follow it."""
    program = launch_program()
    try:
        started = start_shim(
            container.id,
            engine.paths.run(container.id),
            plan,
            program,
            log=bundle.log,
            tty=container.config.tty,
            console=container.config.tty,
            stdin=container.config.open_stdin,
            stdin_once=container.config.stdin_once,
            owner=_stream_owner(bundle),
            on_exit=settle.on_exit_command(engine, container.id),
            connect=connect,
            pid_file=pid_file,
            oom_events=groups.oom_events(engine.cgroups, container.record),
            tell_senders=bool(container.record.slice),
            meanwhile=meanwhile,
            inherit=inherit,
            spawner=engine.spawner,
        )
    finally:
        os.close(program)
    reached("start.shim")
    return started


def _shim_with(
    engine: Engine,
    container: Container,
    bundle: Bundle,
    plan: Plan,
    connect: bool,
    pid_file: str,
    inherit: tuple[int, ...] = (),
) -> tuple[socket.socket, Shim]:
    """As `_shim`, with a plan that is there."""
    encoded = prepare(plan, inherited=len(inherit))
    try:
        return _shim(engine, container, bundle, encoded, connect, pid_file, inherit=inherit)
    finally:
        os.close(encoded)


def _from_checkpoint(engine: Engine, container: Container, bundle: Bundle, root: int, own: bool) -> Started:
    """As `_launch`, with processes that go on where they were."""
    from orlop.engine.checkpoints.restore import launch

    def shim_of(plan: Plan, inherit: tuple[int, ...], pid_file: str) -> tuple[socket.socket, Shim]:
        return _shim_with(engine, container, bundle, plan, own, pid_file, inherit)

    if not container.record.slice:
        resources = bundle.spec.linux.resources if bundle.spec.linux else None
        cgroups.create(engine.cgroups, container.record.cgroup, resources)
        reached("start.cgroup")
    pid, client = launch(engine, container, bundle, root, shim_of)
    try:
        return _begun(engine, container, bundle, pid, client)
    except BaseException:
        if client is not None:
            client.close()
        raise


def _by_another_runtime(
    engine: Engine, container: Container, bundle: Bundle, root: int, attach: bool, stdin: bool, own: bool
) -> Started:
    """As `_launch`, with a runtime that is a program of its own: see `foreign`."""
    from orlop.engine import foreign
    from orlop.runtime.handshake import Handshake
    from orlop.sys.netns import socket_in

    runtime = container.config.oci_runtime
    assert runtime is not None
    foreign.check(runtime)
    foreign.prepare(engine, container, bundle.spec, root)
    with foreign.console_socket(engine, container) as (console, listener):
        plan = foreign.create_plan(engine, container, runtime, console)
        file = foreign.pid_file(engine, container)
        control, shim = _shim_with(engine, container, bundle, plan, attach or own, file)
        client = shim.client
        try:
            if client is not None and attach:
                client.attach(stdin=stdin)
            with control:
                follow(control, plan, state=Handshake("cloned", (0,)))  # to the runtime's own beginning
            pid = foreign.await_created(engine, container, client)
            foreign.ensure_group(engine, container, bundle.spec, pid)
            if listener is not None:
                foreign.take_terminal(engine, container, listener)
            attaching = Attaching(engine, container) if bundle.networked else None
            if attaching is not None:
                with socket_in(pid, socket.AF_NETLINK, socket.SOCK_RAW) as netlink:
                    attaching.finish(pid, netlink.fileno())
            foreign.start(engine, container)
            reached("start.launched")
            return Started(container=_running(engine, container, pid, attaching), client=client)
        except BaseException:
            if client is not None:
                client.close()
            raise


def _follow(
    engine: Engine,
    container: Container,
    plan: Plan,
    control: socket.socket,
    bundle: Bundle,
    attaching: Attaching | None,
) -> Launched:
    """Follow the handshake. Where the kernel killed the helper for want of memory, the limit is what to speak of."""
    try:
        return follow(control, plan, _on_sync(engine, container, bundle, attaching))
    except OrlopError as error:
        if container.config.limits.memory and cgroups.oom_kills(engine.cgroups, container.record.cgroup):
            limit = container.config.limits.memory
            raise ResourceExhausted(
                f"container {container.name}: out of memory while it was set up: the limit of {limit} bytes is too low"
            ) from error
        raise


def compile_plan(engine: Engine, container: Container, bundle: Bundle, idmaps: tuple[str, ...] = ()) -> Plan:
    """The launch plan of a container whose root file system is handed over in slot 0, and in those that follow the
    user namespaces of `idmaps` (see `compile_mounts.idmap_key`)."""
    request = CreateRequest(
        id=container.id,
        bundle=str(engine.paths.container(container.id)),
        rootfs_slot=0,
        rootfs_target=bundle.spec.root.path if bundle.spec.root is not None else "",
        netlink_slot=1 + len(idmaps) if bundle.networked else None,
        idmaps={key: slot for slot, key in enumerate(idmaps, 1)},
        make_devices=True,
        seccomp=bundle.seccomp,
        cgroup_procs=cgroups.procs_paths(engine.cgroups, groups.wanted(container).path),
        await_cgroup=bool(container.config.cgroup_manager),
        terminal="sync" if container.config.tty else "none",
        null_streams=() if container.config.open_stdin else (0,),
        parent_death_signal=9,
        clamp=True,
    )
    return compile_create(bundle.spec, probe_host(engine.cgroups), request)


def _stream_owner(bundle: Bundle) -> tuple[int, int] | None:
    process, linux = bundle.spec.process, bundle.spec.linux
    if process is None or linux is None:
        return None
    uid, gid = process.user.uid, process.user.gid
    return on_host(uid, _ranges(linux.uid_mappings)), on_host(gid, _ranges(linux.gid_mappings))


def _ranges(mappings: tuple[IDMapping, ...]) -> tuple[tuple[int, int, int], ...]:
    return tuple((m.container_id, m.host_id, m.size) for m in mappings)


def _on_sync(engine: Engine, container: Container, bundle: Bundle, attaching: Attaching | None) -> OnSync:
    """What this process does at the points where the helper waits: systemd makes a scope around it; the network, once
    its namespace exists, while the helper goes on to Sync("network"); and the terminal, which is one of the container's
    own and belongs to the shim from then on."""

    def act(name: str, pid: int, fds: list[int]) -> Callable[[], None] | None:
        if name == "console":
            with ShimClient(engine.paths.run(container.id)) as shim:
                shim.terminal(fds[0])
        if name == "cgroup":
            groups.adopt(engine.cgroups, container.record, bundle.spec, pid)
            reached("start.cgroup")
        if name == "created":
            _write_maps(bundle, pid)
        if name == "hooks":
            from orlop.engine import container_hooks

            container_hooks.before(engine, container, bundle.spec, pid)
        if name == "created" and attaching is not None:
            return lambda: attaching.finish(pid, fds[0])
        return None

    return act


def _write_maps(bundle: Bundle, pid: int) -> None:
    """Where the user namespace is a new one, the sandbox's."""
    linux = bundle.spec.linux
    if linux is None or not any(n.type == "user" and not n.path for n in linux.namespaces):
        return
    from orlop.runtime.idmaps import write_maps

    write_maps(pid, linux.uid_mappings, linux.gid_mappings, probe_host())


def _running(engine: Engine, container: Container, pid: int, attaching: Attaching | None) -> Container:
    container = engine.containers.store.change(
        container.id,
        "started",
        "start",
        pid=pid,
        pid_start_time=procfs.start_time(pid) or 0,
        started=time.time(),
        owner=None,
        attachment=attaching.attachment if attaching is not None else container.record.attachment,
    )
    reached("start.running")
    return container


def _undo(engine: Engine, container: Container, error: BaseException) -> None:
    """A start that failed leaves a container that has ended, with the reason and Docker's exit code in its record."""
    code = exit_code(error) if isinstance(error, OrlopError) else 128
    cgroups.kill(engine.cgroups, container.record.cgroup)
    failed = engine.containers.store.change(
        container.id,
        "start failed",
        error=str(error),
        exit_code=128 if code == 125 else code,
        finished=time.time(),
        owner=locks.this_process(),
    )
    try:
        settle.release(engine, failed)
    except OrlopError:
        pass  # what failed first is what to speak of; what is still held stands in the record
    finally:
        engine.containers.store.change(container.id, "", owner=None)
