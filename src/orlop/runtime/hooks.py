"""Hooks in the runtime's own namespaces (config.md, "POSIX-platform Hooks"): one after the other, state on stdin."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable

from orlop.runtime.annotations import HOOKS_STDERR, HOOKS_STDOUT
from orlop.runtime.children import children
from orlop.runtime.debug import debug
from orlop.spec.document import encode
from orlop.spec.errors import DeadlineExceeded, FailedPrecondition, from_os
from orlop.spec.runtime import Hook, State
from orlop.spec.signals import described


def run_hooks(hooks: tuple[Hook, ...], where: str, state: State) -> None:
    """Run all of them. Raises with the JSON path of the first one that fails."""
    for index, hook in enumerate(hooks):
        _run(hook, _named(where, index, hook), state)


def run_all_hooks(hooks: tuple[Hook, ...], where: str, state: State) -> list[str]:
    """Run all of them whatever happens; the errors, for the log (runtime.md: a failed poststop hook is a warning)."""
    errors = []
    for index, hook in enumerate(hooks):
        try:
            _run(hook, _named(where, index, hook), state)
        except (FailedPrecondition, DeadlineExceeded, OSError) as error:
            errors.append(str(error))
    return errors


def open_streams(annotations: dict[str, str]) -> tuple[int | None, int | None]:
    """Where hooks write instead of to the runtime's own streams: files that the annotations name, opened to append."""
    opened: list[int | None] = []
    for name in (HOOKS_STDOUT, HOOKS_STDERR):
        path = annotations.get(name, "")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
            opened.append(os.open(path, flags, 0o600) if path else None)
        except OSError as error:
            close_streams(opened)
            raise FailedPrecondition(f"annotations['{name}']: {from_os(error, 'open')}") from error
    return opened[0], opened[1]


def close_streams(streams: Iterable[int | None]) -> None:
    for fd in streams:
        if fd is not None:
            os.close(fd)


def _named(where: str, index: int, hook: Hook) -> str:
    """The JSON path, and the words by which other runtimes tell of it."""
    return f"{where}[{index}]: error running {where.removeprefix('hooks.')} hook #{index}: {hook.path}"


def _run(hook: Hook, where: str, state: State) -> None:
    debug(f"{where}: begins")
    stdin = os.memfd_create("state")
    streams: tuple[int | None, int | None] = (None, None)
    try:
        os.write(stdin, encode(state))
        os.lseek(stdin, 0, os.SEEK_SET)
        streams = open_streams(state.annotations)
        stdio = (stdin, 1 if streams[0] is None else streams[0], 2 if streams[1] is None else streams[1])
        # without an environment of its own a hook gets the runtime's, as with the other runtimes
        own = dict(entry.split("=", 1) for entry in hook.env if "=" in entry)
        environment = own if hook.env else dict(os.environ)
        pid = children().hook(hook.path, list(hook.args) or [hook.path], environment, stdio)
    except OSError as error:
        kind = from_os(error, where)
        raise FailedPrecondition(str(kind)) from error
    finally:
        close_streams((stdin, *streams))
    _wait(pid, hook.timeout, where)


def _wait(pid: int, timeout: int | None, where: str) -> None:
    if timeout is not None:
        pidfd = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        in_time = bool(poll.poll(timeout * 1000))
        os.close(pidfd)
        if not in_time:
            os.kill(pid, signal.SIGKILL)
            children().wait(pid)
            raise DeadlineExceeded(f"{where}: timed out after {timeout} s")
    code = os.waitstatus_to_exitcode(children().wait(pid)[1])
    if code:
        how = f"failed with exit code {code}" if code > 0 else f"was killed by signal {described(-code)}"
        kind = where.partition("[")[0].removeprefix("hooks.")
        raise FailedPrecondition(f"{where}: {kind} hook {how}")
