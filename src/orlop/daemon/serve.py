"""The node's daemon: puts engine, fronts and warm runtime together, and takes them apart again.

Two processes. This one serves the fronts: asyncio, gRPC, threads. The other is the warm runtime
(`orlop.daemon.zygote`), which forks and therefore has one thread and none of all that; it is started here, started
again if it ends, and ends with this one.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import msgspec

from orlop.cri import handlers, server
from orlop.cri.network import PodNetwork
from orlop.cri.node import Node
from orlop.cri.sessions import Sessions
from orlop.cri.settings import Settings
from orlop.daemon import activation, notify
from orlop.daemon.activation import Passed
from orlop.daemon.config import Config, at_once, keys
from orlop.daemon.logs import configure
from orlop.daemon.trimmer import Trimmer
from orlop.engine.config import OciRuntime
from orlop.engine.engine import Engine
from orlop.shim.spawner import Spawner
from orlop.spec.errors import AlreadyExists, OrlopError, Unimplemented, os_errors
from orlop.sys.lock import lock_file
from orlop.sys.text import Text

if TYPE_CHECKING:
    from orlop.daemon import metrics

log = logging.getLogger("orlop.daemon")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_AGAIN = 1.0  # seconds before the warm runtime is started again
_GARBAGE = (5_000, 10, 10)  # objects made before the collector looks for cycles, and how often it looks at older ones
_LAST_WORDS = 5.0  # seconds that threads are waited for when their calls have been given up


def serve(config: Config, read: Callable[[], Config]) -> int:
    """Until SIGTERM or SIGINT; calls under way are then given `daemon.shutdown_timeout` seconds, and a second signal
    ends them at once. SIGHUP has the configuration read again: `read` does that.

    Raises AlreadyExists where a daemon serves the socket, and what fits for every setting that can't be put in force.
    """
    _check_driver(config)
    os.umask(0o022)  # what it makes is in part for other users' containers, whatever its caller keeps from others
    configure(config.daemon.log_level, config.daemon.log_format)
    passed = activation.take()
    lock = Path(f"{config.cri.socket}.lock")
    with os_errors("make the socket's directory"):
        os.makedirs(os.path.dirname(config.cri.socket), mode=0o711, exist_ok=True)
        held = lock_file(lock, wait=False)
    if held is None:
        raise AlreadyExists(f"a daemon is listening on {config.cri.socket} already")
    try:
        return asyncio.run(Daemon(config, read, passed, Text()).run())
    finally:
        lock.unlink()
        os.close(held)


class Daemon:
    """One run of the daemon, from its start to its end."""

    def __init__(self, config: Config, read: Callable[[], Config], passed: Passed, text: Text) -> None:
        self._config = config
        self._text = text
        self._read = read
        self._passed = passed
        self._stop = asyncio.Event()
        self._engine = Engine(
            config.daemon.root,
            config.daemon.state,
            config.cri.namespace,
            cni_config=config.cri.cni_config,
            cni_plugins=config.cri.cni_plugins,
        )
        self._engine.spawner = Spawner()
        self._node = Node(self._engine, _settings(config), config.daemon.workers)
        self._node.calls.after = Trimmer(self._node.submit).call_ended
        self._metrics: metrics.Server | None = None
        self._relay: activation.Relay | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """0 after a signal to stop."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGHUP, self._begin, self._reload)
        if self._config.runtime.warm:
            self._begin(lambda: _keep_warm(self._config.runtime.socket, self._passed.runtime))
        try:
            serving = await self._start()
            gc.set_threshold(*_GARBAGE)  # that of a command that ends soon lets a daemon grow
            gc.collect()
            gc.freeze()
            self._text.leave_to_cache()
            notify.ready()
            if period := notify.watchdog():
                self._begin(lambda: _watch(period))
            await self._stop.wait()
            await self._end(serving)
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._leave()
        return 0

    async def _start(self) -> grpc.aio.Server:
        config, node = self._config, self._node
        self._trace()
        node.handlers = await node.call(handlers.look, node.settings)
        await _recover(node)
        self._engine.networks.keep()
        if config.metrics.address:
            from orlop.daemon import metrics

            self._metrics = metrics.Server(self._node)
            await self._metrics.start(config.metrics.address)
            log.info("serving metrics on http://%s/metrics", self._metrics.address)
        await node.serve_streams(Sessions(node))
        path = config.cri.socket
        if self._passed.cri is not None:
            path = str(self._engine.paths.state / "cri.sock")
            self._relay = activation.Relay(path)
        serving = await server.start(node, path)
        if self._relay is not None and self._passed.cri is not None:
            await self._relay.start(self._passed.cri)
        log.info("serving the Container Runtime Interface on %s", config.cri.socket)
        return serving

    async def _end(self, serving: grpc.aio.Server) -> None:
        """Nobody new is served; calls under way finish, in so far as they do in time."""
        timeout = self._config.daemon.shutdown_timeout
        notify.stopping()
        log.info("stopping: calls under way have %g s", timeout)
        if self._relay is not None:
            self._relay.stop_listening()
        self._node.leave()
        await self._node.end_streams()
        await serving.stop(timeout)
        await self._node.flights.settle()
        if self._relay is not None:
            self._relay.close()

    async def _leave(self) -> None:
        if self._metrics is not None:
            await self._metrics.close()
        if self._node.calls.tracer is not None:
            await asyncio.to_thread(self._node.calls.tracer.close)
        closing = asyncio.create_task(self._node.close())
        done, _ = await asyncio.wait((closing,), timeout=_LAST_WORDS)
        if not done:
            # Whatever they are at is written down so that the next daemon can finish or undo it.
            log.warning("work that was given up does not end: leaving it to the next start")
            os._exit(1)
        self._engine.networks.sweep()
        self._engine.close()

    def _signalled(self, number: int) -> None:
        if self._stop.is_set():
            log.warning("%s again: ending at once", signal.Signals(number).name)
            os._exit(128 + number)
        self._stop.set()

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the configuration, again

    async def _reload(self) -> None:
        """Put in force what the file says now. Where it is wrong, all stays as it was."""
        notify.reloading()
        try:
            await self._take_over(self._read())
        except OrlopError as error:
            log.error("the configuration was not read again: %s", error)
        notify.ready()

    async def _take_over(self, config: Config) -> None:
        before = {key.name: key.value for key in keys(self._config)}
        changed = {key.name for key in keys(config) if key.name not in before or before[key.name] != key.value}
        changed |= before.keys() - {key.name for key in keys(config)}
        if config.tracing.endpoint:
            from orlop.daemon import tracing

            tracing.check(config.tracing.endpoint)
        configure(config.daemon.log_level, config.daemon.log_format)
        changed = {"cri.handlers" if name.startswith("cri.handlers.") else name for name in changed}
        now = {name for name in changed if at_once(name)}
        later = sorted(changed - now - ({"cri.socket"} if self._passed.cri is not None else set()))
        self._config = config
        driver = self._node.settings.cgroup_driver
        self._node.settings = msgspec.structs.replace(_settings(config), cgroup_driver=driver)
        if "cri.network" in changed:
            self._node.network = PodNetwork(self._engine, config.cri.network)
        if "cri.handlers" in changed:
            self._node.handlers = await self._node.call(handlers.look, self._node.settings)
        if changed & {"tracing.endpoint", "tracing.ratio"}:
            old = self._node.calls.tracer
            self._trace()
            if old is not None:
                await asyncio.to_thread(old.close)
        log.info("read the configuration again: %s", ", ".join(sorted(now)) or "nothing has changed")
        if later:
            log.warning("needs a restart to take effect: %s", ", ".join(later))

    def _trace(self) -> None:
        wanted = self._config.tracing
        if not wanted.endpoint:
            self._node.calls.tracer = None
            return
        from orlop.daemon.tracing import Exporter  # with an HTTP client, which a node that pulls nothing need not carry

        self._node.calls.tracer = Exporter(wanted.endpoint, wanted.ratio)


