"""Where attachments are written down: the state directory, which a reboot empties as it empties the kernel, and for
CNI, whose plugins keep things of their own across reboots, the store's directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from orlop.network.records import Attachment
from orlop.spec.document import known
from orlop.spec.errors import Internal, from_os, os_errors
from orlop.sys.files import overwrite, read_text

if TYPE_CHECKING:
    from orlop.network.cni import Cached

MS_BIND, MNT_DETACH = 0x1000, 2

_attachment_json = msgspec.json.Decoder(known(Attachment))
_encode = msgspec.json.Encoder().encode


class State:
    """The records of who is attached. Changes are made under `lock`, or under the container's own lock for CNI."""

    def __init__(self, directory: Path, state: Path) -> None:
        self._directory, self._state = directory / "cni", state / "networks"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One change to the built-in networks at a time, whatever thread or process makes it. The kernel lets go of
        the lock when its holder dies."""
        with os_errors("lock networks"):
            try:
                fd = self._open_lock()
            except FileNotFoundError:  # the first one after a boot
                self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
                fd = self._open_lock()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _open_lock(self) -> int:
        return os.open(f"{self._state}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    # attachments

    def write(self, attachment: Attachment) -> None:
        _replace(self._path(attachment.owner), _encode(attachment))

    def read(self, owner: str) -> Attachment | None:
        data = _content(self._path(owner))
        try:
            return None if data is None else _attachment_json.decode(data)
        except msgspec.MsgspecError as error:
            raise Internal(f"{self._path(owner)}: {str(error)[:200]}") from error

    def forget(self, owner: str) -> None:
        _unlink(self._path(owner))

    def all(self) -> Iterator[Attachment]:
        """Every attachment there is, read one by one as they are asked for."""
        for owner in sorted(path.stem for path in self._state.glob("*.json")):
            if (found := self.read(owner)) is not None:
                yield found

    def others(self, owner: str) -> Iterator[Attachment]:
        """Everybody else in the built-in networks."""
        return (a for a in self.all() if a.owner != owner and a.driver == "bridge")

    def _path(self, owner: str) -> str:
        return f"{self._state}/{owner}.json"

    # CNI: what was added, and the namespace it was added to

    def write_cached(self, cached: Cached) -> None:
        with os_errors("create"):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(self._cached(cached.owner), _encode(cached))

    def read_cached(self, owner: str) -> Cached | None:
        data = _content(self._cached(owner))
        if data is None:
            return None
        from orlop.network.cni import Cached

        try:
            return msgspec.json.decode(data, type=known(Cached))
        except msgspec.MsgspecError as error:
            raise Internal(f"{self._cached(owner)}: {str(error)[:200]}") from error

    def forget_cached(self, owner: str) -> None:
        _unlink(self._cached(owner))

    def cached_owners(self) -> list[str]:
        return sorted(path.stem for path in self._directory.glob("*.json"))

    def _cached(self, owner: str) -> str:
        return f"{self._directory}/{owner}.json"

    def namespace(self, owner: str) -> Path:
        """Where a container's network namespace is kept beyond the life of its processes, so that plugins can undo in
        it what they did."""
        return self._state / "netns" / owner

    def pin_namespace(self, owner: str, pid: int) -> None:
        from orlop.sys.mounts import mount

        self.unpin_namespace(owner)
        target = self.namespace(owner)
        with os_errors("keep network namespace"):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            target.touch(mode=0o600)
            mount(f"/proc/{pid}/ns/net", str(target), "", MS_BIND)

    def unpin_namespace(self, owner: str) -> None:
        with os_errors("release network namespace"):
            if self.pinned(owner):
                from orlop.sys.mounts import umount

                umount(str(self.namespace(owner)), MNT_DETACH)
            self.namespace(owner).unlink(missing_ok=True)

    def pinned(self, owner: str) -> str:
        """The kept namespace, or "" if there is none any more."""
        target = self.namespace(owner)
        return str(target) if _is_namespace(target) else ""


def _is_namespace(path: Path) -> bool:
    """Whether a file is a namespace; a mount point after a reboot is an ordinary, empty file."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


def _replace(path: str, data: bytes) -> None:
    new = f"{path}.new"
    with os_errors("write"):
        overwrite(new, data)
        os.rename(new, path)


def _content(path: str) -> str | None:
    try:
        return read_text(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os(error, "read") from error


def _unlink(path: str) -> None:
    with os_errors("remove"), suppress(FileNotFoundError):
        os.unlink(path)
