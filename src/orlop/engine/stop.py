"""Ends, freezes and waits for containers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from orlop.engine import events, lifecycle, settle
from orlop.engine.create import stop_signal_of
from orlop.engine.exit import collect, conclude
from orlop.engine.records import Container
from orlop.shim.client import ShimClient
from orlop.spec.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from orlop.spec.signals import parse_signal

if TYPE_CHECKING:
    from orlop.engine.engine import Engine

Meanwhile = Callable[[], None]
DEFAULT_TIMEOUT = 10.0  # seconds between the stop signal and SIGKILL
KILL_PATIENCE = 30.0


def stop(engine: Engine, container: Container, timeout: float | None, signal: str) -> Container:
    """Send the stop signal, wait, then kill. To stop what does not run is no error; a negative time-out never kills."""
    if settle.wants_restart(container):
        container = _keep_down(engine, container)
    if container.state not in (*lifecycle.LIVE, lifecycle.RESTARTING):
        return container
    if timeout is None:
        timeout = float(container.config.stop_timeout if container.config.stop_timeout is not None else DEFAULT_TIMEOUT)
    name = signal or container.config.stop_signal or stop_signal_of(engine, container) or "TERM"
    return _until_down(engine, container, parse_signal(name), timeout)


def _keep_down(engine: Engine, container: Container) -> Container:
    """One that has ended by itself, and that its policy is about to start again, is not started."""
    with settle.held(engine, container.id) as found:
        now = _present(container, found)
        if settle.wants_restart(now):
            return engine.containers.store.change(now.id, "", stopped_by_user=True)
        return now


def _until_down(
    engine: Engine, container: Container, signal: int, timeout: float, meanwhile: Meanwhile | None = None
) -> Container:
    """End a container, and once more if its restart policy was faster."""
    while True:
        if container.state in (lifecycle.RESTARTING, lifecycle.STARTING):
            container = _call_off(engine, container)
        elif settle.wants_restart(container):  # a start by its policy took no notice, and has ended by itself as well
            container = _keep_down(engine, container)
        if not container.running:
            return container
        ended = _end_with(engine, container, signal, timeout, meanwhile)
        now = engine.containers.store.get(container.id)
        if now is None:
            return ended
        container = now


def _call_off(engine: Engine, container: Container) -> Container:
    """A restart that is waited for does not happen; a start that is under way is waited for."""
    with settle.held(engine, container.id) as found:
        now = _present(container, found)
        if now.state != lifecycle.RESTARTING:
            return now
        return engine.containers.store.change(now.id, "exit", stopped_by_user=True, owner=None)


def end(engine: Engine, container: Container, meanwhile: Meanwhile | None = None) -> Container:
    """Kill a container at once and wait until it is gone. `meanwhile` is called when it has been killed, and may begin
    with what follows its end."""
    return _until_down(engine, container, parse_signal("KILL"), KILL_PATIENCE, meanwhile)


def _end_with(
    engine: Engine, container: Container, signal: int, timeout: float, meanwhile: Meanwhile | None
) -> Container:
    engine.containers.store.change(container.id, "", stopped_by_user=True)
    try:
        shim = ShimClient(engine.paths.run(container.id))
    except Unavailable:  # it has ended between the look and the call
        return conclude(engine, container)
    with shim:
        try:
            _bring_down(engine, container, shim, signal, timeout, meanwhile)
        except Unavailable:
            return conclude(engine, container)
        ended = conclude(engine, container)
        shim.done()
        return ended


def _bring_down(
    engine: Engine,
    container: Container,
    shim: ShimClient,
    signal: int,
    timeout: float,
    meanwhile: Meanwhile | None,
) -> None:
    shim.own()
    _end_signal(engine, container, shim, signal)
    if meanwhile is not None:
        meanwhile()
    if container.state == lifecycle.PAUSED:
        _thaw(engine, container)
    if shim.wait(timeout if timeout >= 0 else None) is None:
        _end_signal(engine, container, shim, parse_signal("KILL"))
        if shim.wait(KILL_PATIENCE) is None:
            raise DeadlineExceeded(f"container {container.name} does not end after SIGKILL")


def _end_signal(engine: Engine, container: Container, shim: ShimClient, signal: int) -> None:
    """As `_signal`. In a PID namespace that is not its own, a first process that is killed does not take the others
    along, which would keep the container's output open."""
    _signal(engine, container, shim, signal)
    if signal == parse_signal("KILL") and container.config.pid_mode:
        from orlop.cgroups import apply as cgroups

        cgroups.kill(engine.cgroups, container.record.cgroup)


def _signal(engine: Engine, container: Container, shim: ShimClient, signal: int) -> None:
    """Send a signal; a process that has just ended needs none."""
    try:
        if container.config.oci_runtime is not None:
            from orlop.engine import foreign

            foreign.kill(engine, container, shim, signal)
        else:
            shim.signal(signal)
    except FailedPrecondition:
        pass


def kill(engine: Engine, container: Container, signal: str) -> None:
    """Send a signal to the container's first process."""
    number = parse_signal(signal)
    if not container.running:
        raise FailedPrecondition(f"cannot kill container {container.name}: it is not running")
    with ShimClient(engine.paths.run(container.id)) as shim:
        if container.config.oci_runtime is not None:
            from orlop.engine import foreign

            foreign.kill(engine, container, shim, number)
        else:
            shim.signal(number)
    if container.state == lifecycle.PAUSED and number == parse_signal("KILL"):
        _thaw(engine, container)


def pause(engine: Engine, container: Container) -> None:
    from orlop.cgroups import apply as cgroups

    with settle.held(engine, container.id) as found:
        now = _present(container, found)
        lifecycle.after("pause", now.state, now.name)
        cgroups.freeze(engine.cgroups, now.record.cgroup)
        engine.containers.store.change(now.id, "pause", "pause")


def unpause(engine: Engine, container: Container) -> None:
    with settle.held(engine, container.id) as found:
        now = _present(container, found)
        lifecycle.after("unpause", now.state, now.name)
        _thaw(engine, now)
        engine.containers.store.change(now.id, "unpause", "unpause")


def _present(container: Container, now: Container | None) -> Container:
    if now is None:
        raise NotFound(f"no such container: {container.name}")
    return now


def _thaw(engine: Engine, container: Container) -> None:
    from orlop.cgroups import apply as cgroups

    cgroups.thaw(engine.cgroups, container.record.cgroup)


def wait(engine: Engine, container: Container) -> int:
    """Wait for the end; the exit code. A container that is being restarted is waited for until it stays down."""
    code = container.record.exit_code
    while container.running:
        try:
            with ShimClient(engine.paths.run(container.id)) as shim:
                ended = shim.wait(None)
                code = ended.status if ended is not None else code
        except Unavailable:
            time.sleep(0.01)
        now = engine.containers.store.get(container.id)
        if now is None:  # removed, by --rm or by somebody: the journal knows how it ended
            return events.exit_code(engine.database, container.namespace, container.id, code)
        if now.state in lifecycle.LIVE and now.record.pid == container.record.pid:
            now = collect(engine, now)
        container, code = now, now.record.exit_code
    return code
