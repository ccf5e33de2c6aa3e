"""A bundle with a hostile program in it, and the command line beneath which it is to run."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import SLOWER
from tests.runtime.test_runtime_cli import Lab, groups_of

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
SOURCE_PATH = REPOSITORY / "src"


class Box(Lab):
    """`Lab` with /attack in the root, and a directory beside the bundle that nothing may ever appear in."""

    def __init__(self, directory: Path, attack: Path) -> None:
        super().__init__(directory)
        self.outside = directory / "outside"
        self.outside.mkdir()
        (self.outside / "canary").write_text("canary")
        self.result = self.rootfs / "tmp/result"
        self.put(attack, "attack")
        (self.rootfs / "tmp").chmod(0o1777)

    def put(self, program: Path, name: str, mode: int = 0o755) -> None:
        (self.rootfs / name).write_bytes(program.read_bytes())
        (self.rootfs / name).chmod(mode)

    def mounts(self, *without: str) -> list[dict[str, Any]]:
        """The default mounts but for those at or beneath `without`."""
        self.configure()
        found: list[dict[str, Any]] = self.config()["mounts"]
        return [m for m in found if not any(f"{m['destination']}/".startswith(f"{w}/") for w in without)]

    def watch(self, *attack: str, **changes: Any) -> str:
        """Start an attack in the background that writes what it finds to /tmp/result."""
        identifier = self.up("sh", "-c", f"exec /attack {' '.join(attack)} >/tmp/result 2>&1", **changes)
        until(lambda: self.result.exists() and "watching" in self.result.read_text())
        return identifier

    def found(self) -> list[str]:
        """End an attack; what it has found."""
        (self.rootfs / "tmp/stop").touch()
        until(lambda: self.state()["status"] == "stopped")
        return self.result.read_text().splitlines()

    def untouched(self) -> None:
        assert [entry.name for entry in self.outside.iterdir()] == ["canary"]
        assert (self.outside / "canary").read_text() == "canary"
        assert str(self.outside) not in Path("/proc/self/mountinfo").read_text()

    def bundle_config(self, change: Callable[[dict[str, Any]], None]) -> None:
        config = self.config()
        change(config)
        (self.bundle / "config.json").write_text(json.dumps(config))


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds * SLOWER
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="session")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hostile program, static."""
    subprocess.run(["sh", "scripts/build"], cwd=REPOSITORY, check=True, capture_output=True)
    target = tmp_path_factory.mktemp("attack") / "attack"
    command = ["cc", "-std=gnu11", "-O1", "-static", "-o", str(target), str(HERE / "attack.c")]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture
def box(tmp_path: Path, attack: Path) -> Iterator[Box]:
    """Whatever was tried: outside nothing has changed, and no container, group or mount is left."""
    found = Box(tmp_path, attack)
    yield found
    for identifier in found("list", "-q").stdout.split():
        found("delete", "--force", identifier)
    found.untouched()
    assert not groups_of(found.prefix)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not found.root.exists() or set(os.listdir(found.root)) <= {".seccomp"}
