"""Runs a plan: starts the launch helper, or lets a shim start it, and follows the handshake to its end.

What is told for --debug begins with the words that runc has for the same steps, which are looked for in its logs.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from collections.abc import Callable, Sequence

import msgspec

from orlop.runtime import slots
from orlop.runtime.children import children
from orlop.runtime.compile_layout import O_NOFOLLOW
from orlop.runtime.debug import debug
from orlop.runtime.encode import encode
from orlop.runtime.handshake import CLONED, FAILED, GO_ON, MESSAGE_MAX, Handshake, Message, parse_message
from orlop.runtime.ops import Clone, Execve, FindExec, Hook, Mount, MountSetattr, Op, Open, Scheduler
from orlop.runtime.plan import Plan, Step
from orlop.runtime.spawn import launch_program, spawn
from orlop.spec import trace
from orlop.spec.errors import (
    ContainerExit,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    OrlopError,
    PermissionDenied,
    ResourceExhausted,
)
from orlop.spec.signals import described
from orlop.sys.memfd import sealed
from orlop.sys.procfs import executed

__all__ = [
    "LaunchFailed",
    "Launched",
    "OnSync",
    "failure_of",
    "follow",
    "launch",
    "launch_program",
    "prepare",
    "send_plan",
    "spawn",
]

_NOTED = 100  # operations that a span tells
_MOST_FDS = 64  # the helper has no more slots
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid

OnSync = Callable[[str, int, list[int]], Callable[[], None] | None]


class Launched(msgspec.Struct, frozen=True):
    """A plan whose last process runs what it was to run, or waits at AwaitStart. `pid` is the host's number of it."""

    pid: int


_KINDS = {
    errno.EPERM: PermissionDenied.kind,
    errno.EACCES: PermissionDenied.kind,
    errno.ENOTDIR: FailedPrecondition.kind,
    errno.ENOSPC: ResourceExhausted.kind,
    errno.EDQUOT: ResourceExhausted.kind,
    errno.ENOMEM: ResourceExhausted.kind,
    errno.ENFILE: ResourceExhausted.kind,
}


class LaunchFailed(OrlopError):
    """An operation failed: `stage`, `index` and `errno` say which and how, the text in the configuration's words."""

    def __init__(self, text: str, stage: int, index: int, number: int) -> None:
        super().__init__(text)
        self.stage = stage
        self.index = index
        self.errno = number
        self.kind = _KINDS.get(number, self.kind)


def prepare(plan: Plan, inherited: int = 0) -> int:
    """A sealed file that holds the encoded plan, once it is known that the plan holds together."""
    slots.check(plan, inherited)
    return sealed("orlop-plan", encode(plan, inherited))


def send_plan(to: socket.socket, plan: Plan, inherit: Sequence[int] = ()) -> None:
    """Give a helper its plan, which has been started with the other end of a socket (SOCK_SEQPACKET) in the place of
    one; `inherit` fill slots 0, 1, ... and stay the caller's. One that is gone shows when it is followed."""
    encoded = prepare(plan, len(inherit))
    try:
        socket.send_fds(to, [b"\0"], [encoded, *inherit])
    except BrokenPipeError:
        return
    finally:
        os.close(encoded)


def launch(
    plan: Plan,
    stdio: tuple[int, int, int] = (0, 1, 2),
    inherit: Sequence[int] = (),
    on_sync: OnSync | None = None,
    until: str = "",
    meanwhile: Callable[[], None] | None = None,
    on_clone: Callable[[int], None] = lambda _: None,
) -> Launched:
    """Run a plan whose processes become children of this one, and follow it.

    `stdio` are the container's standard streams, `inherit` fill slots 0, 1, ...; all stay the caller's. `until` names
    a sync point after which the helper is left alone (it then waits in AwaitStart). At a sync point before the first
    Clone, the pid is the helper's own. `meanwhile` is called once the helper has been started and is on its way to the
    first sync point, `on_clone` with the pid of each process that is born, which is then on its way to the next.
    """
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with control:
        with theirs:
            started = _start(plan, theirs, stdio, inherit)
        try:
            if meanwhile is not None:
                meanwhile()
        except BaseException:
            _abandon(control, [started()])
            raise
        helper = started()
        debug(f"nsexec container setup: process {helper} began on {_extent(plan)}")
        cloned = [helper]
        begin = Handshake() if _clones(plan) else Handshake("cloned", (helper,))

        def born(pid: int) -> None:
            cloned.append(pid)
            on_clone(pid)

        try:
            launched = follow(control, plan, on_sync, until, begin, born, helper)
        except BaseException:
            _abandon(control, cloned)
            raise
    _reap(cloned[:-1])  # they left when they had cloned the next
    return launched


def _start(
    plan: Plan, control: socket.socket, stdio: tuple[int, int, int], inherit: Sequence[int]
) -> Callable[[], int]:
    encoded = prepare(plan, len(inherit))
    try:
        return children().helper(encoded, control.fileno(), stdio, inherit)
    finally:
        os.close(encoded)


