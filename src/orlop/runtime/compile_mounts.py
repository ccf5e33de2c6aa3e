"""The root file system and what is mounted in it (config.md, "Mounts"; config-linux.md). Pure.

Nothing is ever attached where the host could see it: trees are copied detached (open_tree), and attached beneath the
root's own descriptor, in which every target is looked up so that no link leads out of it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from functools import lru_cache

import msgspec

from orlop.runtime import mount_options
from orlop.runtime.compile_layout import (
    AT_EMPTY_PATH,
    AT_RECURSIVE,
    AT_SYMLINK_NOFOLLOW,
    MOST_MADE,
    NONE,
    O_DIRECTORY,
    O_NOFOLLOW,
    O_PATH,
    OPEN_TREE_CLONE,
    PROC_MAGIC,
    SLOTS,
    SYSFS_MAGIC,
    Layout,
)
from orlop.runtime.mount_options import (
    ATTR_IDMAP,
    ATTR_RDONLY,
    MS_BIND,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
    Attributes,
    Options,
)
from orlop.runtime.ops import (
    Copyup,
    Fsconfig,
    Fsmode,
    Fsmount,
    Fsopen,
    Mount,
    MountSetattr,
    MoveMount,
    Open,
    OpenTree,
    Propagation,
    Setxattr,
    Symlink,
    Target,
)
from orlop.runtime.plan import Step
from orlop.spec.errors import FailedPrecondition, InvalidArgument
from orlop.spec.runtime import IDMapping, RuntimeSpec
from orlop.spec.runtime import Mount as MountSpec

_DATA_MAX = 4095  # mount(2) takes one page
_FSCONFIG_FLAG, _FSCONFIG_STRING, _FSCONFIG_CREATE = 0, 1, 6
_ATTR_OF_FLAG = {1: 1, 2: 2, 4: 4, 8: 8, 256: 0x200000, 1024: 0x10, 2048: 0x80, 1 << 24: 0x20}
_SUPERBLOCK_FLAGS = {16: "sync", 128: "dirsync", 1 << 25: "lazytime"}
# what may be mounted only on a directory that is there by that very name: elsewhere masks would miss their targets
_STRICT = {"proc": PROC_MAGIC, "sysfs": SYSFS_MAGIC}


# mount options of SELinux (mount(8))
_CONTEXTS = frozenset({"context", "fscontext", "defcontext", "rootcontext"})
# labelled by an attribute of the root directory, not by the option
_LABELLED_LATER = frozenset({"mqueue"})


class Prepared(msgspec.Struct, frozen=True):
    """One mount with all that had to be looked up: options sorted out, source made absolute, and the slots of a tree
    that was opened outside and of a user namespace to map ids by, or -1. `inside`: the path in the root of a source
    that is there, and may be what mounts before it made. `label`: linux.mountLabel where it applies."""

    index: int
    mount: MountSpec
    options: Options
    target: str
    source: str
    opened: int = NONE
    idmap: int = NONE
    inside: str = ""
    link: str = ""  # what the link at the source says, where it is made again
    again: bool = False  # the same file system has been mounted there before
    label: str = ""

    @property
    def origin(self) -> str:
        if self.options.bind:
            return f"mounts[{self.index}] ({self.source} -> {self.target})"
        return f"mounts[{self.index}] ({self.mount.type} -> {self.target})"

    @property
    def data(self) -> str:
        """What the file system is told in one string; a label has commas in it."""
        labelled = self.label and self.mount.type not in _LABELLED_LATER
        return ",".join((*self.options.data, *((f'context="{self.label}"',) if labelled else ())))

    @property
    def control_groups(self) -> bool:
        return not self.options.bind and self.mount.type in ("cgroup", "cgroup2")

    @property
    def change_only(self) -> bool:
        """Whether it changes what is mounted there already."""
        return bool(self.options.flags & MS_REMOUNT) or (not self.mount.type and not self.options.bind)

    @property
    def keeps_peers(self) -> bool:
        """Whether what is mounted at the source is to appear here: it is copied before the namespace's propagation
        is changed."""
        return any(flags & (MS_SHARED | MS_SLAVE) for flags in self.options.propagation)

    @property
    def strict(self) -> int:
        """The magic number of the kernel's own file system that this is, or 0."""
        return 0 if self.options.bind or self.change_only else _STRICT.get(self.mount.type, 0)

    @property
    def held_writable(self) -> bool:
        """Whether it stays writable until everything in it has been made."""
        return (
            self.options.read_only and not self.options.bind and (self.mount.type == "tmpfs" or self.target == "/dev")
        )


