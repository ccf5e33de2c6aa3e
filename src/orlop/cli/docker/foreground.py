"""Stays with a container: its streams, its signals, its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.cli.flags import Options
from orlop.engine.exit import conclude
from orlop.engine.settle import wants_restart
from orlop.shim.attach import Detached, attach_streams, parse_detach_keys

if TYPE_CHECKING:
    from orlop.engine.engine import Engine
    from orlop.engine.records import Container
    from orlop.shim.client import ShimClient


def start_attached(engine: Engine, container: Container, options: Options) -> int:
    """Start a container with this process's streams attached, and wait for its end; the exit status."""
    keys = parse_detach_keys(options.detach_keys)
    streams = frozenset(name.lower() for name in getattr(options, "attach", ()) or ())
    stdin = container.config.open_stdin and (not streams or "stdin" in streams)
    started = engine.containers.start(container.id, attach=True, stdin=stdin)
    assert started.client is not None
    return stay(engine, started.container, started.client, stdin, keys, options.sig_proxy, streams)


def attach_running(engine: Engine, container: Container, stdin: bool, keys: bytes, signals: bool) -> int:
    """Attach to a container that runs already; the exit status."""
    client = engine.containers.attach(container.id)
    client.own()
    client.attach(stdin=stdin)
    return stay(engine, container, client, stdin, keys, signals, redraw=True)


def stay(
    engine: Engine,
    container: Container,
    client: ShimClient,
    stdin: bool,
    keys: bytes,
    signals: bool,
    streams: frozenset[str] = frozenset(),
    redraw: bool = False,
) -> int:
    """Copy streams until the container ends or the user detaches. An end is recorded, and --rm done, before this
    returns, so that what comes after it in a script finds things settled."""
    with client:
        ended = attach_streams(
            client,
            tty=container.config.tty,
            stdin=stdin,
            detach_keys=keys,
            proxy_signals=signals,
            streams=streams,
            redraw=redraw,
        )
        if isinstance(ended, Detached):
            return 0
        if not wants_restart(conclude(engine, container)):
            client.done()  # else the shim starts what waits out the policy's delay and starts the container again
    return ended.status
