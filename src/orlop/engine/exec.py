"""Further processes in a running container. A foreground one is a child of this process, so that nothing copies its
streams; a detached one is the shim's."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING, Literal

import msgspec

from orlop.cgroups.processes import entry_paths
from orlop.engine import users
from orlop.engine.config import ExecConfig
from orlop.engine.exec_template import remember
from orlop.engine.oci.process import exec_process
from orlop.engine.records import Container
from orlop.runtime.compile_exec import ExecRequest, compile_exec
from orlop.runtime.host import bounding_set, probe_host
from orlop.runtime.launch import follow, launch, launch_program, prepare
from orlop.runtime.plan import Plan
from orlop.seccomp.cache import program
from orlop.spec.document import decode
from orlop.spec.errors import ContainerExit, FailedPrecondition, InvalidArgument, NotFound
from orlop.spec.runtime import Process, RuntimeSpec
from orlop.sys import procfs

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


class ExecSession(msgspec.Struct, frozen=True, kw_only=True):
    """A process that runs. `master` is the caller's side of its terminal, -1 without one; the caller closes it."""

    pid: int
    detached: bool = False
    master: int = -1
    files: str = ""  # of one that another runtime has started: where what it is told, and tells, begins

    def kill(self) -> None:
        """End the process at once. Only for one that is not detached and has not been waited for."""
        if self.files:
            from orlop.engine import foreign

            foreign.end_exec(self.files, self.pid)
        os.kill(self.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """End the process, and let go of it. Only for one that is not detached."""
        self.kill()
        self.wait()
        if self.master >= 0:
            os.close(self.master)

    def wait(self) -> int:
        """Wait for its end; the exit status as a shell counts it. Only for one that is not detached."""
        _, status = os.waitpid(self.pid, 0)
        if self.files:
            from orlop.engine import foreign

            foreign.forget_exec(self.files)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


def execute(engine: Engine, container: Container, config: ExecConfig, stdio: tuple[int, int, int]) -> ExecSession:
    """Start the process. Raises ContainerExit (126, 127) when the command can't be executed."""
    if not container.running:
        raise FailedPrecondition(f"container {container.name} is not running")
    if container.state == "paused":
        raise FailedPrecondition(f"container {container.name} is paused, unpause the container before exec")
    spec = read_spec(engine, container)
    process = _process(container, spec, config)
    if container.config.oci_runtime is not None:
        from orlop.engine import foreign

        return foreign.execute(engine, container, process, config, stdio)
    pidfd = _pidfd(container)
    try:
        if config.detach:
            return _detached(engine, container, _plan(engine, container, spec, process, "none"), pidfd)
        if config.tty:
            return _on_terminal(_plan(engine, container, spec, process, "sync"), pidfd)
        plan = _plan(engine, container, spec, process, "none")
        session = ExecSession(pid=launch(plan, stdio, inherit=(pidfd,)).pid)
        if config == ExecConfig(command=config.command, open_stdin=config.open_stdin):
            remember(engine.paths.run(container.id), container.record, plan)
        return session
    finally:
        os.close(pidfd)


def _pidfd(container: Container) -> int:
    """A descriptor of the container's first process: of that very process, whatever number is given out again."""
    pid = container.record.pid
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise FailedPrecondition(f"container {container.name} is not running") from None
    if procfs.start_time(pid) != container.record.pid_start_time:
        os.close(fd)
        raise FailedPrecondition(f"container {container.name} is not running")
    return fd


def _on_terminal(plan: Plan, pidfd: int) -> ExecSession:
    """With a terminal of its own, made inside the container; its master comes back at a sync point."""
    masters: list[int] = []

    def keep(name: str, pid: int, fds: list[int]) -> None:
        if name == "console":
            masters.append(os.dup(fds[0]))

    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        launched = launch(plan, (null, null, null), inherit=(pidfd,), on_sync=keep)
    except BaseException:
        for master in masters:
            os.close(master)
        raise
    finally:
        os.close(null)
    return ExecSession(pid=launched.pid, master=masters[0])


def _detached(engine: Engine, container: Container, plan: Plan, pidfd: int) -> ExecSession:
    """As a child of the shim, which outlives this process and reaps it."""
    from orlop.shim.client import ShimClient

    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    encoded, program_fd = prepare(plan, inherited=1), launch_program()
    try:
        with control:
            with theirs, ShimClient(engine.paths.run(container.id)) as shim:
                shim.exec_detached(encoded, theirs.fileno(), program_fd, inherit=(pidfd,))
            return ExecSession(pid=follow(control, plan).pid, detached=True)
    finally:
        os.close(program_fd)
        os.close(encoded)


def read_spec(engine: Engine, container: Container) -> RuntimeSpec:
    """The spec that a running container was started from."""
    path = engine.paths.container(container.id) / "config.json"
    try:
        return decode(path.read_bytes(), RuntimeSpec, str(path))
    except FileNotFoundError:
        raise NotFound(f"container {container.name}: {path} is missing") from None


def _process(container: Container, spec: RuntimeSpec, config: ExecConfig) -> Process:
    identity = _identity(container, config.user) if config.user else None
    return exec_process(spec, config, identity, bounding_set())


def _identity(container: Container, user: str) -> users.Identity:
    """Who `user` is by the files that the container has now. They are resolved beneath its root, not through it."""
    from orlop.sys.inroot import read_in_root

    root = os.open(f"/proc/{container.record.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        passwd, group = (read_in_root(root, name).decode("utf-8", "replace") for name in ("etc/passwd", "etc/group"))
    finally:
        os.close(root)
    try:
        return users.resolve(user, passwd, group)
    except (InvalidArgument, NotFound) as error:
        raise ContainerExit(str(error), 126) from error


def _plan(
    engine: Engine, container: Container, spec: RuntimeSpec, process: Process, terminal: Literal["none", "sync"]
) -> Plan:
    seccomp = spec.linux.seccomp if spec.linux else None
    assembled = program(seccomp, engine.paths.state / "seccomp") if seccomp is not None else None
    request = ExecRequest(
        id=container.id,
        pidfd_slot=0,
        seccomp=assembled,
        cgroup_procs=entry_paths(engine.cgroups, container.record.cgroup, container.record.pid),
        terminal=terminal,
        clamp=True,
    )
    return compile_exec(spec, process, probe_host(engine.cgroups), request)
