"""`orlop serve`: the daemon, which runs `orlop-runtime`'s commands without the start of an interpreter."""

from __future__ import annotations

import os

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax, value
from orlop.spec.errors import PermissionDenied

SYNTAX = Syntax(
    "",
    "Serve orlop-runtime on a socket, until SIGTERM",
    (value("--socket", "Socket that orlop-runtime looks for", "/run/orlop/runtime.sock", "path"),),
    most=0,
)


def main(options: Options, context: Context) -> int:
    """Until a signal, and then until the last command has ended."""
    if os.geteuid() != 0:
        raise PermissionDenied("serve: needs root")
    from orlop.daemon.listen import listening
    from orlop.daemon.zygote import Zygote

    with listening(options.socket) as listener:
        Zygote(listener).run()
    return 0
