"""The operations of a plan as frozen types. Generated from optable.py by scripts/ops; do not edit."""

from __future__ import annotations

import msgspec


class Op(msgspec.Struct, frozen=True):
    """One operation; see optable for what each does."""


class Open(Op, frozen=True):
    """Open a file; with magic != 0, only on a file system of that statfs type."""

    slot: int
    at: int
    path: str
    flags: int
    mode: int
    magic: int


class Close(Op, frozen=True):
    """Close a slot."""

    slot: int


class Dup(Op, frozen=True):
    """Make the slot's descriptor the process's fd number `fd`, without close-on-exec; a descriptor of the helper that has this number gets another."""

    slot: int
    fd: int


class CloseRange(Op, frozen=True):
    """close_range(2), always with CLOSE_RANGE_CLOEXEC."""

    first: int
    last: int
    flags: int


class Socket(Op, frozen=True):
    """Open a socket in the process's network namespace."""

    slot: int
    domain: int
    type: int
    protocol: int


class SendFd(Op, frozen=True):
    """Send a descriptor and `text` over a connected unix socket."""

    socket: int
    fd: int
    text: bytes


class Connect(Op, frozen=True):
    """Connect a unix stream socket to a path of the host."""

    slot: int
    path: str


class Setns(Op, frozen=True):
    """Join the namespace (or, for a pidfd, the namespaces) of the slot."""

    slot: int
    nstype: int


class Unshare(Op, frozen=True):
    """unshare(2)."""

    flags: int


class Clone(Op, frozen=True):
    """Start the next stage in a child with these namespaces (clone3; CLONE_PARENT is added, so the child's parent is the helper's), which goes on when its pid has been told; cgroup: a cgroup v2 directory to start in, or -1. Ends the stage."""

    flags: int
    cgroup: int


class Setsid(Op, frozen=True):
    """setsid(2)."""


class Keyring(Op, frozen=True):
    """Join a new session keyring of that name."""

    name: str


class SetHostname(Op, frozen=True):
    """sethostname(2)."""

    name: str


class SetDomainname(Op, frozen=True):
    """setdomainname(2)."""

    name: str


class LinkUp(Op, frozen=True):
    """Bring a network interface up (ioctl SIOCSIFFLAGS)."""

    name: str


class Mkdir(Op, frozen=True):
    """Make a directory and its missing parents; an existing directory is kept as it is."""

    at: int
    path: str
    mode: int
    uid: int
    gid: int


class Target(Op, frozen=True):
    """Make what a mount needs to stand on, with missing parents: a directory where slot `like` is a directory (or is -1), else an empty file; what exists is kept. With O_NOFOLLOW a link in the last place is what exists."""

    at: int
    path: str
    like: int
    flags: int


class Mknod(Op, frozen=True):
    """Make a node, with missing parents; an existing node of the same type and number is kept."""

    at: int
    path: str
    mode: int
    major: int
    minor: int
    uid: int
    gid: int


class Symlink(Op, frozen=True):
    """Make a symbolic link; an existing link with the same target is kept."""

    at: int
    path: str
    target: str


class WriteFile(Op, frozen=True):
    """Open with O_WRONLY | flags and write all in one write(2); with magic != 0, only on a file system of that statfs type."""

    at: int
    path: str
    flags: int
    magic: int
    data: bytes


class Chdir(Op, frozen=True):
    """Change the working directory; after PivotRoot, refuses one outside the root (getcwd must be absolute)."""

    at: int
    path: str


class Umask(Op, frozen=True):
    """The umask of the program and of hooks (022 otherwise); the helper's own operations take modes as they are written."""

    mask: int


class Chown(Op, frozen=True):
    """fchown(2)."""

    slot: int
    uid: int
    gid: int


class Mount(Op, frozen=True):
    """mount(2) on a target."""

    source: str
    at: int
    target: str
    fstype: str
    flags: int
    data: str


