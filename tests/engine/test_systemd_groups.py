"""Pods whose groups systemd makes, with a stand-in that is told of units and makes nothing; the kernel is real."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.cgroups.test_systemd import StandIn

from orlop.cgroups import apply
from orlop.cgroups.units import Unit
from orlop.engine.config import Limits
from orlop.engine.engine import Engine
from orlop.engine.update import update
from orlop.spec.errors import FailedPrecondition, OrlopError
from orlop.wire.dbus import Variant

from .test_pods import SANDBOX, engine, run

__all__ = ["engine"]
pytestmark = pytest.mark.root
MANAGED = msgspec.structs.replace(SANDBOX, cgroup_manager="systemd", cgroup_parent="/a.slice/a-b.slice")
FOR_V1 = pytest.mark.skipif(
    Path("/sys/fs/cgroup/cgroup.controllers").exists(),
    reason="with cgroup v2 alone systemd itself makes the group: see tests/qemu/test_pods_systemd.py",
)
GONE = ("org.freedesktop.systemd1.NoSuchUnit", "Unit not loaded.")


@pytest.fixture(autouse=True)
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """On the machine's bus. Its groups are where those of tests may be."""
    found = StandIn(tmp_path / "bus")
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/bus")
    monkeypatch.setattr(Unit, "group", lambda unit, root="": f"/orlop/{unit.slice}/{unit.name}")
    found.start()
    yield found
    found.listener.shutdown(socket.SHUT_RDWR)
    found.listener.close()
    found.join(5)
    host = apply.probe()
    apply.remove_empty(host, "/orlop/a-b.slice")


def units(manager: StandIn, member: str) -> list[str]:
    return [body[0] for name, body in manager.calls if name == member]


@FOR_V1
def test_a_pod_is_a_scope_of_the_slice_from_its_start_to_its_end(engine: Engine, manager: StandIn) -> None:
    sandbox = run(engine, MANAGED)
    unit = f"orlop-{sandbox.id}.scope"
    assert (sandbox.record.cgroup, sandbox.record.slice) == (f"/orlop/a-b.slice/{unit}", "a-b.slice")
    name, _, properties, _ = manager.body("StartTransientUnit")
    told = dict(properties)
    assert (name, told["Slice"]) == (unit, Variant("s", "a-b.slice"))
    helper = told["PIDs"].value[0]
    assert helper > 1
    assert helper != sandbox.record.pid  # its first process is born in the group that the helper was in
    assert apply.pids(engine.cgroups, sandbox.record.cgroup) == (sandbox.record.pid,)
    more = msgspec.structs.replace(sandbox.config, limits=Limits(memory=64 << 20, shm_size=64 << 20))
    update(engine, sandbox, more)
    assert dict(manager.body("SetUnitProperties")[2])["MemoryLimit"] == Variant("t", 64 << 20)
    engine.pods.remove(sandbox)
    assert units(manager, "StopUnit") == [unit]
    assert not apply.exists(engine.cgroups, sandbox.record.cgroup)


@FOR_V1
def test_a_unit_that_is_gone_already_is_no_obstacle(engine: Engine, manager: StandIn) -> None:
    """systemd has removed it as soon as its last process ended."""
    manager.errors["StopUnit"] = [GONE]
    manager.errors["ResetFailedUnit"] = [GONE]
    sandbox = run(engine, MANAGED)
    engine.pods.remove(sandbox)
    assert "StopUnit" in manager.members


def test_a_unit_that_can_t_be_made_leaves_nothing(engine: Engine, manager: StandIn) -> None:
    manager.result = "failed"
    with pytest.raises(FailedPrecondition, match="could not be started: failed"):
        run(engine, MANAGED)
    assert engine.pods.list() == []
    manager.result = "done"


def test_a_manager_that_hangs_up_leaves_nothing(engine: Engine, manager: StandIn) -> None:
    manager.hangs_up = {"StartTransientUnit"}
    with pytest.raises(OrlopError, match="systemd: the connection was closed"):
        run(engine, MANAGED)
    assert engine.pods.list() == []


@FOR_V1
def test_what_the_manager_does_not_take_back_is_taken_back_later(engine: Engine, manager: StandIn) -> None:
    sandbox = run(engine, MANAGED)
    manager.hangs_up = {"StopUnit"}
    with pytest.raises(OrlopError, match="systemd: the connection was closed"):
        engine.pods.remove(sandbox)
    manager.hangs_up = set()
    engine.pods.remove(engine.pods.get(sandbox.id))
    assert engine.pods.list() == []
