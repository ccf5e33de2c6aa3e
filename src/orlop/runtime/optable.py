"""The table of operations: the whole vocabulary that the launch helper understands.

`scripts/ops` writes `ops.py` (frozen Python types) and `native/ops.h` (the helper's numbers and decoder) from it, and
a test fails when either has drifted. An operation is one system call, or a fixed short sequence that only makes sense
together; it decides nothing.

**Slots.** The helper keeps a table of 64 file descriptors, all close-on-exec. An operation names a descriptor by its
slot. Descriptors handed over by the parent fill slots 0, 1, 2, ... in order. Slot -1 means "none": as a directory it
is the process's own view of the file system (AT_FDCWD).

**Paths.** A pair `(at, path)` with `at` >= 0 is resolved by openat2 with RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
beneath the directory in slot `at`, so that no link in a container's file system leads out of it. With `at` = -1 the
path is the host's; after PivotRoot it is the container's own, where magic links (/proc/self/fd/N) are not followed
either, except by Chdir, FindExec and Execve. Missing parents are made where a link to something missing says, too.

**Optional operations.** Every operation has a bit mask of failures that do not count (`skip`): SKIP_MISSING for ENOENT
and ENOTDIR, SKIP_DENIED for EPERM and EACCES, SKIP_UNSUPPORTED for ENOSYS, EOPNOTSUPP and EINVAL, SKIP_EXISTS for
EEXIST. An operation that is skipped leaves its result slot as it was; one that reads an empty slot does nothing,
except that Setns, Clone, PivotRoot, MoveRoot and Chroot then fail: the program would be where it must not be.

**Numbers.** Flags and other constants are those of x86-64; the helper translates where arm64's differ (O_*).

Field types: `i32 u32 i64 u64` little endian; `str` and `bytes` a u32 length, then the bytes (a str is followed by a
NUL that the length does not count); `strs` a u32 count, then that many str; `u32s` a u32 count, then the numbers;
`slot` an i32, the slot that is read; `fill` an i32, the slot that gets the result. A plan that reads a slot which
nothing before it can have filled is refused when it is encoded.
"""

from __future__ import annotations

from typing import NamedTuple


class Field(NamedTuple):
    name: str
    type: str


class OpDef(NamedTuple):
    code: int
    name: str
    doc: str
    fields: tuple[Field, ...]


SKIP_MISSING, SKIP_DENIED, SKIP_UNSUPPORTED, SKIP_EXISTS = 1, 2, 4, 8


def _op(code: int, name: str, fields: str, doc: str) -> OpDef:
    pairs = (item.split(":") for item in fields.split())
    return OpDef(code, name, doc, tuple(Field(field, kind) for field, kind in pairs))


