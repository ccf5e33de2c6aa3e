"""Operations as one line a person can read: flags by their names, capabilities spelled out. Pure."""

from __future__ import annotations

from orlop.runtime import ops
from orlop.runtime.ops import Op
from orlop.spec.capabilities import names

_CLONE = {
    0x00020000: "CLONE_NEWNS", 0x02000000: "CLONE_NEWCGROUP", 0x04000000: "CLONE_NEWUTS", 0x08000000: "CLONE_NEWIPC",
    0x10000000: "CLONE_NEWUSER", 0x20000000: "CLONE_NEWPID", 0x40000000: "CLONE_NEWNET", 0x00000080: "CLONE_NEWTIME",
}  # fmt: skip
_MS = {
    1: "MS_RDONLY", 2: "MS_NOSUID", 4: "MS_NODEV", 8: "MS_NOEXEC", 16: "MS_SYNCHRONOUS", 32: "MS_REMOUNT",
    64: "MS_MANDLOCK", 128: "MS_DIRSYNC", 1024: "MS_NOATIME", 2048: "MS_NODIRATIME", 4096: "MS_BIND", 8192: "MS_MOVE",
    16384: "MS_REC", 1 << 15: "MS_SILENT", 1 << 16: "MS_POSIXACL", 1 << 17: "MS_UNBINDABLE", 1 << 18: "MS_PRIVATE",
    1 << 19: "MS_SLAVE", 1 << 20: "MS_SHARED", 1 << 21: "MS_RELATIME", 1 << 24: "MS_STRICTATIME",
}  # fmt: skip
_ATTR = {
    1: "MOUNT_ATTR_RDONLY", 2: "MOUNT_ATTR_NOSUID", 4: "MOUNT_ATTR_NODEV", 8: "MOUNT_ATTR_NOEXEC",
    0x10: "MOUNT_ATTR_NOATIME", 0x20: "MOUNT_ATTR_STRICTATIME", 0x80: "MOUNT_ATTR_NODIRATIME",
    0x100000: "MOUNT_ATTR_IDMAP", 0x200000: "MOUNT_ATTR_NOSYMFOLLOW",
}  # fmt: skip
_TREE = {
    1: "OPEN_TREE_CLONE", 0o2000000: "OPEN_TREE_CLOEXEC", 0x8000: "AT_RECURSIVE", 0x1000: "AT_EMPTY_PATH",
    0x100: "AT_SYMLINK_NOFOLLOW",
}  # fmt: skip
_OPEN = {
    1: "O_WRONLY", 2: "O_RDWR", 0o100: "O_CREAT", 0o200: "O_EXCL", 0o1000: "O_TRUNC", 0o2000: "O_APPEND",
    0o4000: "O_NONBLOCK", 0o200000: "O_DIRECTORY", 0o400000: "O_NOFOLLOW", 0o2000000: "O_CLOEXEC", 0o10000000: "O_PATH",
}  # fmt: skip
_RLIMITS = (
    "RLIMIT_CPU RLIMIT_FSIZE RLIMIT_DATA RLIMIT_STACK RLIMIT_CORE RLIMIT_RSS RLIMIT_NPROC RLIMIT_NOFILE RLIMIT_MEMLOCK "
    "RLIMIT_AS RLIMIT_LOCKS RLIMIT_SIGPENDING RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_RTPRIO RLIMIT_RTTIME"
).split()
_PRCTL = {
    1: "PR_SET_PDEATHSIG", 4: "PR_SET_DUMPABLE", 8: "PR_SET_KEEPCAPS", 36: "PR_SET_CHILD_SUBREAPER",
    38: "PR_SET_NO_NEW_PRIVS",
}  # fmt: skip
_FSCONFIG = {0: "FSCONFIG_SET_FLAG", 1: "FSCONFIG_SET_STRING", 6: "FSCONFIG_CMD_CREATE"}
_SKIPS = {1: "missing", 2: "denied", 4: "unsupported", 8: "exists"}
_NONE = (1 << 32) - 1

# (operation, field): names of the bits, where a field is a set of flags
_FLAGS: dict[tuple[type[Op], str], dict[int, str]] = {
    (ops.Clone, "flags"): _CLONE,
    (ops.Unshare, "flags"): _CLONE,
    (ops.Setns, "nstype"): _CLONE,
    (ops.Mount, "flags"): _MS,
    (ops.Propagation, "flags"): _MS,
    (ops.Fsmount, "attributes"): _ATTR,
    (ops.MountSetattr, "set"): _ATTR,
    (ops.MountSetattr, "clear"): _ATTR,
    (ops.MountSetattr, "propagation"): _MS,
    (ops.MountSetattr, "flags"): _TREE,
    (ops.OpenTree, "flags"): _TREE,
    (ops.Open, "flags"): _OPEN,
    (ops.WriteFile, "flags"): _OPEN,
}
_CHOICES: dict[tuple[type[Op], str], dict[int, str]] = {
    (ops.Prctl, "option"): _PRCTL,
    (ops.Fsconfig, "command"): _FSCONFIG,
    (ops.Rlimit, "resource"): dict(enumerate(_RLIMITS)),
}
_CAPABILITIES = {
    ops.BoundingSet: {"keep"},
    ops.Capset: {"permitted", "effective", "inheritable"},
    ops.Ambient: {"raise_"},
}
_OCTAL = {"mode", "mask"}
# fields that are shown even where they are zero or empty: all of these operations', and these of every one's
_WHOLE = {ops.SetIds, ops.Groups, ops.BoundingSet, ops.Capset, ops.Ambient, ops.Rlimit, ops.Umask, ops.Exit}
_ALWAYS = {"slot", "at", "path", "target", "name", "source", "fstype"}


def render_op(op: Op, skip: int = 0) -> str:
    """`Mkdir(at=0, path="/proc", mode=0755, ...)`, and what failures are skipped."""
    kind = type(op)
    shown = []
    for name in kind.__struct_fields__:
        value = getattr(op, name)
        if kind in _WHOLE or name in _ALWAYS or not _is_default(name, value):
            shown.append(f"{name.rstrip('_')}={_value(kind, name, value)}")
    suffix = " unless " + "/".join(text for bit, text in _SKIPS.items() if skip & bit) if skip else ""
    return f"{kind.__name__}({', '.join(shown)}){suffix}"


def _is_default(name: str, value: object) -> bool:
    return value in (0, "", b"", ()) or (name in ("userns", "cgroup", "listener") and value == -1)


def _value(kind: type[Op], name: str, value: object) -> str:
    if isinstance(value, bytes):
        return repr(value)[1:] if len(value) <= 64 else f"<{len(value)} bytes>"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_quoted, value)) + "]"
    if isinstance(value, str):
        return _quoted(value)
    assert isinstance(value, int)
    if name in _CAPABILITIES.get(kind, ()):
        return "|".join(names(value)) or "none"
    if (kind, name) in _FLAGS:
        return _flags(_FLAGS[kind, name], value)
    if (kind, name) in _CHOICES:
        return _CHOICES[kind, name].get(value, str(value))
    if name in _OCTAL:
        return f"0{value:o}"
    return "-1" if value == _NONE else str(value)


def _quoted(value: object) -> str:
    """A string as C would write it, so that a line stays a line whatever a path holds; a number as it is."""
    if not isinstance(value, str):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'


def _flags(names: dict[int, str], value: int) -> str:
    """The names of the bits, and the rest as a number."""
    shown = [text for bit, text in names.items() if value & bit]
    rest = value & ~sum(names)
    return "|".join(shown + ([hex(rest)] if rest else [])) or "0"
