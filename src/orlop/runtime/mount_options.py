"""The mount options of the specification (config.md, "Linux mount options"): names into flags. Pure.

Three sorts are told apart: options of mount(2) that set or clear a flag, the same with an `r` in front, which reach the
mounts beneath too and need mount_setattr(2), and propagation types. Every other word is the file system's own
(`size=64m`) and is handed to it as it is.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from orlop.spec.errors import InvalidArgument

# mount(2)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT = 1, 2, 4, 8, 16, 32
MS_MANDLOCK, MS_DIRSYNC, MS_NOSYMFOLLOW, MS_NOATIME, MS_NODIRATIME = 64, 128, 256, 1024, 2048
MS_BIND, MS_REC, MS_SILENT = 4096, 16384, 32768
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MS_RELATIME, MS_I_VERSION, MS_STRICTATIME, MS_LAZYTIME = 1 << 21, 1 << 23, 1 << 24, 1 << 25
# mount_setattr(2)
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8
ATTR_ATIME, ATTR_RELATIME, ATTR_NOATIME, ATTR_STRICTATIME, ATTR_NODIRATIME = 0x70, 0, 0x10, 0x20, 0x80
ATTR_IDMAP, ATTR_NOSYMFOLLOW = 0x100000, 0x200000

# name: (flags set, flags cleared)
FLAGS: dict[str, tuple[int, int]] = {
    "async": (0, MS_SYNCHRONOUS),
    "atime": (0, MS_NOATIME),
    "bind": (MS_BIND, 0),
    "defaults": (0, 0),
    "dev": (0, MS_NODEV),
    "diratime": (0, MS_NODIRATIME),
    "dirsync": (MS_DIRSYNC, 0),
    "exec": (0, MS_NOEXEC),
    "iversion": (MS_I_VERSION, 0),
    "lazytime": (MS_LAZYTIME, 0),
    "loud": (0, MS_SILENT),
    "mand": (MS_MANDLOCK, 0),
    "noatime": (MS_NOATIME, 0),
    "nodev": (MS_NODEV, 0),
    "nodiratime": (MS_NODIRATIME, 0),
    "noexec": (MS_NOEXEC, 0),
    "noiversion": (0, MS_I_VERSION),
    "nolazytime": (0, MS_LAZYTIME),
    "nomand": (0, MS_MANDLOCK),
    "norelatime": (0, MS_RELATIME),
    "nostrictatime": (0, MS_STRICTATIME),
    "nosuid": (MS_NOSUID, 0),
    "nosymfollow": (MS_NOSYMFOLLOW, 0),
    "rbind": (MS_BIND | MS_REC, 0),
    "relatime": (MS_RELATIME, 0),
    "remount": (MS_REMOUNT, 0),
    "ro": (MS_RDONLY, 0),
    "rw": (0, MS_RDONLY),
    "silent": (MS_SILENT, 0),
    "strictatime": (MS_STRICTATIME, 0),
    "suid": (0, MS_NOSUID),
    "symfollow": (0, MS_NOSYMFOLLOW),
    "sync": (MS_SYNCHRONOUS, 0),
}
PROPAGATION: dict[str, int] = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "rshared": MS_SHARED | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
}
# name: (attributes set, attributes cleared); the times are one field, which is cleared as a whole to be set
ATTRIBUTES: dict[str, tuple[int, int]] = {
    "atime": (ATTR_RELATIME, ATTR_ATIME),
    "dev": (0, ATTR_NODEV),
    "diratime": (0, ATTR_NODIRATIME),
    "exec": (0, ATTR_NOEXEC),
    "noatime": (ATTR_NOATIME, ATTR_ATIME),
    "nodev": (ATTR_NODEV, 0),
    "nodiratime": (ATTR_NODIRATIME, 0),
    "noexec": (ATTR_NOEXEC, 0),
    "norelatime": (ATTR_STRICTATIME, ATTR_ATIME),
    "nostrictatime": (ATTR_RELATIME, ATTR_ATIME),
    "nosuid": (ATTR_NOSUID, 0),
    "nosymfollow": (ATTR_NOSYMFOLLOW, 0),
    "relatime": (ATTR_RELATIME, ATTR_ATIME),
    "ro": (ATTR_RDONLY, 0),
    "rw": (0, ATTR_RDONLY),
    "strictatime": (ATTR_STRICTATIME, ATTR_ATIME),
    "suid": (0, ATTR_NOSUID),
    "symfollow": (0, ATTR_NOSYMFOLLOW),
}
RECURSIVE: dict[str, tuple[int, int]] = {"r" + name: pair for name, pair in ATTRIBUTES.items()}
OTHERS = ("copy-symlink", "dest-nofollow", "idmap", "ridmap", "src-nofollow", "tmpcopyup")
NAMES: tuple[str, ...] = tuple(sorted({*FLAGS, *PROPAGATION, *RECURSIVE, *OTHERS}))

# mount(2): mount_setattr(2). Of these a user namespace may not take off what another one has put on
_LOCKABLE = {MS_RDONLY: ATTR_RDONLY, MS_NOSUID: ATTR_NOSUID, MS_NODEV: ATTR_NODEV, MS_NOEXEC: ATTR_NOEXEC}
_PLAIN = _LOCKABLE | {MS_NOSYMFOLLOW: ATTR_NOSYMFOLLOW}
_TIMES = MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME
# what a bind mount has of its own; everything else belongs to the file system, which it shares
_OF_A_BIND = {*ATTRIBUTES, "bind", "rbind", "defaults", "silent", "loud", "remount"}


Ranges = tuple[tuple[int, int, int], ...]


class Attributes(msgspec.Struct, frozen=True):
    """A change for mount_setattr(2)."""

    set: int = 0
    clear: int = 0

    def __bool__(self) -> bool:
        return bool(self.set or self.clear)

    def then(self, pair: tuple[int, int]) -> Attributes:
        """This change, and after it another one: the later word wins."""
        set_, clear = pair
        return Attributes(self.set & ~clear & ~set_ | set_, (self.clear & ~set_) | clear)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one mount, sorted out. `flags` are for mount(2); `attributes` say the same, and what is to be
    cleared, for a remount; `explicit` that any was named; `recursive` reach the mounts beneath; `data` is the file
    system's own."""

    flags: int = 0
    attributes: Attributes = Attributes()
    recursive: Attributes = Attributes()
    propagation: tuple[int, ...] = ()
    data: tuple[str, ...] = ()
    explicit: bool = False
    copy_up: bool = False
    id_map: str = ""  # idmap, ridmap or neither
    source_itself: bool = False  # a link is bound as a link
    target_itself: bool = False  # a link at the destination is covered, not followed
    copy_link: bool = False  # a link at the source is made again instead of bound

    @property
    def bind(self) -> bool:
        return bool(self.flags & MS_BIND)

    @property
    def read_only(self) -> bool:
        return bool(self.flags & MS_RDONLY)


