"""`create`, `run` and `start`."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from orlop.cli.flags import Options, Syntax, switch, value
from orlop.cli.runtime_start import FLAGS, connect_console, preserved, tell_process
from orlop.runtime import create as creation
from orlop.runtime.children import children
from orlop.runtime.start import after_start, start
from orlop.runtime.state import NOTIFY, Record, Store
from orlop.spec.errors import InvalidArgument, OrlopError

if TYPE_CHECKING:
    from orlop.cli.runtime import Context
    from orlop.runtime.notify import NotifySocket

_NOTIFY = value(
    "--notify-socket", "Socket of systemd to tell when the program is ready; else $NOTIFY_SOCKET", metavar="path"
)
_FLAGS = (
    *FLAGS,
    _NOTIFY,
    value("-b --bundle", "Directory of the bundle", ".", "path"),
    value("-f --config", "The configuration, where it is not config.json of the bundle", "config.json", "path"),
    switch("--no-pivot", "Move the root instead of pivot_root, for a root on an initramfs"),
    switch("--no-new-keyring", "Keep the session keyring of the caller"),
)
_RUN_FLAGS = (
    *_FLAGS,
    switch("-d --detach", "Leave the container alone once it runs"),
    switch("--keep", "Do not delete the container after it has ended"),
    switch("--no-subreaper", "Do not adopt orphans; Orlop never does"),
)


def _options(options: Options, context: Context, **more: object) -> creation.Options:
    fds, environment = preserved(options)
    return creation.Options(
        id=options.arguments[0],
        bundle=os.path.abspath(options.bundle),
        config=options.config,
        preserve=fds,
        environment=environment,
        pivot=not options.no_pivot,
        systemd=context.systemd,
        cgroups=context.cgroups,
        keyring=not options.no_new_keyring,
        rootless=context.rootless,
        warn=context.warn,
        **more,  # type: ignore[arg-type]
    )


def _notify(options: Options) -> NotifySocket | None:
    host = options.notify_socket or os.environ.get("NOTIFY_SOCKET", "")
    if not host:
        return None
    from orlop.runtime.notify import NotifySocket

    return NotifySocket(host)


def _await_ready(notify: NotifySocket | None, pid: int, context: Context) -> None:
    """The container runs; a host that can't be told changes nothing about that."""
    if notify is None:
        return
    try:
        notify.wait(pid)
    except OrlopError as error:
        context.warn(error.message)
    finally:
        notify.close()


def _made(options: Options, store: Store, make: creation.Options, extra: Callable[[Record], None]) -> Record:
    """Create, then tell of the process and `extra`; if those fail the container is taken back."""
    record = creation.create(store, make)
    try:
        tell_process(options, record.init_process_pid)
        extra(record)
    except BaseException:
        from orlop.runtime.delete import delete

        delete(store, record.id, force=True)
        raise
    return record


def create_command(options: Options, context: Context) -> int:
    """Make a container that waits for `start`."""
    console = connect_console(options)
    try:
        make = _options(options, context, console=console.fileno() if console else None, notify=_notify(options))
        _check_console(make, detached=True)
        _made(options, Store(context.root), make, lambda _: None)
    finally:
        if console:
            console.close()
    return 0


def _check_console(make: creation.Options, detached: bool) -> None:
    process = creation.read_bundle(make.bundle, make.config).value.process
    terminal = process is not None and process.terminal
    if make.console is not None and not terminal:
        raise InvalidArgument("--console-socket: process.terminal is not set")
    if make.console is not None and not detached:
        raise InvalidArgument("--console-socket: is for detached containers")


def run_command(options: Options, context: Context) -> int:
    """Make a container and start it at once; in the foreground, stay until it ends and delete it."""
    return _run_detached(options, context) if options.detach else _run_here(options, context)


def _run_detached(options: Options, context: Context) -> int:
    store, console = Store(context.root), connect_console(options)
    notify = _notify(options)
    try:
        make = _options(options, context, console=console.fileno() if console else None, start=True, notify=notify)
        _check_console(make, detached=True)
        record = _made(options, store, make, lambda record: after_start(store, record))
    finally:
        if console:
            console.close()
    _await_ready(notify, record.init_process_pid, context)
    return 0


def _run_here(options: Options, context: Context) -> int:
    from orlop.runtime.delete import delete
    from orlop.runtime.foreground import Foreground

    store = Store(context.root)
    if options.console_socket:
        raise InvalidArgument("--console-socket: is for detached containers")
    notify = _notify(options)
    with Foreground() as foreground:
        make = _options(options, context, on_console=foreground.take_master, start=True, notify=notify)
        record = _made(options, store, make, lambda record: after_start(store, record))
        if notify is not None:
            foreground.watch(notify.fileno(), partial(_ready_here, notify, context))
        code = foreground.wait(record.init_process_pid)
    if not options.keep:
        delete(store, record.id, force=True, warn=context.warn)
    return code


def _ready_here(notify: NotifySocket, context: Context) -> bool:
    """Who stays with the container stands for it on the host, and need not wait until that has been read."""
    parent = children().parent
    try:
        return notify.heard(os.getpid() if parent == "self" else int(parent))
    except OrlopError as error:
        context.warn(error.message)
        return True


def start_command(options: Options, context: Context) -> int:
    """Start what `create` made."""
    store, identifier, notify = Store(context.root), options.arguments[0], _notify(options)
    if notify is not None:
        store.load(identifier)
        notify.listen(store.path(identifier, NOTIFY))
    start(store, identifier)
    if notify is not None:
        _await_ready(notify, store.load(identifier).init_process_pid, context)
    return 0


VERBS = {
    "create": (
        create_command,
        Syntax("CONTAINER", "Create a container from a bundle; `start` runs its program", _FLAGS, 1, 1, False),
    ),
    "run": (run_command, Syntax("CONTAINER", "Create a container from a bundle and run it", _RUN_FLAGS, 1, 1, False)),
    "start": (start_command, Syntax("CONTAINER", "Run the program of a created container", (_NOTIFY,), 1, 1, False)),
}