@lru_cache(1024)
def clean(path: str) -> str:
    """An absolute path inside the root without `.`, `..` and double slashes."""
    return posixpath.normpath("/" + path.lstrip("/"))


def stripped(path: str, root: str) -> str:
    """The same of a destination, from which runc takes off the path that the root has on the host."""
    path = clean(path)
    return clean(path[len(root) :]) if _beneath(path, root) else path


def _beneath(path: str, root: str) -> bool:
    return root not in ("", "/") and (path + "/").startswith(root + "/")


def prepare(
    spec: RuntimeSpec,
    bundle: str,
    slots: Layout,
    outside: bool,
    idmaps: dict[str, int],
    links: dict[int, str],
    own_network: bool = True,
    root: str = "",
    moved: bool = False,
    whole: tuple[str, ...] = (),
) -> tuple[Prepared, ...]:
    """Check and sort out every mount. `outside`: trees are to be opened before the user namespace is entered, as
    many as there are slots. `idmaps` tells the slots of user namespaces by `idmap_key`, `links`
    what the links say that are to be made again, by index. sysfs shows the network namespace, and only its owner may
    mount it: in a user namespace without one of its own (not `own_network`), the host's is bound; by those lesser than
    root, who may not look beneath its mounts (mount_namespaces(7), "locked"), with the options `whole`, of which `rro`
    is for a read-only one. A source beneath `root`, the root's path, may be what a mount before it makes there: it is
    opened when its turn comes, in the root where its path does not lead there (`moved`)."""
    own = posixpath.normpath(posixpath.join(bundle, spec.root.path)) if spec.root is not None else ""
    next_slot, result = slots.sources, list[Prepared]()
    for index, mount in enumerate(spec.mounts):
        if mount.type == "sysfs" and outside and not own_network:
            options = tuple(name for name in whole if name != "rro" or "ro" in mount.options)
            mount = msgspec.structs.replace(mount, type="bind", source="/sys", options=(*mount.options, *options))
        relative = not mount.source.startswith("/") and not {"bind", "rbind"}.isdisjoint((mount.type, *mount.options))
        item = _labelled(_prepared(index, mount, bundle if relative else "", own), spec)
        key = idmap_key(spec, index)
        if index in links:
            result.append(msgspec.structs.replace(item, link=links[index]))
            continue
        if item.options.target_itself and any(i.strict and item.target.startswith(i.target + "/") for i in result):
            where = f"mounts[{index}].options"  # what the kernel says there in links would be covered by an image's
            raise InvalidArgument(f"{where}: dest-nofollow is not for {item.target}, which the kernel makes")
        if not item.options.bind:
            again = any(not i.options.bind and (i.target, i.mount.type) == (item.target, mount.type) for i in result)
            item = msgspec.structs.replace(item, again=again)
        early = outside or bool(key) or item.keeps_peers
        if (early or moved) and _made_here(item, root, result):
            item = msgspec.structs.replace(item, inside=clean(posixpath.normpath(item.source)[len(root) :]))
        elif item.options.bind and not item.options.flags & MS_REMOUNT and early and next_slot < SLOTS - MOST_MADE:
            item = msgspec.structs.replace(item, opened=next_slot)
            next_slot += 1
        if key:
            held = item.opened != NONE or bool(item.inside)
            if not held and not next_slot < SLOTS - MOST_MADE:
                raise FailedPrecondition(f"mounts[{index}]: id mappings of so many mounts can't be held at once")
            if key not in idmaps or not held:
                raise InvalidArgument(f"mounts[{index}]: no user namespace for its id mappings was handed in")
            item = msgspec.structs.replace(item, idmap=idmaps[key])
        result.append(item)
    return tuple(result)