class Fsopen(Op, frozen=True):
    """fsopen(2)."""

    slot: int
    fstype: str


class Fsconfig(Op, frozen=True):
    """fsconfig(2) with FSCONFIG_SET_FLAG 0, SET_STRING 1 or CMD_CREATE 6; a failure carries the context's own message."""

    slot: int
    command: int
    key: str
    value: str


class Fsmount(Op, frozen=True):
    """fsmount(2)."""

    slot: int
    context: int
    attributes: int


class OpenTree(Op, frozen=True):
    """open_tree(2); flags are OPEN_TREE_* and AT_*; at >= 0 with an empty path takes the slot itself."""

    slot: int
    at: int
    path: str
    flags: int


class MountSetattr(Op, frozen=True):
    """mount_setattr(2) on the slot's mount; flags are AT_*; before Linux 5.12, remounts through mount(2) where that can say the same."""

    slot: int
    flags: int
    set: int
    clear: int
    propagation: int
    userns: int


class MoveMount(Op, frozen=True):
    """Attach the slot's mount at a target; at >= 0 with an empty target takes the slot itself."""

    slot: int
    at: int
    target: str


class Propagation(Op, frozen=True):
    """mount(2) with MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, with MS_REC as given."""

    at: int
    path: str
    flags: int


class Mask(Op, frozen=True):
    """Hide a path: an empty read-only tmpfs over a directory, a bind of slot `null`, which must be the null device, over a file; a missing path is right."""

    at: int
    path: str
    null: int


class PivotRoot(Op, frozen=True):
    """Make the slot's mount the root and detach the old one, in this mount namespace alone."""

    root: int


class MoveRoot(Op, frozen=True):
    """For a root that can't pivot (an initramfs): move the mount over / (unless it is there already) and chroot into it."""

    root: int


class Chroot(Op, frozen=True):
    """chroot(2) into the slot."""

    root: int


class Copyup(Op, frozen=True):
    """Copy the tree at a path into the slot's mount: directories, files, links and nodes with modes, owners and times (tmpcopyup)."""

    slot: int
    at: int
    path: str


class Fsmode(Op, frozen=True):
    """Give a file system to come the `mode` of the directory at a path; a missing one leaves the file system's own."""

    slot: int
    at: int
    path: str


class Umount(Op, frozen=True):
    """umount2(2); with at >= 0 the last component is not followed, and its directory is then the working directory."""

    at: int
    path: str
    flags: int


class Setxattr(Op, frozen=True):
    """setxattr(2) on what is at a path."""

    at: int
    path: str
    name: str
    value: bytes


class Pty(Op, frozen=True):
    """Open a new pseudo-terminal from the ptmx at a path, unlock it, size it (0 leaves it) and give its slave to uid."""

    master: int
    slave: int
    at: int
    path: str
    rows: int
    columns: int
    uid: int


class Ctty(Op, frozen=True):
    """Make the slot the controlling terminal (TIOCSCTTY)."""

    slot: int


class SetIds(Op, frozen=True):
    """Setresgid, then setresuid, of all three ids."""

    uid: int
    gid: int


class Groups(Op, frozen=True):
    """setgroups(2)."""

    gids: tuple[int, ...]


class BoundingSet(Op, frozen=True):
    """Drop every capability that is not in `keep` from the bounding set."""

    keep: int


class Capset(Op, frozen=True):
    """capset(2)."""

    permitted: int
    effective: int
    inheritable: int


class Ambient(Op, frozen=True):
    """Clear the ambient set, then raise these."""

    raise_: int


class Prctl(Op, frozen=True):
    """prctl(2); PR_SET_PDEATHSIG ends the helper when the report pipe shows that its parent is gone already."""

    option: int
    arg2: int
    arg3: int
    arg4: int
    arg5: int


class Rlimit(Op, frozen=True):
    """setrlimit(2)."""

    resource: int
    soft: int
    hard: int


