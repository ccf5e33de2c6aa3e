"""`checkpoint` and `restore`."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from orlop.cli.flags import Flag, Options, Syntax, many, switch, value
from orlop.cli.runtime_start import connect_console, write_pid
from orlop.runtime.state import Store
from orlop.spec.errors import InvalidArgument, Unimplemented
from orlop.wire.criu import CGROUP_MODES

if TYPE_CHECKING:
    from orlop.cli.runtime import Context

_IMAGE = "checkpoint"  # below the working directory, where no other is named
_SHARED: tuple[Flag, ...] = (
    value("--image-path", "Directory of the checkpoint", _IMAGE, "path"),
    value("--work-path", "Directory for the log of criu (default: that of the checkpoint)", metavar="path"),
    switch("--tcp-established", "Allow open TCP connections"),
    switch("--ext-unix-sk", "Allow unix sockets that lead out of the container"),
    switch("--shell-job", "Allow the terminal of the caller"),
    switch("--file-locks", "Keep file locks"),
    switch("--auto-dedup", "Keep pages of memory in one image only"),
    switch("--lazy-pages", "Fetch memory while the container runs again, through userfaultfd"),
    value("--manage-cgroups-mode", "Groups inside of the container's: soft, full, strict or ignore", metavar="mode"),
    many("--empty-ns", "Make a namespace without what is in it: network, which always is", "type"),
)
_CHECKPOINT: tuple[Flag, ...] = (
    *_SHARED,
    value("--parent-path", "Directory of the pre-dump before, relative to the checkpoint's", metavar="path"),
    switch("--pre-dump", "Only write memory; the container runs on"),
    switch("--leave-running", "Let the container run on"),
    switch("--tcp-skip-in-flight", "Leave out TCP connections that are being made"),
    switch("--link-remap", "Allow files without a name, and give them one"),
    value("--page-server", "Send memory to this server, or with --lazy-pages serve it there", metavar="address:port"),
    value("--status-fd", "With --lazy-pages: write a zero byte there when they can be fetched", "-1", "fd"),
)
_RESTORE: tuple[Flag, ...] = (
    *_SHARED,
    value("-b --bundle", "Directory of the bundle", ".", "path"),
    value("--console-socket", "Unix socket that gets the terminal's master", metavar="path"),
    value("--pid-file", "Write the process's pid to this file", metavar="path"),
    switch("-d --detach", "Leave the container alone once it runs"),
    switch("--tcp-close", "Close TCP connections instead of restoring them"),
    switch("--no-pivot", "Not with criu, which always uses pivot_root"),
    switch("--no-subreaper", "Do not adopt orphans; Orlop never does"),
    value("--lsm-profile", "Security profile in place of the one before", metavar="type:name"),
    value("--lsm-mount-context", "SELinux context for mounts in place of the one before", metavar="context"),
)


def checkpoint_command(options: Options, context: Context) -> int:
    """Write the container to files, and delete it."""
    from orlop.runtime import checkpoint as dump
    from orlop.runtime.delete import delete

    _check(options)
    store, identifier = Store(context.root), options.arguments[0]
    how = dump.Options(
        image=os.path.abspath(options.image_path),
        work=_absolute(options.work_path),
        parent=options.parent_path,
        pre_dump=options.pre_dump,
        leave_running=options.leave_running,
        tcp_established=options.tcp_established,
        tcp_skip_in_flight=options.tcp_skip_in_flight,
        link_remap=options.link_remap,
        ext_unix_sk=options.ext_unix_sk,
        shell_job=options.shell_job,
        file_locks=options.file_locks,
        auto_dedup=options.auto_dedup,
        lazy_pages=options.lazy_pages,
        page_server=_page_server(options.page_server),
        cgroups_mode=options.manage_cgroups_mode,
        ready=_status(options),
    )
    dump.checkpoint(store, identifier, how)
    if not (options.leave_running or options.pre_dump):
        delete(store, identifier, force=True, warn=context.warn)
    return 0


def _check(options: Options) -> None:
    if options.manage_cgroups_mode not in CGROUP_MODES:
        raise InvalidArgument(f"--manage-cgroups-mode: {options.manage_cgroups_mode[:20]!r} is unknown")
    for name in options.empty_ns:
        if name != "network":
            raise InvalidArgument(f"--empty-ns: {name[:20]!r} is not supported, only network is")
    if not options.image_path:
        raise InvalidArgument("--image-path: must name a directory")


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path else ""


def _page_server(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    address, _, port = text.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not (address and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidArgument(f"--page-server: {text[:64]!r} is not ADDRESS:PORT")
    return address, int(port)


def _status(options: Options) -> Callable[[], None]:
    """Writes the zero byte, once. The descriptor is closed then, for whoever reads until its end."""
    if "status_fd" not in options.given or options.status_fd == "-1":
        return lambda: None
    text = options.status_fd
    if not options.lazy_pages:
        raise InvalidArgument("--status-fd: is for --lazy-pages")
    try:
        fd = int(text)
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    except (ValueError, OverflowError, OSError):
        raise InvalidArgument(f"--status-fd: {text[:20]!r} is no open descriptor") from None
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise InvalidArgument(f"--status-fd: {fd} is not open for writing")
    os.set_inheritable(fd, False)

    def ready() -> None:
        os.write(fd, b"\0")
        os.close(fd)

    return ready


def restore_command(options: Options, context: Context) -> int:
    """Make the container run again; in the foreground, stay until it ends and delete it."""
    _check(options)
    if options.no_pivot:
        raise Unimplemented("--no-pivot: criu restores with pivot_root only")
    if context.systemd:
        raise Unimplemented("--systemd-cgroup: restore makes control groups in the file system only; use cgroupfs")
    return _restore_detached(options, context) if options.detach else _restore_here(options, context)


def _restore(options: Options, context: Context, **more: object) -> int:
    """Its pid; nothing is left of one whose pid file can't be written."""
    from orlop.runtime import restore
    from orlop.runtime.delete import delete

    store = Store(context.root)
    how = restore.Options(
        bundle=os.path.abspath(options.bundle),
        id=options.arguments[0],
        image=os.path.abspath(options.image_path),
        work=_absolute(options.work_path),
        tcp_established=options.tcp_established,
        tcp_close=options.tcp_close,
        ext_unix_sk=options.ext_unix_sk,
        shell_job=options.shell_job,
        file_locks=options.file_locks,
        auto_dedup=options.auto_dedup,
        lazy_pages=options.lazy_pages,
        cgroups_mode=options.manage_cgroups_mode,
        lsm_profile=options.lsm_profile,
        lsm_mount_context=options.lsm_mount_context,
        cgroups=context.cgroups,
        warn=context.warn,
        **more,  # type: ignore[arg-type]
    )
    record = restore.restore(store, how)
    try:
        write_pid(options, record.init_process_pid)
    except BaseException:
        delete(store, record.id, force=True)
        raise
    return record.init_process_pid


def _restore_detached(options: Options, context: Context) -> int:
    console = connect_console(options)
    try:
        _restore(options, context, console=console.fileno() if console else None)
    finally:
        if console:
            console.close()
    return 0


def _restore_here(options: Options, context: Context) -> int:
    from orlop.runtime.delete import delete
    from orlop.runtime.foreground import Foreground

    if options.console_socket:
        raise InvalidArgument("--console-socket: is for detached containers")
    with Foreground() as foreground:
        code = foreground.wait(_restore(options, context, on_console=foreground.take_master))
    delete(Store(context.root), options.arguments[0], force=True, warn=context.warn)
    return code


VERBS = {
    "checkpoint": (
        checkpoint_command,
        Syntax("CONTAINER", "Write a running container to files, with criu", _CHECKPOINT, 1, 1),
    ),
    "restore": (
        restore_command,
        Syntax("CONTAINER", "Make a container run on from a checkpoint, with criu", _RESTORE, 1, 1),
    ),
}
