"""The processes of a group: which they are, freezing, thawing and killing them all."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator

from orlop.cgroups.facts import CgroupHost, Group
from orlop.cgroups.files import read, write_file
from orlop.spec.errors import DeadlineExceeded, FailedPrecondition, OrlopError, from_os

_PATIENCE = 10.0  # seconds for the kernel to freeze or kill


def pids(host: CgroupHost, path: str, *, recursive: bool = True) -> tuple[int, ...]:
    """The processes in the group, and with `recursive` in the groups below it. Empty when the group is gone."""
    return _pids_under(Group(host, path).tracker, recursive)


def entry_paths(host: CgroupHost, path: str, pid: int) -> tuple[str, ...]:
    """The `cgroup.procs` files through which a further process joins the group that `pid` is the first process of."""
    if host.mode == "v2" and path:
        from orlop.cgroups.delegation import entered

        path = entered(host, path, pid)
    return Group(host, path).procs_paths


def _pids_under(directory: str, recursive: bool) -> tuple[int, ...]:
    found: set[int] = set()
    for path in _tree(directory) if recursive else (directory,):
        try:
            found.update(int(line) for line in read(f"{path}/cgroup.procs").split())
        except OSError:
            pass  # gone meanwhile; or a threaded v2 group, whose processes its domain lists
    found.discard(0)  # a process of a PID namespace that can't be seen from here
    return tuple(sorted(found))


def _tree(directory: str) -> Iterator[str]:
    """The directory and all below it."""
    waiting = [directory]
    while waiting:
        path = waiting.pop()
        yield path
        try:
            if os.stat(path).st_nlink > 2:
                with os.scandir(path) as entries:
                    waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue


# --- freezing


def freeze(host: CgroupHost, path: str, patience: float = _PATIENCE) -> None:
    """Stop every process in the group, and return when all stand still."""
    _set_frozen(Group(host, path), True, patience)


def thaw(host: CgroupHost, path: str, patience: float = _PATIENCE) -> None:
    """Let the processes go on."""
    _set_frozen(Group(host, path), False, patience)


def frozen(host: CgroupHost, path: str) -> bool:
    """Whether the group is frozen, or about to be."""
    group = Group(host, path)
    try:
        if _uses_v1_freezer(group):
            return read(f"{group.directory('freezer')}/freezer.state").strip() != "THAWED"
        return read(f"{group.directory('unified')}/cgroup.freeze").strip() == "1"
    except FileNotFoundError:
        return False


def _uses_v1_freezer(group: Group) -> bool:
    return "freezer" in group.host.mounts


def _set_frozen(group: Group, wanted: bool, patience: float) -> None:
    if not group.path:
        raise FailedPrecondition("the container has no control groups, by which it could be frozen")
    if not _uses_v1_freezer(group) and not group.host.unified:
        raise FailedPrecondition("this host has no freezer controller (cgroup v1)")
    act = _freeze_v1 if _uses_v1_freezer(group) else _freeze_v2
    try:
        done = act(group, wanted, time.monotonic() + patience)
    except OSError as error:
        raise from_os(error, "freeze" if wanted else "thaw") from error
    if not done:
        raise DeadlineExceeded(f"cgroup {group.path} did not {'freeze' if wanted else 'thaw'} in {patience:g} seconds")


def _freeze_v1(group: Group, wanted: bool, deadline: float) -> bool:
    """The v1 freezer may hang in FREEZING while processes are forked; letting go and trying again cures that
    (freezer-subsystem.txt)."""
    path = f"{group.directory('freezer')}/freezer.state"
    state = "FROZEN" if wanted else "THAWED"
    for attempt in _attempts(deadline):
        write_file(path, state)
        if read(path).strip() == state:
            return True
        if wanted and attempt % 25 == 24:
            write_file(path, "THAWED")
    if wanted:
        write_file(path, "THAWED")
    return False


def _freeze_v2(group: Group, wanted: bool, deadline: float) -> bool:
    directory = group.directory("unified")
    write_file(f"{directory}/cgroup.freeze", str(int(wanted)))
    line = f"frozen {int(wanted)}"
    for _ in _attempts(deadline):
        if line in read(f"{directory}/cgroup.events").splitlines():
            return True
    write_file(f"{directory}/cgroup.freeze", "0")
    return False


def _attempts(deadline: float) -> Iterator[int]:
    """Count up with growing pauses until the deadline; at least once."""
    attempt, delay = 0, 0.0005
    while True:
        yield attempt
        if time.monotonic() >= deadline:
            return
        time.sleep(delay)
        attempt, delay = attempt + 1, min(delay * 1.5, 0.02)


# --- killing


def kill(host: CgroupHost, path: str, patience: float = _PATIENCE) -> None:
    """Kill every process in the group and below, and return when none is left. A group that is gone is right.

    Processes that fork as fast as they are killed don't escape: v2 kills the whole group at once, and on v1 the group
    is frozen first. A frozen group is thawed. Zombies count as gone: whoever is their parent reaps them.
    """
    group = Group(host, path)
    for _ in _attempts(time.monotonic() + patience):
        if not _kill_unified(group):
            _kill_frozen(group)
        if not _living(group):
            return
        _thaw_astray(group)
    raise DeadlineExceeded(f"cgroup {group.path} still has processes {patience:g} seconds after they were killed")


def _kill_unified(group: Group) -> bool:
    """Kill through v2's `cgroup.kill` (Linux 5.14); False where that can't be or did not reach all of them."""
    if not group.host.unified:
        return False
    try:
        write_file(f"{group.directory('unified')}/cgroup.kill", "1")
    except OSError:
        return False
    if _uses_v1_freezer(group):
        # a process frozen on v1 dies when it is let go
        _try_thaw(group)
    return group.host.mode == "v2" or not set(_all_pids(group)) - set(_pids_under(group.directory("unified"), True))


def _kill_frozen(group: Group) -> None:
    try:
        freeze(group.host, group.path, 0.5)
    except OrlopError:
        pass  # no freezer, or gone: killing one by one then has to win the race, and the loop around us tries again
    try:
        for pid in _all_pids(group):
            _signal(pid)
    finally:
        _try_thaw(group)


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _try_thaw(group: Group) -> None:
    try:
        if _uses_v1_freezer(group):
            write_file(f"{group.directory('freezer')}/freezer.state", "THAWED")
        elif group.host.unified:
            write_file(f"{group.directory('unified')}/cgroup.freeze", "0")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):  # gone, before it was opened or after
            raise


def _thaw_astray(group: Group) -> None:
    """A killed process that is in another v1 freezer group than ours, and frozen there, does not die. Groups below ours
    are thawed. In one that is not the container's there may be others: the process is fetched out of it, which lets it
    go (legacy_freezer.c, freezer_attach), and they stay as they are."""
    top = group.host.mounts.get("freezer")
    for pid in _all_pids(group) if top else ():
        try:
            lines = read(f"/proc/{pid}/cgroup").splitlines()
            path = next(line.split(":", 2)[2] for line in lines if "freezer" in line.split(":", 2)[1].split(","))
            if path.startswith(f"{group.path}/"):
                write_file(f"{top}{path}/freezer.state", "THAWED")
            elif path != group.path:
                write_file(f"{top}{group.path}/cgroup.procs", str(pid))
        except (OSError, StopIteration):
            pass  # gone meanwhile


def _all_pids(group: Group) -> tuple[int, ...]:
    """Processes in any hierarchy's group: a container that may write to control groups can split itself over them."""
    return tuple(sorted({pid for directory in group.directories for pid in _pids_under(directory, True)}))


def _living(group: Group) -> bool:
    return any(_is_living(pid) for pid in _all_pids(group))


def _is_living(pid: int) -> bool:
    try:
        stat = read(f"/proc/{pid}/stat")
    except OSError:
        return False
    # the name in parentheses may hold anything, the state follows the last one
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
