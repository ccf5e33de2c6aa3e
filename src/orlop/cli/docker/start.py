"""`orlop start`: start stopped containers."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.flags import Options, Syntax, missing, switch, value
from orlop.cli.report import for_each
from orlop.spec.errors import FailedPrecondition

SYNTAX = Syntax(
    "CONTAINER [CONTAINER...]",
    "Start one or more stopped containers",
    (
        switch("-a --attach", "Attach STDOUT/STDERR and forward signals"),
        value("--detach-keys", "Override the key sequence for detaching a container", "ctrl-p,ctrl-q"),
        switch("-i --interactive", "Attach container's STDIN"),
        switch("--sig-proxy", "Proxy received signals to the process", default=True),
        *missing("--checkpoint", "--checkpoint-dir"),
    ),
    least=1,
)


def main(options: Options, context: Context) -> int:
    """Print the name of each container that runs; or stay with the one, and end as it does."""
    if options.attach or options.interactive:
        return _attached(options, context)

    def start(name: str) -> str:
        context.engine.containers.start(name)
        return name

    return for_each(options.arguments, start)


def _attached(options: Options, context: Context) -> int:
    from orlop.cli.docker.foreground import attach_running, stay
    from orlop.shim.attach import parse_detach_keys

    if len(options.arguments) > 1:
        raise FailedPrecondition("you cannot start and attach multiple containers at once")
    keys = parse_detach_keys(options.detach_keys)
    container = context.engine.containers.get(options.arguments[0])
    stdin = options.interactive and container.config.open_stdin
    if container.running:
        return attach_running(context.engine, container, stdin, keys, options.sig_proxy)
    started = context.engine.containers.start(container.id, attach=True, stdin=stdin)
    assert started.client is not None
    return stay(context.engine, started.container, started.client, stdin, keys, options.sig_proxy)
