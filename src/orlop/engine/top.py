"""The processes of a container, read from its cgroup and /proc, in the columns of `ps -ef`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgspec

from orlop.cgroups import apply as cgroups
from orlop.engine.records import Container
from orlop.spec.errors import FailedPrecondition, Unimplemented

if TYPE_CHECKING:
    from orlop.engine.engine import Engine

# what `ps -o` calls a column: its title
COLUMNS = {
    "user": "USER", "uid": "UID", "pid": "PID", "ppid": "PPID", "c": "C", "stime": "STIME", "tty": "TTY",
    "time": "TIME", "cmd": "CMD", "args": "COMMAND", "comm": "COMMAND", "stat": "STAT", "rss": "RSS", "vsz": "VSZ",
    "nlwp": "NLWP", "ni": "NI", "pri": "PRI", "gid": "GID",
}  # fmt: skip
DEFAULT = ("user", "pid", "ppid", "c", "stime", "tty", "time", "cmd")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE") // 1024


class Table(msgspec.Struct, frozen=True):
    """Titles and rows of text."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def top(engine: Engine, container: Container, arguments: tuple[str, ...]) -> Table:
    """The processes of a running container. Of ps(1)'s options, `-ef`, `aux`-like defaults and `-o LIST` are known."""
    if not container.running:
        raise FailedPrecondition(f"container {container.name} is not running")
    columns = _columns(arguments)
    uptime = _uptime()
    rows = (_row(pid, columns, uptime) for pid in sorted(cgroups.pids(engine.cgroups, container.record.cgroup)))
    titles = tuple("UID" if name == "user" and columns is DEFAULT else COLUMNS[name] for name in columns)
    return Table(titles, tuple(row for row in rows if row is not None))


def _columns(arguments: tuple[str, ...]) -> tuple[str, ...]:
    names: list[str] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument in ("-o", "-eo"):
            names += (remaining.pop(0) if remaining else "").split(",")
        elif argument.startswith(("-o", "-eo")):
            names += argument.partition("o")[2].split(",")
        elif argument not in ("-e", "-f", "-ef", "-A"):
            raise Unimplemented(f"top: ps option {argument!r} is not supported; use -ef or -o LIST")
    for name in names:
        if name not in COLUMNS:
            raise Unimplemented(f"top: column {name!r} is not supported; there are {', '.join(COLUMNS)}")
    return tuple(names) or DEFAULT


def _row(pid: int, columns: tuple[str, ...], uptime: float) -> tuple[str, ...] | None:
    """A row of the table, or None when the process has ended meanwhile."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            head, _, tail = file.read().rpartition(") ")
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
        owner = os.stat(f"/proc/{pid}")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name = head.partition(" (")[2]
    fields = tail.split()
    used, age = (int(fields[11]) + int(fields[12])) / _TICKS, uptime - int(fields[19]) / _TICKS
    values = {
        "user": _user(owner.st_uid), "uid": str(owner.st_uid), "gid": str(owner.st_gid), "pid": str(pid),
        "ppid": fields[1], "c": str(min(99, int(100 * used / age)) if age > 0 else 0),
        "stime": _started(time.time() - age), "tty": _terminal(int(fields[4])), "time": _clock(int(used)),
        "cmd": command or f"[{name}]", "args": command or f"[{name}]", "comm": name, "stat": fields[0],
        "rss": str(int(fields[21]) * _PAGE), "vsz": str(int(fields[20]) // 1024), "nlwp": fields[17],
        "ni": fields[16], "pri": fields[15],
    }  # fmt: skip
    return tuple(values[column] for column in columns)


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _started(moment: float) -> str:
    recent = time.time() - moment < 86400
    return time.strftime("%H:%M" if recent else "%b%d", time.localtime(moment))


def _terminal(number: int) -> str:
    """The name of a terminal by its device number: major 136 to 143 are the pseudo-terminals (devices.txt)."""
    major, minor = os.major(number), os.minor(number)
    return f"pts/{(major - 136) * 256 + minor}" if 136 <= major <= 143 else "?"


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _uptime() -> float:
    with open("/proc/uptime", encoding="ascii") as file:
        return float(file.read().split()[0])
