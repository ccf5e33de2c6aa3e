"""What the runtime keeps of a container, in `<root>/<id>/`: `state.json`, a copy of the configuration, the start fifo.
Beside them is `status`, which nothing here reads: for whoever looks for crun's, in the words of that.

The record is written before the step that it describes, and the truth is taken from the process: whether it lives
(same pid, same start time, same boot), and whether it is still the launch helper that waits for `start`. State belongs
to one boot, so that files are replaced at once but not synced to a disk.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from orlop.cgroups.units import Place, Unit
from orlop.spec.document import decode
from orlop.spec.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    from_os,
)
from orlop.spec.runtime import RuntimeSpec, State, parse_runtime_spec
from orlop.sys.files import read_bytes
from orlop.sys.procfs import boot_id, start_time

Phase = Literal["creating", "created", "running"]
Status = Literal["creating", "created", "running", "stopped", "paused"]
FIFO, STATE, CONFIG, NOTIFY, STATUS = "exec.fifo", "state.json", "config.json", "notify", "status"
_WAITING = "/memfd:orlop-launch"  # what /proc/PID/exe says of the launch helper
_ID_MAX = 200
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


class HostRoot(msgspec.Struct, frozen=True):
    """Of a container that has its mounts in the mount namespace of the host: which that is, and the ids of the mounts
    that were at its root before (proc_pid_mountinfo(5))."""

    namespace: int
    before: tuple[int, ...]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`state.json`. `cgroup` is the group's path in every hierarchy, or in those mounted at `hierarchies` where its
    maker had no rights to all, and empty for a container in its caller's groups; `unit` is what it is to systemd.
    `creator` and `creator_start` tell the process that makes the container, as long as `phase` is creating. `rootfs` is
    absolute. `awaits` is the place in the plan's last stage of the step that waits for `start`.
    `descriptors` are the names of the standard streams that the container began with, as in /proc/PID/fd."""

    id: str
    bundle: str
    created: str
    oci_version: str = "1.0.0"
    init_process_pid: int = 0
    init_process_start: int = 0
    boot_id: str = ""
    cgroup: str = ""
    unit: Unit | None = None
    hierarchies: tuple[str, ...] = ()
    rootfs: str = ""
    owner: int = 0
    phase: Phase = "creating"
    creator: int = 0
    creator_start: int = 0
    awaits: int = 0
    annotations: dict[str, str] = {}
    descriptors: tuple[str, ...] = ()
    host_root: HostRoot | None = None

    @property
    def place(self) -> Place:
        """Where its processes are."""
        return Place(self.cgroup, self.unit)

    @property
    def alive(self) -> bool:
        """Whether the container's first process is there; a zombie is not."""
        return (
            self.init_process_pid > 0
            and self.boot_id == boot_id()
            and start_time(self.init_process_pid) == self.init_process_start
        )


