"""Restores a container from a checkpoint: its first process is the shim's child, as if the shim had started it.

The shim's helper becomes CRIU (`runtime.compile_restore.compile_handed_restore`), this process tells it what to do and
writes down who the restored process is before that runs; when CRIU has left, the shim takes it for its own.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from orlop.cgroups import apply as cgroups
from orlop.engine import groups
from orlop.engine.bundle import Bundle, shm_directory
from orlop.engine.checkpoints import archive, metadata
from orlop.engine.names import random_id
from orlop.engine.records import Container
from orlop.engine.steps import reached
from orlop.layers.apply import apply
from orlop.layers.inherit import inherit as inherit_directories
from orlop.layers.limits import WhiteoutFormat
from orlop.runtime import checkpoint, compile_external, criu
from orlop.runtime import restore as runtime
from orlop.runtime.compile_restore import SERVICE_FD, compile_handed_restore, root_at
from orlop.runtime.handshake import Handshake
from orlop.runtime.host import probe_host
from orlop.runtime.launch import follow
from orlop.runtime.namespaces import namespaces
from orlop.runtime.plan import Plan
from orlop.runtime.state import Record
from orlop.shim.client import ShimClient
from orlop.shim.spawn import Shim
from orlop.shim.state import read_state
from orlop.snapshots.detached import detached
from orlop.spec import cancel
from orlop.spec.errors import FailedPrecondition, Internal, InvalidArgument, os_errors
from orlop.spec.runtime import Linux, RuntimeSpec
from orlop.sys.tree import remove_tree
from orlop.wire import criu as messages
from orlop.wire import tar
from orlop.wire.tar_encode import encode as encode_entry

if TYPE_CHECKING:
    from orlop.engine.engine import Engine

_PATIENCE = 30.0  # seconds between CRIU's word that all is done and its end
_CHUNK = 1 << 20
StartShim = Callable[..., tuple[socket.socket, Shim]]


def view_of(container: Container) -> str:
    """The snapshot by which a checkpoint in an image is read; it is there for as long as that takes."""
    return f"{container.id}-checkpoint"


def place(engine: Engine, container: Container) -> Path:
    """What the container's checkpoint holds, from its creation to its start."""
    return engine.paths.container(container.id) / "checkpoint"


# --- where a checkpoint comes from


def read(engine: Engine, source: str, name: str) -> bytes:
    """One small file of a checkpoint. `source` is the path of an archive or a directory, or the ID of an image."""
    with _opened(engine, source, f"reading-{random_id()}") as path:
        return archive.read(path, name)


@contextmanager
def _opened(engine: Engine, source: str, key: str) -> Iterator[Path]:
    if source.startswith("/"):
        yield Path(source)
        return
    image = engine.images.by_id(source)
    engine.images.unpack(image)
    engine.snapshots.view(key, image.chain_id)
    try:
        root = detached(engine.snapshots.mounts(key))
        try:
            yield Path(f"/proc/self/fd/{root}")
        finally:
            os.close(root)
    finally:
        engine.snapshots.remove(key)


# --- creation


def furnish(engine: Engine, container: Container) -> None:
    """Take over what the container is to go on from, and give its root the changes that the checkpoint has."""
    source, directory = container.config.checkpoint, place(engine, container)
    with os_errors("make the directory of the checkpoint"):
        directory.mkdir(mode=0o700)
    with _opened(engine, source, view_of(container)) as path:
        archive.fetch(path, directory)
    if not all((directory / metadata.IMAGES / name).is_file() for name in ("inventory.img", checkpoint.DESCRIPTORS)):
        raise InvalidArgument(f"{source}: holds no checkpoint")
    _check_streams(container, checkpoint.read_descriptors(str(directory / metadata.IMAGES)))
    _change_root(engine, container, directory)


def _check_streams(container: Container, descriptors: Sequence[str]) -> None:
    """Raises FailedPrecondition where the streams that the container is to have can't be those of the checkpoint."""
    pipes = [name.startswith("pipe:") for name in descriptors[:3]]
    if container.config.tty == any(pipes[1:]):
        there = "none" if container.config.tty else "one"
        raise FailedPrecondition(f"config.tty: the checkpoint is of a container with {there}")
    if container.config.open_stdin and not container.config.tty and not pipes[0]:
        raise FailedPrecondition("config.stdin: the checkpoint is of a container without standard input")