def _made_here(item: Prepared, root: str, before: list[Prepared]) -> bool:
    """Whether the source is in the root. What is to be a peer of the host's mount is so only if no mount before it
    has put it there."""
    return _in_root(item, root) and (not item.keeps_peers or mounted_before(item, root, before))


def _in_root(item: Prepared, root: str) -> bool:
    bound = item.options.bind and not item.options.flags & MS_REMOUNT
    return bool(bound and _beneath(posixpath.normpath(item.source), root))


def mounted_before(item: Prepared, root: str, before: Sequence[Prepared]) -> bool:
    """Whether the source is in the root, and a mount before it is what is found there, or comes along."""
    if not _in_root(item, root):
        return False
    inside = clean(posixpath.normpath(item.source)[len(root) :]).rstrip("/") + "/"
    targets = [i.target.rstrip("/") + "/" for i in before]
    comes_along = item.options.flags & MS_REC and any(target.startswith(inside) for target in targets)
    return bool(comes_along) or any(inside.startswith(target) for target in targets)


@lru_cache(64)
def _prepared(index: int, mount: MountSpec, bundle: str, root: str) -> Prepared:
    where = f"mounts[{index}]"
    for name, value in (("destination", mount.destination), ("source", mount.source), ("type", mount.type)):
        if "\0" in value:
            raise InvalidArgument(f"{where}.{name}: has a NUL character in it")
    target = stripped(mount.destination, root)
    options = mount_options.parse(mount.options, f"{where}.options", bind=mount.type == "bind")
    if not mount.destination or (target == "/" and (not options.bind or options.flags & MS_REMOUNT)):
        raise InvalidArgument(f"{where}.destination: {mount.destination!r} is not a path inside the root")
    _check(mount, options, where)
    source = mount.source
    if options.bind and not options.flags & MS_REMOUNT:
        source = posixpath.join(bundle, source)  # `bundle` is given where it is needed
        if not source.startswith("/"):
            raise InvalidArgument(f"{where}.source: {mount.source[:128]!r} is relative, and there is no bundle")
    return Prepared(index, mount, options, target, source)


def _labelled(item: Prepared, spec: RuntimeSpec) -> Prepared:
    """proc and sysfs are labelled by the policy alone; a bind mount shows what has its label already; and one that is
    named among the mount's own options is meant."""
    if (
        item.options.bind
        or item.change_only
        or item.mount.type in _STRICT
        or any(entry.partition("=")[0] in _CONTEXTS for entry in item.options.data)
    ):
        return item
    return msgspec.structs.replace(item, label=spec.linux.mount_label if spec.linux is not None else "")


def _check(mount: MountSpec, options: Options, where: str) -> None:
    if options.bind and not mount.source and not options.flags & MS_REMOUNT:
        raise InvalidArgument(f"{where}.source: a bind mount needs one")
    if not options.bind and not mount.type and not options.flags & MS_REMOUNT and not options.propagation:
        raise InvalidArgument(f"{where}.type: is needed where the options have neither bind nor rbind")
    if options.copy_up and (mount.type != "tmpfs" or options.bind):
        raise InvalidArgument(f"{where}.options: tmpcopyup is for tmpfs only")
    if (mount.uid_mappings or mount.gid_mappings) and not (mount.uid_mappings and mount.gid_mappings):
        missing = "gidMappings" if mount.uid_mappings else "uidMappings"
        raise InvalidArgument(f"{where}.{missing}: uidMappings and gidMappings go together")
    for name in ("copy-symlink", "dest-nofollow", "src-nofollow"):
        if name in mount.options and not options.bind:
            raise InvalidArgument(f"{where}.options: {name} is for bind mounts only")
    if (options.id_map or mount.uid_mappings) and not options.bind:
        raise InvalidArgument(f"{where}: ids are mapped on bind mounts only")


