"""`exec --cgroup` on a real kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runtime.test_runtime_cli import Lab, lab  # noqa: F401

from orlop.cgroups.facts import Group
from orlop.cgroups.probe import probe

pytestmark = pytest.mark.root


def groups(lab: Lab, tmp_path: Path, *flags: str) -> set[str]:  # noqa: F811
    """Where a process is below its container's group, as the host sees it."""
    pid_file = tmp_path / "pid"
    lab("exec", "-d", "--pid-file", str(pid_file), *flags, lab.id(), "sleep", "1000")
    lines = Path(f"/proc/{pid_file.read_text()}/cgroup").read_text().splitlines()
    paths = dict(line.split(":", 2)[1:] for line in lines)
    return {f"{name}:{path.partition(lab.id())[2]}" for name, path in paths.items() if lab.id() in path}


def test_process_joins_a_group_below_the_containers(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    lab.up()
    host = probe()
    for directory in Group(host, f"/orlop/{lab.id()}").directories:
        Path(directory, "sub").mkdir()
        for name in ("cpuset.cpus", "cpuset.mems"):  # v1 gives a new group none of them
            if host.mode != "v2" and Path(directory, name).exists():
                Path(directory, "sub", name).write_text(Path(directory, name).read_text())
    assert all(group.endswith(":/sub") for group in groups(lab, tmp_path, "--cgroup", "sub"))
    assert all(group.endswith(":") for group in groups(lab, tmp_path, "--cgroup", "/"))
    if host.mode != "v2":
        found = groups(lab, tmp_path, "--cgroup", "memory:sub", "--cgroup", "pids:/")
        assert {"memory:/sub", "pids:"} <= found
        refused = lab("exec", "--cgroup", "whatever:/", lab.id(), "true", ok=False)
        assert "--cgroup: unknown controller 'whatever': not of cgroup v1 on this host" in refused.stderr


def test_group_that_is_not_there_is_refused(lab: Lab) -> None:  # noqa: F811
    lab.up()
    refused = lab("exec", "--cgroup", "nowhere", lab.id(), "true", ok=False)
    assert "--cgroup: the container has no group /nowhere" in refused.stderr
