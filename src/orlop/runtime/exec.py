"""`exec`: a further process in a container that runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import msgspec

from orlop.cgroups.processes import entry_paths
from orlop.runtime.compile_console import Terminal
from orlop.runtime.compile_exec import ExecRequest, compile_exec
from orlop.runtime.compile_process import Filter, available, ungranted
from orlop.runtime.compile_schedule import cpu_mask
from orlop.runtime.debug import debug
from orlop.runtime.facts import Host
from orlop.runtime.groups import reduced
from orlop.runtime.home import with_home
from orlop.runtime.host import probe_host
from orlop.runtime.idmaps import with_mappings
from orlop.runtime.kill import frozen
from orlop.runtime.launch import launch
from orlop.runtime.state import Record, Store, state, status
from orlop.runtime.streams import own_streams
from orlop.spec.errors import FailedPrecondition, InvalidArgument, from_os
from orlop.spec.runtime import Linux, Process, RuntimeSpec


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to start it; see `create.Options`."""

    console: int | None = None
    on_console: Callable[[int], None] | None = None
    preserve: tuple[int, ...] = ()
    ignore_paused: bool = False
    cgroup: tuple[str, ...] = ()  # groups below the container's to join, in the words of --cgroup
    warn: Callable[[str], None] = lambda _: None


def execute(store: Store, record: Record, spec: RuntimeSpec, process: Process, options: Options) -> int:
    """Start `process`, a child of this one; its pid once its program runs."""
    host = probe_host()
    _check_running(record, host, options.ignore_paused)
    process = with_home(process, f"/proc/{record.init_process_pid}/root")
    spec = with_mappings(spec)
    linux = spec.linux or Linux()
    own = any(namespace.type == "user" for namespace in linux.namespaces)
    for name in ungranted(process.capabilities, available(host, own)):
        options.warn(f"process.capabilities: {name} cannot be granted here and is left out")
    pidfd = _hold(record)
    mine = [pidfd]
    try:
        inherit = [pidfd]
        root_slot = None
        groups = _groups(host, record, options.cgroup)
        if not any(namespace.type == "mount" for namespace in linux.namespaces):
            mine.append(os.open(f"/proc/{record.init_process_pid}/root", os.O_PATH | os.O_CLOEXEC))
            root_slot = _append(inherit, mine[-1])
        request = ExecRequest(
            id=record.id,
            root_slot=root_slot,
            seccomp=_seccomp(store, spec),
            cgroup_procs=groups,
            await_cgroup=record.place.ushered,
            terminal=_terminal(process, options),
            console_slot=None if options.console is None else _append(inherit, options.console),
            preserve={fd: _append(inherit, fd) for fd in options.preserve},
        )
        plan = compile_exec(spec, process, host, request)
        for text in _told(process, groups):
            debug(text)
        debug(f"setns_init: about to exec in container {record.id}")
        own_streams(process.user, linux)
        return launch(plan, inherit=inherit, on_sync=_follower(spec, record, options, groups)).pid
    finally:
        for fd in mine:
            os.close(fd)


def _told(process: Process, groups: Sequence[str]) -> Iterator[str]:
    """For --debug: what of the process is decided by now."""
    yield from (f"control group: joins {path}" for path in groups)
    if (affinity := process.exec_cpu_affinity) is not None:
        for when, text in (("initial", affinity.initial), ("final", affinity.final)):
            if mask := int.from_bytes(cpu_mask(text, f"process.execCPUAffinity.{when}"), "little"):
                yield f"nsexec: affinity: {mask:#x} ({when})"


def _groups(host: Host, record: Record, wanted: tuple[str, ...]) -> tuple[str, ...]:
    if not record.cgroup:
        if wanted:
            raise FailedPrecondition(f"--cgroup: container {record.id} has no control groups of its own")
        return ()
    held = reduced(record, host.cgroups)
    if not wanted:
        return entry_paths(held, record.cgroup, record.init_process_pid)
    from orlop.cgroups.subgroups import subgroup_paths

    return subgroup_paths(held, record.cgroup, wanted)


def _append(inherit: list[int], fd: int) -> int:
    inherit.append(fd)
    return len(inherit) - 1


def _check_running(record: Record, host: Host, ignore_paused: bool) -> None:
    now = status(record, frozen(record))
    if now == "stopped":
        raise FailedPrecondition(f"cannot exec in container {record.id}: it is stopped (container not running)")
    if now == "created" and host.lesser:
        raise FailedPrecondition(
            f"cannot exec in container {record.id}: it is created, and only root gets in before it is started"
        )
    if now == "paused" and not ignore_paused:
        raise FailedPrecondition(f"cannot exec in a paused container: {record.id}; resume it, or use --ignore-paused")
    if now == "creating":
        raise FailedPrecondition(f"cannot exec in container {record.id}: it is {now}")


def _hold(record: Record) -> int:
    """A pidfd of the first process, which is looked at again once it is held."""
    try:
        pidfd = os.pidfd_open(record.init_process_pid)
    except OSError as error:
        raise from_os(error, f"open process {record.init_process_pid}") from error
    if not record.alive:
        os.close(pidfd)
        raise FailedPrecondition(f"cannot exec in container {record.id}: it is stopped (container not running)")
    return pidfd


def _seccomp(store: Store, spec: RuntimeSpec) -> Filter | None:
    if spec.linux is None or spec.linux.seccomp is None:
        return None
    from orlop.seccomp.cache import program

    return program(spec.linux.seccomp, os.path.join(store.root, ".seccomp"))


def _terminal(process: Process, options: Options) -> Terminal:
    if not process.terminal:
        if options.console is not None:
            raise InvalidArgument("--console-socket: the process has no terminal")
        return "none"
    if options.console is None and options.on_console is None:
        raise InvalidArgument("process.terminal: a detached process needs --console-socket")
    return "socket" if options.console is not None else "sync"


def _follower(
    spec: RuntimeSpec, record: Record, options: Options, groups: Sequence[str]
) -> Callable[[str, int, list[int]], None]:
    def follow(name: str, pid: int, fds: Sequence[int]) -> None:
        if name == "cgroup":
            from orlop.cgroups import driver

            driver.usher(record.place, groups, pid)
        elif name == "created" and spec.linux is not None and spec.linux.intel_rdt is not None:
            from orlop.runtime import resctrl

            resctrl.join(spec.linux.intel_rdt, record.id, resctrl.mounted(), pid)
        elif name == "console" and options.on_console is not None:
            options.on_console(os.dup(fds[0]))
        elif name == "seccomp":
            from orlop.runtime.listener import hand_over

            assert spec.linux is not None
            assert spec.linux.seccomp is not None
            hand_over(spec.linux.seccomp, fds[0], state(record), pid)

    return follow