def bound(options: Options, keep_locked: bool) -> Attributes:
    """What a bind mount is changed to, as by `mount --bind` with options (mount(8)): with none of them it stays as its
    source is mounted; with any, all flags are those that are named, but that times of access stay as they are unless
    one is set. `keep_locked`: in a user namespace the source's flags stay unless they are taken off by name."""
    if not options.explicit:
        return Attributes()
    set_ = sum(bit for flag, bit in _PLAIN.items() if options.flags & flag)
    clear = sum(_PLAIN.values()) & ~set_
    if keep_locked:
        clear &= ATTR_NOSYMFOLLOW | options.attributes.clear
    times = options.flags & _TIMES
    if times:
        clear |= ATTR_ATIME | (0 if times & MS_NODIRATIME else ATTR_NODIRATIME)
        set_ |= ATTR_NODIRATIME if times & MS_NODIRATIME else 0
        set_ |= ATTR_STRICTATIME if times & MS_STRICTATIME else ATTR_NOATIME if times & MS_NOATIME else ATTR_RELATIME
    return Attributes(set_, clear)


@lru_cache(256)
def parse(options: tuple[str, ...], where: str, bind: bool = False) -> Options:
    """Sort out `options`; `where` is their JSON path, `bind` that the mount's type already makes it one."""
    flags, attributes, recursive = MS_BIND if bind else 0, Attributes(), Attributes()
    propagation: list[int] = []
    data: list[str] = []
    for index, name in enumerate(options):
        if "\0" in name or not name:
            raise InvalidArgument(f"{where}[{index}]: empty, or with a NUL in it")
        if name in FLAGS:
            flags = flags & ~FLAGS[name][1] | FLAGS[name][0]
            attributes = attributes.then(ATTRIBUTES.get(name, (0, 0)))
        elif name in PROPAGATION:
            propagation.append(PROPAGATION[name])
        elif name in RECURSIVE:
            recursive = recursive.then(RECURSIVE[name])
        elif name.partition("=")[0] not in ("idmap", "ridmap") and name not in OTHERS:
            data.append(name)
    if flags & MS_BIND and not flags & MS_REMOUNT:
        _check_bind(options, where)
    return Options(
        flags=flags,
        attributes=attributes,
        recursive=recursive,
        propagation=tuple(propagation),
        data=tuple(data),
        explicit=any(name in ATTRIBUTES for name in options),
        copy_up="tmpcopyup" in options,
        id_map=next((name for name in ("ridmap", "idmap") if _has(options, name)), ""),
        source_itself="src-nofollow" in options,
        target_itself="dest-nofollow" in options,
        copy_link="copy-symlink" in options,
    )


def _has(options: tuple[str, ...], name: str) -> bool:
    return any(option.partition("=")[0] == name for option in options)


def id_ranges(options: tuple[str, ...], where: str) -> tuple[Ranges, Ranges] | None:
    """What `idmap=uids=0-1000-1#1-2000-10;gids=0-1000-1` says: container, host and size, for users and for groups.

    crun's way to write a mount's uidMappings and gidMappings, which Podman uses. None where no option has ranges.
    """
    for index, option in enumerate(options):
        name, equals, text = option.partition("=")
        if name not in ("idmap", "ridmap") or not equals:
            continue
        sides = dict(part.partition("=")[::2] for part in text.split(";"))
        if sides.keys() != {"uids", "gids"}:
            raise InvalidArgument(f"{where}[{index}]: {option[:64]!r}: want uids=...;gids=...")
        uids, gids = (_ranges(sides[side], f"{where}[{index}]: {side}") for side in ("uids", "gids"))
        return uids, gids
    return None


def _ranges(text: str, where: str) -> Ranges:
    result = []
    for part in text.split("#"):
        numbers = part.split("-")
        if len(numbers) != 3 or not all(n.isascii() and n.isdigit() and len(n) < 11 for n in numbers):
            raise InvalidArgument(f"{where}: {part[:40]!r} is not CONTAINER-HOST-SIZE")
        result.append((int(numbers[0]), int(numbers[1]), int(numbers[2])))
    return tuple(result)


def _check_bind(options: tuple[str, ...], where: str) -> None:
    """The kernel would take options of the file system on a bind mount without a word and do nothing."""
    for index, name in enumerate(options):
        if name.partition("=")[0] in ("idmap", "ridmap"):
            continue
        if name not in _OF_A_BIND and name not in PROPAGATION and name not in RECURSIVE and name not in OTHERS:
            raise InvalidArgument(f"{where}[{index}]: {name[:64]!r} cannot be set on a bind mount")
