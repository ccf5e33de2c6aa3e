"""`mounts add` and `mounts remove`: what is mounted in a container that runs."""

from __future__ import annotations

import os

from orlop.runtime.children import children
from orlop.runtime.compile_live import attached, compile_add, compile_remove
from orlop.runtime.debug import debug
from orlop.runtime.idmaps import with_mappings
from orlop.runtime.kill import frozen
from orlop.runtime.launch import LaunchFailed, launch
from orlop.runtime.plan import Plan
from orlop.runtime.state import Record, Store, status
from orlop.spec.errors import FailedPrecondition, from_os
from orlop.spec.runtime import Mount, RuntimeSpec


def add(store: Store, identifier: str, mounts: tuple[Mount, ...]) -> None:
    """Mount all of them in order. Of a failure none is left. Raises as `compile_add` does, and LaunchFailed."""
    record = _running(store, identifier)
    spec = with_mappings(store.spec(identifier))
    plan = compile_add(spec, mounts, record.bundle)
    try:
        _run(record, plan)
    except LaunchFailed as error:
        if made := attached(plan, error.index):
            debug(f"mounts: takes {len(made)} away again")
            _remove(record, spec, made)
        raise


def remove(store: Store, identifier: str, mounts: tuple[Mount, ...]) -> None:
    """Take what is mounted at their destinations away, the last one first; the first error ends it."""
    record = _running(store, identifier)
    _remove(record, with_mappings(store.spec(identifier)), tuple(mount.destination for mount in mounts))


def _remove(record: Record, spec: RuntimeSpec, destinations: tuple[str, ...]) -> None:
    _run(record, compile_remove(spec, destinations))


def _running(store: Store, identifier: str) -> Record:
    record = store.load(identifier)
    now = status(record, frozen(record))
    if now not in ("created", "running", "paused"):
        raise FailedPrecondition(f"cannot change mounts of container {identifier}: it is {now}")
    return record


def _run(record: Record, plan: Plan) -> None:
    try:
        pidfd = os.pidfd_open(record.init_process_pid)
    except OSError as error:
        raise from_os(error, f"open process {record.init_process_pid}") from error
    try:
        if not record.alive:  # looked at again once it is held
            raise FailedPrecondition(f"cannot change mounts of container {record.id}: it is stopped")
        children().wait(launch(plan, inherit=[pidfd]).pid)
    finally:
        os.close(pidfd)
