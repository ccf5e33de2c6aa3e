"""Containers that another OCI runtime runs: any program with the command line of runc.

The shim stays what it is: parent of the container's first process, owner of its streams, keeper of its exit status.
What differs is who makes the container: the plan that the shim's helper performs is one step, which becomes
`RUNTIME create`. That leaves when the container is made; its first process, whose number is in a file that the runtime
wrote, is then the shim's child, as the shim is the nearest subreaper. It waits until `RUNTIME start`, before which the
network of a sandbox is brought into its namespace.

    create   by the shim         streams and terminal (--console-socket) are the shim's
    start    by this process     a record that says `running` is written afterwards
    exec     by this process     `RUNTIME exec` in the foreground: its exit status is the command's
    kill     `RUNTIME kill`
    delete   `RUNTIME delete --force`, when what the container held is given back

Groups, statistics, limits and freezing are the kernel's, and done as for any other container.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from orlop.engine import groups
from orlop.engine.config import ExecConfig, OciRuntime
from orlop.engine.records import Container
from orlop.runtime.compile_layout import NONE
from orlop.runtime.host import probe_host
from orlop.runtime.ops import Ctty, Execve, Setsid
from orlop.runtime.plan import Plan, Stage, Step
from orlop.shim.client import ShimClient
from orlop.shim.state import read_state
from orlop.spec.document import encode
from orlop.spec.errors import (
    ContainerExit,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    OrlopError,
    Unavailable,
    os_errors,
)
from orlop.spec.runtime import Mount, Process, Root, RuntimeSpec
from orlop.sys.procfs import descendants

if TYPE_CHECKING:
    from orlop.engine.engine import Engine
    from orlop.engine.exec import ExecSession

PATIENCE = 120.0  # seconds that a runtime is given for a command
_MESSAGE_MAX = 64 << 10  # bytes of what a runtime prints that are read
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VERSION = "1.0.2"  # of the specification, that every runtime takes; later ones add fields alone
_PROC = Mount(destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev"))
_NOT_THERE = ("not found in $path", "no such file or directory")


def runtime_of(container: Container) -> OciRuntime | None:
    """Which program runs a container; None for Orlop's own runtime."""
    return container.config.oci_runtime


def check(runtime: OciRuntime) -> None:
    """Raises FailedPrecondition where there is no such program."""
    if not os.path.exists(runtime.path):
        raise FailedPrecondition(f"runtime handler {runtime.name}: {runtime.path} is missing")
    if not os.path.isfile(runtime.path) or not os.access(runtime.path, os.X_OK):
        raise FailedPrecondition(f"runtime handler {runtime.name}: {runtime.path} is not an executable file")


# --- what is asked of it


def rootfs_path(engine: Engine, container: Container) -> Path:
    """Where the root file system is mounted: another runtime takes no descriptor of it."""
    return engine.paths.run(container.id) / "rootfs"


def pid_file(engine: Engine, container: Container) -> str:
    return str(engine.paths.run(container.id) / "runtime.pid")


def _log(engine: Engine, identifier: str) -> Path:
    return engine.paths.run(identifier) / "runtime.log"


def mount_rootfs(engine: Engine, container: Container, root: int) -> None:
    from orlop.sys.mounts import move_mount

    path = rootfs_path(engine, container)
    with os_errors("mount the root file system of the container"):
        path.mkdir(mode=0o700, exist_ok=True)
        move_mount(root, str(path))


def adapted(spec: RuntimeSpec, rootfs: str, score: int | None) -> RuntimeSpec:
    """The specification for a runtime that finds the root by its path. `score` is the lowest oom_score_adj that this
    process may give; None for any. Pure."""
    replace = msgspec.structs.replace
    process = spec.process
    if process is not None and process.oom_score_adj is not None and score is not None:
        process = replace(process, oom_score_adj=max(process.oom_score_adj, score))
    read_only = spec.root.readonly if spec.root else False
    mounts = spec.mounts
    if all(mount.destination.rstrip("/") != "/proc" for mount in mounts):  # sysctls are written through it
        mounts = (_PROC, *mounts)
    return replace(
        spec, oci_version=_VERSION, root=Root(path=rootfs, readonly=read_only), process=process, mounts=mounts
    )


