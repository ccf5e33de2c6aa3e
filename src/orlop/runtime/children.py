"""Who starts processes and waits for them: this process, or, in the daemon, the front end that it works for.

A container's first process is to be a child of whoever called the runtime, so that a caller that collects orphans
(PR_SET_CHILD_SUBREAPER) gets it. Where the daemon serves `orlop-runtime`, that is another process than this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from orlop.runtime.spawn import launch_program, spawn


class Children(Protocol):
    """`helper` starts the launch helper (see `launch`), and what it returns tells the pid as soon as that is there,
    before which nothing else may be asked for. `hook` starts a program with `stdio` as its standard streams and
    returns the pid. `wait` is waitpid(2). `announce` has a child's end told by something to read from the descriptor
    that it returns, upon which `wait` does not wait, and before which nothing else may be asked for; it returns -1
    where SIGCHLD tells. `parent` is the directory in /proc of the process that does all this, whose limits and
    capabilities bound what it starts."""

    parent: str

    def helper(
        self, plan: int, control: int, stdio: tuple[int, int, int], inherit: Sequence[int]
    ) -> Callable[[], int]: ...

    def hook(
        self, path: str, arguments: Sequence[str], environment: Mapping[str, str], stdio: tuple[int, int, int]
    ) -> int: ...

    def wait(self, pid: int, options: int = 0) -> tuple[int, int]: ...

    def announce(self, pid: int) -> int: ...


class Own:
    """They are children of this process."""

    parent = "self"

    def helper(self, plan: int, control: int, stdio: tuple[int, int, int], inherit: Sequence[int]) -> Callable[[], int]:
        program = launch_program()
        try:
            pid = spawn(program, plan, control, stdio, inherit)
        finally:
            os.close(program)
        return lambda: pid

    def hook(
        self, path: str, arguments: Sequence[str], environment: Mapping[str, str], stdio: tuple[int, int, int]
    ) -> int:
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio) if not fd == number > 0]
        # Signals that this process holds back while it starts a container must reach a hook.
        return os.posix_spawn(path, list(arguments), environment, file_actions=actions, setsigmask=())

    def wait(self, pid: int, options: int = 0) -> tuple[int, int]:
        return os.waitpid(pid, options)

    def announce(self, pid: int) -> int:
        return -1


_now: Children = Own()


def children() -> Children:
    """Who starts processes now."""
    return _now


def entrust(others: Children) -> None:
    """Let someone else do it from now on. For a process that serves one command at a time."""
    global _now
    _now = others