def _extent(plan: Plan) -> str:
    return ", ".join(f"stage {stage.name} of {len(stage.steps)} operations" for stage in plan.stages)


def _clones(plan: Plan) -> bool:
    return any(isinstance(step.op, Clone) for stage in plan.stages for step in stage.steps)


def _abandon(control: socket.socket, pids: list[int]) -> None:
    """End and reap what a launch has started: it must not go on to run the program with nobody there to see it."""
    for pid in pids:
        _kill(pid)
    try:
        while data := control.recv(MESSAGE_MAX):  # until the last process that had it is gone
            message = parse_message(data)
            if message.kind == CLONED:
                pids.append(message.value)
                _kill(message.value)
    except ConnectionResetError:
        pass
    _reap(pids)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # reaped already, in a process that ignores SIGCHLD
        pass


def _reap(pids: Sequence[int]) -> None:
    for pid in pids:
        try:
            children().wait(pid)
        except ChildProcessError:
            pass


def _receive(control: socket.socket, how: int = 0) -> tuple[bytes, list[int], int, int]:
    """A message, the descriptors that came with it, flags, and whose it is where the socket is told (SO_PASSCRED), else
    0; an empty message at the end of the connection."""
    space = socket.CMSG_SPACE(_MOST_FDS * 4) + socket.CMSG_SPACE(_CREDENTIALS.size)
    # Not socket.recv_fds: it drops the flag, and the descriptors would pass to whatever another thread spawns.
    data, ancillary, flags, _ = control.recvmsg(MESSAGE_MAX, space, socket.MSG_CMSG_CLOEXEC | how)
    rights = (raw[: len(raw) // 4 * 4] for _, kind, raw in ancillary if kind == socket.SCM_RIGHTS)
    fds = [fd for raw in rights for (fd,) in struct.iter_unpack("i", raw)]
    told = (_CREDENTIALS.unpack(raw) for _, kind, raw in ancillary if kind == socket.SCM_CREDENTIALS)
    return data, fds, flags, next((pid for pid, _, _ in told), 0)


def follow(
    control: socket.socket,
    plan: Plan,
    on_sync: OnSync | None = None,
    until: str = "",
    state: Handshake = Handshake(),  # noqa: B008 - frozen
    on_clone: Callable[[int], None] | None = None,
    helper: int = 0,
) -> Launched:
    """Answer the helper until its last process has become the program, or has passed the sync point `until`.

    `on_sync` gets the point's name, the pid (that of the helper itself before there is another: `helper`, or whose the
    message is), and descriptors that are closed when it is through. What it returns, if anything, is called when the
    helper has been told to go on, and belongs to it: work that the helper need not wait for. What either raises is
    raised here, and a helper whose control socket is then closed gives up. Raises LaunchFailed, ContainerExit (126,
    127) for a program that can't be executed, and Internal for a helper that was killed.
    """
    while True:
        try:
            data, fds, flags, sender = _receive(control)
        except ConnectionResetError:  # it was killed before it had read an answer
            raise Internal("launch helper: ended before the plan did") from None
        try:
            if not data:
                state = state.ended()
                if state.phase == "died" or (_executes(plan) and executed(state.pid) is False):
                    raise Internal("launch helper: ended before the plan did")
                debug(f"init: closing the pipe to signal completion: process {state.pid} became the program")
                return Launched(state.pid)
            if flags & socket.MSG_CTRUNC:
                raise ResourceExhausted("launch helper: no descriptors left for those it sent")
            message = parse_message(data)
            state = state.heard(message)
            if trace.active():
                _note(plan, message)
            if message.kind == FAILED:
                debug(f"nsexec: operation {message.stage}.{message.index} failed: errno {message.value}")
                raise failure(plan, message)
            if message.kind == CLONED:
                debug(f"child process in init(): process {message.value} is born for the next stage")
                if on_clone is not None:
                    on_clone(message.value)
                continue
            debug(f"nsexec: process {state.pid or helper} waits at sync point {message.text}")
            afterwards = on_sync(message.text, state.pid or helper or sender, fds) if on_sync is not None else None
            _answer(control)
            state = state.answered()
            if afterwards is not None:
                try:
                    afterwards()
                except OrlopError as error:
                    # It may have failed as there was no process any more: why there is none is what to speak of.
                    if (first := _failed_already(control, plan)) is not None:
                        raise first from error
                    raise
            if until and message.text == until:
                debug(f"init: closing the pipe to signal completion: process {state.pid} waits for start")
                return Launched(state.pid)
        finally:
            for fd in fds:
                os.close(fd)


def _failed_already(control: socket.socket, plan: Plan) -> OrlopError | None:
    """The failure that the helper has told, or its end, which nobody has read yet."""
    while True:
        try:
            data, fds, _, _ = _receive(control, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            data, fds = b"", []
        for fd in fds:
            os.close(fd)
        if not data:
            return Internal("launch helper: ended before the plan did")
        if (message := parse_message(data)).kind == FAILED:
            return failure(plan, message)


def _note(plan: Plan, message: Message) -> None:
    """What the helper has done until this message: the operations of the stage up to this one."""
    stage = plan.stages[message.stage] if 0 <= message.stage < len(plan.stages) else None
    steps = stage.steps[: message.index + 1] if stage is not None else ()
    what = {CLONED: "cloned", FAILED: "failed"}.get(message.kind, message.text)
    name = f"launch {stage.name}: {what}" if stage is not None else f"launch: {what}"
    done = tuple(f"{step}"[:200] for step in steps[-_NOTED:])
    trace.step(name, **{"orlop.plan.operations": done})


def _executes(plan: Plan) -> bool:
    return isinstance(plan.stages[-1].steps[-1].op, Execve)


def _answer(control: socket.socket) -> None:
    """Tell the helper to go on. One that is gone was killed: it does nothing else while it waits."""
    try:
        control.send(GO_ON)
    except BrokenPipeError:
        raise Internal("launch helper: ended before the plan did") from None


def failure(plan: Plan, message: Message) -> OrlopError:
    """The error that a FAILED message stands for, in the words of the configuration."""
    step = plan.step(message.stage, message.index)
    last = plan.stages[-1].steps[-1].op
    return failure_of(step, message, last.argv[0] if isinstance(last, Execve) and last.argv else "")


def failure_of(step: Step | None, message: Message, command: str) -> OrlopError:
    """The same for one step of a plan that is to end in `command`."""
    name = errno.errorcode.get(message.value, str(message.value))
    if step is None:
        return LaunchFailed(f"launch helper: {message.text or name}", message.stage, message.index, message.value)
    if isinstance(step.op, (Execve, FindExec)):
        return _cannot_execute(command, message)
    detail = f": {_named_signal(message.text)}" if message.text else ""
    origin = f"{step.origin}: " if step.origin else ""
    call, hint = _call(type(step.op).__name__), _hint(step.op, message.value)
    text = f"{origin}{_explained(step, message.value)}{call}: {name}{detail}{hint}"
    error = LaunchFailed(_printable(text), message.stage, message.index, message.value)
    if step.origin.startswith("linux.sysctl") and message.value in (errno.ENOENT, errno.EINVAL):
        error.kind = InvalidArgument.kind  # this kernel has no such name, or the name no such value
    return error


def _named_signal(text: str) -> str:
    """A program's end as the helper tells it, with the signal's name."""
    before, ended, number = text.rpartition("killed by signal ")
    return f"{before}{ended}{described(int(number))}" if ended and number.isdigit() else text


def _explained(step: Step, number: int) -> str:
    """What the operation was for, where its error would not tell; in the words that other runtimes have for it."""
    if isinstance(step.op, Hook):
        name, _, index = step.origin.removeprefix("hooks.").rstrip("]").partition("[")
        return f"error running {name} hook #{index}: "
    if isinstance(step.op, Open) and step.op.flags & O_NOFOLLOW and number in (errno.ENOTDIR, errno.ELOOP):
        return "must be mounted on ordinary directory, not on a link: "
    if isinstance(step.op, Scheduler) and number == errno.EPERM:
        return "process scheduler can't be used together with AllowedCPUs (resources.cpu.cpus), or is not permitted: "
    return ""


def _hint(op: Op, number: int) -> str:
    """What the kernel wants where it says only EPERM (mount_namespaces(7), "Restrictions"; `mount_too_revealing`), or
    EINVAL (mount_setattr(2), "ID-mapped mounts")."""
    if isinstance(op, MountSetattr) and op.userns >= 0 and number == errno.EINVAL:
        return " (ids can't be mapped on this file system, or are so already)"
    if not isinstance(op, Mount) or number != errno.EPERM or op.fstype not in ("proc", "sysfs"):
        return ""
    where = {"proc": "/proc", "sysfs": "/sys"}[op.fstype]
    return f" (a user namespace may mount another {op.fstype} only where nothing covers a part of {where})"


def _printable(text: str) -> str:
    """Paths and the kernel's own messages may hold anything; an error is one line that does nothing to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _cannot_execute(command: str, message: Message) -> ContainerExit:
    """Docker's exit codes: 127 when the command is not there, 126 when it can't be executed."""
    missing = message.value in (errno.ENOENT, errno.ENOTDIR)
    reason = message.text or os.strerror(message.value).lower()
    if message.value == errno.ENOENT and message.text:  # of the interpreter that the file names
        return ContainerExit(_printable(f"exec {command[:200]}: no such file or directory: {reason}"), 127)
    if missing and "/" not in command and not message.text:
        reason = "executable file not found in $PATH"
    return ContainerExit(_printable(f'exec: "{command[:200]}": {reason}'), 127 if missing else 126)


def _call(name: str) -> str:
    """`MoveMount` as the system call is written: move_mount."""
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