def prepare(engine: Engine, container: Container, spec: RuntimeSpec, root: int) -> None:
    """Put root and config.json where the runtime looks for them."""
    mount_rootfs(engine, container, root)
    host = probe_host()
    score = None if host.may("CAP_SYS_RESOURCE") else host.oom_score_adj
    spec = adapted(spec, str(rootfs_path(engine, container)), score)
    with os_errors("write config.json of the container"):
        (engine.paths.container(container.id) / "config.json").write_bytes(encode(spec))


def _root(engine: Engine, runtime: OciRuntime) -> Path:
    return Path(runtime.root) if runtime.root else engine.paths.state / "handlers" / runtime.name


def _command(engine: Engine, runtime: OciRuntime, *words: str) -> tuple[str, ...]:
    return (runtime.path, "--root", str(_root(engine, runtime)), "--log-format", "json", *runtime.options, *words)


def _becoming(command: Sequence[str], origin: str, terminal: bool = False) -> Plan:
    """The plan of a process that becomes `command`; with `terminal`, in a session that its standard input controls."""
    session = (Step(Setsid()), Step(Ctty(NONE), "process.terminal")) if terminal else ()
    end = Step(Execve((command[0],), tuple(command), tuple(_environment())), origin)
    return Plan((Stage("runtime", (*session, end)),))


def _environment() -> list[str]:
    return [f"PATH={os.environ.get('PATH', _PATH)}", *(f"HOME={home}" for home in [os.environ.get("HOME")] if home)]


def create_plan(engine: Engine, container: Container, runtime: OciRuntime, console: str) -> Plan:
    """`RUNTIME create`. What it complains about goes to a log: its standard streams are the container's."""
    words = ["create", "--bundle", str(engine.paths.container(container.id)), "--pid-file"]
    words.append(pid_file(engine, container))
    words += ["--console-socket", console] if console else []
    systemd = ("--systemd-cgroup",) if container.record.slice else ()
    command = _command(engine, runtime, *systemd, "--log", str(_log(engine, container.id)), *words, container.id)
    return _becoming(command, f"runtime handler {runtime.name}")


@contextmanager
def console_socket(engine: Engine, container: Container) -> Iterator[tuple[str, socket.socket | None]]:
    """Where the runtime sends the terminal's master; nothing for a container without one. By way of a descriptor: the
    whole path may be longer than a socket's can be."""
    if not container.config.tty:
        yield "", None
        return
    directory = os.open(engine.paths.run(container.id), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
            path = f"/proc/{os.getpid()}/fd/{directory}/console.sock"
            with os_errors("make the console socket"):
                listener.bind(path)
                os.chmod(path, 0o600)
                listener.listen(1)
            yield path, listener
    finally:
        os.close(directory)


# --- the life of a container


def await_created(engine: Engine, container: Container, client: ShimClient | None) -> int:
    """Wait until the runtime has made the container; its first process. Raises what the runtime complained about."""
    runtime = runtime_of(container)
    assert runtime is not None
    deadline, pause = time.monotonic() + PATIENCE, 0.001
    shim = client or ShimClient(engine.paths.run(container.id))
    try:
        while True:
            state = shim.status()
            if state.ended:
                break
            if state.pid:
                return state.pid
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"runtime handler {runtime.name}: create does not end")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
    except Unavailable:  # the shim has recorded the failure and left
        pass
    finally:
        if client is None:
            shim.close()
    try:
        text = _log(engine, container.id).read_text(errors="replace")[-_MESSAGE_MAX:]
    except FileNotFoundError:
        text = ""
    raise failure(runtime, "create", text, 1)


