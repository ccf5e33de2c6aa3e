from __future__ import annotations

from pathlib import Path

import pytest

from orlop.cgroups.facts import CgroupHost
from orlop.cgroups.subgroups import parse, subgroup_paths
from orlop.spec.errors import InvalidArgument, NotFound


@pytest.fixture
def host(tmp_path: Path) -> CgroupHost:
    """Two v1 hierarchies, one of two controllers, and v2 beside them; `sub` is in those of v1."""
    for name in ("cpu", "memory", "unified"):
        (tmp_path / name / "c1").mkdir(parents=True)
    for name in ("cpu", "memory"):
        (tmp_path / name / "c1/sub").mkdir()
    mounts = {name: str(tmp_path / point) for name, point in (("cpu", "cpu"), ("cpuacct", "cpu"), ("memory", "memory"))}
    return CgroupHost(mode="hybrid", mounts=mounts, unified=str(tmp_path / "unified"))


def joined(host: CgroupHost, tmp_path: Path, *wanted: str) -> list[str]:
    paths = subgroup_paths(host, "/c1", wanted)
    return [path.removeprefix(f"{tmp_path}/").removesuffix("/cgroup.procs") for path in paths]


def test_path_is_for_every_hierarchy_that_limits(host: CgroupHost, tmp_path: Path) -> None:
    assert joined(host, tmp_path, "sub") == ["cpu/c1/sub", "memory/c1/sub", "unified/c1"]
    assert joined(host, tmp_path, "/") == ["cpu/c1", "memory/c1", "unified/c1"]


def test_path_of_a_controller_is_for_its_hierarchy(host: CgroupHost, tmp_path: Path) -> None:
    assert joined(host, tmp_path, "memory:/sub") == ["cpu/c1", "memory/c1/sub", "unified/c1"]
    assert joined(host, tmp_path, "cpu,cpuacct:sub", "memory:/") == ["cpu/c1/sub", "memory/c1", "unified/c1"]


def test_group_must_be_there(host: CgroupHost, tmp_path: Path) -> None:
    for wanted in ("nowhere", "memory:nowhere"):
        with pytest.raises(NotFound, match="--cgroup: the container has no group /nowhere: adding pid through "):
            joined(host, tmp_path, wanted)


def test_group_of_v2_alone_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "c1/sub").mkdir(parents=True)
    host = CgroupHost(mode="v2", mounts={}, unified=str(tmp_path))
    assert joined(host, tmp_path, "sub") == ["c1/sub"]
    with pytest.raises(NotFound):
        joined(host, tmp_path, "nowhere")
    with pytest.raises(InvalidArgument, match="unknown controller 'memory'"):
        joined(host, tmp_path, "memory:sub")


@pytest.mark.parametrize("wanted", [("a", "b"), ("cpu:a", "cpu:b"), ("cpu,:a",), (":a",), ("../x",), ("cpu:a/../b",)])
def test_refuses_what_is_ambiguous_or_leaves_the_group(wanted: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument, match="--cgroup: "):
        parse(wanted)
