"""What the engine remembers of a container, a volume and an event: frozen, stored as JSON in the database."""

# No `from __future__ import annotations`: what msgspec decodes into it would have to compile at every start.

import msgspec

from orlop.engine import lifecycle
from orlop.engine.config import ContainerConfig
from orlop.network.records import Attachment


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class Owner(_Record, frozen=True, kw_only=True):
    """The process that has an operation under way; `start_time` (clock ticks since boot) tells it from a later
    process with the same number."""

    pid: int
    start_time: int
    boot_id: str = ""


class VolumeUse(_Record, frozen=True, kw_only=True):
    """A volume in a container; `anonymous` ones go with the container."""

    volume: str
    target: str
    read_only: bool = False
    anonymous: bool = False


class ContainerRecord(_Record, frozen=True, kw_only=True):
    """The changing part of a container. Times are seconds since the epoch; 0 is never."""

    image_id: str  # digest of the image's configuration
    manifest: str = ""  # digest of the image's manifest
    image_name: str = ""  # what the user called it
    snapshot: str = ""
    owner: Owner | None = None
    pid: int = 0
    pid_start_time: int = 0
    boot_id: str = ""
    started: float = 0
    finished: float = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    restart_count: int = 0
    stopped_by_user: bool = False  # keeps `--restart` from starting it again
    volumes: tuple[VolumeUse, ...] = ()
    networked: bool = False  # addresses, ports or an interface may be held
    attachment: Attachment | None = None
    cgroup: str = ""
    frozen_by: Owner | None = None  # who holds its processes for a checkpoint
    slice: str = ""  # the slice in which systemd has made the cgroup, a scope; empty: it is the engine's own
    remove_volumes: bool = False  # a removal under way takes the anonymous volumes along


class Container(_Record, frozen=True, kw_only=True):
    """A container as the database has it."""

    id: str
    namespace: str
    name: str
    state: str
    created: float
    config: ContainerConfig
    record: ContainerRecord

    @property
    def short_id(self) -> str:
        return self.id[:12]

    @property
    def running(self) -> bool:
        return self.state in ("running", "paused")


def is_sandbox(container: Container) -> bool:
    """Whether a container is the sandbox of a pod."""
    return container.config.is_sandbox


def is_whole(sandbox: Container) -> bool:
    """Whether a sandbox is neither being made nor removed. To a kubelet one that does not run yet would have died."""
    return sandbox.state not in (lifecycle.CREATING, lifecycle.CREATED, lifecycle.STARTING, lifecycle.REMOVING)


class Volume(_Record, frozen=True, kw_only=True):
    """A named directory that outlives containers."""

    name: str
    driver: str = "local"
    created: float = 0
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False
    mountpoint: str = ""


class Event(_Record, frozen=True, kw_only=True):
    """Something that happened: `type` is container, image, volume or network; `action` is Docker's word for it."""

    type: str
    action: str
    id: str
    attributes: dict[str, str] = {}
    time: float = 0
