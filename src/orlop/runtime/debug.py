"""What a command does, told step by step to whoever asked for it (`--debug`); else to nobody.

A command is one process, or has one to itself while it lasts, so that there is one listener. Values that may be
secrets, such as arguments and variables, are not told.
"""

from __future__ import annotations

from collections.abc import Callable

_listener: Callable[[str], None] | None = None


def tell_to(listener: Callable[[str], None] | None) -> None:
    """Have `listener` told from now on, and nobody else."""
    global _listener
    _listener = listener


def debug(text: str) -> None:
    """Tell of a step that is about to be taken, or has been."""
    if _listener is not None:
        _listener(text)