class Seccomp(Op, frozen=True):
    """seccomp(2) SET_MODE_FILTER; with SECCOMP_FILTER_FLAG_NEW_LISTENER the listener goes to the slot."""

    flags: int
    listener: int
    program: bytes


class Scheduler(Op, frozen=True):
    """sched_setattr(2)."""

    policy: int
    flags: int
    nice: int
    priority: int
    runtime: int
    deadline: int
    period: int


class IoPriority(Op, frozen=True):
    """ioprio_set(2) for this process."""

    value: int


class Affinity(Op, frozen=True):
    """sched_setaffinity(2); the bytes are the mask."""

    cpus: bytes


class Personality(Op, frozen=True):
    """personality(2)."""

    value: int


class MemoryPolicy(Op, frozen=True):
    """set_mempolicy(2); the bytes are the node mask."""

    mode: int
    nodes: bytes
    bits: int


class Sync(Op, frozen=True):
    """Tell the parent that this point is reached, hand it copies of these slots, and wait for its word to go on."""

    name: str
    fds: tuple[int, ...]


class AwaitStart(Op, frozen=True):
    """Read one byte from the slot (a fifo opened read-write), retrying on EINTR; what fails from then on is written there, and Execve takes a second byte."""

    slot: int


class Hook(Op, frozen=True):
    """Run a program to its end with these bytes on standard input; a non-zero exit or a time-out fails."""

    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    timeout_ms: int
    stdin: bytes


class FindExec(Op, frozen=True):
    """Fail unless one of the paths is a file that may be executed (EACCES over ENOENT)."""

    candidates: tuple[str, ...]


class Execve(Op, frozen=True):
    """Execve the first candidate that exists, as execvp would. Ends the stage."""

    candidates: tuple[str, ...]
    argv: tuple[str, ...]
    env: tuple[str, ...]


class Exit(Op, frozen=True):
    """Leave. Ends the stage."""

    code: int


