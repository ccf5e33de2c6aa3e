"""Starts a shim, which starts a container by running a plan through the launch helper.

Descriptors of the shim: 0-2 /dev/null, 3 the plan, 4 the helper's end of its control socket, 5 the readiness pipe,
6... what the helper inherits, then the launch program (`--launch`), then a connected client (`--client`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from orlop.shim.client import ShimClient
from orlop.spec.errors import Internal, OrlopError, from_os

if TYPE_CHECKING:
    from orlop.shim.spawner import Spawner

PROGRAM = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_native", "orlop-shim")

_FIRST_INHERITED = 6
_MOST_INHERITED = 56
_OUT_OF_THE_WAY = 128  # descriptors are first copied above this, so that no dup2 overwrites one that is still needed


class LogFile(msgspec.Struct, frozen=True, kw_only=True):
    """Where output is recorded, in Docker's json-file format or in that of the Container Runtime Interface."""

    path: str
    max_size: int = 0  # bytes; 0: it grows without limit
    max_files: int = 1  # path, path.1, ... path.(max_files - 1)
    cri: bool = False


class Shim(msgspec.Struct, frozen=True):
    """A shim that has been started. `client` is connected and owns the container's end (asked for by `connect`)."""

    pid: int
    directory: Path
    client: ShimClient | None = None


def start(
    container_id: str,
    directory: Path,
    plan: int,
    launch_program: int,
    *,
    inherit: Sequence[int] = (),
    log: LogFile | None = None,
    tty: bool | tuple[int, int] = False,
    console: bool = False,
    stdin: bool = False,
    stdin_once: bool = False,
    owner: tuple[int, int] | None = None,
    oom_events: str = "",
    on_exit: Sequence[str] = (),
    connect: bool = False,
    environment: Mapping[str, str] | None = None,
    pid_file: str = "",
    tell_senders: bool = False,
    meanwhile: Callable[[], None] | None = None,
    spawner: Spawner | None = None,
) -> tuple[socket.socket, Shim]:
    """Start a shim and, through it, the launch helper; the socket on which to follow the helper's handshake.

    `plan` and `launch_program` are sealed memfds, or `plan` a socket by which the plan comes with what the helper
    inherits (`launch.send_plan`); they and `inherit` stay the caller's to close. `tty` is rows and
    columns, or True for a size that a client sets later; with `console` the shim makes none of its own but waits for
    the master of one that is made inside the container (`ShimClient.terminal`). `owner` is the host's uid and gid of
    the process: its standard streams belong to it. `oom_events` is the cgroup's memory.events (v2) or
    memory.oom_control (v1). `on_exit` is an absolute program and its arguments; it runs with `environment` (default:
    PATH and HOME) unless an owner confirms that it has taken care. `connect` makes the caller the first client and
    owner before anything runs, so that no moment is left in which an early end could go unnoticed. With `pid_file` the
    plan becomes another runtime, which makes the container, writes its first process's number there, and leaves. With
    `tell_senders` the kernel adds to each message on that socket whose it is (unix(7), SO_PASSCRED). `meanwhile` is
    called when the shim is on its way, with descriptors of its own; what it raises is raised here, the helper gives up,
    and what `on_exit` would do is the caller's. A daemon has a `spawner`, whose environment it then has.

    Raises the kind of error that fits when the shim can't start: FailedPrecondition where one already runs.
    """
    arguments = _arguments(
        container_id, directory, len(inherit), log, tty, console, stdin, stdin_once, owner, oom_events, connect
    )
    if pid_file:
        arguments += ["--pid-file", pid_file]
    if on_exit:
        arguments += ["--on-exit", *on_exit]
    control, helper_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if tell_senders:
        control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ours, theirs = socket.socketpair() if connect else (None, None)
    ready, ready_end = os.pipe2(os.O_CLOEXEC)
    descriptors = [plan, helper_end.fileno(), ready_end, *inherit, launch_program]
    try:
        with helper_end:
            descriptors += [theirs.fileno()] if theirs else []
            asked = spawner is not None and environment is None and spawner.spawn(arguments, descriptors)
            pid = 0 if asked else _spawn(arguments, descriptors, environment)
        os.close(ready_end)
        ready_end = -1
        try:
            if meanwhile is not None:
                meanwhile()
        except BaseException:
            with suppress(OrlopError):
                _await_ready(ready, pid, container_id)
                _take_care(directory, ours)
            raise
        shim_pid = _await_ready(ready, pid, container_id)
    except BaseException:
        control.close()
        if ours is not None:
            ours.close()
        raise
    finally:
        os.close(ready)
        if ready_end >= 0:
            os.close(ready_end)
        if theirs is not None:
            theirs.close()
    return control, Shim(shim_pid, directory, ShimClient(directory, ours) if ours is not None else None)


