"""The terminal of a process (config.md, "process.terminal"). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from orlop.runtime.compile_layout import AT_EMPTY_PATH, NONE, OPEN_TREE_CLONE, Layout
from orlop.runtime.ops import Ctty, Dup, MoveMount, OpenTree, Pty, SendFd, Sync, Target
from orlop.runtime.plan import Step
from orlop.spec.errors import FailedPrecondition
from orlop.spec.runtime import Process

# none: three plain streams. inherit: they are a terminal that the parent made. socket: one is made inside, and its
# master sent over `console_slot`. sync: the master is handed to the parent at Sync("console").
Terminal = Literal["none", "inherit", "socket", "sync"]
_ORIGIN = "process.terminal"
_CONSOLE = "/dev/console"
# the message that runtimes send with the descriptor
MASTER_NAME = b"/dev/ptmx"


def opened_outside(slots: Layout) -> Iterator[Step]:
    """The terminal on standard input belongs to the host's mounts: only from there it can be bound."""
    yield Step(OpenTree(slots.tty, NONE, "/proc/self/fd/0", OPEN_TREE_CLONE), _ORIGIN)


def console_steps(
    process: Process,
    slots: Layout,
    terminal: str,
    console: int | None,
    *,
    mounts: bool,
    ptmx: tuple[int, str] | None = None,
) -> Iterator[Step]:
    """Make the terminal, or take the inherited one, and make it the session's. `mounts`: bind it to /dev/console.
    `ptmx` is where new ones come from: by default the container's own, seen from outside its root."""
    if terminal == "none":
        return
    if terminal == "inherit":
        if mounts:
            yield from _bind(slots)
        yield Step(Ctty(NONE), _ORIGIN)
        return
    size = process.console_size
    at, path = ptmx or (slots.root, "/dev/ptmx")
    rows, columns = (size.height, size.width) if size else (0, 0)
    yield Step(Pty(slots.master, slots.slave, at, path, rows, columns, process.user.uid), _ORIGIN)
    if mounts:
        yield Step(OpenTree(slots.tty, slots.slave, "", OPEN_TREE_CLONE | AT_EMPTY_PATH), _ORIGIN)
        yield from _bind(slots)
    if terminal == "socket":
        if console is None:
            raise FailedPrecondition("process.terminal: needs a console socket")
        yield Step(SendFd(console, slots.master, MASTER_NAME), _ORIGIN)
    else:
        yield Step(Sync("console", (slots.master,)), _ORIGIN)
    for fd in (0, 1, 2):
        yield Step(Dup(slots.slave, fd), _ORIGIN)
    yield Step(Ctty(slots.slave), _ORIGIN)


def _bind(slots: Layout) -> Iterator[Step]:
    yield Step(Target(slots.root, _CONSOLE, slots.tty, 0), _ORIGIN)
    yield Step(MoveMount(slots.tty, slots.root, _CONSOLE), _ORIGIN)
