"""Starts the launch helper. Imports nothing that takes long, for the sake of `orlop exec` (see `cli.shortcut`)."""

from __future__ import annotations

import fcntl
import os
from _thread import allocate_lock
from collections.abc import Sequence

from orlop.sys.memfd import sealed

PROGRAM = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_native", "orlop-launch")
_FIRST_INHERITED = 6
_OUT_OF_THE_WAY = 128  # descriptors are first copied above this, so that no dup2 overwrites one that is still needed


_copying = allocate_lock()
_copy = -1  # what every call hands out


def launch_program() -> int:
    """A sealed copy of the helper: a container that finds it through /proc/self/exe can't overwrite it. The caller
    closes the descriptor.

    The copy is made once in a process. To make it takes half a millisecond, and a daemon goes on with the helper whose
    operations its code knows, whatever is installed meanwhile.
    """
    global _copy
    with _copying:
        if _copy < 0:
            _copy = _sealed_program()
        return fcntl.fcntl(_copy, fcntl.F_DUPFD_CLOEXEC, _FIRST_INHERITED)


def _sealed_program() -> int:
    try:
        with open(PROGRAM, "rb") as file:
            return sealed("orlop-launch", file.read(), executable=True)
    except FileNotFoundError as error:
        from orlop.spec.errors import Internal

        raise Internal(f"{PROGRAM} is missing; build the native programs with scripts/build") from error


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
        program_path = f"/proc/self/fd/{high[0]}"
        # A caller that holds signals back to read them later does so for itself alone.
        return os.posix_spawn(program_path, ["orlop-launch"], {}, file_actions=actions, setsigmask=())
    finally:
        for fd in high:
            os.close(fd)
