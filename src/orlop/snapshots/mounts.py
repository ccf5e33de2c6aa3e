"""What a snapshot's mounts are: values that a snapshotter returns and never performs (pure).

`snapshots.detached` performs them. `classic` renders one as the type, source and options that mount(8) and
containerd's API know.
"""

from __future__ import annotations

import msgspec

MAX_LAYERS = 127  # as Docker has it; overlayfs itself takes 500

# Options of every overlay mount that is made here (kernel: filesystems/overlayfs.rst).
#   index=off: an index refuses lower layers that other mounts share or that were copied from elsewhere.
#   metacopy=off: a chown in the container copies the file up whole, so that the upper directory alone is the change.
#   redirect_dir=nofollow: no redirect is written, so that a layer can be made from the upper directory, and none that
#     a layer brings along is believed.
OVERLAY_OPTIONS = ("index=off", "metacopy=off", "redirect_dir=nofollow")


class Overlay(msgspec.Struct, frozen=True, tag="overlay"):
    """Directories over one another: `lower` from the top down; without `upper` it is read-only."""

    lower: tuple[str, ...]
    upper: str = ""
    work: str = ""
    options: tuple[str, ...] = OVERLAY_OPTIONS

    @property
    def read_only(self) -> bool:
        return not self.upper

    def __str__(self) -> str:
        return f"overlay {self.upper or 'read-only'} over {' '.join(self.lower)}"


class Bind(msgspec.Struct, frozen=True, tag="bind"):
    """One directory as it is."""

    source: str
    read_only: bool = False

    def __str__(self) -> str:
        return f"bind {self.source}{' read-only' if self.read_only else ''}"


Mount = Overlay | Bind


class ClassicMount(msgspec.Struct, frozen=True, rename="pascal"):
    """A mount in the words of mount(8): `options` as after `-o`."""

    type: str
    source: str
    options: tuple[str, ...]


def overlay(lower: tuple[str, ...], upper: str = "", work: str = "", user_xattr: bool = False) -> Mount:
    """The mount for layers `lower` (top first) beneath an optional writable directory.

    One layer alone is a bind mount: overlayfs wants an upper directory or two lower ones. `user_xattr` is for mounts
    made in a user namespace, which may not write trusted.* attributes.
    """
    if not upper and len(lower) == 1:
        return Bind(lower[0], read_only=True)
    if not lower:
        return Bind(upper)
    return Overlay(lower, upper, work, OVERLAY_OPTIONS + (("userxattr",) if user_xattr else ()))


def classic(mount: Mount) -> ClassicMount:
    """The same mount as type, source and options."""
    if isinstance(mount, Bind):
        return ClassicMount("bind", mount.source, ("rbind", "ro" if mount.read_only else "rw"))
    directories = ["lowerdir=" + ":".join(_escaped(path) for path in mount.lower)]
    if mount.upper:
        directories += [f"upperdir={_escaped(mount.upper)}", f"workdir={_escaped(mount.work)}"]
    return ClassicMount("overlay", "overlay", (*directories, *mount.options))


def _escaped(path: str) -> str:
    r"""overlayfs splits its options at commas and lowerdir at colons; a backslash takes either literally."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
