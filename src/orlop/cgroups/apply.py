"""Making groups, limiting them and putting processes in. What is to be written is decided in `compile`.

host = probe()
group = create(host, group_path("", identifier))
limit(group, resources)
attach(group, pid)          # or hand group.procs_paths to the launch plan
...
processes.kill(group); remove(group)
"""

from __future__ import annotations

import errno
import os
import time

import msgspec

from orlop.cgroups.compile import writes
from orlop.cgroups.facts import ROOT, CgroupHost, Group, group_path
from orlop.cgroups.files import read, write_file
from orlop.cgroups.probe import probe
from orlop.cgroups.processes import freeze, frozen, kill, pids, thaw
from orlop.cgroups.stats import oom_kills, statistics
from orlop.cgroups.write import Write
from orlop.spec.errors import FailedPrecondition, InvalidArgument, OrlopError, from_os
from orlop.spec.runtime import Resources

__all__ = [
    "CgroupHost",
    "New",
    "adopt",
    "attach",
    "begin",
    "create",
    "discard",
    "exists",
    "finish",
    "freeze",
    "frozen",
    "group_path",
    "kill",
    "limit",
    "make",
    "oom_kills",
    "pids",
    "probe",
    "procs_paths",
    "remove",
    "remove_empty",
    "statistics",
    "sweep",
    "thaw",
    "update",
]

_REMOVAL = 2.0  # seconds that a group may stay busy after its last process has ended


class New(msgspec.Struct, frozen=True):
    """A group that has been made and has no limits yet."""

    group: Group
    resources: Resources | None
    compiled: tuple[Write, ...]
    made: tuple[str, ...]  # the directories that were not there before
    missing: tuple[str, ...] = ()  # those that `finish` is to make


def create(host: CgroupHost, path: str, resources: Resources | None = None) -> None:
    """Make the group in every hierarchy, with its parents, and put its limits in force (see `compile.writes`).

    A group that is there already must be empty. Of a failure nothing stays behind but parents. Errors of limits name
    the JSON path, the value and the control file.
    """
    new = make(host, path, resources)
    try:
        limit(new)
    except BaseException:
        discard(new, 0)
        raise


def make(host: CgroupHost, path: str, resources: Resources | None = None) -> New:
    """The first half of `create`: a process may then be put into the group, though it must not run free yet."""
    new = begin(host, path, resources)
    try:
        return finish(new)
    except BaseException:
        discard(new, 0)
        raise


def begin(host: CgroupHost, path: str, resources: Resources | None = None) -> New:
    """As much of `make` as a process needs that is to be born in the group: of several hierarchies only v2's.

    Until `finish` has made the others, that process must not go on, and a failure is for `discard`.
    """
    group = Group(host, path)
    born = tuple(each for each in group.directories if host.mode == "v2" or each == host.unified + path)
    missing = tuple(each for each in group.directories if each not in born)
    return _made(New(group, resources, writes(resources, host), (), missing), born)


def finish(new: New) -> New:
    """The rest of `make`, if any. When it fails, what `begin` made is still there."""
    return new if not new.missing else _made(msgspec.structs.replace(new, missing=()), new.missing)


def _made(new: New, directories: tuple[str, ...]) -> New:
    """With these directories made; and, where they are the last, seen to be fit for a process."""
    host, path, made = new.group.host, new.group.path, list[str]()
    try:
        for directory in directories:
            if _make(host, directory):
                made.append(directory)
            else:
                _check_unused(directory)
        # in a frozen group its first process would stand still for ever, and on v1 not even be killed
        if not new.missing and frozen(host, path):
            raise FailedPrecondition(f"container's cgroup unexpectedly frozen: {path}; thaw it, or those above it")
        if host.mode == "v2":
            _enable(host, path)
    except BaseException as error:
        for directory in made:
            _remove_directory(directory, 0)
        if isinstance(error, OSError):
            raise from_os(error, "create cgroup") from error
        raise
    return msgspec.structs.replace(new, made=new.made + tuple(made))


def discard(new: New, patience: float = _REMOVAL) -> None:
    """Remove what was made of a group that did not come to be, once no process is in it any more."""
    deadline = time.monotonic() + patience
    for directory in new.made:
        _remove_directory(directory, deadline)


def limit(new: New) -> None:
    """The second half. When it fails the group is still there."""
    try:
        _limit(new.group, new.compiled)
        if new.group.host.mode == "v2" and "devices" in new.group.host.controllers:
            _limit_devices(new.group, new.resources)
    except OSError as error:
        raise from_os(error, "create cgroup") from error


