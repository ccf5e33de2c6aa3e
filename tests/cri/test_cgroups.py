"""Who makes the groups of pods: what may be asked for, and where that is. The real systemd is in tests/qemu."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orlop.cgroups.facts import CgroupHost
from orlop.cgroups.units import Place, Unit
from orlop.cri.cgroups import Driver, counted, driven
from orlop.engine import foreign, groups
from orlop.engine.config import ContainerConfig, OciRuntime, PodRequest
from orlop.engine.engine import Engine
from orlop.engine.records import Container, ContainerRecord
from orlop.runtime.ops import Execve
from orlop.spec.errors import InvalidArgument

POD = "kubepods-burstable-pod1234.slice"
PATH = f"/kubepods.slice/kubepods-burstable.slice/{POD}"
V2 = CgroupHost(mode="v2", mounts={}, unified="/cg", controllers=frozenset({"memory"}))


def container(parent: str, driver: Driver) -> Container:
    """A container as the database would have it, in the groups that its request leads to."""
    config = driven(ContainerConfig(image="", cgroup_parent=parent), driver)
    made = Container(
        id="c1", namespace="k8s.io", name="c", state="created", created=0, config=config,
        record=ContainerRecord(image_id=""),
    )  # fmt: skip
    place = groups.wanted(made)
    record = ContainerRecord(image_id="", cgroup=place.path, slice=place.unit.slice if place.unit else "")
    assert groups.place(record) == place
    return Container(
        id="c1", namespace="k8s.io", name="c", state="running", created=0, config=config, record=record
    )  # fmt: skip


@pytest.mark.parametrize("parent", [POD, PATH, f"{PATH}/", f"/{POD}"])
def test_a_slice_holds_the_scope_of_a_container(parent: str) -> None:
    found = container(parent, "systemd").record
    assert groups.place(found) == Place(f"{PATH}/orlop-c1.scope", Unit("orlop-c1.scope", POD))
    assert groups.configured(found) == f"{POD}:orlop:c1"
    assert groups.oom_events(V2, found) == f"/cg{PATH}/orlop-c1.scope/memory.events"


def test_without_a_parent_systemd_has_its_own() -> None:
    assert container("", "systemd").record.cgroup == "/system.slice/orlop-c1.scope"


@pytest.mark.parametrize(("parent", "path"), [("", "/orlop/c1"), ("/kubepods/pod1", "/kubepods/pod1/c1")])
def test_groups_in_the_file_system_are_the_engine_s(parent: str, path: str) -> None:
    found = container(parent, "cgroupfs").record
    assert groups.place(found) == Place(path)
    assert (groups.configured(found), groups.oom_events(V2, found)) == (path, "")


@pytest.mark.parametrize(
    ("parent", "driver", "message"),
    [
        (POD, "cgroupfs", "is a slice; this node's cgroup driver is cgroupfs"),
        (PATH, "cgroupfs", "is a slice; this node's cgroup driver is cgroupfs"),
        ("/kubepods/pod1", "systemd", "is no slice; this node's cgroup driver is systemd"),
        (f"/other.slice/{POD}", "systemd", f"the group of {POD} is {PATH}"),
        ("a--b.slice", "systemd", "is no name of a slice"),
        ("a:b.slice", "systemd", "a colon in the name of a slice is not supported"),
        ("/kubepods.slice/a b.slice", "systemd", "is no name of a slice"),
    ],
)
def test_a_parent_of_the_other_driver_is_refused(parent: str, driver: Driver, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        groups.wanted(container(parent, driver))
    assert str(caught.value).startswith("config.linux.cgroup_parent: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(("driver", "told"), [("systemd", True), ("cgroupfs", False)])
def test_another_runtime_is_told_to_ask_systemd(tmp_path: Path, driver: Driver, told: bool) -> None:
    made = container("" if driver == "cgroupfs" else POD, driver)
    engine = Engine(str(tmp_path / "root"), str(tmp_path / "state"))
    plan = foreign.create_plan(engine, made, OciRuntime(name="runc", path="/usr/sbin/runc"), "")
    command = plan.stages[-1].steps[-1].op
    assert isinstance(command, Execve)
    assert ("--systemd-cgroup" in command.argv) == told
    assert command.argv.index("create") > (command.argv.index("--systemd-cgroup") if told else 0)


@pytest.mark.root
@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="systemd runs here")
def test_without_systemd_the_daemon_does_not_start(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[cri]\ncgroup_driver = 'systemd'\n")
    words = ["--root", str(tmp_path / "root"), "--state", str(tmp_path / "state"), "serve", "--config", str(config)]
    words += ["--socket", str(tmp_path / "rt.sock"), "--cri-socket", str(tmp_path / "cri.sock")]
    done = subprocess.run([sys.executable, "-m", "orlop", *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr == "orlop: cri.cgroup_driver: systemd is not running on this host; use cgroupfs\n"
    assert not (tmp_path / "rt.sock").exists()


def test_no_huge_pages_are_as_good_as_no_controller_for_them() -> None:
    config = ContainerConfig(image="", pod=PodRequest(sandbox="s", hugepages={"2MB": 0, "1GB": 1 << 30}))
    assert counted(config, {"memory", "hugetlb"}) == config
    left = counted(config, {"memory"}).pod
    assert left is not None
    assert left.hugepages == {"1GB": 1 << 30}
