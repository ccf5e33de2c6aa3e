"""`delete`: takes a container's resources back (runtime.md, "Lifecycle", steps 11 to 13). Each step can be repeated."""

from __future__ import annotations

from collections.abc import Callable

from orlop.cgroups import driver
from orlop.runtime import groups, hooks
from orlop.runtime.debug import debug
from orlop.runtime.kill import frozen, kill_all
from orlop.runtime.state import Record, Store, status
from orlop.spec.errors import FailedPrecondition, NotFound, OrlopError
from orlop.spec.runtime import RuntimeSpec, State

Warn = Callable[[str], None]


def delete(store: Store, identifier: str, force: bool = False, warn: Warn = lambda _: None) -> None:
    """Delete a container that is stopped, or was only created; with `force` any, and one that is not there too."""
    try:
        record = store.load(identifier)
    except NotFound:
        if force:
            store.forget(identifier)  # what an interrupted creation or removal has left
            return
        raise
    if not force:
        now = status(record, frozen(record))
        if now not in ("stopped", "created"):
            raise FailedPrecondition(f"cannot delete container {identifier} that is not stopped: {now}")
    destroy(store, record, _spec(store, identifier), warn)


def _spec(store: Store, identifier: str) -> RuntimeSpec | None:
    try:
        return store.spec(identifier)
    except OrlopError:
        return None  # created so far that there was none yet; then there are no hooks to run either


def destroy(
    store: Store, record: Record, spec: RuntimeSpec | None, warn: Warn = lambda _: None, own_cgroup: bool = True
) -> None:
    """Kill what lives, remove the group and the state, run the poststop hooks of `spec`."""
    debug(f"delete: what container {record.id} holds is taken back")
    if own_cgroup and (record.alive or not _removed(record)):
        kill_all(record)
        if record.cgroup:
            driver.remove(groups.hierarchies(record), record.place)
    if record.host_root is not None:
        from orlop.runtime import host_mounts

        host_mounts.take_back(record.rootfs, record.host_root, warn)
    if spec is not None and spec.linux is not None and spec.linux.intel_rdt is not None:
        from orlop.runtime import resctrl

        resctrl.remove(spec.linux.intel_rdt, record.id)
    if spec is not None and spec.hooks is not None and spec.hooks.poststop:
        for error in hooks.run_all_hooks(spec.hooks.poststop, "hooks.poststop", _stopped(record)):
            warn(error)
    store.forget(record.id)


def _removed(record: Record) -> bool:
    """Whether no group is there, or none any more, which no process was in."""
    return not record.cgroup or driver.remove_empty(groups.hierarchies(record), record.place)


def _stopped(record: Record) -> State:
    return State(
        oci_version=record.oci_version,
        id=record.id,
        status="stopped",
        bundle=record.bundle,
        annotations=record.annotations,
    )