def adopt(host: CgroupHost, path: str, resources: Resources | None = None) -> None:
    """As `create`, for a group that somebody else has made and put the first process in: what is missing of it in other
    hierarchies is made, and the limits are put in force. Of a failure groups may stay behind; `remove` takes them."""
    group = Group(host, path)
    compiled = writes(resources, host)
    try:
        for directory in group.directories:
            _make(host, directory)
    except OSError as error:
        raise from_os(error, "create cgroup") from error
    if host.mode == "v2":
        _enable(host, path)
    limit(New(group, resources, compiled, ()))


def update(host: CgroupHost, path: str, resources: Resources) -> None:
    """Change the limits of a group in use; what `resources` does not name stays as it is."""
    group = Group(host, path)
    _limit(group, writes(resources, host, update=True))
    if host.mode == "v2" and resources.devices and "devices" in host.controllers:
        _limit_devices(group, resources)


def procs_paths(host: CgroupHost, path: str) -> tuple[str, ...]:
    """The `cgroup.procs` files that a process must be written to in order to be wholly in the group."""
    return Group(host, path).procs_paths


def attach(host: CgroupHost, path: str, pid: int) -> None:
    """Move a process, with all its threads, into the group in every hierarchy."""
    for file in procs_paths(host, path):
        try:
            write_file(file, str(pid))
        except OSError as error:
            what = f"cannot put process {pid} into cgroup {file}"
            if error.errno == errno.EBUSY:
                raise FailedPrecondition(f"{what}: it hands controllers to groups below it") from error
            raise _explain(error, what) from error


def remove(host: CgroupHost, path: str, patience: float = _REMOVAL) -> None:
    """Remove the group and those that the container made in it. One that is gone already is right.

    A group stays busy for a moment after its last process ended: that is waited for, up to `patience` seconds. Then,
    or while processes live in it, FailedPrecondition.
    """
    deadline = time.monotonic() + patience
    failures = [found for found in Group(host, path).directories if not _remove_directory(found, deadline)]
    if failures:
        raise FailedPrecondition(f"cgroup {failures[0]} is still in use")


def remove_empty(host: CgroupHost, path: str) -> bool:
    """Remove the group if no process is in it and no group below; False where there is one in some hierarchy.

    The kernel removes no group with a process in it, so that to try costs less than to look, and nothing can come in
    between.
    """
    group = Group(host, path)
    for directory in sorted(group.directories, key=lambda directory: directory != group.tracker):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise from_os(error, "remove cgroup") from error
            return False
    return True


def sweep(host: CgroupHost) -> None:
    """Remove `/orlop` itself in each hierarchy where it is empty."""
    for directory in Group(host, ROOT).directories:
        try:
            os.rmdir(directory)
        except OSError:
            pass  # in use, or never made


def exists(host: CgroupHost, path: str) -> bool:
    return any(os.path.isdir(directory) for directory in Group(host, path).directories)


# --- making


def _make(host: CgroupHost, directory: str) -> bool:
    """Make a directory with its parents; False where it was there. A new v1 cpuset gets its parent's processors."""
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return False
    except FileNotFoundError:
        parent = os.path.dirname(directory)
        if parent in (host.unified, *host.mounts.values()):
            raise
        _make(host, parent)
        return _make(host, directory)
    if directory.startswith(host.mounts.get("cpuset", "\0") + "/"):
        try:
            _inherit_cpuset(directory)
        except FileNotFoundError:  # a parent that another process swept away before anything stood in it
            return _make(host, directory)
    return True


def _inherit_cpuset(directory: str) -> None:
    """A v1 cpuset starts with no processor and no memory node, and takes no process in before it has both."""
    parent = os.path.dirname(directory)
    for name in ("cpuset.cpus", "cpuset.mems"):
        value = read(f"{parent}/{name}").strip()
        if not value:  # a parent that someone else has made and not filled
            _inherit_cpuset(parent)
            value = read(f"{parent}/{name}").strip()
        write_file(f"{directory}/{name}", value)


def _check_unused(directory: str) -> None:
    """A container in a group with strangers would be limited, frozen and killed with them."""
    if read(f"{directory}/cgroup.procs").strip():
        raise FailedPrecondition(f"container's cgroup is not empty: {directory}")


def _enable(host: CgroupHost, path: str) -> None:
    from orlop.cgroups.delegation import enable  # v1 has no such thing

    enable(host, path)


# --- limiting


def _limit(group: Group, compiled: tuple[Write, ...]) -> None:
    postponed = [write for write in compiled if not _apply(group, write, True)]
    for write in postponed:
        _apply(group, write, False)


