"""Puts containers into groups of resctrl (see `compile_resctrl`), and takes their own groups away again."""

from __future__ import annotations

import os
from collections.abc import Iterable

from orlop.runtime import compile_resctrl
from orlop.spec.errors import from_os
from orlop.spec.runtime import IntelRdt

POINT = "/sys/fs/resctrl"
_WHERE = "linux.intelRdt"


def mounted(mountinfo: str = "/proc/self/mountinfo", point: str = POINT) -> str:
    """Where resctrl is mounted, or an empty string. A kernel that has none lacks the directory for it."""
    if not os.path.isdir(point):
        return ""
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if after.startswith("resctrl "):
                return before.split()[4]
    return ""


def make(rdt: IntelRdt, identifier: str, root: str) -> None:
    """Make the container's groups. Of a failure nothing is left."""
    control = compile_resctrl.directory(rdt, identifier, root)
    groups, made = compile_resctrl.groups(rdt, identifier, root, _schemata(control)), list[str]()
    try:
        for directory in groups.made:
            _mkdir(directory)
            made.append(directory)
        _tell(control, groups.lines)
    except BaseException:
        _rmdir(reversed(made))
        raise


def join(rdt: IntelRdt, identifier: str, root: str, pid: int) -> None:
    """Put a process into the groups that `make` has made."""
    for directory in compile_resctrl.joined(rdt, identifier, root):
        _write(os.path.join(directory, "tasks"), str(pid))


def change(rdt: IntelRdt, identifier: str, root: str) -> None:
    """Give the class of a container in being the schemata of `rdt`."""
    compile_resctrl.check(rdt)
    _tell(compile_resctrl.directory(rdt, identifier, root), compile_resctrl.schemata(rdt))


def remove(rdt: IntelRdt, identifier: str) -> None:
    """Remove what belongs to the container; what is gone already is right."""
    root = mounted()
    if root:
        _rmdir(compile_resctrl.owned(rdt, identifier, root))


def _rmdir(directories: Iterable[str]) -> None:
    for directory in directories:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise from_os(error, f"{_WHERE}: remove") from error


def _tell(control: str, lines: tuple[str, ...]) -> None:
    for line in lines:
        _write(os.path.join(control, "schemata"), line)


def _schemata(directory: str) -> str | None:
    try:
        with open(os.path.join(directory, "schemata"), encoding="ascii", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os(error, f"{_WHERE}: read") from error


def _mkdir(directory: str) -> None:
    try:
        os.mkdir(directory, 0o755)
    except OSError as error:
        raise from_os(error, f"{_WHERE}: make group") from error


def _write(path: str, text: str) -> None:
    """The kernel takes a line as a whole."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, f"{text}\n".encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise from_os(error, f"{_WHERE}: write {text[:80]!r} to") from error
