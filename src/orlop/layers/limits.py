"""What a layer may cost, and how its entries meet the file system. Pure types."""

from __future__ import annotations

import enum

import msgspec

from orlop.spec.errors import InvalidArgument


class WhiteoutFormat(enum.Enum):
    """What a deletion in a layer (image-spec, layer.md, "Whiteouts") becomes on disk.

    OVERLAY and OVERLAY_USER write overlayfs' own marks into a directory of one layer: a 0:0 character device for a
    deleted name and `trusted.overlay.opaque` or `user.overlay.opaque` for an opaque directory (kernel,
    filesystems/overlayfs.rst; the second is for mounts with `userxattr`, which are what an unprivileged user can make).
    REMOVE applies to a copy of the lower layers and deletes.
    """

    OVERLAY = "overlay"
    OVERLAY_USER = "overlay-user"
    REMOVE = "remove"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds against hostile layers. Sizes in bytes; `max_ratio` is output over input, looked at only after
    `ratio_floor` bytes of output: a file of zeros compresses a thousandfold and is no crime when it is small.
    `max_names` bounds the memory that names of directories may take until the layer is complete."""

    max_entries: int = 1_000_000
    max_size: int = 256 << 30
    max_ratio: int = 200
    ratio_floor: int = 1 << 30
    max_path: int = 4095
    max_depth: int = 256
    max_names: int = 64 << 20
    max_pax: int = 1 << 20
    max_xattrs: int = 1 << 20
    devices: bool = True


class IdRange(msgspec.Struct, frozen=True):
    """`size` ids from `inside` (in the layer) are `outside` on disk."""

    inside: int
    outside: int
    size: int


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """Who owns what is written. `keep` the layer's ids (shifted by the ranges where there are any), or, without
    `keep`, everything belongs to the caller: all that an unprivileged user without subordinate ids can do."""

    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()
    keep: bool = True

    def owner(self, uid: int, gid: int) -> tuple[int, int]:
        """(uid, gid) on disk."""
        return _map(self.uids, uid, "uid"), _map(self.gids, gid, "gid")


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What `apply` did: the digest and length of the uncompressed tar, the number of entries, bytes read before
    decompression. `implied` names directories (relative, bytes; b"" is the root) that the layer uses without
    describing them: their owner, mode and times are the lower layers' (see `inherit`). `warnings` are one-line texts
    on what the file system could not hold."""

    diff_id: str
    size: int
    entries: int
    read: int
    implied: tuple[bytes, ...] = ()
    warnings: tuple[str, ...] = ()


def _map(ranges: tuple[IdRange, ...], value: int, what: str) -> int:
    if value > 0xFFFFFFFE:
        raise InvalidArgument(f"{what} {value} is beyond 32 bits")
    if not ranges:
        return value
    for each in ranges:
        if 0 <= value - each.inside < each.size:
            return value - each.inside + each.outside
    raise InvalidArgument(f"{what} {value} is not mapped")
