"""An ordinary user to whom control groups have been delegated."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import SLOWER, wait_for
from tests.rootless.conftest import GID, UID, User

from orlop.cgroups.facts import points
from orlop.cgroups.probe import probe

HOST = probe()
V2 = HOST.mode == "v2" and "memory" in HOST.controllers


@pytest.fixture
def delegated(user: User) -> Iterator[str]:
    """A group of the user's own in every v1 hierarchy, named by linux.cgroupsPath."""
    if HOST.mode == "v2":
        pytest.skip("needs cgroup v1")
    name = f"{user.prefix}-delegated"
    made = [Path(point, "orlop", name) for point in points(HOST)]
    for path in made:
        path.mkdir(parents=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (path / setting).exists():
                for place in (path.parent, path):
                    (place / setting).write_text((place.parent / setting).read_text())
        for given in (path, path / "cgroup.procs", path / "tasks"):
            if given.exists():
                os.chown(given, UID, GID)
    yield name
    for identifier in user.identifiers():
        user("delete", "--force", identifier)
    for path in made:
        path.rmdir()


def test_v1_groups_of_ones_own_limit_pause_and_count(user: User, delegated: str) -> None:
    resources = {"memory": {"limit": 1 << 26}, "pids": {"limit": 20}}
    user.up(linux__cgroupsPath=f"{delegated}/c", linux__resources=resources)
    group = Path(HOST.mount("memory"), "orlop", delegated, "c")
    assert (group / "memory.limit_in_bytes").read_text().strip() == str(1 << 26)
    assert str(user.state()["pid"]) in (group / "cgroup.procs").read_text().split()
    user("pause", user.id())
    assert user.state()["status"] == "paused"
    user("resume", user.id())
    user("update", "--pids-limit", "30", user.id())
    stats = json.loads(user.out("events", "--stats", user.id()))
    assert stats["data"]["pids"]["limit"] == 30
    assert user.out("exec", user.id(), "grep", "memory", "/proc/self/cgroup").endswith(f"/{delegated}/c")
    user("delete", "--force", user.id())
    assert not group.exists()


def test_v1_hierarchies_that_are_not_delegated_are_done_without(user: User, delegated: str) -> None:
    """Only where no path is named, and no limit asked for that takes one of them."""
    denied = Path(HOST.mount("memory"), "orlop", delegated)
    os.chown(denied, 0, 0)
    user.configure("true", linux__cgroupsPath=f"{delegated}/c")
    assert user.refused("run", user.id()).startswith(f"linux.cgroupsPath: this user may not make /orlop/{delegated}/c")


# --- v2


@pytest.fixture
def subtree(user: User) -> Iterator[Path]:
    """A v2 group of the user's own with one below, in which its commands are run, as in a systemd user session."""
    if not V2:
        pytest.skip("needs controllers on cgroup v2: scripts/qemu")
    top = Path(HOST.unified, "orlop")
    base = top / user.prefix
    (base / "session").mkdir(parents=True)
    (top.parent / "cgroup.subtree_control").write_text("+memory +pids +cpu")
    for place in (top, base):
        (place / "cgroup.subtree_control").write_text("+memory +pids +cpu")
    for directory in (base, base / "session"):
        for given in (directory, *(directory / f"cgroup.{name}" for name in ("procs", "subtree_control", "threads"))):
            os.chown(given, UID, GID)
    yield base
    for identifier in user.identifiers():
        user("delete", "--force", identifier)
    for path in (base / "orlop", base / "session", base):
        if path.exists():
            path.rmdir()


def _in(group: Path, user: User, *words: str, code: int = 0) -> str:
    """A command of the user's, started in the group."""
    done = subprocess.run(
        ["sh", "-c", f'echo 0 > {group}/cgroup.procs; exec "$@"', "sh", *user.as_user(*user.command(*words))],
        env=user.environment,
        cwd=user.bundle,
        stdin=subprocess.DEVNULL,
        stdout=(user.directory / "out").open("w"),
        stderr=(user.directory / "err").open("w"),
        timeout=120 * SLOWER,
    )
    said = (user.directory / "err").read_text()
    assert done.returncode == code, said
    return said if code else (user.directory / "out").read_text().strip()


def test_v2_a_delegated_subtree_is_used(user: User, subtree: Path) -> None:
    session = subtree / "session"
    user.configure("sleep", "1000", linux__resources={"memory": {"limit": 1 << 26}, "pids": {"limit": 20}})
    _in(session, user, "run", "-d", user.id())
    group = subtree / "orlop" / user.id()
    assert (group / "memory.max").read_text().strip() == str(1 << 26)
    assert (group / "cgroup.procs").read_text().split() == [str(user.state()["pid"])]
    _in(session, user, "pause", user.id())
    assert user.state()["status"] == "paused"
    _in(session, user, "resume", user.id())
    _in(session, user, "update", "--pids-limit", "30", user.id())
    assert (group / "pids.max").read_text().strip() == "30"
    assert _in(session, user, "exec", user.id(), "cat", "/proc/self/cgroup") == "0::/"
    assert json.loads(_in(session, user, "events", "--stats", user.id()))["type"] == "stats"
    _in(session, user, "kill", "--all", user.id(), "KILL")
    wait_for(lambda: user.state()["status"] == "stopped", "the end")
    _in(session, user, "delete", user.id())
    assert not group.exists()


def test_v2_outside_of_a_subtree_there_is_none(user: User) -> None:
    if not V2:
        pytest.skip("needs controllers on cgroup v2: scripts/qemu")
    assert user.run("cat", "/proc/self/cgroup") == "0::/"
    user.configure("true", linux__resources={"memory": {"limit": 1 << 26}})
    assert user.refused("run", user.id()).startswith("linux.resources.memory.limit: this user has no rights")


def test_v2_device_rules_are_left_out_and_allowed_devices_work(user: User, subtree: Path) -> None:
    user.configure("sh", "-c", "echo x > /dev/null", linux__resources={"devices": [{"allow": False, "access": "rwm"}]})
    _in(subtree / "session", user, "run", user.id())
