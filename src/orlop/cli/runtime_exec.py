"""`exec`: a further process in a running container."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from orlop.cli.flags import Options, Syntax, many, switch, value
from orlop.cli.runtime_start import FLAGS, connect_console, preserved, tell_process
from orlop.runtime import exec as execution
from orlop.runtime.children import children
from orlop.runtime.foreground import Foreground
from orlop.runtime.state import Store
from orlop.spec.document import decode
from orlop.spec.errors import InvalidArgument, from_os
from orlop.spec.runtime import Capabilities, Process, RuntimeSpec, User

if TYPE_CHECKING:
    from orlop.cli.runtime import Context

_FLAGS = (
    *FLAGS,
    value("-p --process", "Read the process from this file", metavar="path"),
    value("--cwd", "Working directory in the container", metavar="path"),
    many("-e --env", "Set an environment variable"),
    switch("-t --tty", "Give the process a terminal"),
    value("-u --user", "Run as this user", metavar="uid[:gid]"),
    many("-g --additional-gids", "Further groups", "gid"),
    many("-c --cap", "Add a capability", "name"),
    switch("--no-new-privs", "The process and its children can gain no privileges"),
    switch("-d --detach", "Leave the process alone once it runs"),
    value("--process-label", "SELinux label of the process"),
    value("--apparmor", "AppArmor profile of the process"),
    switch("--ignore-paused", "Start the process in a paused container; it runs when that is resumed"),
    many("--cgroup", "Run the process in this group below the container's", "[controller[,...]:]path"),
)


def exec_command(options: Options, context: Context) -> int:
    """Run it; in the foreground its exit status is ours."""
    store = Store(context.root)
    fds, environment = preserved(options)
    record = store.load(options.arguments[0])
    spec = store.spec(record.id)
    process = _process(options, spec)
    process = msgspec.structs.replace(process, env=process.env + environment)
    if options.detach or options.console_socket:
        return _detached(options, context, process, fds)
    with Foreground() as foreground:
        how = execution.Options(
            on_console=foreground.take_master,
            preserve=fds,
            ignore_paused=options.ignore_paused,
            cgroup=tuple(options.cgroup),
            warn=context.warn,
        )
        pid = execution.execute(store, record, spec, process, how)
        tell_process(options, pid)
        return foreground.wait(pid)


def _detached(options: Options, context: Context, process: Process, fds: tuple[int, ...]) -> int:
    """With a console socket and no --detach: without a terminal of ours, but waiting for the end."""
    store = Store(context.root)
    record = store.load(options.arguments[0])
    console = connect_console(options)
    try:
        how = execution.Options(
            console=console.fileno() if console else None,
            preserve=fds,
            ignore_paused=options.ignore_paused,
            cgroup=tuple(options.cgroup),
            warn=context.warn,
        )
        pid = execution.execute(store, record, store.spec(record.id), process, how)
    finally:
        if console:
            console.close()
    tell_process(options, pid)
    if options.detach:
        return 0
    code = os.waitstatus_to_exitcode(children().wait(pid)[1])
    return code if code >= 0 else 128 - code


def _process(options: Options, spec: RuntimeSpec) -> Process:
    """The process of --process, else the container's own with what the flags change."""
    if options.process:
        return _from_file(options.process)
    if len(options.arguments) < 2:
        raise InvalidArgument("exec: needs a command, or --process")
    process = spec.process or Process(cwd="/")
    changes: dict[str, object] = {
        "args": options.arguments[1:],
        "terminal": options.tty,
        "env": _environment(process.env, tuple(options.env)),
        "user": _user(options, process.user),
        "no_new_privileges": process.no_new_privileges or options.no_new_privs,
    }
    for flag, field in (("cwd", "cwd"), ("process_label", "selinux_label"), ("apparmor", "apparmor_profile")):
        if getattr(options, flag):
            changes[field] = getattr(options, flag)
    if options.cap:
        changes["capabilities"] = _capabilities(process.capabilities or Capabilities(), tuple(options.cap))
    return msgspec.structs.replace(process, **changes)


def _environment(old: tuple[str, ...], added: tuple[str, ...]) -> tuple[str, ...]:
    """The added variables take the place of old ones with the same name."""
    names = {entry.partition("=")[0] for entry in added}
    return tuple(entry for entry in old if entry.partition("=")[0] not in names) + added


def _from_file(path: str) -> Process:
    try:
        with open(path, "rb") as file:
            return decode(file.read(), Process, "process.json")
    except OSError as error:
        raise from_os(error, "--process: read") from error


def _user(options: Options, user: User) -> User:
    uid, gid = user.uid, user.gid
    if options.user:
        first, colon, second = options.user.partition(":")
        uid = _number(first, "--user")
        gid = _number(second, "--user") if colon else gid
    gids = tuple(_number(text, "--additional-gids") for entry in options.additional_gids for text in entry.split(","))
    return msgspec.structs.replace(user, uid=uid, gid=gid, additional_gids=user.additional_gids + gids)


def _number(text: str, flag: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 11):
        raise InvalidArgument(f"{flag}: {text[:40]!r} is not a number")
    return int(text)


def _capabilities(old: Capabilities, added: tuple[str, ...]) -> Capabilities:
    """Into the sets as the other runtimes do: never the inheritable one, and the ambient one where that has any."""
    return Capabilities(
        bounding=old.bounding + added,
        effective=old.effective + added,
        permitted=old.permitted + added,
        inheritable=old.inheritable,
        ambient=old.ambient + added if old.inheritable else old.ambient,
    )


VERBS = {
    "exec": (
        exec_command,
        Syntax("CONTAINER cmd [ARG...]", "Run a process in a container", _FLAGS, 1, None, False),
    )
}
