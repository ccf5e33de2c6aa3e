"""Imports, with stand-ins, the heavy modules that nearly everything needs (see `standins`). Whoever comes before
`msgspec` imports this first."""

import sys

from orlop.standins import deferred

with deferred():
    import pathlib  # noqa: F401
    import socket  # noqa: F401

    if "msgspec" not in sys.modules and "typing_extensions" not in sys.modules:
        # msgspec takes two names from typing_extensions where it is installed, and from typing where not, which are
        # the same. The former imports `inspect` and costs a fifth of the start of every command.
        sys.modules["typing_extensions"] = None  # type: ignore[assignment]
        try:
            import msgspec  # noqa: F401
        finally:
            del sys.modules["typing_extensions"]
