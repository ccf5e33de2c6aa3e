"""The start and the end of a program that lives for a moment.

Nothing that a command makes on its way is garbage worth looking for before it ends, and an interpreter that nobody
will use again need not be taken apart. Together that is a sixth of what a command costs.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False  # `typing` takes longer than all that the shortcut of `exec` does
if TYPE_CHECKING:
    from typing import NoReturn

# Objects made before the collector looks for cycles. What starts a container makes some 50,000; a command that goes on
# for long (logs --follow) is still collected.
gc.set_threshold(200_000, 10, 10)


def leave(code: int) -> NoReturn:
    """End the process at once, with all that was printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    os._exit(code)
