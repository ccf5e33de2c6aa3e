"""Writes a checkpoint of a container that runs, and goes on running, into a directory."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from orlop.cgroups import apply as cgroups
from orlop.engine import lifecycle, settle
from orlop.engine.bundle import shm_directory
from orlop.engine.checkpoints import metadata
from orlop.engine.exec import read_spec
from orlop.engine.records import Container
from orlop.layers.diff import diff_overlay, diff_trees
from orlop.runtime import checkpoint, criu
from orlop.runtime.state import Record
from orlop.spec import cancel
from orlop.spec.document import encode
from orlop.spec.errors import Aborted, FailedPrecondition, NotFound, os_errors
from orlop.sys.files import write_all
from orlop.wire import tar

if TYPE_CHECKING:
    from orlop.engine.engine import Engine

STREAMS = "streams"  # beside the shim's socket: which pipes the container got
_WRITABLE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def obstacle(container: Container) -> str:
    """Why this container can't be checkpointed, whatever CRIU says; empty where nothing speaks against it."""
    if not container.running:
        return f"it is {container.state}"
    if container.config.oci_runtime is not None:
        return f"handler {container.config.oci_runtime.name} runs it, a program of its own"
    if container.config.pod is not None and container.config.pod.id_maps is not None:
        return "it has a user namespace, and criu cannot restore a mount whose ids are mapped"
    return "" if criu.installed() else "the program criu is not installed, or not in $PATH"


def check(container: Container) -> None:
    """Raises FailedPrecondition for a container that can't be checkpointed."""
    if why := obstacle(container):
        raise FailedPrecondition(f"cannot checkpoint container {container.name}: {why}")


def dump(
    engine: Engine, container: Container, directory: Path, files: Mapping[str, bytes], shared: bool = True
) -> None:
    """Write what an archive is made of (see `metadata`) into an empty directory, with `files` beside it; the shared
    memory of its pod where that is asked for.

    The container stands still for as long as its memory and its files are written, and runs on after that, also where
    it fails. Raises FailedPrecondition with CRIU's reason, and Aborted where nobody waits for it any more.
    """
    with settle.held(engine, container.id) as now:
        if now is None:
            raise NotFound(f"no such container: {container.name}")
        check(now)
        spec = read_spec(engine, now)
        with os_errors("write the checkpoint"):
            (directory / metadata.IMAGES).mkdir(mode=0o700)
        options = checkpoint.Options(
            image=str(directory / metadata.IMAGES),
            work=str(engine.paths.container(container.id)),  # the log stays there where it tells of a failure
            leave_running=True,
            file_locks=True,
            tcp_established=True,
            tcp_close=True,
            ext_unix_sk=True,
            link_remap=True,
            dumped=lambda: _changes(engine, now, directory, shared),
        )
        try:
            checkpoint.dump(_record(engine, now), spec, options)
        except Aborted:  # criu was ended, perhaps before it could let the container go on
            if now.state != lifecycle.PAUSED and now.record.frozen_by is None:
                cgroups.thaw(engine.cgroups, now.record.cgroup)
            raise
        except FailedPrecondition as error:
            if why := obstacle(engine.containers.get(container.id)):
                raise FailedPrecondition(f"cannot checkpoint container {container.name}: {why}") from error
            raise
    _describe(engine, now, directory, files)


def _record(engine: Engine, container: Container) -> Record:
    """The container as `runtime.checkpoint` knows containers."""
    record = container.record
    return Record(
        id=container.id,
        bundle=str(engine.paths.container(container.id)),
        created="",
        init_process_pid=record.pid,
        init_process_start=record.pid_start_time,
        boot_id=record.boot_id,
        cgroup=record.cgroup,
        annotations=container.config.annotations,
        descriptors=_streams(engine, container),
    )


def _streams(engine: Engine, container: Container) -> tuple[str, ...]:
    try:
        text = (engine.paths.run(container.id) / STREAMS).read_text()
    except FileNotFoundError:
        raise FailedPrecondition(
            f"cannot checkpoint container {container.name}: an older version started it; start it anew"
        ) from None
    return tuple(text.split("\n")[:3])


# --- while no process of the container runs


def _changes(engine: Engine, container: Container, directory: Path, shared: bool) -> None:
    """What it has changed in its root, and what is in its shared memory."""
    if container.record.snapshot:
        _write_layer(directory / metadata.ROOTFS, _layer(engine, container), directory / metadata.DELETED)
    memory = _shared_memory(engine, container) if shared else None
    if memory is not None:
        write_shared_memory(memory, directory)


def write_shared_memory(memory: Path, directory: Path) -> None:
    """What is in shared memory, which is a directory of the host; nothing where there is nothing."""
    if any(memory.iterdir()):
        _write_layer(directory / metadata.SHM, diff_overlay(memory), None)


def _layer(engine: Engine, container: Container) -> Iterator[bytes]:
    upper = engine.snapshots.directory(container.id)
    if engine.snapshots.stackable:
        return diff_overlay(upper)
    return diff_trees(engine.snapshots.directory(engine.snapshots.stat(container.id).parent), upper)


def _shared_memory(engine: Engine, container: Container) -> Path | None:
    """The host's directory that is the container's /dev/shm, where it is one of Orlop's."""
    kind, _, donor = container.config.ipc_mode.partition(":")
    if kind == "container":
        return shm_directory(engine, donor)
    return shm_directory(engine, container.id) if kind == "shareable" else None


def _write_layer(path: Path, pieces: Iterator[bytes], removals: Path | None) -> None:
    decoder = tar.Decoder()
    names: list[bytes] = []
    with os_errors("write the checkpoint"):
        fd = os.open(path, _WRITABLE, 0o600)
        try:
            for piece in pieces:
                cancel.check()
                write_all(fd, piece)
                decoder.feed(piece)
                names += _names(decoder)
        finally:
            os.close(fd)
        if removals is not None:
            removals.write_bytes(msgspec.json.encode(metadata.removals(names)))


def _names(decoder: tar.Decoder) -> Iterator[bytes]:
    """The entries of a tar whose names are known by now."""
    while isinstance(entry := decoder.next_entry(), tar.Entry):
        yield entry.path


# --- beside it


def _describe(engine: Engine, container: Container, directory: Path, files: Mapping[str, bytes]) -> None:
    image = engine.images.find(container.record.image_id)
    config = metadata.Config(
        id=container.id,
        name=container.name,
        rootfs_image=container.record.image_id,
        rootfs_image_name=next(iter(image.names), "") if image else container.config.image,
        rootfs_image_ref=next(iter(image.repository_digests), image.id) if image else container.record.image_id,
        created=metadata.moment(container.created),
        checkpointed=metadata.moment(time.time()),
    )
    texts = {metadata.CONFIG: msgspec.json.encode(config), metadata.SPEC: encode(read_spec(engine, container)), **files}
    with os_errors("write the checkpoint"):
        for name, path in _said(engine, container):
            if os.path.isfile(path):
                shutil.move(path, directory / name)
        for name, data in texts.items():
            (directory / name).write_bytes(data)
        log = container.config.log
        if log.driver == "cri" and os.path.isfile(log.path):
            shutil.copyfile(log.path, directory / metadata.LOG)


def _said(engine: Engine, container: Container) -> Iterator[tuple[str, str]]:
    """Where CRIU has put its log, which the administrator's file of options may call otherwise, and its figures."""
    work = str(engine.paths.container(container.id))
    config = criu.config_file(container.config.annotations)
    yield metadata.DUMP_LOG, criu.log_path(work, checkpoint.LOG, config)
    yield metadata.STATS, os.path.join(work, metadata.STATS)
