"""Runs a plan: starts the launch helper, or lets a shim start it, and follows the handshake to its end."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Sequence

import msgspec

from orlop.runtime.encode import encode
from orlop.runtime.handshake import FAILED, GO_ON, MESSAGE_MAX, SYNC, Handshake, Message, parse_message
from orlop.runtime.ops import Execve, FindExec
from orlop.runtime.plan import Plan
from orlop.spec.errors import ContainerExit, Internal, OrlopError, PermissionDenied
from orlop.sys.memfd import sealed

PROGRAM = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_native", "orlop-launch")
_FIRST_INHERITED = 6
_OUT_OF_THE_WAY = 128  # descriptors are first copied above this, so that no dup2 overwrites one that is still needed

OnSync = Callable[[str, int, list[int]], None]


class Launched(msgspec.Struct, frozen=True):
    """A plan whose last process runs what it was to run, or waits at AwaitStart. `pid` is the host's number of it."""

    pid: int


class LaunchFailed(OrlopError):
    """An operation failed: `stage`, `index`, `errno` say which and how; the text says it in the configuration's words."""

    def __init__(self, text: str, stage: int, index: int, number: int) -> None:
        super().__init__(text)
        self.stage = stage
        self.index = index
        self.errno = number
        if number in (errno.EPERM, errno.EACCES):
            self.kind = PermissionDenied.kind


def launch_program() -> int:
    """A sealed copy of the helper: a container that finds it through /proc/self/exe can't overwrite it."""
    try:
        with open(PROGRAM, "rb") as file:
            return sealed("orlop-launch", file.read())
    except FileNotFoundError as error:
        raise Internal(f"{PROGRAM} is missing; build the native programs with scripts/build") from error


def prepare(plan: Plan, inherited: int = 0) -> int:
    """A sealed file that holds the encoded plan."""
    return sealed("orlop-plan", encode(plan, inherited))


def launch(
    plan: Plan,
    stdio: tuple[int, int, int] = (0, 1, 2),
    inherit: Sequence[int] = (),
    on_sync: OnSync | None = None,
    until: str = "",
) -> Launched:
    """Run a plan whose processes become children of this one, and follow it.

    `stdio` are the container's standard streams, `inherit` fill slots 0, 1, ...; all stay the caller's. `until` names
    a sync point after which the helper is left alone (it then waits in AwaitStart).
    """
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with control:
        program, encoded = launch_program(), prepare(plan, len(inherit))
        try:
            with theirs:
                helper = spawn(program, encoded, theirs.fileno(), stdio, inherit)
        finally:
            os.close(program)
            os.close(encoded)
        try:
            return follow(control, plan, on_sync, until)
        finally:
            control.close()  # a helper that still waits for an answer gives up
            os.waitpid(helper, 0)


def spawn(program: int, plan: int, control: int, stdio: tuple[int, int, int], inherit: Sequence[int]) -> int:
    """Start the helper; the pid of its first process, a child of the caller."""
    high: list[int] = []
    try:
        high.extend(
            fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for fd in (program, *stdio, plan, control, *inherit)
        )
        actions: list[tuple[int, int, int] | tuple[int, int]] = [
            (os.POSIX_SPAWN_DUP2, fd, number) for fd, number in zip(high[1:], (0, 1, 2, 3, 4), strict=False)
        ]
        actions += [(os.POSIX_SPAWN_DUP2, fd, _FIRST_INHERITED + i) for i, fd in enumerate(high[6:])]
        # The path is opened by the child, which has the same descriptor table.
        return os.posix_spawn(f"/proc/self/fd/{high[0]}", ["orlop-launch"], {}, file_actions=actions)
    finally:
        for fd in high:
            os.close(fd)


def follow(control: socket.socket, plan: Plan, on_sync: OnSync | None = None, until: str = "") -> Launched:
    """Answer the helper until its last process has become the program, or has passed the sync point `until`."""
    state = Handshake()
    held: list[tuple[Message, list[int]]] = []
    try:
        while True:
            data, fds, _, _ = socket.recv_fds(control, MESSAGE_MAX, 64)
            if not data:
                state = state.ended()
                if state.phase == "running":
                    return Launched(state.pid)
                raise Internal("launch helper: ended before the plan did")
            message = parse_message(data)
            held.append((message, fds))
            state = state.heard(message)
            if message.kind == FAILED:
                raise failure(plan, message)
            # The child may be faster than the process that made it: a sync point is looked at once the pid is known.
            if state.phase != "waiting" or (message.stage and not state.pid):
                continue
            state = _answer(control, state, held, on_sync)
            if until and held[-1][0].text == until:
                return Launched(state.pid)
            _close(held)
    finally:
        _close(held)


def _answer(
    control: socket.socket, state: Handshake, held: list[tuple[Message, list[int]]], on_sync: OnSync | None
) -> Handshake:
    """Do what is to be done at the sync point that the helper waits at, and let it go on."""
    held.sort(key=lambda item: item[0].kind == SYNC)  # the sync point last
    message, fds = held[-1]
    if on_sync is not None:
        on_sync(message.text, state.pid, fds)
    control.send(GO_ON)
    return state.answered()


def _close(held: list[tuple[Message, list[int]]]) -> None:
    for _, fds in held:
        for fd in fds:
            os.close(fd)
    held.clear()


def failure(plan: Plan, message: Message) -> OrlopError:
    """The error that a FAILED message stands for, in the words of the configuration."""
    step = plan.step(message.stage, message.index)
    name = errno.errorcode.get(message.value, str(message.value))
    if step is None:
        return LaunchFailed(f"launch helper: {message.text or name}", message.stage, message.index, message.value)
    if isinstance(step.op, (Execve, FindExec)):
        return _cannot_execute(step.op, message)
    detail = f": {message.text}" if message.text else ""
    origin = f"{step.origin}: " if step.origin else ""
    text = f"{origin}{_call(type(step.op).__name__)}: {name}{detail}"
    return LaunchFailed(text.replace("\n", " "), message.stage, message.index, message.value)


def _cannot_execute(op: Execve | FindExec, message: Message) -> ContainerExit:
    """Docker's exit codes: 127 when the command is not there, 126 when it can't be executed."""
    command = op.argv[0] if isinstance(op, Execve) and op.argv else op.candidates[-1] if op.candidates else ""
    missing = message.value in (errno.ENOENT, errno.ENOTDIR)
    reason = message.text or os.strerror(message.value).lower()
    if missing and "/" not in command and not message.text:
        reason = "executable file not found in $PATH"
    return ContainerExit(f'exec: "{command[:200]}": {reason}', 127 if missing else 126)


def _call(name: str) -> str:
    """`MoveMount` as the system call is written: move_mount."""
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