# --- ids


def idmap_key(spec: RuntimeSpec, index: int) -> str:
    """Names the id mappings of a mount, the same for the same mappings; empty where ids are not mapped."""
    if path := joined_idmap(spec, index):
        return path
    maps = idmap_of(spec, index)
    return "" if maps is None else " ".join(",".join(map(_range, side)) for side in maps)


def joined_idmap(spec: RuntimeSpec, index: int) -> str:
    """The path of the user namespace that the container joins, where a mount is to have the mappings of that."""
    linux, options = spec.linux, spec.mounts[index].options
    if linux is None or linux.uid_mappings or linux.gid_mappings or not {"idmap", "ridmap"} & set(options):
        return ""
    if spec.mounts[index].uid_mappings or spec.mounts[index].gid_mappings:
        return ""
    return next((namespace.path for namespace in linux.namespaces if namespace.type == "user"), "")


def _range(mapping: IDMapping) -> str:
    return f"{mapping.container_id}:{mapping.host_id}:{mapping.size}"


def idmap_of(spec: RuntimeSpec, index: int) -> tuple[tuple[IDMapping, ...], tuple[IDMapping, ...]] | None:
    """The uid and gid mappings of a mount: its own, or with `idmap` and `ridmap` alone the container's."""
    mount = spec.mounts[index]
    if mount.uid_mappings or mount.gid_mappings:
        return mount.uid_mappings, mount.gid_mappings
    ranges = mount_options.id_ranges(mount.options, f"mounts[{index}].options")
    if ranges is not None:
        uids, gids = (tuple(IDMapping(container_id=c, host_id=h, size=n) for c, h, n in side) for side in ranges)
        return uids, gids
    if "idmap" not in mount.options and "ridmap" not in mount.options:
        return None
    linux = spec.linux
    if linux is None or not linux.uid_mappings or not linux.gid_mappings:
        raise InvalidArgument(f"mounts[{index}].options: idmap without mappings needs a user namespace")
    return linux.uid_mappings, linux.gid_mappings


# --- outside of the container


def open_sources(prepared: tuple[Prepared, ...]) -> Iterator[Step]:
    """Copy trees while this process still has its own user's rights to their paths."""
    for item in prepared:
        if item.opened != NONE:
            yield from _open(item, item.opened, NONE, item.source)


def _open(item: Prepared, tree: int, at: int, source: str) -> Iterator[Step]:
    yield Step(OpenTree(tree, at, source, _clone_flags(item)), item.origin)
    if item.idmap != NONE:
        flags = AT_EMPTY_PATH | (AT_RECURSIVE if item.options.id_map == "ridmap" else 0)
        yield Step(MountSetattr(tree, flags, ATTR_IDMAP, 0, 0, item.idmap), f"{item.origin} idmap")


def _clone_flags(item: Prepared) -> int:
    itself = AT_SYMLINK_NOFOLLOW if item.options.source_itself else 0
    return OPEN_TREE_CLONE | itself | (AT_RECURSIVE if item.options.flags & MS_REC else 0)


# --- the root

ROOTFS_PROPAGATION: dict[str, int] = mount_options.PROPAGATION


