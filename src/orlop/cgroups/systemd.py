"""Groups that systemd makes: units are started, changed and stopped over D-Bus. What they are is decided in `units`,
what they are told in `compile_systemd`."""

from __future__ import annotations

import os
from typing import Any

from orlop.cgroups import apply
from orlop.cgroups.bus import Connection, connect
from orlop.cgroups.compile import writes
from orlop.cgroups.compile_systemd import Property, needs_version, properties, start_properties
from orlop.cgroups.facts import CgroupHost
from orlop.cgroups.files import read
from orlop.cgroups.units import Bus, Unit
from orlop.spec.errors import FailedPrecondition, NotFound, OrlopError
from orlop.spec.runtime import Resources

_BOOTED = "/run/systemd/system"  # sd_booted(3)
_ALL_IDS = ["0", "0", "4294967295"]


def check_booted(flag: str) -> None:
    """Raises FailedPrecondition where systemd is not this machine's first process."""
    if not os.path.isdir(_BOOTED):
        raise FailedPrecondition(f"{flag}: systemd is not running on this host; use cgroupfs")


def bus_here() -> Bus:
    """Which manager this process may command: the machine's as root of the machine, else its user's."""
    return "system" if os.geteuid() == 0 and read("/proc/self/uid_map").split() == _ALL_IDS else "user"


def manager_group(bus: Bus) -> str:
    """The group that the manager makes its units' below: that of the user's own, the root for the machine's."""
    if bus == "system":
        return ""
    with connect(bus) as connection:
        return str(connection.property("ControlGroup")).rstrip("/")


def start(
    host: CgroupHost,
    unit: Unit,
    path: str,
    identifier: str,
    pid: int,
    limits: Resources | None,
    more: tuple[Property, ...],
) -> None:
    """Make the unit with the process `pid` in it, and put its limits in force. Of a failure nothing stays behind.

    `more` are properties that a configuration's annotations ask for; of two with one name systemd takes the later.
    """
    v2 = host.mode == "v2"
    writes(limits, host)  # what is wrong in them has a name there
    with connect(unit.bus) as connection:
        version = _version(connection) if needs_version(limits) else 0
        wanted = (*start_properties(unit, identifier, pid, v2), *properties(limits, v2, version), *more)
        _start(connection, unit, wanted)
        try:
            _check_place(host, unit, path)
            apply.adopt(host, path, limits)
            if unit.is_slice:
                apply.attach(host, path, pid)
        except BaseException:
            _stop(connection, unit)
            raise


def _version(connection: Connection) -> int:
    """252 of `252.39-1~deb12u1`."""
    text = str(connection.property("Version")).lstrip("v")
    digits = text[: next((i for i, c in enumerate(text) if not c.isdigit()), len(text))]
    return int(digits or 0)


def _start(connection: Connection, unit: Unit, wanted: tuple[Property, ...]) -> None:
    """One that is there as a memory of its failure is forgotten first; a slice may be there with others in it."""
    values: tuple[Any, ...] = (unit.name, "fail", wanted, [])
    for again in (False, True):
        try:
            result = connection.job("StartTransientUnit", "ssa(sv)a(sa(sv))", *values)
            break
        except FailedPrecondition as error:
            if unit.is_slice and not again and "already" in str(error):
                return
            if again:
                raise FailedPrecondition(f"{error} (unit {unit.name})") from None
            _forget_failure(connection, unit)
    if result != "done":
        _forget_failure(connection, unit)
        raise FailedPrecondition(f"systemd: unit {unit.name} could not be started: {result}")


def _check_place(host: CgroupHost, unit: Unit, path: str) -> None:
    """A manager that works below another group than it says would leave us with a group that nobody keeps."""
    if host.mode == "v2" and not os.path.isdir(host.unified + path):
        raise FailedPrecondition(
            f"systemd: unit {unit.name} is not in cgroup {path}; is another /sys/fs/cgroup mounted?"
        )


def change(host: CgroupHost, unit: Unit, path: str, limits: Resources) -> None:
    """Other limits for a unit in use; what `limits` does not name stays as it is."""
    v2 = host.mode == "v2"
    writes(limits, host, update=True)
    with connect(unit.bus) as connection:
        version = _version(connection) if needs_version(limits) else 0
        if wanted := properties(limits, v2, version, update=True):
            connection.call("SetUnitProperties", "sba(sv)", unit.name, True, wanted)
    apply.update(host, path, limits)


def stop(unit: Unit) -> None:
    """Stop the unit and forget it. One that is gone is right."""
    with connect(unit.bus) as connection:
        _stop(connection, unit)


def _stop(connection: Connection, unit: Unit) -> None:
    try:
        connection.job("StopUnit", "ss", unit.name, "replace")
    except NotFound:
        pass
    _forget_failure(connection, unit)


def _forget_failure(connection: Connection, unit: Unit) -> None:
    """A unit that has failed, as one whose processes were killed for lack of memory, keeps its name until then."""
    try:
        connection.call("ResetFailedUnit", "s", unit.name)
    except OrlopError:  # it is not there, or has not failed
        pass


def enter(unit: Unit, below: str, pid: int) -> None:
    """Move a process into the unit, into the group `below` its own: from the user's session into a scope of the user's
    manager nobody but systemd may move it."""
    with connect(unit.bus) as connection:
        connection.call("AttachProcessesToUnit", "ssau", unit.name, below, [pid])