def _change_root(engine: Engine, container: Container, directory: Path) -> None:
    layer, removed = directory / metadata.ROOTFS, directory / metadata.DELETED
    whiteouts = metadata.parse_removals(removed.read_bytes()) if removed.is_file() else ()
    target = engine.snapshots.directory(container.id)
    if whiteouts:
        _apply(engine, container, target, _Whiteouts(whiteouts), "")
    if layer.is_file():
        with archive.opened(layer) as stream:
            _apply(engine, container, target, stream, archive.compression_of(stream))


class _Whiteouts:
    """A layer that only takes away, as a stream."""

    def __init__(self, paths: Sequence[bytes]) -> None:
        entries = (encode_entry(tar.Entry(path=metadata.whiteout(path))) for path in paths)
        self._left = b"".join(entries) + tar.END_OF_ARCHIVE

    def read(self, size: int = -1, /) -> bytes:
        size = len(self._left) if size < 0 else size
        data, self._left = self._left[:size], self._left[size:]
        return data


def _apply(engine: Engine, container: Container, target: Path, stream: object, compression: str) -> None:
    applied = apply(stream, compression, target, WhiteoutFormat(engine.snapshots.whiteouts))  # type: ignore[arg-type]
    if engine.snapshots.stackable and applied.implied:
        inherit_directories(target, applied.implied, _lowers(engine, container))


def _lowers(engine: Engine, container: Container) -> list[Path]:
    found, key = [], engine.snapshots.stat(container.id).parent
    while key:
        found.append(engine.snapshots.directory(key))
        key = engine.snapshots.stat(key).parent
    return found


# --- start


def launch(
    engine: Engine, container: Container, bundle: Bundle, root: int, shim_of: StartShim
) -> tuple[int, ShimClient | None]:
    """Have a shim's helper become CRIU, and CRIU restore the container; its first process, and the shim's client.

    `shim_of(plan, inherited descriptors, pid file)` starts the shim.
    """
    spec, linux = bundle.spec, bundle.spec.linux or Linux()
    if "network" in namespaces(linux).new:
        raise FailedPrecondition(f"container {container.name}: one with a network of its own can't be restored")
    compile_external.check(spec)
    making = _Restoring(engine, container, spec)
    try:
        return making.make(linux, root, shim_of)
    finally:
        making.close()


