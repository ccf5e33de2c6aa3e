"""The default selection of tests, in the machine with cgroup v2 alone. See docs/testing.md."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


# of the containers that systemd makes groups for
_SYSTEMD = ("tests/qemu/test_systemd.py", "tests/qemu/test_pods_systemd.py")
_TELLING = "life or limits_are or user or are_scopes"


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "arguments",
    [(), ("--systemd", "-m", "root", *_SYSTEMD, "-k", _TELLING)],
    ids=["v2", "systemd"],
)
def test_everything_for_cgroup_v2_passes_in_a_machine_that_has_nothing_else(arguments: tuple[str, ...]) -> None:
    if "ORLOP_QEMU" in os.environ:
        pytest.skip("is in the machine")
    if platform.machine() != "x86_64" or not (shutil.which("qemu-system-x86_64") or shutil.which("apt-get")):
        pytest.skip("needs qemu-system-x86_64, on x86-64")
    environment = os.environ | {"ORLOP_QEMU_SECONDS": "500"}
    command = ["scripts/qemu", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=-1, stderr=-2, text=True)
    assert done.returncode == 0, done.stdout[-10000:]
