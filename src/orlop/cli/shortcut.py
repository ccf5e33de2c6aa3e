"""`orlop exec CONTAINER COMMAND...` by the shortest way: two thirds of what a command costs are its imports.

The way is taken where nothing but `-i` is asked for and an exec before this one has left its plan (`runtime.template`)
beside the container's socket. Whatever is not as expected, up to a command that can't be executed, ends the way before
anything has happened, and the ordinary one begins: it knows what to say. This module and what it imports stay clear of
msgspec, typing, pathlib and sqlite3's Python side; `scripts/bench imports` shows what that is worth.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

_GLOBAL = {"--root": "root", "--state": "state", "-n": "namespace", "--namespace": "namespace"}
_CLONED, _SYNC = 1, 2
_QUERY = """SELECT id, json ->> '$.pid', json ->> '$.pid_start_time', json ->> '$.boot_id'
    FROM (SELECT id, CAST(record AS TEXT) AS json FROM containers
    WHERE namespace = ? AND (id = ? OR name = ?) AND state = 'running')"""


def shortcut(arguments: Sequence[str]) -> int | None:
    """The exit status, or None where the ordinary way has to be gone."""
    asked = _asked(arguments)
    if asked is None or os.geteuid() != 0:
        return None
    options, interactive, name, command = asked
    try:
        found = _container(options, name)
        if found is None:
            return None
        parts, pidfd = found
        try:
            pid = _start(_filled(parts, command), pidfd, interactive)
        finally:
            os.close(pidfd)
    except (OSError, struct.error):
        return None
    if not pid:
        return None
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def _asked(arguments: Sequence[str]) -> tuple[dict[str, str], bool, str, list[str]] | None:
    """Global options, whether standard input is wanted, the container, the command; None for anything more."""
    words = list(arguments)
    environment = os.environ
    options = {
        "root": environment.get("ORLOP_ROOT", "") or "/var/lib/orlop",
        "state": environment.get("ORLOP_STATE", "") or "/run/orlop",
        "namespace": environment.get("ORLOP_NAMESPACE", "default"),
    }
    while len(words) > 1 and words[0] in _GLOBAL:
        options[_GLOBAL[words[0]]] = words[1]
        del words[:2]
    if words[:1] != ["exec"]:
        return None
    interactive = words[1:2] in (["-i"], ["--interactive"])
    del words[: 1 + interactive]
    if len(words) < 2 or words[0].startswith("-") or not words[0] or not words[1] or not options["root"]:
        return None
    return options, interactive, words[0], words[1:]


def _container(options: dict[str, str], name: str) -> tuple[list[bytes], int] | None:
    """The template of a running container and a descriptor of its first process."""
    import _sqlite3

    from orlop.metadata.schema import MIGRATIONS
    from orlop.runtime.circumstances import circumstances
    from orlop.runtime.template import unpack
    from orlop.sys.procfs import boot_id, start_time

    path = f"{options['root']}/orlop.db"
    os.stat(path)  # to connect would make it
    try:
        connection = _sqlite3.connect(path, 30.0)
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] != len(MIGRATIONS):
                return None
            rows = connection.execute(_QUERY, (options["namespace"], name, name)).fetchall()
        finally:
            connection.close()
    except _sqlite3.Error:
        return None
    if len(rows) != 1 or not all(rows[0]) or rows[0][3] != boot_id():
        return None
    identifier, pid, started, _ = rows[0]
    with open(f"{options['state']}/containers/{identifier}/exec", "rb", buffering=0) as file:
        parts = unpack(file.read())
    if parts is None or parts[0] != circumstances(pid, started):
        return None
    pidfd = os.pidfd_open(pid)
    if start_time(pid) != started:
        os.close(pidfd)
        return None
    return parts, pidfd


def _filled(parts: list[bytes], command: list[str]) -> bytes:
    from orlop.runtime.template import fill

    return fill(parts, command)


def _start(plan: bytes, pidfd: int, interactive: bool) -> int:
    """Start the command; its pid, a child of this process, or 0 if it can't be executed."""
    import _socket

    from orlop.runtime.spawn import launch_program, spawn
    from orlop.sys.memfd import sealed

    control, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    program, encoded = launch_program(), sealed("orlop-plan", plan)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    helper = spawn(program, encoded, theirs.fileno(), (0 if interactive else null, 1, 2), (pidfd,))
    theirs.close()
    for fd in (program, encoded, null):
        os.close(fd)
    pids = [helper]
    running = _followed(control, pids)
    control.close()
    for pid in pids[:-1] if running else pids:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:  # this process ignores SIGCHLD
            pass
    return pids[-1] if running else 0


def _followed(control: object, pids: list[int]) -> bool:
    """Answer the helper until it has become the command (see `runtime.handshake`); whether it has."""
    while data := control.recv(4096):  # type: ignore[attr-defined]
        kind, _, _, value = struct.unpack_from("<IIIi", data)
        if kind == _CLONED:
            pids.append(value)
        elif kind == _SYNC:
            control.send(struct.pack("<I", 1))  # type: ignore[attr-defined]
        else:
            return False
    return len(pids) > 1
