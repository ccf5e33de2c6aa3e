"""Makes a container's record true again: finishes what ended, undoes or finishes what a killed process left."""

from __future__ import annotations

import errno
import os
import time
from _thread import start_new_thread  # without what else is in threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal, overload

from orlop.engine import image_mounts, lifecycle, locks
from orlop.engine.decide import Action, settle_action, should_restart
from orlop.engine.records import Container, is_sandbox
from orlop.engine.steps import reached
from orlop.shim.state import Reality, ShimState, read_state
from orlop.spec.errors import NotFound, OrlopError, from_os
from orlop.sys import procfs

if TYPE_CHECKING:
    from orlop.engine.engine import Engine

INTERRUPTED_CODE = 128  # of a container that never came to run
LOST_CODE = 137  # what a container is said to have ended with when its supervisor was killed with it


@overload
def settled(engine: Engine, container: Container) -> Container: ...
@overload
def settled(engine: Engine, container: Container, gone_ok: Literal[True]) -> Container | None: ...
def settled(engine: Engine, container: Container, gone_ok: bool = False) -> Container | None:
    """The container as it really is. Where nothing is amiss this costs one look at its lock file.

    Raises NotFound (or returns None, if `gone_ok`) when settling meant to finish its removal.
    """
    if container.record.frozen_by is not None and not locks.alive(container.record.frozen_by):
        container = _let_go(engine, container)
    if _action(engine, container) == "nothing":
        return container
    with held(engine, container.id) as now:
        if now is not None:
            now = perform(engine, now, _action(engine, now))
        if now is not None and _action(engine, now) == "remove":
            now = perform(engine, now, "remove")
    if now is None and not gone_ok:
        raise NotFound(f"no such container: {container.name}")
    if now is not None and wants_restart(now):
        begin_restart(engine, now)
    return now


def _let_go(engine: Engine, container: Container) -> Container:
    """A process died that held the processes of a container for a checkpoint: they go on."""
    from orlop.engine.checkpoints.freeze import let_go

    with held(engine, container.id) as now:
        return container if now is None else let_go(engine, now)


@contextmanager
def held(engine: Engine, identifier: str) -> Iterator[Container | None]:
    """A container as the database has it, under its lock. None when it is gone; then no lock file stays either."""
    path = engine.paths.lock(identifier)
    with locks.exclusive(path):
        now = engine.containers.store.get(identifier)
        if now is None:
            locks.forget(path)
        yield now


def forget_locks(engine: Engine) -> None:
    """Remove the lock files of containers that are gone, left by who was killed as it removed them. A container is
    entered in the database before it has one."""
    for name in os.listdir(engine.paths.locks):
        if engine.containers.store.get(name) is None:
            locks.forget(engine.paths.lock(name))


def _action(engine: Engine, container: Container) -> Action:
    if container.state == lifecycle.CREATED and not is_sandbox(container):
        return "nothing"
    record = container.record
    owner_alive = locks.alive(record.owner) if record.owner else False
    reality = _reality(engine, container) if container.state in lifecycle.LIVE else "none"
    holds = bool(record.cgroup) and container.state == lifecycle.EXITED
    finished = container.config.auto_remove if record.started else is_sandbox(container)
    rebooted = bool(record.boot_id) and container.state in lifecycle.LIVE and record.boot_id != procfs.boot_id()
    return settle_action(container.state, owner_alive, reality, holds, rebooted, finished)


def _reality(engine: Engine, container: Container) -> Reality:
    """How shim and first process are found. The shim knows the process from when it is cloned; until it has become
    the container's program, the launch helper sets it up, which ends by itself without the one who started it."""
    state = read_state(engine.paths.run(container.id))
    if container.config.oci_runtime is not None:  # which does not end by itself: `adopt` finds out
        return "running" if state.reality == "starting" else state.reality
    if container.state == lifecycle.STARTING and state.reality == "running" and not procfs.executed(state.pid):
        return "starting"
    return state.reality