TABLE: tuple[OpDef, ...] = (
    # --- descriptors
    _op(1, "Open", "slot:fill at:slot path:str flags:u32 mode:u32 magic:u64", "open a file; with magic != 0, only on a file system of that statfs type"),
    _op(2, "Close", "slot:i32", "close a slot"),
    _op(3, "Dup", "slot:slot fd:i32", "make the slot's descriptor the process's fd number `fd`, without close-on-exec; a descriptor of the helper that has this number gets another"),
    _op(4, "CloseRange", "first:u32 last:u32 flags:u32", "close_range(2), always with CLOSE_RANGE_CLOEXEC"),
    _op(5, "Socket", "slot:fill domain:i32 type:i32 protocol:i32", "open a socket in the process's network namespace"),
    _op(6, "SendFd", "socket:slot fd:slot text:bytes", "send a descriptor and `text` over a connected unix socket"),
    _op(7, "Connect", "slot:fill path:str", "connect a unix stream socket to a path of the host"),
    # --- namespaces and processes
    _op(10, "Setns", "slot:slot nstype:u32", "join the namespace (or, for a pidfd, the namespaces) of the slot"),
    _op(11, "Unshare", "flags:u64", "unshare(2)"),
    _op(12, "Clone", "flags:u64 cgroup:slot", "start the next stage in a child with these namespaces (clone3; CLONE_PARENT is added, so the child's parent is the helper's), which goes on when its pid has been told; cgroup: a cgroup v2 directory to start in, or -1. Ends the stage"),
    _op(13, "Setsid", "", "setsid(2)"),
    _op(14, "Keyring", "name:str", "join a new session keyring of that name"),
    # --- identity of the host
    _op(20, "SetHostname", "name:str", "sethostname(2)"),
    _op(21, "SetDomainname", "name:str", "setdomainname(2)"),
    _op(22, "LinkUp", "name:str", "bring a network interface up (ioctl SIOCSIFFLAGS)"),
    # --- files
    _op(30, "Mkdir", "at:slot path:str mode:u32 uid:u32 gid:u32", "make a directory and its missing parents; an existing directory is kept as it is"),
    _op(31, "Target", "at:slot path:str like:slot flags:u32", "make what a mount needs to stand on, with missing parents: a directory where slot `like` is a directory (or is -1), else an empty file; what exists is kept. With O_NOFOLLOW a link in the last place is what exists"),
    _op(32, "Mknod", "at:slot path:str mode:u32 major:u32 minor:u32 uid:u32 gid:u32", "make a node, with missing parents; an existing node of the same type and number is kept"),
    _op(33, "Symlink", "at:slot path:str target:str", "make a symbolic link; an existing link with the same target is kept"),
    _op(34, "WriteFile", "at:slot path:str flags:u32 magic:u64 data:bytes", "open with O_WRONLY | flags and write all in one write(2); with magic != 0, only on a file system of that statfs type"),
    _op(35, "Chdir", "at:slot path:str", "change the working directory; after PivotRoot, refuses one outside the root (getcwd must be absolute)"),
    _op(36, "Umask", "mask:u32", "the umask of the program and of hooks (022 otherwise); the helper's own operations take modes as they are written"),
    _op(37, "Chown", "slot:slot uid:u32 gid:u32", "fchown(2)"),
    # --- mounts
    _op(40, "Mount", "source:str at:slot target:str fstype:str flags:u64 data:str", "mount(2) on a target"),
    _op(41, "Fsopen", "slot:fill fstype:str", "fsopen(2)"),
    _op(42, "Fsconfig", "slot:slot command:u32 key:str value:str", "fsconfig(2) with FSCONFIG_SET_FLAG 0, SET_STRING 1 or CMD_CREATE 6; a failure carries the context's own message"),
    _op(43, "Fsmount", "slot:fill context:slot attributes:u32", "fsmount(2)"),
    _op(44, "OpenTree", "slot:fill at:slot path:str flags:u32", "open_tree(2); flags are OPEN_TREE_* and AT_*; at >= 0 with an empty path takes the slot itself"),
    _op(45, "MountSetattr", "slot:slot flags:u32 set:u64 clear:u64 propagation:u64 userns:slot", "mount_setattr(2) on the slot's mount; flags are AT_*; before Linux 5.12, remounts through mount(2) where that can say the same"),
    _op(46, "MoveMount", "slot:slot at:slot target:str", "attach the slot's mount at a target; at >= 0 with an empty target takes the slot itself"),
    _op(47, "Propagation", "at:slot path:str flags:u64", "mount(2) with MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, with MS_REC as given"),
    _op(48, "Mask", "at:slot path:str null:slot", "hide a path: an empty read-only tmpfs over a directory, a bind of slot `null`, which must be the null device, over a file; a missing path is right"),
    _op(49, "PivotRoot", "root:slot", "make the slot's mount the root and detach the old one, in this mount namespace alone"),
    _op(50, "MoveRoot", "root:slot", "for a root that can't pivot (an initramfs): move the mount over / (unless it is there already) and chroot into it"),
    _op(51, "Chroot", "root:slot", "chroot(2) into the slot"),
    _op(52, "Copyup", "slot:slot at:slot path:str", "copy the tree at a path into the slot's mount: directories, files, links and nodes with modes, owners and times (tmpcopyup)"),
    _op(54, "Fsmode", "slot:slot at:slot path:str", "give a file system to come the `mode` of the directory at a path; a missing one leaves the file system's own"),
    _op(53, "Umount", "at:slot path:str flags:u32", "umount2(2); with at >= 0 the last component is not followed, and its directory is then the working directory"),
    _op(55, "Setxattr", "at:slot path:str name:str value:bytes", "setxattr(2) on what is at a path"),
    # --- terminals
    _op(60, "Pty", "master:fill slave:fill at:slot path:str rows:u32 columns:u32 uid:u32", "open a new pseudo-terminal from the ptmx at a path, unlock it, size it (0 leaves it) and give its slave to uid"),
    _op(61, "Ctty", "slot:slot", "make the slot the controlling terminal (TIOCSCTTY)"),
    # --- credentials and limits
    _op(70, "SetIds", "uid:u32 gid:u32", "setresgid, then setresuid, of all three ids"),
    _op(71, "Groups", "gids:u32s", "setgroups(2)"),
    _op(72, "BoundingSet", "keep:u64", "drop every capability that is not in `keep` from the bounding set"),
    _op(73, "Capset", "permitted:u64 effective:u64 inheritable:u64", "capset(2)"),
    _op(74, "Ambient", "raise_:u64", "clear the ambient set, then raise these"),
    _op(75, "Prctl", "option:i32 arg2:u64 arg3:u64 arg4:u64 arg5:u64", "prctl(2); PR_SET_PDEATHSIG ends the helper when the report pipe shows that its parent is gone already"),
    _op(76, "Rlimit", "resource:u32 soft:u64 hard:u64", "setrlimit(2)"),
    _op(77, "Seccomp", "flags:u32 listener:fill program:bytes", "seccomp(2) SET_MODE_FILTER; with SECCOMP_FILTER_FLAG_NEW_LISTENER the listener goes to the slot"),
    _op(78, "Scheduler", "policy:u32 flags:u64 nice:i32 priority:u32 runtime:u64 deadline:u64 period:u64", "sched_setattr(2)"),
    _op(79, "IoPriority", "value:u32", "ioprio_set(2) for this process"),
    _op(80, "Affinity", "cpus:bytes", "sched_setaffinity(2); the bytes are the mask"),
    _op(81, "Personality", "value:u64", "personality(2)"),
    _op(82, "MemoryPolicy", "mode:u32 nodes:bytes bits:u64", "set_mempolicy(2); the bytes are the node mask"),
    # --- talking, waiting, ending
    _op(90, "Sync", "name:str fds:u32s", "tell the parent that this point is reached, hand it copies of these slots, and wait for its word to go on"),
    _op(91, "AwaitStart", "slot:slot", "read one byte from the slot (a fifo opened read-write), retrying on EINTR; what fails from then on is written there, and Execve takes a second byte"),
    _op(92, "Hook", "path:str args:strs env:strs timeout_ms:u32 stdin:bytes", "run a program to its end with these bytes on standard input; a non-zero exit or a time-out fails"),
    _op(93, "FindExec", "candidates:strs", "fail unless one of the paths is a file that may be executed (EACCES over ENOENT)"),
    _op(94, "Execve", "candidates:strs argv:strs env:strs", "execve the first candidate that exists, as execvp would. Ends the stage"),
    _op(95, "Exit", "code:u32", "leave. Ends the stage"),
)
