"""Podman as an ordinary user, with orlop-runtime beneath: Podman makes the user namespace, with subordinate ids."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rootless.conftest import User, a_user
from tests.rootless.ids import COUNT, FIRST, GID, UID

pytestmark = pytest.mark.peers
IMAGE = "localhost/busybox"


class Podman(User):
    """Its storage is in the user's home."""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"HOME": str(self.directory / "home")}

    def prepare(self) -> None:
        """Home and runtime, and an image of what is in the bundle's root."""
        home = self.directory / "home"
        home.mkdir()
        os.chown(home, UID, GID)
        runtime = self.directory / "orlop-runtime"
        command = " ".join(shlex.quote(word) for word in self.command())
        runtime.write_text(f'#!/bin/sh\nPYTHONPATH={self.program} exec {command} "$@"\n')
        runtime.chmod(0o755)
        archive = self.directory / "root.tar"
        subprocess.run(["tar", "-C", str(self.bundle / "rootfs"), "-cf", str(archive), "."], check=True)
        self.subordinate = True
        self.podman("import", "-q", str(archive), IMAGE)

    def podman(self, *words: str, code: int = 0) -> str:
        options = ("--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "vfs")
        runtime = ("--runtime", str(self.directory / "orlop-runtime"))
        return self.do("podman", *options, *runtime, *words, code=code).stdout.strip()

    def identifiers(self) -> list[str]:
        self.podman("rm", "-af")
        self.podman("system", "migrate")  # ends the process that holds the namespaces
        self.subordinate = False
        return super().identifiers()


@pytest.fixture
def user(program: Path) -> Iterator[Podman]:
    with a_user(program, Podman) as found:
        found.prepare()
        yield found


def test_run_exec_logs_stop(user: Podman) -> None:
    out = user.podman("run", "--rm", "--network", "none", IMAGE, "sh", "-c", "id; cat /proc/self/uid_map")
    assert out.split() == f"uid=0 gid=0 0 {UID} 1 1 {FIRST} {COUNT}".split()
    user.podman("run", "--rm", "--network", "none", IMAGE, "sh", "-c", "exit 7", code=7)
    loop = "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done"
    user.podman("run", "-d", "--name", "c", "--network", "host", "--user", "1000:1000", IMAGE, "sh", "-c", loop)
    assert user.podman("exec", "c", "id", "-u") == "1000"
    assert user.podman("exec", "--user", "0", "c", "id", "-u") == "0"
    user.podman("exec", "c", "sh", "-c", "exit 9", code=9)
    assert user.podman("logs", "c") == "up"
    user.podman("stop", "-t", "20", "c")
    assert user.podman("inspect", "--format", "{{.State.ExitCode}}", "c") == "3"
    user.podman("rm", "c")
    assert user.podman("ps", "-aq") == ""