def perform(engine: Engine, container: Container, action: Action) -> Container | None:
    """Do what `settle_action` decided. The caller holds the container's lock."""
    if action == "adopt":
        return adopt(engine, container)
    if action == "finish":
        return finish(engine, container)
    if action == "release":
        return release(engine, container)
    if action == "remove":
        from orlop.engine.remove import finish_removal

        finish_removal(engine, container)
        return None
    if action == "resume restart":
        return engine.containers.store.change(container.id, "exit", owner=None)
    return container


def adopt(engine: Engine, container: Container) -> Container:
    """The process that started a container died before it could say that it runs; say so."""
    state = read_state(engine.paths.run(container.id))
    if container.config.oci_runtime is not None:
        from orlop.engine import foreign

        if not foreign.started(engine, container):  # it was made, and waits for a start that will not come
            foreign.delete(engine, container)
            _await_end(engine, container)
            return finish(engine, container)
    return engine.containers.store.change(
        container.id,
        "started",
        "start",
        pid=state.pid,
        pid_start_time=state.start_time,
        owner=None,
        started=time.time(),
        attachment=container.record.attachment or engine.networks.attachment(container.id),
    )


def _await_end(engine: Engine, container: Container, patience: float = 5.0) -> None:
    """Wait until the shim has recorded an end that is on its way."""
    deadline = time.monotonic() + patience
    while read_state(engine.paths.run(container.id)).exit is None and time.monotonic() < deadline:
        time.sleep(0.005)


def finish(engine: Engine, container: Container) -> Container:
    """Record how a container ended, then give back what it held. The caller holds the container's lock."""
    state = read_state(engine.paths.run(container.id))
    code, finished, error = _ending(engine, container, state)
    container = engine.containers.store.change(
        container.id,
        "exit",
        "die",
        exit_code=code,
        finished=finished,
        error=error,
        oom_killed=(state.exit is not None and state.exit.oom) or _oom_killed(engine, container),
        pid=0,
        owner=None,
    )
    reached("exit.recorded")
    return release(engine, container)


def _ending(engine: Engine, container: Container, state: ShimState) -> tuple[int, float, str]:
    if state.exit is not None:
        return state.exit.status, state.exit.time_ns / 1e9, container.record.error
    if container.record.boot_id != procfs.boot_id():
        return 255, time.time(), "the machine was restarted while the container ran"
    if container.state == lifecycle.STARTING and not state.pid:
        return INTERRUPTED_CODE, time.time(), "its start was interrupted: the process that started it was killed"
    return LOST_CODE, time.time(), "the container's supervisor was killed"


def _oom_killed(engine: Engine, container: Container) -> bool:
    from orlop.cgroups.apply import oom_kills

    if not container.record.cgroup:
        return False
    return oom_kills(engine.cgroups, container.record.cgroup) > 0


def holds(container: Container) -> bool:
    """Whether a container that has ended has something to give back."""
    return bool(container.record.cgroup) or container.record.networked


def release(engine: Engine, container: Container) -> Container:
    """Give back the processes, network, cgroup and run directory of a container that has ended. Idempotent.

    A network whose plugins can't do their part keeps nothing else back: it alone stays recorded as held, for the next
    attempt, and the error is raised when all the rest is done.
    """
    from orlop.cgroups import apply as cgroups
    from orlop.sys.tree import remove_tree

    if container.config.oci_runtime is not None:
        from orlop.engine import foreign

        foreign.delete(engine, container)
    own = bool(container.record.cgroup) and not container.record.slice
    gone = own and cgroups.remove_empty(engine.cgroups, container.record.cgroup)
    if container.record.cgroup and not gone:
        from orlop.engine import groups  # not for whoever only looks

        cgroups.kill(engine.cgroups, container.record.cgroup)
        _await_supervisor(engine, container)
        groups.remove(engine.cgroups, container.record)
    _unmount_shm(engine, container)
    image_mounts.unmount(engine, container)
    said = container.record.error
    if container.record.cgroup and container.config.pod is not None and container.config.pod.hooks:
        from orlop.engine import container_hooks

        said = said or container_hooks.ended(engine, container)
    remove_tree(engine.paths.run(container.id))
    kept = _detach(engine, container)
    container = engine.containers.store.change(
        container.id,
        "",
        error=said,
        cgroup="",
        slice="",
        attachment=container.record.attachment if kept else None,
        networked=kept is not None,
        pid_start_time=0,
    )
    reached("exit.released")
    if kept is not None:
        raise kept
    return container