def _check_driver(config: Config) -> None:
    """Raises where the configured cgroup driver can't be used."""
    if config.cri.cgroup_driver == "systemd":
        from orlop.cgroups import systemd  # with D-Bus

        systemd.check_booted("cri.cgroup_driver")
        if systemd.bus_here() != "system":
            raise Unimplemented("cri.cgroup_driver: systemd is for the machine's root alone; use cgroupfs")


async def _watch(period: float) -> None:
    """Tell the service manager that the loop still turns, until cancelled."""
    while True:
        notify.alive()
        await asyncio.sleep(period)


def _settings(config: Config) -> Settings:
    cri = config.cri
    return Settings(
        streaming_address=cri.streaming_address,
        streaming_port=cri.streaming_port,
        stream_idle_timeout=cri.stream_idle_timeout,
        pinned_images=cri.pinned_images,
        restore_images=cri.restore_images,
        certs=cri.certs,
        cgroup_driver="systemd" if cri.cgroup_driver == "systemd" else "cgroupfs",
        network=cri.network,
        default_handler=cri.default_handler,
        handlers={
            name: OciRuntime(name=name, path=each.path, root=each.root, options=each.options)
            for name, each in cri.handlers.items()
        },
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


async def _keep_warm(path: str, listener: socket.socket | None) -> None:
    """Run the warm runtime as a process of its own until this task is cancelled. `listener` is a socket that listens
    at `path` already."""
    program = os.path.join(os.path.dirname(os.path.dirname(__file__)), "__main__.py")
    words = [sys.executable, "-IS", program, "internal", "warm", path]
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    ]
    if listener is not None:
        actions.append((os.POSIX_SPAWN_DUP2, listener.fileno(), 3))
        words.append("3")
    while True:
        pid = os.posix_spawn(words[0], words, os.environ, file_actions=actions, setsigmask=())
        status = await _end_of(pid)
        log.error("the warm runtime has ended with status %d; it is started again", status)
        await asyncio.sleep(_AGAIN)


async def _end_of(pid: int) -> int:
    """The exit status of a child, when it has ended; who is cancelled has it end first. asyncio's own way keeps a
    thread for it, and modules for every way to start one."""
    over = asyncio.Event()
    process = os.pidfd_open(pid)
    loop = asyncio.get_running_loop()
    loop.add_reader(process, over.set)
    try:
        await over.wait()
    except asyncio.CancelledError:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        await over.wait()
        raise
    finally:
        loop.remove_reader(process)
        os.close(process)
        if over.is_set():
            _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
