"""Who makes a container's control groups: this runtime, in the file system, or systemd, as a unit. The one place where
the two differ for those who create, change and delete containers; groups of our own are made with `apply`."""

from __future__ import annotations

from collections.abc import Sequence

from orlop.cgroups import apply
from orlop.cgroups.facts import CgroupHost, group_path
from orlop.cgroups.units import Place
from orlop.spec.runtime import Resources


def placed(cgroups_path: str, identifier: str, by_systemd: bool) -> Place:
    """Where a container goes. Raises InvalidArgument for what names no such place."""
    if not by_systemd:
        return Place(group_path(cgroups_path, identifier))
    from orlop.cgroups.systemd import located

    return located(cgroups_path, identifier)


def adopt(host: CgroupHost, place: Place, limits: Resources | None, annotations: dict[str, str], pid: int) -> None:
    """Have the groups made that are `adopted`, with the process in them, which stands still, and put the limits in
    force. `annotations` may ask for more of systemd. Of a failure nothing stays behind."""
    from orlop.cgroups import systemd

    systemd.start(host, place, limits, annotations, pid)


def usher(place: Place, procs: Sequence[str], pid: int) -> None:
    """Where processes must be `ushered`, bring one to where it can join the groups of `procs`, their `cgroup.procs`."""
    from orlop.cgroups import systemd

    systemd.attach(place, procs, pid)


def update(host: CgroupHost, place: Place, changes: Resources) -> None:
    """Change limits of groups in use; what `changes` does not name stays as it is."""
    if place.unit is not None:
        from orlop.cgroups import systemd

        systemd.change(host, place, changes)
    apply.update(host, place.path, changes)


def remove_empty(host: CgroupHost, place: Place) -> bool:
    """Remove groups in which nothing is; False where more is needed, which `remove` does."""
    return place.unit is None and apply.remove_empty(host, place.path)


def remove(host: CgroupHost, place: Place) -> None:
    """Remove the groups when no process is left. Those that are gone are right."""
    if place.unit is not None:
        from orlop.cgroups import systemd

        systemd.stop(place)
    apply.remove(host, place.path)
