"""`orlop attach`: connect to the streams of a running container."""

from __future__ import annotations

from orlop.cli.context import Context
from orlop.cli.docker.terminal import check_terminal
from orlop.cli.flags import Options, Syntax, switch, value
from orlop.spec.errors import FailedPrecondition

SYNTAX = Syntax(
    "CONTAINER",
    "Attach local standard input, output, and error streams to a running container",
    (
        value("--detach-keys", "Override the key sequence for detaching a container", "ctrl-p,ctrl-q"),
        switch("--no-stdin", "Do not attach STDIN"),
        switch("--sig-proxy", "Proxy all received signals to the process", default=True),
    ),
    least=1,
    most=1,
)


def main(options: Options, context: Context) -> int:
    """Stay until the container ends (with its exit status) or the user detaches (0)."""
    from orlop.cli.docker.foreground import attach_running
    from orlop.shim.attach import parse_detach_keys

    keys = parse_detach_keys(options.detach_keys)
    container = context.engine.containers.get(options.arguments[0])
    if container.state == "paused":
        raise FailedPrecondition("you cannot attach to a paused container, unpause it first")
    stdin = container.config.open_stdin and not options.no_stdin
    check_terminal(container.config.tty, stdin)
    return attach_running(context.engine, container, stdin, keys, options.sig_proxy)
