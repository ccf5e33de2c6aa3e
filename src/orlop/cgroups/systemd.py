"""Groups that systemd makes: units are started, changed and stopped over D-Bus. What they are is decided in `units`,
what they are told in `compile_systemd`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from orlop.cgroups import apply
from orlop.cgroups.bus import Connection, connect
from orlop.cgroups.compile import writes
from orlop.cgroups.compile_systemd import Property, annotated, needs_version, properties, start_properties
from orlop.cgroups.facts import CgroupHost
from orlop.cgroups.files import read
from orlop.cgroups.units import Bus, Place, Unit, unit_of
from orlop.spec.errors import AlreadyExists, FailedPrecondition, NotFound, OrlopError
from orlop.spec.runtime import Resources

_BOOTED = "/run/systemd/system"  # sd_booted(3)
_ALL_IDS = ["0", "0", "4294967295"]


def check_booted(flag: str) -> None:
    """Raises FailedPrecondition where systemd is not this machine's first process."""
    if not os.path.isdir(_BOOTED):
        raise FailedPrecondition(f"{flag}: systemd is not running on this host; use cgroupfs")


def located(cgroups_path: str, identifier: str) -> Place:
    """Where a container goes, with the manager that this process may command."""
    bus = bus_here()
    unit = unit_of(cgroups_path, identifier, bus)
    return Place(unit.group(_manager_group(bus)), unit)


def bus_here() -> Bus:
    """Which manager this process may command: the machine's as root of the machine, else its user's."""
    return "system" if os.geteuid() == 0 and read("/proc/self/uid_map").split() == _ALL_IDS else "user"


def _manager_group(bus: Bus) -> str:
    """The group that the manager makes its units' below: that of the user's own, the root for the machine's."""
    if bus == "system":
        return ""
    with connect(bus) as connection:
        return str(connection.property("ControlGroup")).rstrip("/")


def start(host: CgroupHost, place: Place, limits: Resources | None, annotations: dict[str, str], pid: int) -> None:
    """Make the unit with the process in it, and put its limits in force: what systemd has no word for is written to the
    group itself. Of a failure nothing stays behind."""
    unit, v2 = _unit(place), host.mode == "v2"
    writes(limits, host)  # what is wrong in them has a name there
    more = annotated(annotations)  # of two properties with one name systemd takes the later
    with connect(unit.bus) as connection:
        version = _version(connection) if needs_version(limits) else 0
        _start(connection, unit, (*start_properties(unit, pid, v2), *properties(limits, v2, version), *more))
        try:
            _check_place(host, place)
            apply.adopt(host, place.path, limits)
            if unit.is_slice:
                apply.attach(host, place.path, pid)
        except BaseException:
            _stop(connection, unit)
            raise


def _unit(place: Place) -> Unit:
    assert place.unit is not None
    return place.unit


def _check_place(host: CgroupHost, place: Place) -> None:
    """A manager that works below another group than it says would leave us with a group that nobody keeps."""
    if host.mode == "v2" and not os.path.isdir(host.unified + place.path):
        name = _unit(place).name
        raise FailedPrecondition(f"systemd: unit {name} is not in cgroup {place.path}; is another cgroup2 mounted?")


def change(host: CgroupHost, place: Place, changes: Resources) -> None:
    """Tell systemd of other limits for a unit in use; the group itself is left as it is."""
    unit, v2 = _unit(place), host.mode == "v2"
    writes(changes, host, update=True)
    with connect(unit.bus) as connection:
        version = _version(connection) if needs_version(changes) else 0
        if wanted := properties(changes, v2, version, update=True):
            connection.call("SetUnitProperties", "sba(sv)", unit.name, True, wanted)


def attach(place: Place, procs: Sequence[str], pid: int) -> None:
    """Move a process into the unit, to the v2 group of `procs`, which is the unit's own or below it."""
    below = procs[-1].removesuffix("/cgroup.procs").rpartition(place.path)[2]
    unit = _unit(place)
    with connect(unit.bus) as connection:
        connection.call("AttachProcessesToUnit", "ssau", unit.name, below, [pid])


def stop(place: Place) -> None:
    """Stop the unit and forget it. One that is gone is right."""
    unit = _unit(place)
    with connect(unit.bus) as connection:
        _stop(connection, unit)


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
        except AlreadyExists:
            if unit.is_slice:
                return
            if again:
                raise
            _forget_failure(connection, unit)
    if result != "done":
        _forget_failure(connection, unit)
        raise FailedPrecondition(f"systemd: unit {unit.name} could not be started: {result}")


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
