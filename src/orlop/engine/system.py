"""`System`: the whole of a root directory: what it holds, what it takes, and what may go."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from orlop.engine import events, lifecycle
from orlop.engine.images.image import Image
from orlop.engine.records import Container, Event, Volume
from orlop.spec.errors import FailedPrecondition, NotFound
from orlop.sys.tree import measure_tree

if TYPE_CHECKING:
    from orlop.engine.engine import Engine
    from orlop.engine.images.remove import Removed

_IDLE = frozenset({lifecycle.CREATED, lifecycle.EXITED, lifecycle.DEAD})


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    pass


class NamespaceUse(_Answer, frozen=True, kw_only=True):
    """A namespace and how much of each kind it holds."""

    name: str
    containers: int = 0
    images: int = 0
    volumes: int = 0


class ImageUse(_Answer, frozen=True, kw_only=True):
    """An image; `shared` and `unique` are the bytes of its layers that others stand on too, and that go with it."""

    image: Image
    containers: int
    running: int
    shared: int
    unique: int


class ContainerUse(_Answer, frozen=True, kw_only=True):
    """A container and the bytes of its writable layer."""

    container: Container
    size: int


class VolumeUsage(_Answer, frozen=True, kw_only=True):
    """A volume, its bytes, and how many containers mount it."""

    volume: Volume
    size: int
    links: int


class DiskUse(_Answer, frozen=True, kw_only=True):
    """What a namespace takes on the disk. `layers` is the bytes of all its images' layers, each counted once."""

    images: tuple[ImageUse, ...]
    containers: tuple[ContainerUse, ...]
    volumes: tuple[VolumeUsage, ...]
    layers: int


class Info(_Answer, frozen=True, kw_only=True):
    """The engine and its host."""

    containers: int
    running: int
    paused: int
    stopped: int
    images: int
    version: str
    storage_driver: str
    filesystem: str
    root: str
    state: str
    cgroup_mode: str
    cgroup_controllers: tuple[str, ...]
    kernel: str
    operating_system: str
    machine: str
    processors: int
    memory: int
    hostname: str
    security: tuple[str, ...]


class Pruned(_Answer, frozen=True, kw_only=True):
    """What went, by name or ID, and how many bytes that freed."""

    removed: tuple[str, ...] = ()
    freed: int = 0


