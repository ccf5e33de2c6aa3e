"""Removes a container with all that is its own: snapshot, files, log, anonymous volumes, name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.engine import lifecycle, locks, settle
from orlop.engine.records import Container
from orlop.engine.steps import reached
from orlop.spec.errors import FailedPrecondition
from orlop.sys.tree import remove_tree

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


def remove(engine: Engine, container: Container, force: bool, volumes: bool) -> Container:
    """Remove a container. A running one is refused, or with `force` killed first."""
    settled = settle.settled(engine, container, gone_ok=True)
    if settled is None:
        return container
    if settled.running:
        if not force:
            raise FailedPrecondition(
                f"cannot remove container {settled.name}: it is {settled.state}; stop it first or force the removal"
            )
        from orlop.engine.stop import end

        settled = end(engine, settled)
    with locks.exclusive(engine.paths.lock(settled.id)):
        now = engine.containers.store.get(settled.id)
        if now is not None:
            now = settle.perform(engine, now, "release") if now.record.cgroup else now
            engine.containers.store.change(settled.id, "remove", owner=locks.this_process())
            reached("remove.recorded")
            discard(engine, settled, volumes or settled.config.auto_remove)
    return settled


def discard(engine: Engine, container: Container, volumes: bool = True) -> None:
    """Take away whatever there is of a container, in an order that can be begun again. Idempotent."""
    record = container.record
    if record.cgroup or record.networked or container.state in lifecycle.LIVE:
        settle.release(engine, container)
    engine.snapshots.remove(container.id)
    reached("remove.snapshot")
    engine.volumes.release(container.id, remove_anonymous=volumes)
    remove_tree(engine.paths.container(container.id))
    remove_tree(engine.paths.run(container.id))
    reached("remove.files")
    engine.containers.store.delete(container.id)
    locks.forget(engine.paths.lock(container.id))
    _sweep(engine)


def _sweep(engine: Engine) -> None:
    """With the last container goes the group that all stand in. Whoever makes one enters it in the database first, so
    that nobody starts one here while the transaction lasts."""
    if engine.database.read("SELECT 1 FROM containers LIMIT 1"):
        return
    from orlop.cgroups.apply import sweep

    with engine.database.transaction() as connection:
        if connection.execute("SELECT 1 FROM containers LIMIT 1").fetchone() is None:
            sweep(engine.cgroups)
