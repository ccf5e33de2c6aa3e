from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.cgroups.facts import CgroupHost, Group, group_path, parse_mountinfo, unified_mount, without
from orlop.spec.errors import FailedPrecondition, InvalidArgument

V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"


def test_v1_alone() -> None:
    host = parse_mountinfo(V1)
    assert host.mode == "v1"
    assert host.mount("cpuacct") == "/sys/fs/cgroup/cpu,cpuacct"
    assert host.mounts["name=systemd"] == "/sys/fs/cgroup/systemd"
    assert host.controllers == {"cpu", "cpuacct", "cpuset", "memory", "devices"}


def test_hybrid_keeps_controllers_on_v1_and_has_the_unified_tree_too() -> None:
    host = parse_mountinfo(V1 + UNIFIED)
    assert (host.mode, host.unified) == ("hybrid", "/sys/fs/cgroup/unified")
    assert host.mount("memory") == "/sys/fs/cgroup/memory"
    assert Group(host, "/orlop/a").directories == (
        "/sys/fs/cgroup/cpu,cpuacct/orlop/a",
        "/sys/fs/cgroup/cpuset/orlop/a",
        "/sys/fs/cgroup/memory/orlop/a",
        "/sys/fs/cgroup/devices/orlop/a",
        "/sys/fs/cgroup/systemd/orlop/a",
        "/sys/fs/cgroup/unified/orlop/a",
    )


def test_v2_alone() -> None:
    host = parse_mountinfo(UNIFIED, frozenset({"cpu", "memory"}))
    assert host.mode == "v2"
    assert host.controllers == {"cpu", "memory", "devices", "freezer", "unified"}
    assert Group(host, "/orlop/a").procs_paths == ("/sys/fs/cgroup/unified/orlop/a/cgroup.procs",)


def test_the_first_mount_of_a_controller_counts() -> None:
    again = "99 31 0:32 / /mnt/memory rw - cgroup cgroup rw,memory\n98 31 0:38 / /mnt/two rw - cgroup2 none rw\n"
    assert parse_mountinfo(V1 + UNIFIED + again) == parse_mountinfo(V1 + UNIFIED)


def test_mount_points_are_unescaped() -> None:
    assert unified_mount(r"41 31 0:38 / /mnt/a\040b rw - cgroup2 cgroup2 rw") == "/mnt/a b"


def test_a_host_without_groups_is_refused_with_the_remedy() -> None:
    with pytest.raises(FailedPrecondition, match="no cgroup hierarchy is mounted; mount cgroup2"):
        parse_mountinfo("22 1 0:20 / / rw - ext4 /dev/vda rw\n")


@given(st.text(max_size=400))
def test_any_text_is_a_host_or_none(text: str) -> None:
    try:
        parse_mountinfo(text)
    except FailedPrecondition:
        pass


@pytest.mark.parametrize(
    ("given_path", "want"),
    [
        ("", "/orlop/c1"),
        ("/a/b", "/a/b"),
        ("a/b", "/orlop/a/b"),
        ("//a///./b/", "/a/b"),
        ("system.slice:orlop:c1", "/orlop/system.slice:orlop:c1"),
    ],
)
def test_group_paths(given_path: str, want: str) -> None:
    assert group_path(given_path, "c1") == want


@pytest.mark.parametrize("bad", ["/", ".", "//", "/a/../b", "..", "a/..", "/a\nb", "/a\0b", "/" + "a" * 256])
def test_bad_group_paths_are_refused_by_field(bad: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^linux\.cgroupsPath: "):
        group_path(bad, "c1")


# --- for who has no rights to all of it


def test_without_a_v1_hierarchy_its_controllers_are_withheld() -> None:
    mounts = {"cpu": "/cg/cpu", "cpuacct": "/cg/cpu", "memory": "/cg/memory", "devices": "/cg/devices"}
    host = CgroupHost(mode="hybrid", mounts=mounts, unified="/cg/unified", controllers=frozenset(mounts))
    found = without(host, frozenset({"/cg/cpu", "/cg/unified"}))
    assert (found.mounts, found.unified) == ({"memory": "/cg/memory", "devices": "/cg/devices"}, "")
    assert found.controllers == {"memory"}
    assert found.withheld == {"cpu", "cpuacct", "devices"}
    assert without(host, frozenset(), device_rules=True) == host
    assert "devices" in without(host, frozenset()).withheld


def test_without_v2_there_is_nothing_and_with_it_all_but_device_rules() -> None:
    held = frozenset({"memory", "pids", "devices", "freezer", "unified"})
    host = CgroupHost(mode="v2", mounts={}, unified="/cg", controllers=held)
    denied = without(host, frozenset({"/cg"}))
    assert (denied.unified, denied.controllers, denied.withheld) == ("", frozenset(), held)
    allowed = without(host, frozenset())
    assert (allowed.unified, allowed.controllers, allowed.withheld) == ("/cg", held - {"devices"}, {"devices"})
    assert without(host, frozenset(), device_rules=True) == host
