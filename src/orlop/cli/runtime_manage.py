"""`state`, `kill`, `delete`, `list`, `ps`, `pause` and `resume`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from orlop.cli.flags import Options, Syntax, switch, value
from orlop.runtime.delete import delete
from orlop.runtime.kill import frozen, kill, pause, resume
from orlop.runtime.state import Record, Store, state
from orlop.spec.errors import InvalidArgument, NotFound, OrlopError
from orlop.spec.signals import parse_signal

if TYPE_CHECKING:
    from orlop.cli.runtime import Context

_FORMAT = value("-f --format", "table or json", "table")


def _state(record: Record) -> dict[str, Any]:
    """The state with the fields that runtimes have added to it."""
    now = state(record, frozen(record))
    result: dict[str, Any] = {
        "ociVersion": now.oci_version,
        "id": now.id,
        "pid": now.pid,
        "status": now.status,
        "bundle": now.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
    }
    if record.annotations:
        result["annotations"] = record.annotations
    return result | {"owner": _owner(record.owner)}


def _owner(uid: int) -> str:
    if uid == 0:
        return "root"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _print_json(value: Any, indent: int = 2) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=indent).decode())


def state_command(options: Options, context: Context) -> int:
    """Print the state."""
    _print_json(_state(Store(context.root).load(options.arguments[0])))
    return 0


def kill_command(options: Options, context: Context) -> int:
    """Send a signal, TERM if none is named; 0 only finds out whether there is a process."""
    number = parse_signal(options.arguments[1] if len(options.arguments) > 1 else "TERM", least=0)
    kill(Store(context.root), options.arguments[0], number, options.all)
    return 0


def delete_command(options: Options, context: Context) -> int:
    """Delete a container, or with --regex all whose identifiers match. One that can't be deleted keeps none of the
    others from it; the first error is told in the end."""
    store, failed = Store(context.root), list[OrlopError]()
    if not options.regex:
        delete(store, options.arguments[0], options.force, context.warn)
        return 0
    for identifier in _matching(store, options.arguments[0]):
        try:
            delete(store, identifier, options.force, context.warn)
        except OrlopError as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return 0


def _matching(store: Store, pattern: str) -> list[str]:
    import re

    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise InvalidArgument(f"--regex: {pattern[:64]!r} is no regular expression: {error}") from None
    return [identifier for identifier in store.identifiers() if wanted.search(identifier)]


def list_command(options: Options, context: Context) -> int:
    """Print all containers."""
    _check_format(options.format)
    states = []
    store = Store(context.root)
    for identifier in store.identifiers():
        try:
            states.append(_state(store.load(identifier)))
        except NotFound:
            continue  # being made or removed just now
    if options.quiet:
        for entry in states:
            print(entry["id"])
    elif options.format == "json":
        sys.stdout.write(msgspec.json.encode(states).decode() + "\n")
    else:
        _print_table(("id", "pid", "status", "bundle", "created", "owner"), states)
    return 0


def _check_format(text: str) -> None:
    if text not in ("table", "json"):
        raise InvalidArgument(f"--format: {text[:20]!r} is neither table nor json")


def _print_table(columns: tuple[str, ...], entries: list[dict[str, Any]]) -> None:
    rows = [[name.upper() for name in columns], *([str(entry[name]) for name in columns] for entry in entries)]
    widths = [max(12, *(len(row[i]) + 3 for row in rows)) for i in range(len(columns))]
    for row in rows:
        print("".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def ps_command(options: Options, context: Context) -> int:
    """Print the processes, by the host's numbers; further words are options for ps(1)."""
    from orlop.runtime.groups import pids as pids_of

    _check_format(options.format)
    record = Store(context.root).load(options.arguments[0])
    pids = pids_of(record)
    if options.format == "json":
        print(msgspec.json.encode(pids).decode())
        return 0
    for line in _ps(list(options.arguments[1:]) or ["-ef"], set(pids)):
        print(line)
    return 0


def _ps(words: list[str], pids: set[int]) -> list[str]:
    import subprocess

    try:
        done = subprocess.run(["ps", *words], capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError:
        raise NotFound("ps: the program ps is not installed; use --format json") from None
    if done.returncode:
        raise InvalidArgument(f"ps: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
    lines = done.stdout.splitlines()
    header = lines[0].split() if lines else []
    if "PID" not in header:
        raise InvalidArgument("ps: the output has no PID column")
    column = header.index("PID")
    return [lines[0], *(line for line in lines[1:] if _pid_at(line, column) in pids)]


def _pid_at(line: str, column: int) -> int:
    words = line.split()
    return int(words[column]) if len(words) > column and words[column].isdigit() else -1


def pause_command(options: Options, context: Context) -> int:
    """Freeze a container."""
    pause(Store(context.root), options.arguments[0])
    return 0


def resume_command(options: Options, context: Context) -> int:
    """Let it go on."""
    resume(Store(context.root), options.arguments[0])
    return 0


VERBS = {
    "state": (state_command, Syntax("CONTAINER", "Show the state of a container", (), 1, 1, False)),
    "kill": (
        kill_command,
        Syntax(
            "CONTAINER [SIGNAL]",
            "Send a signal to the first process of a container",
            (switch("-a --all", "Send it to all processes"),),
            1,
            2,
        ),
    ),
    "delete": (
        delete_command,
        Syntax(
            "CONTAINER",
            "Delete a container",
            (
                switch("-f --force", "Kill it first if it runs"),
                switch("-r --regex", "Delete all containers whose identifiers match this regular expression"),
            ),
            1,
            1,
        ),
    ),
    "list": (
        list_command,
        Syntax("", "List containers", (_FORMAT, switch("-q --quiet", "Print identifiers only")), 0, 0),
    ),
    "ps": (
        ps_command,
        Syntax("CONTAINER [PS OPTIONS]", "List the processes of a container", (_FORMAT,), 1, None, False),
    ),
    "pause": (pause_command, Syntax("CONTAINER", "Suspend all processes of a container", (), 1, 1, False)),
    "resume": (resume_command, Syntax("CONTAINER", "Resume all processes of a container", (), 1, 1, False)),
}