def root_steps(spec: RuntimeSpec, slots: Layout, path: str | None, target: str) -> Iterator[Step]:
    """Take the root file system, from `path` or as it was handed in, into the new mount namespace.

    `target` is where it is attached: its own path, so that hooks find there what has been mounted; or `/`, the one
    place that is always reached, and whose propagation is always known.
    """
    assert spec.linux is not None
    name = spec.linux.rootfs_propagation
    flags = ROOTFS_PROPAGATION.get(name, 0) if name else MS_SLAVE | MS_REC
    if not flags:
        raise InvalidArgument(f"linux.rootfsPropagation: unknown value {name[:64]!r}")
    # First for everything, so that trees copied from the host keep the peers that are wanted. What is unbindable can't
    # be copied at all: the root becomes so at the end.
    first = MS_SLAVE | MS_REC if flags & MS_UNBINDABLE else flags
    origin = f"linux.rootfsPropagation ({name or 'rslave'})"
    yield Step(Propagation(NONE, "/", first), origin)
    if flags & MS_SHARED:
        # What is attached to a shared parent would appear on the host, and pivot_root refuses one.
        yield Step(Propagation(NONE, "/", MS_PRIVATE), origin)
    if path is not None:
        yield Step(OpenTree(slots.root, NONE, path, OPEN_TREE_CLONE | AT_RECURSIVE), f"root.path ({path})")
    yield Step(MoveMount(slots.root, NONE, attach_point(spec, target)), "root.path")
    if flags & MS_SHARED:
        # Nor must the container's own mounts appear there: the root gets peers of its own at the end.
        yield Step(MountSetattr(slots.root, AT_EMPTY_PATH | AT_RECURSIVE, 0, 0, MS_PRIVATE, NONE), origin)
    elif path is None:
        # A tree that was copied outside is still a peer of the host's: what is mounted in it would appear there.
        yield Step(MountSetattr(slots.root, AT_EMPTY_PATH | AT_RECURSIVE, 0, 0, first & ~MS_REC, NONE), origin)


def covering_root(slots: Layout, path: str) -> Iterator[Step]:
    """In the host's own mount namespace: a copy of the root over the root, whose mounts appear nowhere else, and which
    can be taken away with all that is in it."""
    yield Step(OpenTree(slots.root, NONE, path, OPEN_TREE_CLONE | AT_RECURSIVE), f"root.path ({path})")
    yield Step(MoveMount(slots.root, NONE, path), "root.path")
    yield Step(MountSetattr(slots.root, AT_EMPTY_PATH | AT_RECURSIVE, 0, 0, MS_PRIVATE, NONE), "root.path")


def no_peer(item: Prepared, slots: Layout) -> Iterator[Step]:
    """What is bound from the host and mounted there again is not to be one with it."""
    if not item.change_only and not item.link:
        yield _propagation(slots.tree if item.opened == NONE else item.opened, MS_PRIVATE | MS_REC, item.origin)


def attach_point(spec: RuntimeSpec, target: str) -> str:
    """Where the root is, before it becomes the root, of what is wanted as `target` in `root_steps`."""
    assert spec.linux is not None
    return "/" if ROOTFS_PROPAGATION.get(spec.linux.rootfs_propagation, 0) & MS_SHARED else target


def root_propagation(spec: RuntimeSpec) -> Iterator[Step]:
    """Once the root is in place, its own propagation, where one is asked for."""
    assert spec.linux is not None
    if spec.linux.rootfs_propagation:
        flags = ROOTFS_PROPAGATION[spec.linux.rootfs_propagation]
        if flags & (MS_PRIVATE | MS_SLAVE):  # all beneath has been so from the start, but where a mount says otherwise
            flags &= ~MS_REC
        yield Step(Propagation(NONE, "/", flags), f"linux.rootfsPropagation ({spec.linux.rootfs_propagation})")


# --- mounts


