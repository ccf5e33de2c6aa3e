"""Errors as lines on standard error, and commands that take several names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from orlop.cli.text import one_line
from orlop.spec.errors import OrlopError


def report(message: str) -> None:
    """One line on standard error, after all that was printed before it. Nothing in it can steer a terminal."""
    try:
        sys.stdout.flush()
    except OSError:
        pass
    print(f"orlop: {one_line(message)}", file=sys.stderr, flush=True)


def for_each(names: Iterable[str], act: Callable[[str], str | None]) -> int:
    """Do `act` for every name and print what it returns. An error is told and the next name's turn comes; the exit
    status is 1 if there was one."""
    code = 0
    for name in names:
        try:
            told = act(name)
        except OrlopError as error:
            report(error.message)
            code = 1
        else:
            if told is not None:
                print(told, flush=True)
    return code