class Store:
    """The containers under one root directory."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self._parsed: tuple[bytes, RuntimeSpec] | None = None

    def directory(self, identifier: str) -> str:
        """Where a container's files are. Raises InvalidArgument for a name that is none."""
        if not valid_id(identifier):
            raise InvalidArgument(_invalid_id(identifier))
        return os.path.join(self.root, identifier)

    def path(self, identifier: str, name: str) -> str:
        return os.path.join(self.directory(identifier), name)

    def reserve(self, record: Record) -> None:
        """Take the name. Raises AlreadyExists."""
        directory = self.directory(record.id)
        try:
            os.makedirs(self.root, mode=0o711, exist_ok=True)
            os.mkdir(directory, 0o711)
        except FileExistsError:
            raise AlreadyExists(f"container {record.id} already exists") from None
        except OSError as error:
            raise from_os(error, "make state directory") from error
        self.save(record)

    def save(self, record: Record) -> None:
        """Put the record in place of the one before."""
        self.write(record.id, STATE, msgspec.json.encode(record))

    def publish(self, record: Record) -> None:
        """Write `status`, once the container's process is there."""
        self.write(record.id, STATUS, msgspec.json.encode(_published(record)))

    def write(self, identifier: str, name: str, data: bytes) -> None:
        path = self.path(identifier, name)
        try:
            fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)
            os.rename(path + ".new", path)
        except OSError as error:
            raise from_os(error, "write state") from error

    def load(self, identifier: str) -> Record:
        """The record. Raises NotFound, also for what is left of a container that was never recorded."""
        try:
            data = read_bytes(self.path(identifier, STATE))
            self._check_owner(identifier)
            return decode(data, Record, STATE)
        except FileNotFoundError:
            raise NotFound(f"container {identifier} does not exist") from None
        except OSError as error:
            raise from_os(error, "read state") from error

    def _check_owner(self, identifier: str) -> None:
        """What another user has written there could make this one kill any process, or run any hook."""
        owner = os.stat(self.directory(identifier)).st_uid
        if owner != os.geteuid():
            raise PermissionDenied(f"container {identifier} belongs to the user with the id {owner}; act as that one")

    def spec(self, identifier: str) -> RuntimeSpec:
        """The configuration that the container was made from."""
        try:
            data = read_bytes(self.path(identifier, CONFIG))
        except OSError as error:
            raise from_os(error, "read configuration") from error
        if self._parsed is None or self._parsed[0] != data:
            self._parsed = data, parse_runtime_spec(data).value
        return self._parsed[1]

    @contextmanager
    def starting(self, identifier: str) -> Iterator[None]:
        """For one at a time. Raises FailedPrecondition where another is at it."""
        try:
            directory = os.open(self.directory(identifier), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise from_os(error, "open state directory") from error
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise FailedPrecondition(f"cannot start container {identifier}: it is being started already") from None
        finally:
            os.close(directory)

    def identifiers(self) -> tuple[str, ...]:
        """All containers, by name."""
        try:
            return tuple(sorted(name for name in os.listdir(self.root) if valid_id(name)))
        except FileNotFoundError:
            return ()

    def forget(self, identifier: str) -> None:
        """Remove the files, the record last, so that an interrupted removal can be repeated."""
        directory = self.directory(identifier)
        try:
            names = os.listdir(directory)
            for name in sorted(names, key=lambda name: name == STATE):
                path = os.path.join(directory, name)
                os.unlink(path) if name != NOTIFY else _remove_directory(path)
            os.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise from_os(error, "remove state") from error


def _published(record: Record) -> dict[str, object]:
    return {
        "pid": record.init_process_pid,
        "process-start-time": record.init_process_start,
        "cgroup-path": record.cgroup,
        "scope": record.unit.name if record.unit is not None else "",
        "rootfs": record.rootfs,
        "systemd-cgroup": record.unit is not None,
        "bundle": record.bundle,
        "created": record.created,
        "owner": str(record.owner),
        "external_descriptors": msgspec.json.encode(record.descriptors).decode(),
    }


def _remove_directory(path: str) -> None:
    for name in os.listdir(path):
        os.unlink(os.path.join(path, name))
    os.rmdir(path)


def _invalid_id(identifier: str) -> str:
    wrong = next((c for c in identifier if c not in _ID_CHARACTERS), "") or identifier[:1]
    if not identifier or len(identifier) > _ID_MAX:
        return f"invalid container id: {identifier[:64]!r}: must have 1 to {_ID_MAX} characters"
    return f"invalid container id: invalid character {wrong!r} in container ID {identifier[:64]!r}"


def valid_id(identifier: str) -> bool:
    """Letters, digits, `_ + - .`; a name that starts with a dot is not a container's."""
    return 0 < len(identifier) <= _ID_MAX and identifier[0] != "." and _ID_CHARACTERS.issuperset(identifier)


def status(record: Record, frozen: bool = False) -> Status:
    """Where the container stands in its life, by the process itself."""
    if not record.alive:
        if record.phase == "creating" and _creator_lives(record):
            return "creating"
        return "stopped"
    if record.phase == "creating":
        return "creating"
    if record.phase == "created" and _waits(record.init_process_pid):
        return "created"
    return "paused" if frozen else "running"


def state(record: Record, frozen: bool = False) -> State:
    """What hooks and `state` are told (runtime.md, "State")."""
    now = status(record, frozen)
    return State(
        oci_version=record.oci_version,
        id=record.id,
        status=now,
        pid=0 if now == "stopped" else record.init_process_pid,
        bundle=record.bundle,
        annotations=record.annotations,
    )


def _creator_lives(record: Record) -> bool:
    return record.boot_id == boot_id() and start_time(record.creator) == record.creator_start


def _waits(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/exe").startswith(_WAITING)
    except PermissionError:  # to an ordinary user the helper is closed, and a program that it may read is not
        return True
    except OSError:
        return False
