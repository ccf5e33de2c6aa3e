"""Starts a container: its spec becomes a plan, a shim runs the plan, and this process follows the handshake."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgspec

from orlop.cgroups import apply as cgroups
from orlop.engine import lifecycle, locks, settle
from orlop.engine.bundle import Bundle, make_bundle
from orlop.engine.records import Container
from orlop.engine.steps import reached
from orlop.runtime import compile as compiler
from orlop.runtime.host import probe_host
from orlop.runtime.launch import LaunchFailed, follow, launch_program, prepare
from orlop.shim.client import ShimClient
from orlop.shim.spawn import start as start_shim
from orlop.spec.errors import ContainerExit, OrlopError

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A container that runs. `client` is attached to its streams where that was asked for; the caller closes it."""

    container: Container
    client: ShimClient | None = None


def start(
    engine: Engine, container: Container, attach: bool = False, stdin: bool = False, restart_count: int = 0
) -> Started:
    """Start a container that does not run. On failure everything is undone and the record carries the reason."""
    with locks.exclusive(engine.paths.lock(container.id)):
        container = _present(engine, container)
        if container.running and not attach:
            return Started(container=container)
        container = engine.containers.store.change(
            container.id,
            "start",
            owner=locks.this_process(),
            boot_id=locks.boot_id(),
            cgroup=cgroup_path(container),
            error="",
            exit_code=0,
            oom_killed=False,
            stopped_by_user=False,
            restart_count=restart_count,
        )
        reached("start.recorded")
        try:
            return _start(engine, container, attach, stdin)
        except BaseException as error:
            _undo(engine, container, error)
            raise


def _present(engine: Engine, container: Container) -> Container:
    now = engine.containers.store.get(container.id)
    if now is None:
        raise OrlopError(f"container {container.name} was removed meanwhile")
    if now.record.cgroup and now.state == lifecycle.EXITED:
        now = settle.release(engine, now)
    return now


def cgroup_path(container: Container) -> str:
    """The container's group in every hierarchy."""
    parent = container.config.cgroup_parent.strip("/") or "orlop"
    return f"/{parent}/{container.id}"


def _start(engine: Engine, container: Container, attach: bool, stdin: bool) -> Started:
    run = engine.paths.run(container.id)
    run.mkdir(mode=0o710, exist_ok=True)
    with engine.rootfs(container.id) as root:
        bundle = make_bundle(engine, container, root)
        resources = bundle.spec.linux.resources if bundle.spec.linux else None
        cgroups.create(engine.cgroups, container.record.cgroup, resources)
        reached("start.cgroup")
        return _launch(engine, container, bundle, root, attach, stdin)


def _launch(engine: Engine, container: Container, bundle: Bundle, root: int, attach: bool, stdin: bool) -> Started:
    host = probe_host()
    request = compiler.CreateRequest(
        id=container.id,
        rootfs_slot=0,
        netlink_slot=1 if bundle.networked else None,
        seccomp=bundle.seccomp,
        cgroup_procs=cgroups.procs_paths(engine.cgroups, container.record.cgroup),
        terminal="inherit" if container.config.tty else "none",
        parent_death_signal=9,
    )
    plan = compiler.compile_create(bundle.spec, host, request)
    control, shim = start_shim(
        container.id,
        engine.paths.run(container.id),
        prepare(plan, inherited=1),
        launch_program(),
        inherit=(root,),
        log=bundle.log,
        tty=container.config.tty,
        stdin=container.config.open_stdin,
        stdin_once=container.config.stdin_once,
        on_exit=settle.on_exit_command(engine, container.id),
    )
    reached("start.shim")
    client = ShimClient(engine.paths.run(container.id)) if attach else None
    try:
        if client is not None:
            client.own()
            client.attach(stdin=stdin)
        follow(control, plan, _follower(engine, container, bundle))
        reached("start.launched")
    except BaseException:
        if client is not None:
            client.close()
        raise
    finally:
        os.close(control) if isinstance(control, int) else control.close()
    return Started(container=_running(engine, container), client=client)


def _running(engine: Engine, container: Container) -> Container:
    state = settle.read_state(engine.paths.run(container.id))
    container = engine.containers.store.change(
        container.id,
        "started",
        "start",
        pid=state.pid,
        pid_start_time=state.start_time,
        started=time.time(),
        owner=None,
    )
    reached("start.running")
    return container
