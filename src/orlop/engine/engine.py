"""`Engine`: the whole of Orlop in one object, in the calling process, without a daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from orlop.engine.paths import default_paths
from orlop.metadata.database import Database
from orlop.spec.errors import InvalidArgument, PermissionDenied, os_errors

if TYPE_CHECKING:
    from orlop.cgroups.apply import CgroupHost
    from orlop.content.store import ContentStore
    from orlop.engine.containers import Containers
    from orlop.engine.images.images import Images
    from orlop.engine.pods import Pods
    from orlop.engine.records import Container
    from orlop.engine.run import Completed
    from orlop.engine.system import System
    from orlop.engine.volumes import Volumes
    from orlop.network.networks import Networks
    from orlop.shim.spawner import Spawner
    from orlop.snapshots.snapshotter import Snapshotter

_NAMESPACE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class Engine:
    """Containers, images, volumes and networks under one root directory.

    An engine holds no state of its own that matters: any number of processes may work on the same root at once, and
    containers live on when the process that started them ends. Parts are made when they are first used.

    >>> engine = Engine(root=ROOT, state=STATE)
    >>> image = engine.images.pull(f"{REGISTRY}/busybox:latest")
    >>> done = engine.run(image.name, ["echo", "hello from a container"])
    >>> done.exit_code, done.stdout
    (0, b'hello from a container\\n')
    >>> [container.name for container in engine.containers.list(all=True)]
    []

    root       what survives a reboot; default /var/lib/orlop, or $ORLOP_ROOT
    state      what does not; default /run/orlop, or $ORLOP_STATE
    namespace  containers and image names of one namespace are not seen in another; blobs and layers are shared
    cni_config, cni_plugins
               where conflists and their plugins are; default: where everybody looks for them
    """

    def __init__(
        self,
        root: str = "",
        state: str = "",
        namespace: str = "default",
        *,
        cni_config: str = "",
        cni_plugins: tuple[str, ...] = (),
    ) -> None:
        if not namespace or len(namespace) > 76 or not _NAMESPACE_CHARACTERS.issuperset(namespace):
            raise InvalidArgument(f"namespace {namespace[:80]!r}: want letters, digits, `_`, `.` and `-`, at most 76")
        self.namespace = namespace
        self.cni_config = Path(cni_config) if cni_config else None
        self.cni_plugins = tuple(map(Path, cni_plugins)) or None
        self.paths = default_paths(root, state)
        try:
            with os_errors("prepare"):
                self.paths.make()
        except PermissionDenied as error:
            raise PermissionDenied(f"{error} (orlop needs root for this directory)") from error
        self.database = Database(self.paths.database)
        self.spawner: Spawner | None = None  # a daemon's

    @cached_property
    def content(self) -> ContentStore:
        """Blobs by digest."""
        from orlop.content.store import ContentStore

        return ContentStore(self.paths.content)

    @cached_property
    def snapshots(self) -> Snapshotter:
        """Root file systems: overlay, or plain copies where the kernel has no overlay."""
        from orlop.snapshots.choose import snapshotter

        return snapshotter(self.paths.snapshots, self.database)

    @cached_property
    def images(self) -> Images:
        """Images of this namespace."""
        from orlop.engine.images.images import Images

        return Images(self.content, self.snapshots, self.database, self.namespace, pulls=self.paths.state / "pulls")

    @cached_property
    def containers(self) -> Containers:
        """Containers of this namespace."""
        from orlop.engine.containers import Containers

        return Containers(self)

    @cached_property
    def pods(self) -> Pods:
        """Pods of this namespace."""
        from orlop.engine.pods import Pods

        return Pods(self)

    @cached_property
    def volumes(self) -> Volumes:
        """Volumes of this namespace."""
        from orlop.engine.volumes import Volumes

        return Volumes(self.database, self.paths.volumes, self.namespace)

    @cached_property
    def networks(self) -> Networks:
        """Networks, shared by all namespaces."""
        from orlop.network.networks import Networks

        return Networks(
            self.database,
            self.paths.networks,
            self.paths.state,
            cni_config=self.cni_config,
            cni_plugins=self.cni_plugins,
        )

    @cached_property
    def cgroups(self) -> CgroupHost:
        """How this machine mounts its cgroup hierarchies."""
        from orlop.cgroups.probe import probe

        return probe()

    @cached_property
    def system(self) -> System:
        """Disk use, information on the host, clean-up."""
        from orlop.engine.system import System

        return System(self)

    @cached_property
    def user_namespace_obstacle(self) -> str:
        """Why containers can't have root file systems of a user namespace here; empty where they can."""
        from orlop.engine.idmapped import find_obstacle

        return find_obstacle(self)

    def run(
        self,
        image: str,
        command: list[str] | None = None,
        stdin: bytes = b"",
        timeout: float | None = None,
        **options: object,
    ) -> Completed:
        """Run a command in a new container, wait for it, remove the container, and return what it wrote.

        options are fields of `ContainerConfig`. A command that fails is no error: look at `exit_code`. After `timeout`
        seconds the container is killed and `DeadlineExceeded` raised.
        """
        from orlop.engine.run import run_captured

        return run_captured(self, image, command, stdin, timeout, options)

    @contextmanager
    def rootfs(self, container: Container, user_namespace: int = -1) -> Iterator[int]:
        """A descriptor of a container's root file system, mounted nowhere: nothing of it can be left behind.

        Owners of files are those that they have in the image, or what a user namespace makes of them.
        """
        from orlop.snapshots.detached import detached
        from orlop.snapshots.mounts import Bind

        given = container.config.rootfs
        mounts = (Bind(given, container.config.read_only),) if given else self.snapshots.mounts(container.id)
        fd = detached(mounts, -1 if given else user_namespace)
        try:
            yield fd
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the database. The engine opens it again if it is used afterwards."""
        if self.spawner is not None:
            self.spawner.close()
        self.database.close()