# number in an encoded plan: type, and its fields with their encodings
CODES: dict[int, tuple[type[Op], tuple[tuple[str, str], ...]]] = {
    1: (Open, (("slot", "fill"), ("at", "slot"), ("path", "str"), ("flags", "u32"), ("mode", "u32"), ("magic", "u64"),)),
    2: (Close, (("slot", "i32"),)),
    3: (Dup, (("slot", "slot"), ("fd", "i32"),)),
    4: (CloseRange, (("first", "u32"), ("last", "u32"), ("flags", "u32"),)),
    5: (Socket, (("slot", "fill"), ("domain", "i32"), ("type", "i32"), ("protocol", "i32"),)),
    6: (SendFd, (("socket", "slot"), ("fd", "slot"), ("text", "bytes"),)),
    7: (Connect, (("slot", "fill"), ("path", "str"),)),
    10: (Setns, (("slot", "slot"), ("nstype", "u32"),)),
    11: (Unshare, (("flags", "u64"),)),
    12: (Clone, (("flags", "u64"), ("cgroup", "slot"),)),
    13: (Setsid, ()),
    14: (Keyring, (("name", "str"),)),
    20: (SetHostname, (("name", "str"),)),
    21: (SetDomainname, (("name", "str"),)),
    22: (LinkUp, (("name", "str"),)),
    30: (Mkdir, (("at", "slot"), ("path", "str"), ("mode", "u32"), ("uid", "u32"), ("gid", "u32"),)),
    31: (Target, (("at", "slot"), ("path", "str"), ("like", "slot"), ("flags", "u32"),)),
    32: (Mknod, (("at", "slot"), ("path", "str"), ("mode", "u32"), ("major", "u32"), ("minor", "u32"), ("uid", "u32"), ("gid", "u32"),)),
    33: (Symlink, (("at", "slot"), ("path", "str"), ("target", "str"),)),
    34: (WriteFile, (("at", "slot"), ("path", "str"), ("flags", "u32"), ("magic", "u64"), ("data", "bytes"),)),
    35: (Chdir, (("at", "slot"), ("path", "str"),)),
    36: (Umask, (("mask", "u32"),)),
    37: (Chown, (("slot", "slot"), ("uid", "u32"), ("gid", "u32"),)),
    40: (Mount, (("source", "str"), ("at", "slot"), ("target", "str"), ("fstype", "str"), ("flags", "u64"), ("data", "str"),)),
    41: (Fsopen, (("slot", "fill"), ("fstype", "str"),)),
    42: (Fsconfig, (("slot", "slot"), ("command", "u32"), ("key", "str"), ("value", "str"),)),
    43: (Fsmount, (("slot", "fill"), ("context", "slot"), ("attributes", "u32"),)),
    44: (OpenTree, (("slot", "fill"), ("at", "slot"), ("path", "str"), ("flags", "u32"),)),
    45: (MountSetattr, (("slot", "slot"), ("flags", "u32"), ("set", "u64"), ("clear", "u64"), ("propagation", "u64"), ("userns", "slot"),)),
    46: (MoveMount, (("slot", "slot"), ("at", "slot"), ("target", "str"),)),
    47: (Propagation, (("at", "slot"), ("path", "str"), ("flags", "u64"),)),
    48: (Mask, (("at", "slot"), ("path", "str"), ("null", "slot"),)),
    49: (PivotRoot, (("root", "slot"),)),
    50: (MoveRoot, (("root", "slot"),)),
    51: (Chroot, (("root", "slot"),)),
    52: (Copyup, (("slot", "slot"), ("at", "slot"), ("path", "str"),)),
    54: (Fsmode, (("slot", "slot"), ("at", "slot"), ("path", "str"),)),
    53: (Umount, (("at", "slot"), ("path", "str"), ("flags", "u32"),)),
    55: (Setxattr, (("at", "slot"), ("path", "str"), ("name", "str"), ("value", "bytes"),)),
    60: (Pty, (("master", "fill"), ("slave", "fill"), ("at", "slot"), ("path", "str"), ("rows", "u32"), ("columns", "u32"), ("uid", "u32"),)),
    61: (Ctty, (("slot", "slot"),)),
    70: (SetIds, (("uid", "u32"), ("gid", "u32"),)),
    71: (Groups, (("gids", "u32s"),)),
    72: (BoundingSet, (("keep", "u64"),)),
    73: (Capset, (("permitted", "u64"), ("effective", "u64"), ("inheritable", "u64"),)),
    74: (Ambient, (("raise_", "u64"),)),
    75: (Prctl, (("option", "i32"), ("arg2", "u64"), ("arg3", "u64"), ("arg4", "u64"), ("arg5", "u64"),)),
    76: (Rlimit, (("resource", "u32"), ("soft", "u64"), ("hard", "u64"),)),
    77: (Seccomp, (("flags", "u32"), ("listener", "fill"), ("program", "bytes"),)),
    78: (Scheduler, (("policy", "u32"), ("flags", "u64"), ("nice", "i32"), ("priority", "u32"), ("runtime", "u64"), ("deadline", "u64"), ("period", "u64"),)),
    79: (IoPriority, (("value", "u32"),)),
    80: (Affinity, (("cpus", "bytes"),)),
    81: (Personality, (("value", "u64"),)),
    82: (MemoryPolicy, (("mode", "u32"), ("nodes", "bytes"), ("bits", "u64"),)),
    90: (Sync, (("name", "str"), ("fds", "u32s"),)),
    91: (AwaitStart, (("slot", "slot"),)),
    92: (Hook, (("path", "str"), ("args", "strs"), ("env", "strs"), ("timeout_ms", "u32"), ("stdin", "bytes"),)),
    93: (FindExec, (("candidates", "strs"),)),
    94: (Execve, (("candidates", "strs"), ("argv", "strs"), ("env", "strs"),)),
    95: (Exit, (("code", "u32"),)),
}
NUMBERS: dict[type[Op], int] = {kind: code for code, (kind, _) in CODES.items()}