def _take_care(directory: Path, ours: socket.socket | None) -> None:
    """Have the shim of a start that has failed run no on-exit program: who is told of the failure undoes it."""
    with ShimClient(directory, None if ours is None else ours.dup()) as client:
        if ours is None:
            client.own()
        client.done()


def _arguments(
    container_id: str,
    directory: Path,
    inherited: int,
    log: LogFile | None,
    tty: bool | tuple[int, int],
    console: bool,
    stdin: bool,
    stdin_once: bool,
    owner: tuple[int, int] | None,
    oom_events: str,
    connect: bool,
) -> list[str]:
    if inherited > _MOST_INHERITED:
        raise Internal(f"{inherited} descriptors for one launch: at most {_MOST_INHERITED} are possible")
    launch = _FIRST_INHERITED + inherited
    arguments = ["orlop-shim", "--id", container_id, "--state", str(directory), "--launch", str(launch)]
    if connect:
        arguments += ["--client", str(launch + 1)]
    if log is not None:
        arguments += ["--log", log.path, "--log-max-size", str(log.max_size), "--log-max-files", str(log.max_files)]
        arguments += ["--log-cri"] if log.cri else []
    if tty:
        rows, columns = tty if isinstance(tty, tuple) else (0, 0)
        arguments += ["--tty", f"{rows}x{columns}"] + (["--console"] if console else [])
    if stdin:
        arguments.append("--stdin-once" if stdin_once else "--stdin")
    if owner is not None:
        arguments += ["--owner", f"{owner[0]}:{owner[1]}"]
    return [*arguments, "--oom", oom_events] if oom_events else arguments


def environment_of_shims() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


def _spawn(arguments: list[str], descriptors: list[int], environment: Mapping[str, str] | None) -> int:
    high: list[int] = []
    try:
        high.extend(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for fd in descriptors)
        actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, 0, 2),
        ]
        actions += [(os.POSIX_SPAWN_DUP2, fd, 3 + i) for i, fd in enumerate(high)]
        return os.posix_spawn(
            PROGRAM, arguments, environment_of_shims() if environment is None else environment, file_actions=actions
        )
    except FileNotFoundError as error:
        raise Internal(f"{PROGRAM} is missing; build the native programs with scripts/build") from error
    except OSError as error:
        raise from_os(error, "start the shim") from error
    finally:
        for fd in high:
            os.close(fd)


def _await_ready(ready: int, pid: int, container_id: str) -> int:
    """The daemon's pid. The process that was spawned, if any, leaves as soon as it has forked the daemon."""
    line = b""
    while not line.endswith(b"\n") and (data := os.read(ready, 512)):
        line += data
    if pid:
        os.waitpid(pid, 0)
    text = line.decode(errors="replace").strip()
    if text.startswith("ok "):
        return int(text[3:])
    what, _, name = text.rpartition(": ")
    number = getattr(errno, name, 0)
    if number:
        raise from_os(OSError(number, os.strerror(number)), f"shim of container {container_id}: {what}")
    raise Internal(f"shim of container {container_id}: {text or 'it ended before it was ready'}")
