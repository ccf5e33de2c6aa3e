"""Hooks in the runtime's own namespaces (config.md, "POSIX-platform Hooks"): one after the other, state on stdin."""

from __future__ import annotations

import os
import select
import signal

from orlop.runtime.children import children
from orlop.spec.document import encode
from orlop.spec.errors import DeadlineExceeded, FailedPrecondition, from_os
from orlop.spec.runtime import Hook, State


def run_hooks(hooks: tuple[Hook, ...], where: str, state: State) -> None:
    """Run all of them. Raises with the JSON path of the first one that fails."""
    for index, hook in enumerate(hooks):
        _run(hook, f"{where}[{index}] ({hook.path})", encode(state))


def run_all_hooks(hooks: tuple[Hook, ...], where: str, state: State) -> list[str]:
    """Run all of them whatever happens; the errors, for the log (runtime.md: a failed poststop hook is a warning)."""
    errors = []
    for index, hook in enumerate(hooks):
        try:
            _run(hook, f"{where}[{index}] ({hook.path})", encode(state))
        except (FailedPrecondition, DeadlineExceeded, OSError) as error:
            errors.append(str(error))
    return errors


def _run(hook: Hook, where: str, state: bytes) -> None:
    stdin = os.memfd_create("state")
    try:
        os.write(stdin, state)
        os.lseek(stdin, 0, os.SEEK_SET)
        # without an environment of its own a hook gets the runtime's, as with the other runtimes
        own = dict(entry.split("=", 1) for entry in hook.env if "=" in entry)
        environment = own if hook.env else dict(os.environ)
        pid = children().hook(hook.path, list(hook.args) or [hook.path], environment, stdin)
    except OSError as error:
        kind = from_os(error, where)
        raise FailedPrecondition(str(kind)) from error
    finally:
        os.close(stdin)
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
        raise FailedPrecondition(f"{where}: {f'exit status {code}' if code > 0 else f'killed by signal {-code}'}")
