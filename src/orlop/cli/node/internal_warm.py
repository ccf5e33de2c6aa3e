"""`orlop internal warm`: the part of the daemon that runs orlop-runtime's commands, as a process of its own."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax

SYNTAX = Syntax("SOCKET [FD]", "Serve orlop-runtime's commands until the daemon ends", least=1, most=2)


def main(options: Options, context: Context) -> int:
    """Ends with the process that started it."""
    import os
    import signal

    from orlop.daemon.listen import listening
    from orlop.daemon.zygote import Zygote
    from orlop.sys.process import die_with_parent

    mother = os.getppid()
    die_with_parent(signal.SIGTERM)
    if os.getppid() != mother:
        return 0
    path, *descriptor = options.arguments
    with listening(path, int(descriptor[0]) if descriptor else -1) as listener:
        Zygote(listener).run()
    return 0
