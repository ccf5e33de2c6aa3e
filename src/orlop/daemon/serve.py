"""The node's daemon: puts engine, fronts and warm runtime together, and takes them apart again.

Two processes. This one serves the fronts: asyncio, gRPC, threads. The other is the warm runtime
(`orlop.daemon.zygote`), which forks and therefore has one thread and none of all that; it is started here, started
again if it ends, and ends with this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

from orlop.cri import server
from orlop.cri.node import Node
from orlop.cri.sessions import Sessions
from orlop.cri.settings import Settings
from orlop.daemon import notify
from orlop.daemon.config import Config
from orlop.daemon.logs import configure
from orlop.engine.engine import Engine
from orlop.spec.errors import AlreadyExists, os_errors
from orlop.sys.lock import lock_file

log = logging.getLogger("orlop.daemon")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_AGAIN = 1.0  # seconds before the warm runtime is started again


def serve(config: Config, config_path: str = "") -> int:
    """Until SIGTERM or SIGINT; calls under way are then given `daemon.shutdown_timeout` seconds. SIGHUP reads CNI's
    configuration again, which is read at every use anyway, and says so in the log.

    Raises AlreadyExists where a daemon serves the socket.
    """
    configure(config.daemon.log_level, config.daemon.log_format)
    lock = Path(f"{config.cri.socket}.lock")
    with os_errors("make the socket's directory"):
        os.makedirs(os.path.dirname(config.cri.socket), mode=0o711, exist_ok=True)
        held = lock_file(lock, wait=False)
    if held is None:
        raise AlreadyExists(f"a daemon is listening on {config.cri.socket} already")
    try:
        return asyncio.run(_serve(config))
    finally:
        lock.unlink()
        os.close(held)


async def _serve(config: Config) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    engine = Engine(
        config.daemon.root,
        config.daemon.state,
        config.cri.namespace,
        cni_config=config.cri.cni_config,
        cni_plugins=config.cri.cni_plugins,
    )
    node = Node(engine, _settings(config), config.daemon.workers)
    warm = asyncio.create_task(_keep_warm(config)) if config.runtime.warm else None
    try:
        await _recover(node)
        engine.networks.keep()
        await node.serve_streams(Sessions(node))
        serving = await server.start(node, config.cri.socket)
        log.info("serving the Container Runtime Interface on %s", config.cri.socket)
        notify.ready()
        await stop.wait()
        notify.stopping()
        log.info("stopping: calls under way have %g s", config.daemon.shutdown_timeout)
        await node.end_streams()
        await serving.stop(config.daemon.shutdown_timeout)
        await node.flights.settle()
    finally:
        if warm is not None:
            warm.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await warm
        node.close()
        engine.networks.sweep()
        engine.close()
    return 0


def _settings(config: Config) -> Settings:
    cri = config.cri
    return Settings(
        streaming_address=cri.streaming_address,
        streaming_port=cri.streaming_port,
        stream_idle_timeout=cri.stream_idle_timeout,
        pinned_images=cri.pinned_images,
        certs=cri.certs,
        network=cri.network,
    )


async def _recover(node: Node) -> None:
    """Finish or undo what a daemon before this one has left, and take over the containers that run."""
    gone, errors = await node.call(node.engine.pods.recover)
    for sandbox in gone:
        log.info("removed pod sandbox %s, which was half made or half removed", sandbox[:12])
    for error in errors:
        log.error("recovery: %s", error)
    node.collector.keep()
    count = await node.exits.adopt()
    if count:
        log.info("took over %d running containers", count)


async def _keep_warm(config: Config) -> None:
    """Run the warm runtime as a process of its own until this task is cancelled."""
    program = os.path.join(os.path.dirname(os.path.dirname(__file__)), "__main__.py")
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-IS", program, "internal", "warm", config.runtime.socket, stdin=asyncio.subprocess.DEVNULL
        )
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
            raise
        log.error("the warm runtime has ended with status %d; it is started again", status)
        await asyncio.sleep(_AGAIN)
