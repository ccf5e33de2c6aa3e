"""`orlop internal on-exit`: what a shim runs when its container has ended and no client takes care of it."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax

SYNTAX = Syntax("ROOT STATE NAMESPACE ID", "Finish a container that has ended", least=4, most=4)


def main(options: Options, context: Context) -> int:
    """Record the exit, give back what the container held, remove it (--rm) or start it again (--restart)."""
    from orlop.engine.engine import Engine
    from orlop.engine.exit import on_exit

    root, state, namespace, identifier = options.arguments
    engine = Engine(root, state, namespace)
    try:
        on_exit(engine, identifier)
    finally:
        engine.close()
    return 0