def mount_steps(
    item: Prepared, slots: Layout, peers: int, user_namespace: bool = False, live: bool = False
) -> Iterator[Step]:
    """One mount, but for those of control groups. `peers`: the propagation of a tree that was opened outside, so that
    it does not lead back to the host; 0 leaves it. `live`: with nothing that goes by way of /proc, which in a container
    that runs is the container's."""
    options = item.options
    if item.link:
        yield Step(Symlink(slots.root, item.target, item.link), item.origin)
    elif item.change_only:
        yield from _change(item, slots)
    elif options.bind:
        yield from _bind(item, slots, peers, user_namespace)
    elif live or options.copy_up or item.again or len(item.data) > _DATA_MAX or _inherits_mode(item):
        yield from _configured(item, slots)
    else:
        yield from _classic(item, slots)


def _inherits_mode(item: Prepared) -> bool:
    """A tmpfs that is given no mode has that of the directory that it hides, as with the other runtimes."""
    return item.mount.type == "tmpfs" and not any(entry.startswith("mode=") for entry in item.options.data)


def _classic(item: Prepared, slots: Layout) -> Iterator[Step]:
    options, root, origin = item.options, slots.root, item.origin
    yield Step(Target(root, item.target, NONE, 0), origin)
    if item.mount.type in _STRICT:
        yield Step(Open(slots.tree, root, item.target, O_PATH | O_NOFOLLOW | O_DIRECTORY, 0, 0), origin)
    flags = options.flags & ~MS_RDONLY if item.held_writable else options.flags
    source = item.mount.source or item.mount.type
    yield Step(Mount(source, root, item.target, item.mount.type, flags, item.data), origin)
    if item.label and item.mount.type in _LABELLED_LATER:
        yield Step(Setxattr(root, item.target, "security.selinux", item.label.encode()), "linux.mountLabel")
    if options.recursive:
        yield Step(OpenTree(slots.tree, root, item.target, 0), origin)
        yield _setattr(slots.tree, options.recursive, origin, True)
    for propagation in options.propagation:
        yield Step(Propagation(root, item.target, propagation), origin)


def _change(item: Prepared, slots: Layout) -> Iterator[Step]:
    """A remount of what is there, or only a change of its propagation."""
    options, root = item.options, slots.root
    if options.flags & MS_REMOUNT:
        op = Mount(item.mount.source, root, item.target, item.mount.type, options.flags, ",".join(options.data))
        yield Step(op, item.origin)
    for propagation in options.propagation:
        yield Step(Propagation(root, item.target, propagation), item.origin)


def _configured(item: Prepared, slots: Layout) -> Iterator[Step]:
    """Through fsopen: what is mounted can be filled before it is seen, and its options are not bound to one page."""
    origin, options, root = item.origin, item.options, slots.root
    yield Step(Fsopen(slots.file, item.mount.type), origin)
    yield Step(Fsconfig(slots.file, _FSCONFIG_STRING, "source", item.mount.source or item.mount.type), origin)
    for entry in options.data:
        key, equals, value = entry.partition("=")
        value = value.strip('"') if key.endswith("context") else value  # quotes are mount(2)'s, for commas in a label
        yield Step(Fsconfig(slots.file, _FSCONFIG_STRING if equals else _FSCONFIG_FLAG, key, value), origin)
    if item.label and item.mount.type not in _LABELLED_LATER:
        yield Step(Fsconfig(slots.file, _FSCONFIG_STRING, "context", item.label), "linux.mountLabel")
    for flag, name in _SUPERBLOCK_FLAGS.items():
        if options.flags & flag:
            yield Step(Fsconfig(slots.file, _FSCONFIG_FLAG, name, ""), origin)
    if _inherits_mode(item):
        yield Step(Fsmode(slots.file, root, item.target), origin)
    yield Step(Target(root, item.target, NONE, 0), origin)
    yield Step(Fsconfig(slots.file, _FSCONFIG_CREATE, "", ""), origin)
    attributes = sum(bit for flag, bit in _ATTR_OF_FLAG.items() if options.flags & flag) & ~ATTR_RDONLY
    yield Step(Fsmount(slots.tree, slots.file, attributes), origin)
    if options.copy_up:
        yield Step(Copyup(slots.tree, root, item.target), origin)
    yield Step(MoveMount(slots.tree, root, item.target), origin)
    if options.read_only and not item.held_writable:
        yield _setattr(slots.tree, Attributes(ATTR_RDONLY), origin)
    if options.recursive:
        yield _setattr(slots.tree, options.recursive, origin, True)
    for propagation in options.propagation:
        yield Step(Propagation(root, item.target, propagation), origin)


