"""What follows the end of a container: the record, the release, then `--rm` or the restart policy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from orlop.engine import lifecycle, locks, settle
from orlop.engine.decide import restart_delay
from orlop.engine.records import Container
from orlop.shim.state import read_state
from orlop.spec.errors import Aborted, NotFound, OrlopError

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


def collect(engine: Engine, container: Container) -> Container:
    """Record an exit that the caller has seen, unless another process was faster. The container as it stands then:
    it may even run once more, since what a shim starts at the end comes some time later."""
    with settle.held(engine, container.id) as now:
        if now is None:
            return container
        if now.state in lifecycle.LIVE:
            began_anew = read_state(engine.paths.run(now.id)).reality in ("starting", "running")
            return now if began_anew else settle.finish(engine, now)
        return settle.release(engine, now) if now.record.cgroup else now


def conclude(engine: Engine, container: Container) -> Container:
    """Collect, and remove a container that was started with `--rm`."""
    from orlop.engine.remove import remove

    ended = collect(engine, container)
    if ended.config.auto_remove and ended.state == lifecycle.EXITED:
        remove(engine, ended, force=False, volumes=True)
    return ended


def on_exit(engine: Engine, identifier: str) -> None:
    """What the shim starts when its container has ended and no client takes care of it: to the very end."""
    while True:
        container = engine.containers.store.get(identifier)
        if container is None:
            return
        ended = conclude(engine, container)
        if not settle.wants_restart(ended) or not _claim(engine, ended):
            return
        ran_for = 0 if ended.record.error else ended.record.finished - ended.record.started
        time.sleep(restart_delay(ended.record.restart_count, ran_for))
        if _start_again(engine, identifier):
            return


def _claim(engine: Engine, container: Container) -> bool:
    """Take on the restart, unless another process has done so."""
    with settle.held(engine, container.id) as now:
        if now is None or not settle.wants_restart(now):
            return False
        engine.containers.store.change(container.id, "restart", owner=locks.this_process())
        return True


def _start_again(engine: Engine, identifier: str) -> bool:
    """Whether the container runs, or needs no further attempt."""
    from orlop.engine.start import start

    container = engine.containers.store.get(identifier)
    if container is None:
        return True
    try:
        start(engine, container, policy=True)
    except (Aborted, NotFound):
        return True  # stopped or removed while this process slept
    except OrlopError:
        return False  # the failure stands in the record; the policy decides again
    return True
