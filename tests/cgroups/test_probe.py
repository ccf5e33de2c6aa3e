"""What is known of the mounts holds as long as they do."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.root

_PROGRAM = """
import os, subprocess
from orlop.cgroups import probe
from orlop.spec.errors import FailedPrecondition

reads = []
def read(path, read=probe.read):
    reads.append(path)
    return read(path)
probe.read = read

probe.keep(os.open("/proc/self/mountinfo", os.O_RDONLY))
first = probe.probe()
assert probe.probe() == first
assert reads.count("/proc/self/mountinfo") == 1, reads

subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True)
assert probe.probe() == first
assert reads.count("/proc/self/mountinfo") == 2, reads

for point in {*first.mounts.values(), first.unified} - {""}:
    subprocess.run(["umount", point], check=True)
try:
    found = probe.probe()
except FailedPrecondition as error:
    print(error)
else:
    raise AssertionError(found)
"""


def test_mounts_are_read_anew_when_they_have_changed() -> None:
    words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", _PROGRAM]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "no cgroup hierarchy is mounted; mount cgroup2 on /sys/fs/cgroup\n"
