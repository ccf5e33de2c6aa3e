"""Where the program `orlop` begins and ends."""

from __future__ import annotations

import sys

from orlop.cli.leave import leave
from orlop.cli.shortcut import shortcut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def orlop() -> NoReturn:
    """Run the command line of this process, by the shortcut where there is one."""
    code = shortcut(sys.argv[1:])
    if code is None:
        from orlop.cli.main import main

        code = main()
    leave(code)