def loosen(engine: Engine, container: Container) -> None:
    """Have threads begin with the slow parts of `release` for a container that was killed: in each the kernel waits
    until nobody looks any more. Only in a daemon, which goes on; what they leave, or can't do, `release` does."""
    if container.record.attachment is not None and engine.networks.unplug(container.record.attachment):
        start_new_thread(_unmount_soon, (engine, container))


def _unmount_soon(engine: Engine, container: Container) -> None:
    with suppress(OrlopError):
        _unmount_shm(engine, container)


def _detach(engine: Engine, container: Container) -> OrlopError | None:
    """Give back the network; what its plugins say if they don't take it. They may take their time, in which whoever
    looks at the container finds nothing else to be done."""
    if not container.record.networked:
        return None
    attachment = container.record.attachment
    if container.record.cgroup and (attachment is None or attachment.driver == "cni"):
        engine.containers.store.change(container.id, "", cgroup="", slice="", pid_start_time=0)
    try:
        engine.networks.detach(container.id, attachment)
    except OrlopError as error:
        return error
    return None


def _unmount_shm(engine: Engine, container: Container) -> None:
    """Take the shared memory away from the host; containers that have joined it keep theirs."""
    if container.config.ipc_mode != "shareable":
        return
    from orlop.engine.bundle import shm_directory
    from orlop.sys.mounts import MNT_DETACH, UMOUNT_NOFOLLOW, umount

    try:
        umount(str(shm_directory(engine, container.id)), MNT_DETACH | UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # not mounted, or never made
            raise from_os(error, "unmount the shared memory of the container") from error


def _await_supervisor(engine: Engine, container: Container, patience: float = 5.0) -> None:
    """Wait until no process of the container is left; a kill takes a moment to arrive."""
    from orlop.cgroups import apply as cgroups

    deadline = time.monotonic() + patience
    while cgroups.pids(engine.cgroups, container.record.cgroup):
        if time.monotonic() > deadline:
            raise OrlopError(f"container {container.name}: a process does not end after SIGKILL")
        time.sleep(0.002)
        cgroups.kill(engine.cgroups, container.record.cgroup)


def wants_restart(container: Container) -> bool:
    """Whether the policy asks for another start now that the container has ended."""
    record = container.record
    return (
        container.state == lifecycle.EXITED
        and should_restart(container.config.restart, record.exit_code, record.restart_count, record.stopped_by_user)
        and record.started > 0
        and not record.cgroup
    )


def begin_restart(engine: Engine, container: Container) -> None:
    """Start the process that waits for the policy's delay and starts the container again, apart from this one."""
    argv = on_exit_command(engine, container.id)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_spawn(
            argv[0],
            argv,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)],
            setsid=True,
        )
    finally:
        os.close(null)


def on_exit_command(engine: Engine, identifier: str) -> list[str]:
    """What a shim runs when its container has ended and no client cleans up."""
    import sys

    import orlop

    program = os.path.join(os.path.dirname(orlop.__file__), "__main__.py")
    return [
        sys.executable,
        "-IS",
        program,
        "internal",
        "on-exit",
        str(engine.paths.root),
        str(engine.paths.state),
        engine.namespace,
        identifier,
    ]
