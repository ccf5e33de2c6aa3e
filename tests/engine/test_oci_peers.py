"""The configuration is understood by others: runc runs it, and gives the process what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from orlop.cgroups import apply
from orlop.engine.config import ContainerConfig, Limits
from orlop.engine.oci.spec import ContainerFacts, runtime_spec, validate
from orlop.engine.users import Identity
from orlop.spec.image import ImageConfig, RootFS

pytestmark = [
    pytest.mark.root,
    pytest.mark.peers,
    pytest.mark.skipif(not (shutil.which("runc") and os.path.exists("/bin/busybox")), reason="needs runc and busybox"),
]
SCRIPT = """
grep -E 'CapEff|CapBnd|^Seccomp:' /proc/self/status
cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max
hostname
unshare -m true || echo no unshare
mount -t tmpfs x /tmp || echo no mount
"""


def bundle(tmp_path: Path, name: str) -> None:
    binaries = tmp_path / "rootfs" / "bin"
    binaries.mkdir(parents=True)
    for directory in ("proc", "dev", "sys", "tmp", "etc"):
        (tmp_path / "rootfs" / directory).mkdir()
    shutil.copy("/bin/busybox", binaries)
    for applet in ("sh", "grep", "cat", "hostname", "unshare", "mount"):
        (binaries / applet).symlink_to("busybox")
    config = ContainerConfig(image="x", command=("sh", "-c", SCRIPT), limits=Limits(memory=64 << 20, pids=50))
    validate(config)
    status = Path("/proc/self/status").read_text()
    available = int(next(line for line in status.splitlines() if line.startswith("CapBnd")).split()[1], 16)
    facts = ContainerFacts(
        id="ab" * 32,
        identity=Identity(groups=(0,)),
        machine=os.uname().machine,
        available_capabilities=available,
        cgroup_path=f"/orlop/{name}",
    )
    made = runtime_spec(config, ImageConfig(rootfs=RootFS(type="layers", diff_ids=())), facts)
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(made))


def test_runc_runs_it(tmp_path: Path) -> None:
    name = f"test-{os.getpid()}"
    bundle(tmp_path, name)
    command = ["runc", "--root", str(tmp_path / "state"), "run", "-b", str(tmp_path), name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    finally:
        host = apply.probe()
        apply.kill(host, f"/orlop/{name}")
        apply.remove(host, f"/orlop/{name}")
        apply.sweep(host)
    assert done.stdout.split("\n")[:-1] == [
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "Seccomp:\t2",
        "50",
        "abababababab",
        "no unshare",
        "no mount",
    ], done.stderr