class _Restoring:
    """One restore; what it has open is closed at the end."""

    def __init__(self, engine: Engine, container: Container, spec: RuntimeSpec) -> None:
        self.engine = engine
        self.container = container
        self.spec = spec
        self.host = probe_host()
        self.images = place(engine, container) / metadata.IMAGES
        self.work = engine.paths.container(container.id)
        self.run = engine.paths.run(container.id)
        self.mine: list[int] = []
        self.directories: list[int] = []
        self.shim: Shim | None = None
        self.helper = 0

    def close(self) -> None:
        for fd in (*self.mine, *self.directories):
            os.close(fd)

    def make(self, linux: Linux, root: int, shim_of: StartShim) -> tuple[int, ShimClient | None]:
        self._share_memory()
        errors = self._keep(os.memfd_create("criu"))
        inherit, more = self._inherited(linux)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                plan = self._plan(len(more))
                control, self.shim = shim_of(
                    plan, (theirs.fileno(), errors, root, *more), str(self.run / "restored.pid")
                )
            client = self.shim.client
            try:
                with control:
                    follow(control, plan, self._on_sync, state=Handshake("cloned", (0,)))
                pid = self._restore(criu.Session(ours, errors), inherit)
                ours.close()
                self._await_shim(pid)
            except BaseException:
                if client is not None:
                    client.close()
                raise
        self._note(linux, pid)
        return pid, client

    def _keep(self, fd: int) -> int:
        self.mine.append(fd)
        return fd

    def _share_memory(self) -> None:
        """Give a pod's shared memory what the checkpoint has of it, unless there is something in it by now."""
        kind, _, donor = self.container.config.ipc_mode.partition(":")
        if kind == "container":
            read_shared_memory(shm_directory(self.engine, donor), place(self.engine, self.container))

    def _inherited(self, linux: Linux) -> tuple[tuple[tuple[str, int], ...], tuple[int, ...]]:
        """Names in the image with descriptors of CRIU's, and the descriptors to hand over beside the streams."""
        descriptors = checkpoint.read_descriptors(str(self.images))
        found = [(name, SERVICE_FD + 1 + fd) for fd, name in enumerate(descriptors[:3]) if name.startswith("pipe:")]
        more: list[int] = []
        if found and found[0][1] == SERVICE_FD + 1 and not self.container.config.open_stdin:
            more.append(self._keep(_ended_pipe()))
            found[0] = (found[0][0], SERVICE_FD + 4)
        for key, fd in runtime.external_namespaces(linux):
            more.append(self._keep(fd))
            found.append((key, SERVICE_FD + 3 + len(more)))
        return tuple(found), tuple(more)

    def _plan(self, more: int) -> Plan:
        scratch = self.run / "restore"
        with os_errors("make the place of the root file system"):
            scratch.mkdir(mode=0o700, exist_ok=True)
        record = self.container.record
        return compile_handed_restore(
            criu.program(more),
            str(scratch),
            (str(self.images), str(self.work)),
            compile_external.mounts(self.spec, str(self.work)),
            cgroups.procs_paths(self.engine.cgroups, record.cgroup),
            self.host,
            bool(record.slice),
        )

    # --- while it is restored

    def _on_sync(self, name: str, pid: int, fds: list[int]) -> None:
        assert self.shim is not None
        self.helper = self.helper or _only_child(self.shim.pid)
        if name == "cgroup":
            groups.adopt(self.engine.cgroups, self.container.record, self.spec, self.helper)
            reached("start.cgroup")
        elif name == "directories":
            self.directories += [os.dup(fd) for fd in fds]

    def _restore(self, session: criu.Session, inherit: tuple[tuple[str, int], ...]) -> int:
        options = runtime.Options(
            bundle=str(self.work),
            id=self.container.id,
            image=str(self.images),
            file_locks=True,
            tcp_established=True,
            tcp_close=True,
            ext_unix_sk=True,
        )
        record = Record(
            id=self.container.id,
            bundle=str(self.work),
            created="",
            cgroup=self.container.record.cgroup,
            annotations=self.container.config.annotations,
        )
        request = runtime.compose(
            options,
            self.spec,
            record,
            self.engine.cgroups,
            self.helper,
            self.directories,
            root_at(str(self.run / "restore")),
        )
        request = msgspec.structs.replace(request, inherit=inherit)
        answer = session.request(messages.RESTORE, request, self._on_notify)
        if not answer.success:
            log = criu.log_path(str(self.work), runtime.LOG, criu.config_file(record.annotations))
            raise criu.failure(answer, f"cannot restore container {self.container.name}", log)
        return answer.pid

    def _on_notify(self, told: messages.Answer, fds: Sequence[int]) -> None:
        cancel.check()
        if told.script == "setup-namespaces" and self.spec.hooks is not None:
            from orlop.engine import container_hooks

            container_hooks.before(self.engine, self.container, self.spec, told.pid)
        elif told.script == "orphan-pts-master":
            with ShimClient(self.run) as shim:
                shim.terminal(fds[0])
        elif told.script == "post-restore":  # nothing of it runs yet
            with os_errors("note the restored process"):
                (self.run / "restored.pid").write_text(str(told.pid))

    def _await_shim(self, pid: int) -> None:
        """Until CRIU has left, and the shim knows whose parent it is. A process may have ended by then."""
        deadline = time.monotonic() + _PATIENCE
        while (state := read_state(self.run)).pid != pid and state.exit is None:
            if time.monotonic() > deadline:
                raise Internal(f"container {self.container.name}: criu does not end")
            time.sleep(0.002)

    def _note(self, linux: Linux, pid: int) -> None:
        """What is of no use any more, and the time namespace that CRIU restores into."""
        config = self.work / "config.json"
        with os_errors("note the restored process"):
            changed = runtime.with_time_namespace(config.read_bytes(), linux, pid)
            if changed is not None:
                config.write_bytes(changed)
            remove_tree(place(self.engine, self.container))


def read_shared_memory(memory: Path, directory: Path) -> None:
    """Write what a checkpoint has of shared memory into it, if it has something and nothing is there yet."""
    kept = directory / metadata.SHM
    if kept.is_file() and not any(memory.iterdir()):
        with archive.opened(kept) as stream:
            apply(stream, "", memory, WhiteoutFormat.REMOVE)


def _ended_pipe() -> int:
    """The end of a pipe from which nothing comes."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.close(writing)
    return reading


def _only_child(pid: int) -> int:
    with os_errors("find criu"):
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