class System:
    """An engine as a whole."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def namespaces(self) -> list[NamespaceUse]:
        """Every namespace that holds something, and the engine's own; by name."""
        counts = {
            "containers": "SELECT namespace, count(*) FROM containers GROUP BY namespace",
            "images": "SELECT namespace, count(DISTINCT id) FROM images GROUP BY namespace",
            "volumes": "SELECT namespace, count(*) FROM volumes GROUP BY namespace",
        }
        found: dict[str, dict[str, int]] = {self.engine.namespace: {}}
        for kind, query in counts.items():
            for name, count in self.engine.database.read(query):
                found.setdefault(name, {})[kind] = count
        return [NamespaceUse(name=name, **numbers) for name, numbers in sorted(found.items())]

    def disk_use(self) -> DiskUse:
        """Measured now; for volumes and containers that means walking their files."""
        engine = self.engine
        containers = engine.containers.list(all=True)
        images, layers = _image_uses(engine, containers)
        return DiskUse(
            images=images,
            layers=layers,
            containers=tuple(ContainerUse(container=c, size=self.size(c)) for c in containers),
            volumes=tuple(self._volume(volume) for volume in engine.volumes.all()),
        )

    def size(self, container: Container) -> int:
        """Bytes that a container has written to its root file system; 0 when it has none (yet, or any more)."""
        try:
            return self.engine.snapshots.usage(container.id).size
        except (NotFound, FailedPrecondition):
            return 0

    def _volume(self, volume: Volume) -> VolumeUsage:
        size = measure_tree(self.engine.volumes.path(volume.name))[0]
        return VolumeUsage(volume=volume, size=size, links=len(self.engine.volumes.users(volume.name)))

    def info(self) -> Info:
        """What `docker info` tells, as far as it applies."""
        import orlop

        engine, kernel = self.engine, os.uname()
        containers = engine.containers.list(all=True)
        states = Counter(container.state for container in containers)
        return Info(
            containers=len(containers),
            running=states[lifecycle.RUNNING],
            paused=states[lifecycle.PAUSED],
            stopped=len(containers) - states[lifecycle.RUNNING] - states[lifecycle.PAUSED],
            images=len(engine.images.list()),
            version=orlop.__version__,
            storage_driver=engine.snapshots.name,
            filesystem=_filesystem(str(engine.paths.root)),
            root=str(engine.paths.root),
            state=str(engine.paths.state),
            cgroup_mode=engine.cgroups.mode,
            cgroup_controllers=tuple(sorted(engine.cgroups.controllers)),
            kernel=kernel.release,
            operating_system=_operating_system(),
            machine=kernel.machine,
            processors=os.cpu_count() or 0,
            memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            hostname=kernel.nodename,
            security=("seccomp", "cgroupns"),
        )

    def events(self, since: float | None, until: float | None) -> Iterator[Event]:
        """What happened from `since` on (seconds since the epoch; None: from now on) up to `until` (None: for ever)."""
        from orlop.sys.inotify import Watch

        after, moment = 0, time.time() if since is None else since
        watch = Watch(self.engine.paths.root)  # every change is written to the database's log there
        try:
            while True:
                now = time.time()
                for number, event in events.since(self.engine.database, self.engine.namespace, after, moment):
                    after = number
                    if until is not None and event.time > until:
                        return
                    yield event
                if until is not None and now > until:
                    return
                watch.wait(1.0 if until is None else min(1.0, max(0.001, until - now)))
        finally:
            watch.close()

    # Removing what nobody uses

    def prune_containers(self, wanted: Callable[[Container], bool]) -> Pruned:
        """Remove the containers that do not run and that are `wanted`."""
        removed, freed = [], 0
        for container in self.engine.containers.list(all=True):
            if container.state in _IDLE and wanted(container):
                size = self.size(container)
                try:
                    self.engine.containers.remove(container.id)
                except (NotFound, FailedPrecondition):
                    continue  # removed or started by another process meanwhile
                removed.append(container.id)
                freed += size
        return Pruned(removed=tuple(removed), freed=freed)

    def prune_volumes(self, everything: bool, wanted: Callable[[Volume], bool]) -> Pruned:
        """Remove the volumes that no container uses: anonymous ones, or all."""
        removed, freed = [], 0
        for volume in self.engine.volumes.all():
            if not (everything or volume.anonymous) or self.engine.volumes.users(volume.name) or not wanted(volume):
                continue
            size = measure_tree(self.engine.volumes.path(volume.name))[0]
            try:
                self.engine.volumes.remove(volume.name)
            except (NotFound, FailedPrecondition):
                continue
            removed.append(volume.name)
            freed += size
        return Pruned(removed=tuple(removed), freed=freed)

    def prune_images(self, all: bool, labels: tuple[str, ...] = ()) -> Removed:
        """Remove images without a name, or (`all`) all that no container uses."""
        return self.engine.images.prune(all=all, labels=labels)


def _image_uses(engine: Engine, containers: list[Container]) -> tuple[tuple[ImageUse, ...], int]:
    snapshots = {snapshot.key: snapshot for snapshot in engine.snapshots.walk()}
    images = engine.images.list()
    chains: dict[str, list[str]] = {}
    for image in images:
        key, chain = image.chain_id, []
        while key in snapshots:
            chain.append(key)
            key = snapshots[key].parent
        chains[image.id] = chain
    uses = Counter(key for chain in chains.values() for key in chain)
    sizes = {key: max(0, snapshots[key].record.size) for key in uses}
    return tuple(_image_use(image, chains[image.id], uses, sizes, containers) for image in images), sum(sizes.values())


def _image_use(
    image: Image, chain: list[str], uses: Counter[str], sizes: dict[str, int], containers: list[Container]
) -> ImageUse:
    mine = [container for container in containers if container.record.image_id == image.id]
    return ImageUse(
        image=image,
        containers=len(mine),
        running=sum(container.running for container in mine),
        shared=sum(sizes[key] for key in chain if uses[key] > 1),
        unique=sum(sizes[key] for key in chain if uses[key] == 1),
    )


def _filesystem(path: str) -> str:
    """The type of the file system that holds `path`, by the longest mount point (proc(5), mountinfo)."""
    best, kind = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            front, _, back = line.partition(" - ")
            point = front.split()[4]
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, back.split()[0]
    return kind


def _operating_system() -> str:
    """PRETTY_NAME of os-release(5)."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    if line.startswith("PRETTY_NAME="):
                        return line.partition("=")[2].strip().strip("\"'")
        except OSError:
            continue
    return "Linux"
