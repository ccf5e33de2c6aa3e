"""Plans run by the real helper, their processes children of the test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.harness import children, nothing_more_open

from orlop.runtime import launch as launcher
from orlop.runtime.ops import Execve, Op, Propagation, Unshare
from orlop.runtime.plan import Plan, Stage, Step

REPOSITORY = Path(__file__).parents[2]
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 16384, 1 << 18


class Ended(NamedTuple):
    code: int
    output: str


class Helper:
    """Runs operations as the stages of a plan, and keeps count of what it started."""

    def __init__(self, directory: Path) -> None:
        self.output = directory / "output"

    @staticmethod
    def plan(*stages: Sequence[Op | Step]) -> Plan:
        steps = (
            tuple(op if isinstance(op, Step) else Step(op, f"test[{i}]") for i, op in enumerate(s)) for s in stages
        )
        return Plan(tuple(Stage(f"stage {index}", step) for index, step in enumerate(steps)))

    def run(
        self,
        *stages: Sequence[Op | Step],
        inherit: Sequence[int] = (),
        on_sync: Callable[[str, int, list[int]], None] | None = None,
        stdin: int | None = None,
    ) -> Ended:
        """Run to the end of the program; its exit code and what it wrote."""
        with open(os.devnull, "rb") as null, open(self.output, "wb+") as output:
            stdio = (null.fileno() if stdin is None else stdin, output.fileno(), output.fileno())
            launched = launcher.launch(self.plan(*stages), stdio, inherit, on_sync)
            _, status = os.waitpid(launched.pid, 0)
            return Ended(os.waitstatus_to_exitcode(status), self.output.read_text(errors="replace"))

    @staticmethod
    def sh(script: str, path: str = "/bin:/usr/bin:/sbin:/usr/sbin") -> Execve:
        return Execve(("/bin/sh",), ("sh", "-c", script), (f"PATH={path}",))

    @staticmethod
    def private_mounts() -> list[Op]:
        """A mount namespace from which nothing reaches the host."""
        return [Unshare(CLONE_NEWNS), Propagation(-1, "/", MS_REC | MS_PRIVATE)]


@pytest.fixture(scope="session", autouse=True)
def _program() -> None:
    subprocess.run(["sh", "scripts/build"], cwd=REPOSITORY, check=True, capture_output=True)
    os.close(launcher.launch_program())  # of which a process keeps one


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Helper]:
    """Fails a test that leaves a process, a descriptor or a mount."""
    there = children()
    with nothing_more_open():
        yield Helper(tmp_path)
        assert children() <= there  # none is left, not even as a zombie; servers of other tests may be there
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A root file system with busybox as every command, and nothing else."""
    root = tmp_path / "rootfs"
    for name in ("bin", "proc", "dev", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for name in ("sh", "ls", "cat", "echo", "id", "stat", "readlink", "sleep", "mount", "pwd", "env", "true", "touch"):
        (root / "bin" / name).symlink_to("busybox")
    return root