def ensure_group(engine: Engine, container: Container, spec: RuntimeSpec, pid: int) -> None:
    """A runtime that was told to make no groups, or makes others, leaves that to this one: limits, statistics and the
    end of every process hang on them."""
    from orlop.cgroups import apply as cgroups

    if pid in cgroups.pids(engine.cgroups, container.record.cgroup):
        return
    if container.record.slice:
        groups.adopt(engine.cgroups, container.record, spec, pid)
    else:
        cgroups.create(engine.cgroups, container.record.cgroup, spec.linux.resources if spec.linux else None)
    with os_errors("move the container's process into its group"):
        for path in cgroups.procs_paths(engine.cgroups, container.record.cgroup):
            Path(path).write_text(str(pid))


def take_terminal(engine: Engine, container: Container, listener: socket.socket) -> None:
    """Pass the master, which the runtime has sent, to the shim."""
    listener.settimeout(PATIENCE)
    try:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(PATIENCE)
            _, fds, _, _ = socket.recv_fds(connection, 4096, 4)
    except TimeoutError:
        raise DeadlineExceeded("runtime handler: the runtime sends no terminal") from None
    try:
        if len(fds) != 1:
            raise Internal(f"runtime handler: {len(fds)} descriptors came in place of the terminal's master")
        with ShimClient(engine.paths.run(container.id)) as shim:
            shim.terminal(fds[0])
    finally:
        for fd in fds:
            os.close(fd)


def start(engine: Engine, container: Container) -> None:
    """Have the container's program begin."""
    run(engine, container, "start", container.id)


def kill(engine: Engine, container: Container, shim: ShimClient, number: int) -> None:
    """Signal the container's first process. Raises FailedPrecondition where that has ended."""
    try:
        run(engine, container, "kill", container.id, str(number))
    except OrlopError:  # it has ended, or the runtime is broken: the shim knows, and can
        shim.signal(number)


def delete(engine: Engine, container: Container) -> None:
    """Take away what the runtime keeps of a container, and unmount its root. Repeating it does no harm."""
    runtime = runtime_of(container)
    if runtime is None:
        return
    _await_create(engine, container)
    try:
        run(engine, container, "delete", "--force", container.id)
    except OrlopError:
        # It knows of no such container, or is broken, or gone. No process of the container is left: what a runtime
        # keeps of it is a directory of its name.
        from orlop.sys.tree import remove_tree

        remove_tree(_root(engine, runtime) / container.id)
    unmount_rootfs(engine, container)


def _await_create(engine: Engine, container: Container) -> None:
    """Let `create` end, which whoever began it has left behind: what it is making could not be deleted."""
    deadline = time.monotonic() + PATIENCE
    while read_state(engine.paths.run(container.id)).reality == "starting" and time.monotonic() < deadline:
        time.sleep(0.005)


