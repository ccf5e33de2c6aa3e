"""Removes a container with all that is its own: snapshot, files, log, anonymous volumes, name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.engine import image_mounts, lifecycle, locks, settle
from orlop.engine.records import Container
from orlop.engine.steps import reached
from orlop.spec.errors import FailedPrecondition, NotFound
from orlop.sys.tree import remove_tree

if TYPE_CHECKING:
    from orlop.engine.engine import Engine


def remove(engine: Engine, container: Container, force: bool, volumes: bool) -> Container:
    """Remove a container. A running one is refused, or with `force` killed first. One that another removes meanwhile
    is gone as well."""
    while (settled := settle.settled(engine, container, gone_ok=True)) is not None:
        if settled.state in (*lifecycle.LIVE, lifecycle.RESTARTING):
            if not force:
                raise FailedPrecondition(
                    f"cannot remove container {settled.name}: it is {settled.state}; stop it first or force the removal"
                )
            _end(engine, settled)
        with settle.held(engine, settled.id) as now:
            if now is None:
                return settled
            if force and now.state in (*lifecycle.LIVE, lifecycle.RESTARTING):
                continue  # it was being started
            now = settle.release(engine, now) if settle.holds(now) else now
            now = engine.containers.store.change(
                now.id, "remove", owner=locks.this_process(), remove_volumes=volumes or now.config.auto_remove
            )
            reached("remove.recorded")
            discard(engine, now, now.record.remove_volumes)
            return settled
    return container


def _end(engine: Engine, container: Container) -> None:
    from orlop.engine.stop import end

    try:
        end(engine, container)
    except NotFound:  # another process was faster
        pass


def finish_removal(engine: Engine, container: Container) -> None:
    """Remove what a killed process was making or removing, or what was to be removed when it ended. The caller holds
    the container's lock."""
    volumes = container.record.remove_volumes or container.config.auto_remove or container.state == lifecycle.CREATING
    if container.state == lifecycle.EXITED:
        container = settle.release(engine, container) if settle.holds(container) else container
        container = engine.containers.store.change(container.id, "remove", remove_volumes=volumes)
        reached("remove.recorded")
    discard(engine, container, volumes)


def discard(engine: Engine, container: Container, volumes: bool = True) -> None:
    """Take away whatever there is of a container, in an order that can be begun again. Idempotent."""
    record = container.record
    if record.cgroup or record.networked or container.state in lifecycle.LIVE:
        settle.release(engine, container)
    image_mounts.discard(engine, container)
    if container.config.checkpoint:
        from orlop.engine.checkpoints.restore import view_of

        engine.snapshots.remove(view_of(container))
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