def _bind(item: Prepared, slots: Layout, peers: int, user_namespace: bool) -> Iterator[Step]:
    if item.opened == NONE:
        yield from open_late(item, slots)
    yield from bound_steps(item, slots, peers, user_namespace)


def open_late(item: Prepared, slots: Layout) -> Iterator[Step]:
    """Copy a tree when its turn comes."""
    yield from _open(item, slots.tree, *((slots.root, item.inside) if item.inside else (NONE, item.source)))


def bound_steps(item: Prepared, slots: Layout, peers: int, user_namespace: bool) -> Iterator[Step]:
    """Attach a tree that was copied before, and make it what is asked for."""
    origin, options = item.origin, item.options
    tree = slots.tree if item.opened == NONE else item.opened
    yield from _attached(item, slots, tree)
    # After it is attached: before Linux 5.12 these are remounts, which want a mount of the namespace.
    if item.opened != NONE and peers and not item.keeps_peers:
        yield _propagation(tree, peers | MS_REC, origin)
    if change := mount_options.bound(options, user_namespace):
        yield _setattr(tree, change, origin)
    if options.recursive:
        yield _setattr(tree, options.recursive, origin, True)
    for propagation in options.propagation:
        yield _propagation(tree, propagation, origin)


def _attached(item: Prepared, slots: Layout, tree: int) -> Iterator[Step]:
    origin, root = item.origin, slots.root
    if item.target == "/":  # it covers the root, and becomes it: what follows is mounted in it
        yield Step(MoveMount(tree, root, ""), origin)
        yield Step(OpenTree(root, tree, "", 0), origin)
        return
    if not item.options.target_itself:
        yield Step(Target(root, item.target, tree, 0), origin)
        yield Step(MoveMount(tree, root, item.target), origin)
        return
    yield Step(Target(root, item.target, tree, O_NOFOLLOW), origin)
    yield Step(Open(slots.file, root, item.target, O_PATH | O_NOFOLLOW, 0, 0), origin)
    yield Step(MoveMount(tree, slots.file, ""), origin)


def _setattr(slot: int, change: Attributes, origin: str, recursive: bool = False) -> Step:
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    return Step(MountSetattr(slot, flags, change.set, change.clear, 0, NONE), origin)


def _propagation(slot: int, flags: int, origin: str) -> Step:
    at = AT_EMPTY_PATH | (AT_RECURSIVE if flags & MS_REC else 0)
    return Step(MountSetattr(slot, at, 0, 0, flags & ~MS_REC, NONE), origin)


def held_steps(prepared: tuple[Prepared, ...], slots: Layout) -> Iterator[Step]:
    """Make read-only what had to be writable until now."""
    for item in prepared:
        if item.held_writable or (item.control_groups and item.options.read_only):
            yield Step(OpenTree(slots.tree, slots.root, item.target, 0), item.origin)
            yield _setattr(slots.tree, Attributes(ATTR_RDONLY), f"{item.origin} ro")


# --- control groups


class Hierarchy(msgspec.Struct, frozen=True):
    """One hierarchy as a container sees it: `name` below the mount's target, the options that select it, links that
    bear the names of its controllers, and the container's own directory on the host."""

    name: str
    type: str
    data: str
    links: tuple[str, ...]
    directory: str