def _apply(group: Group, write: Write, may_postpone: bool) -> bool:
    """Perform one write. False: it failed in a way that a later write may cure.

    Some limits must stand in a relation (memory below memory and swap, burst below quota), which while they are
    changed one by one holds in one order only.
    """
    path = f"{group.directory(write.controller)}/{write.file}"
    try:
        _check_guard(group, write)
        write_file(path, write.value)
    except FileNotFoundError as error:
        if write.alternative is not None:
            return _apply(group, write.alternative, may_postpone)
        if write.optional:
            return True
        raise FailedPrecondition(f"{write.origin}: {_missing(group, write)}") from error
    except OSError as error:
        if may_postpone and error.errno in (errno.EINVAL, errno.EBUSY):
            return False
        if write.file == "cpu.rt_runtime_us" and _made_room(group, write):
            return True
        raise _explain(error, f"{write.origin}: cannot set {write.file} to {write.value!r}", write.file) from error
    return True


def _made_room(group: Group, write: Write) -> bool:
    from orlop.cgroups.realtime import make_room

    directory = group.directory(write.controller)
    if not make_room(group.host.mount(write.controller), directory, int(write.value)):
        return False
    try:
        write_file(f"{directory}/{write.file}", write.value)
    except OSError:
        return False
    return True


def _check_guard(group: Group, write: Write) -> None:
    if write.guard:
        used = int(read(f"{group.directory(write.controller)}/{write.guard}"))
        if used > int(write.value):
            raise InvalidArgument(f"{write.origin}: {write.value} is less than the {used} in use")


def _missing(group: Group, write: Write) -> str:
    """Why there is no such file."""
    reason = ""
    if group.host.mode == "v2":
        from orlop.cgroups.delegation import lacking

        reason = lacking(group.host, group.path, write.controller)
    return reason or f"this kernel or cgroup has no {write.file}"


# what the kernel means with an error on a control file
_REASONS = {
    errno.EINVAL: "the kernel takes no such value",
    errno.ERANGE: "the value is out of range",
    errno.EBUSY: "more than that is in use",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOSPC: "the group has no processors or memory nodes",
    errno.ESRCH: "no such process",
    errno.ENODEV: "no such device",
    524: "this kernel does not support it",  # ENOTSUPP
    errno.EOPNOTSUPP: "this kernel does not support it",
}


# and on one control file only; a new group has no realtime runtime, so that its children get none (sched-rt-group)
_REASONS_OF_FILES = {("cpu.rt_runtime_us", errno.EINVAL): "the group above has less realtime runtime left than that"}


def _explain(error: OSError, what: str, file: str = "") -> OrlopError:
    plain, number = from_os(error, what), error.errno or 0
    reason = _REASONS_OF_FILES.get((file, number)) or _REASONS.get(number, os.strerror(number).lower())
    kind = FailedPrecondition if error.errno in (524, errno.EOPNOTSUPP) else type(plain)
    return kind(f"{what}: {reason}")


def _limit_devices(group: Group, resources: Resources | None) -> None:
    """Attach the program for the device rules to a v2 group, in place of the ones it has."""
    from orlop.cgroups.devices import program
    from orlop.sys import bpf

    descriptors: list[int] = []
    try:
        descriptors.append(directory := os.open(group.directory("unified"), os.O_RDONLY | os.O_DIRECTORY))
        old = bpf.device_programs(directory)
        descriptors += old
        descriptors.append(new := bpf.load_device_program(program(resources.devices if resources else ())))
        bpf.attach_device_program(directory, new)
        for earlier in old:  # only now: between the two, a device must pass both
            bpf.detach_device_program(directory, earlier)
    except OSError as error:
        raise _explain(error, "linux.resources.devices: cannot attach the device program") from error
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


# --- removing


def _remove_directory(directory: str, deadline: float) -> bool:
    """Remove a group's directory with everything below; False when it is still busy at `deadline`."""
    delay = 0.001
    while True:
        try:
            os.rmdir(directory)
            return True
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise from_os(error, "remove cgroup") from error
        _remove_children(directory)
        if time.monotonic() >= deadline:
            return _removed_now(directory)
        time.sleep(delay)
        delay = min(delay * 2, 0.05)


def _removed_now(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _remove_children(directory: str) -> None:
    """Remove the groups below, deepest first. A container may nest them deeper than a path can be long, so the way
    down and up is gone with one descriptor at a time."""
    try:
        here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    names: list[str] = []
    busy: set[tuple[int, str]] = set()
    try:
        while True:
            child = _child(here, len(names), busy)
            if child is not None:
                below = os.open(child, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
                names.append(child)
            elif names:
                below = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
                name = names.pop()
                try:
                    os.rmdir(name, dir_fd=below)
                except OSError:
                    busy.add((len(names), name))
            else:
                return
            os.close(here)
            here = below
    except FileNotFoundError:
        return  # someone else removes it too
    finally:
        os.close(here)


def _child(here: int, depth: int, busy: set[tuple[int, str]]) -> str | None:
    if os.fstat(here).st_nlink <= 2:  # a directory is linked from each one below
        return None
    with os.scandir(here) as entries:
        return next((e.name for e in entries if e.is_dir(follow_symlinks=False) and (depth, e.name) not in busy), None)
