"""Containers without a mount namespace: their mounts are in the host's, private, and gone with them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.test_compile import all_ops, config, names, namespaces, plan
from tests.runtime.test_runtime_cli import SOURCE, Lab, lab, lab_mounts  # noqa: F401 - a fixture

from orlop.runtime import ops
from orlop.runtime.host_mounts import at
from orlop.spec.errors import InvalidArgument

MS_PRIVATE = 1 << 18
KINDS = ("pid", "uts", "ipc", "network")


def test_they_are_made_in_a_private_copy_over_the_root() -> None:
    found = plan(linux__namespaces=namespaces(*KINDS))
    stage = names(found)
    first = stage.index("OpenTree")
    assert stage[first : first + 3] == ["OpenTree", "MoveMount", "MountSetattr"]
    assert found.stages[1].steps[first + 1].op == ops.MoveMount(0, -1, "/bundle/rootfs")
    private = found.stages[1].steps[first + 2].op
    assert isinstance(private, ops.MountSetattr)
    assert private.propagation == MS_PRIVATE
    assert not [op for op in all_ops(found, ops.Propagation) if op.at < 0]  # nothing of the host is changed
    assert "PivotRoot" not in stage
    assert stage.index("Mask") < stage.index("Chroot")


def test_without_mounts_nothing_is_mounted() -> None:
    bare: dict[str, Any] = {"linux__maskedPaths": [], "linux__readonlyPaths": [], "root": {"path": "rootfs"}}
    found = plan(linux__namespaces=namespaces(*KINDS), mounts=[], **bare)
    assert {"MoveMount", "Mount", "Mknod"}.isdisjoint(names(found))


def test_in_a_user_namespace_they_are_refused() -> None:
    linux = config()["linux"] | {"namespaces": namespaces("user", *KINDS)}
    ids = [{"containerID": 0, "hostID": 1000, "size": 1}]
    with pytest.raises(InvalidArgument, match=r"^mounts: takes a mount namespace of the container"):
        plan(linux=linux | {"uidMappings": ids, "gidMappings": ids})


def test_mounts_at_a_path() -> None:
    text = "21 1 0:2 / /a rw - x x x\n22 21 0:3 / /a\\040b rw - x x x\n23 21 0:4 / /a rw - x x x\n"
    assert at(text, "/a") == (21, 23)
    assert at(text, "/a b") == (22,)
    assert at(text, "/b") == ()


@pytest.mark.root
def test_they_go_with_the_container_and_take_nothing_of_the_host_along(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    """In a mount namespace where all is shared, as systemd has it. The root is a mount of somebody's, and the source
    has one in it."""
    (tmp_path / "source/inner").mkdir(parents=True)
    mounts = [*lab_mounts(), {"destination": "/s", "source": str(tmp_path / "source"), "options": ["rbind", "ro"]}]
    kinds = [{"type": name} for name in KINDS]
    bare: dict[str, Any] = {"linux__maskedPaths": ["/s/hidden"], "linux__readonlyPaths": []}
    lab.configure("sh", "-c", "ls /s/inner; touch /s/x; sleep 1000", linux__namespaces=kinds, mounts=mounts, **bare)
    program = f"{sys.executable} -m orlop.cli.runtime --root {lab.root}"
    script = f"""
        mount --bind {lab.rootfs} {lab.rootfs}; mount --make-rshared /
        mount -t tmpfs there {tmp_path}/source/inner; touch {tmp_path}/source/inner/file
        {program} run -d -b {lab.bundle} {lab.id()} >{tmp_path}/out 2>&1; sleep 0.3
        grep -c " {lab.rootfs}" /proc/self/mountinfo
        {program} exec {lab.id()} ls /s/inner
        {program} delete --force {lab.id()}
        grep -c " {lab.rootfs}" /proc/self/mountinfo
        ls {tmp_path}/source/inner; ls {lab.rootfs}/bin/sh
        """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(SOURCE)},
        timeout=60,
    )
    assert done.stderr == ""
    during, inside, after, *rest = done.stdout.splitlines()
    assert (inside, after, rest) == ("file", "1", ["file", str(lab.rootfs / "bin/sh")])
    assert during == "5"  # the root, its copy, proc, and two below
    assert "Read-only file system" in (tmp_path / "out").read_text()
    assert shlex.split((tmp_path / "out").read_text())[0] == "file"