def hierarchies(mounts: dict[str, str], unified: str, group: str) -> tuple[Hierarchy, ...]:
    """The hierarchies of a host with v1 controllers, where `group` is the container's path in each."""
    result = []
    for point in dict.fromkeys(mounts.values()):
        controllers = [name for name, where in mounts.items() if where == point]
        name = posixpath.basename(point)
        links = tuple(c for c in controllers if c != name and not c.startswith("name="))
        result.append(Hierarchy(name, "cgroup", ",".join(controllers), links, point + group))
    if unified:
        result.append(Hierarchy("unified", "cgroup2", "", (), unified + group))
    return tuple(result)


@lru_cache(16)
def own_cgroup_steps(
    item: Prepared, slots: Layout, mounts: tuple[tuple[str, str], ...], unified: str
) -> tuple[Step, ...]:
    """As `cgroup_steps`, for a container with a control group namespace, where they are the same as the next one's:
    whatever is mounted shows its own groups. `mounts` are of v1 controllers."""
    found = hierarchies(dict(mounts), unified, "") if mounts else ()
    return tuple(cgroup_steps(item, slots, found, "", namespaced=True))


def cgroup_steps(
    item: Prepared, slots: Layout, found: tuple[Hierarchy, ...], unified_group: str, namespaced: bool = False
) -> Iterator[Step]:
    """A mount of type cgroup: v2 where `unified_group` names the container's directory in it and nothing else is
    there, else a small tmpfs with one directory for each hierarchy."""
    origin, root, flags = item.origin, slots.root, item.options.flags & ~MS_RDONLY
    yield Step(Target(root, item.target, NONE, 0), origin)
    if not found:
        yield from _hierarchy(item, slots, item.target, Hierarchy("", "cgroup2", "", (), unified_group), namespaced)
        return
    data = "mode=755,size=64k" + (f',context="{item.label}"' if item.label else "")
    yield Step(Mount("tmpfs", root, item.target, "tmpfs", flags, data), origin)
    for hierarchy in found:
        target = f"{item.target}/{hierarchy.name}"
        yield Step(Target(root, target, NONE, 0), origin)
        yield from _hierarchy(item, slots, target, hierarchy, namespaced)
        for link in hierarchy.links:
            yield Step(Symlink(root, f"{item.target}/{link}", hierarchy.name), origin)
    for propagation in item.options.propagation:
        yield Step(Propagation(root, item.target, propagation), origin)


def _hierarchy(item: Prepared, slots: Layout, target: str, hierarchy: Hierarchy, namespaced: bool) -> Iterator[Step]:
    origin, root = f"{item.origin} {hierarchy.name}".rstrip(), slots.root
    attributes = sum(bit for flag, bit in _ATTR_OF_FLAG.items() if item.options.flags & flag)
    if namespaced and hierarchy.type == "cgroup2":
        # mount(2) refuses (EBUSY) to mount it on itself, as where /sys is bound recursively
        yield Step(Fsopen(slots.file, hierarchy.type), origin)
        yield Step(Fsconfig(slots.file, _FSCONFIG_STRING, "source", "cgroup"), origin)
        yield Step(Fsconfig(slots.file, _FSCONFIG_CREATE, "", ""), origin)
        yield Step(Fsmount(slots.tree, slots.file, attributes), origin)
        yield Step(MoveMount(slots.tree, root, target), origin)
        return
    if namespaced:
        yield Step(Mount("cgroup", root, target, hierarchy.type, item.options.flags, hierarchy.data), origin)
        return
    yield Step(OpenTree(slots.tree, NONE, hierarchy.directory, OPEN_TREE_CLONE | AT_RECURSIVE), origin)
    yield Step(MoveMount(slots.tree, root, target), origin)
    yield Step(MountSetattr(slots.tree, AT_EMPTY_PATH, attributes, 0, 0, NONE), origin)


__all__ = ["MS_BIND", "Hierarchy", "Prepared", "hierarchies", "mount_steps", "prepare"]
