"""Holds several containers still while checkpoints of them are written, so that all are of one moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from orlop.cgroups import apply as cgroups
from orlop.engine import lifecycle, locks, settle
from orlop.engine.records import Container
from orlop.engine.steps import reached
from orlop.spec import cancel
from orlop.spec.errors import NotFound

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


@contextmanager
def standing(engine: Engine, containers: Sequence[Container]) -> Iterator[None]:
    """No process of any of them runs within the block, whatever they do; after it those run that were not paused.

    Their records say who holds them, so that they go on also when this process is killed (`settle`).
    """
    try:
        for container in containers:
            with settle.held(engine, container.id) as now:
                if now is None:
                    raise NotFound(f"no such container: {container.name}")
                engine.containers.store.change(now.id, "", frozen_by=locks.this_process())
                reached("checkpoint.freezing")
                if now.state != lifecycle.PAUSED:
                    cgroups.freeze(engine.cgroups, now.record.cgroup)
        reached("checkpoint.frozen")
        yield
    finally:
        with cancel.under(None):
            for container in containers:
                with settle.held(engine, container.id) as now:
                    if now is not None:
                        let_go(engine, now)


def let_go(engine: Engine, container: Container) -> Container:
    """Let a container go on that was held. The caller holds its lock."""
    if container.record.frozen_by is None:
        return container
    if container.state == lifecycle.RUNNING:
        with suppress(NotFound):  # it has ended meanwhile
            cgroups.thaw(engine.cgroups, container.record.cgroup)
    return engine.containers.store.change(container.id, "", frozen_by=None)