def unmount_rootfs(engine: Engine, container: Container) -> None:
    import errno

    from orlop.spec.errors import from_os
    from orlop.sys.mounts import MNT_DETACH, UMOUNT_NOFOLLOW, umount

    try:
        umount(str(rootfs_path(engine, container)), MNT_DETACH | UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # not mounted, or never made
            raise from_os(error, "unmount the root file system of the container") from error


def started(engine: Engine, container: Container) -> bool:
    """Whether the container's program has begun, by what the runtime says (`state`). One that can't say has lost it."""
    try:
        state = msgspec.json.decode(run(engine, container, "state", container.id), type=dict[str, object])
    except (OrlopError, msgspec.MsgspecError):
        return False
    return state.get("status") not in ("creating", "created")


def execute(
    engine: Engine, container: Container, process: Process, config: ExecConfig, stdio: tuple[int, int, int]
) -> ExecSession:
    """A further process: `RUNTIME exec`, a child of this one. With a terminal it gets one of this process's making,
    and copies between that and the one that it makes inside."""
    from orlop.engine.exec import ExecSession
    from orlop.runtime.launch import launch

    runtime = runtime_of(container)
    assert runtime is not None
    if config.detach:
        raise FailedPrecondition(f"exec: a detached one is not possible in a container of handler {runtime.name}")
    check(runtime)
    base = str(engine.paths.run(container.id) / f"exec-{uuid.uuid4().hex[:12]}")
    command = _command(engine, runtime, "--log", f"{base}.log", "exec", "--process", f"{base}.json")
    plan = _becoming((*command, "--pid-file", f"{base}.pid", container.id), "runtime handler", config.tty)
    master = slave = -1
    try:
        with os_errors("exec"):
            Path(f"{base}.json").write_bytes(encode(msgspec.structs.replace(process, terminal=config.tty)))
            if config.tty:
                master, slave = os.openpty()
                stdio = (slave, slave, slave)
        pid = launch(plan, stdio).pid
    except BaseException:
        forget_exec(base)
        if master >= 0:
            os.close(master)
        raise
    finally:
        if slave >= 0:
            os.close(slave)
    return ExecSession(pid=pid, master=master, files=base)


def end_exec(base: str, runtime: int) -> None:
    """Kill the command itself: it does not die with `RUNTIME exec`, whose number is `runtime`. One that has been
    started and is not told of yet is found beneath that, which is stopped before, so that it starts no other."""
    with suppress(ProcessLookupError):
        os.kill(runtime, signal.SIGSTOP)
    ends = descendants(runtime)
    with suppress(FileNotFoundError, ValueError):
        ends.add(int(Path(f"{base}.pid").read_text()))
    for pid in ends:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def forget_exec(base: str) -> None:
    for ending in ("json", "pid", "log"):
        Path(f"{base}.{ending}").unlink(missing_ok=True)


# --- running the program


def run(engine: Engine, container: Container, *words: str) -> bytes:
    """Run the container's runtime to its end; what it printed."""
    runtime = runtime_of(container)
    assert runtime is not None
    return call(runtime, _command(engine, runtime, *words), words[0])


def call(runtime: OciRuntime, command: Sequence[str], verb: str, patience: float = PATIENCE) -> bytes:
    """Run a command of a runtime; its standard output. Raises Unavailable with what it complained about."""
    check(runtime)
    printed, complained = (os.memfd_create(f"orlop-{verb}", os.MFD_CLOEXEC) for _ in range(2))
    try:
        with os_errors(f"runtime handler {runtime.name}"):
            pid = os.posix_spawn(
                command[0],
                list(command),
                dict(entry.split("=", 1) for entry in _environment()),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, printed, 1),
                    (os.POSIX_SPAWN_DUP2, complained, 2),
                ],
                setsigmask=[],
            )
        status = _wait(pid, patience, f"runtime handler {runtime.name}: {verb}")
        if status:
            raise failure(runtime, verb, os.pread(complained, _MESSAGE_MAX, 0).decode("utf-8", "replace"), status)
        return os.pread(printed, 1 << 20, 0)
    finally:
        os.close(printed)
        os.close(complained)


def _wait(pid: int, patience: float, what: str) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        late = not select.select([pidfd], [], [], patience)[0]
        if late:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
    if late:
        raise DeadlineExceeded(f"{what}: it does not end")
    return os.waitstatus_to_exitcode(status)


def failure(runtime: OciRuntime, verb: str, text: str, status: int) -> OrlopError:
    """The error for what a runtime said when it failed."""
    said = complaint(text)
    message = f"runtime handler {runtime.name}: {verb}: {said or f'exit status {status}'}"
    text = said.lower()
    if verb in ("create", "start") and "exec" in text and any(words in text for words in _NOT_THERE):
        return ContainerExit(message, 127)
    return Unavailable(message)


def complaint(text: str) -> str:
    """The last error among a runtime's messages: JSON a line, as `--log-format json` asks for, or plain text."""
    said = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        try:
            entry = msgspec.json.decode(line, type=dict[str, object])
        except msgspec.MsgspecError:
            said = line
            continue
        if entry.get("level", "error") in ("error", "fatal", "panic"):
            said = str(entry.get("msg", "")) or said
    words = " ".join(said.split())
    return "".join(c if c.isprintable() else "?" for c in words)[:1000]
