"""Commands that want to be used from a terminal."""

from __future__ import annotations

import os

from orlop.spec.errors import ContainerExit


def check_terminal(tty: bool, stdin: bool) -> None:
    """A container's terminal is typed into from one. Docker's exit status is 1 here, for `run` too."""
    if tty and stdin and not os.isatty(0):
        raise ContainerExit("the input device is not a TTY", 1)
