"""Whole containers where control groups are v2 alone; for the machine of scripts/qemu, skipped elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import lab
from tests.harness import Orlop, archive_image, wait_for

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orlop]:
    if "ORLOP_QEMU" not in os.environ:
        pytest.skip("runs in scripts/qemu")
    directory = tmp_path_factory.mktemp("whole")
    archive = directory / "busybox.tar"
    archive_image(lab.default_directory() / "images", "busybox", archive)
    orlop = Orlop(Path("/dev/shm/orlop-v2"), Path("/run/orlop-v2"))
    orlop("load", "-q", "-i", str(archive))
    yield orlop
    orlop.remove_all()
    wait_for(lambda: not orlop.processes(), "processes to leave")
    assert not Path("/sys/fs/cgroup/orlop").exists()


def test_a_container_sees_its_group_as_the_root_of_all(whole: Orlop) -> None:
    script = "cat /proc/self/cgroup; mount -t cgroup2; cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.max"
    output = whole.out("run", "--rm", "--memory", "64m", "--pids-limit", "33", "busybox", "sh", "-c", script)
    group, mount, *limits = output.splitlines()
    assert group == "0::/"
    assert mount.startswith("cgroup on /sys/fs/cgroup type cgroup2 (ro,nosuid,nodev,noexec")
    assert limits == ["33", str(64 * MIB)]


def test_limits_of_the_command_line_are_in_force(whole: Orlop) -> None:
    flags = "--memory=64m --memory-swap=96m --cpus=0.5 --cpu-shares=512 --cpuset-cpus=0 --pids-limit=50"
    whole("run", "-d", "--name", "limits", *flags.split(), "busybox", "sleep", "60")
    files = ("memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "cpuset.cpus", "pids.max")
    output = whole.out("exec", "limits", "sh", "-c", f"cd /sys/fs/cgroup; cat {' '.join(files)}")
    assert output.splitlines() == [str(64 * MIB), str(32 * MIB), "50000 100000", "59", "0", "50"]
    whole("rm", "-f", "limits")


def test_a_container_out_of_memory_is_killed_and_says_so(whole: Orlop) -> None:
    ran = whole(
        "run", "--name", "hungry", "-m", "16m", "--memory-swap", "16m", "busybox",
        "sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1", code=None,
    )  # fmt: skip
    assert ran.returncode == 137
    assert whole.state_of("hungry")["OOMKilled"] is True
    whole("rm", "hungry")


def test_exec_is_in_the_groups_and_namespaces_of_the_container(whole: Orlop) -> None:
    whole("run", "-d", "--name", "joined", "busybox", "sleep", "60")
    assert whole.out("exec", "joined", "cat", "/proc/self/cgroup") == "0::/"
    with_own = whole.out("exec", "joined", "busybox", "readlink", "/proc/self/ns/cgroup")
    assert with_own == whole.out("exec", "joined", "busybox", "readlink", "/proc/1/ns/cgroup")
    whole("rm", "-f", "joined")


def test_exec_beside_a_container_that_has_groups_of_its_own(whole: Orlop) -> None:
    """As systemd in a container: its first process goes into a group below, and hands controllers down."""
    script = "mkdir /sys/fs/cgroup/init && echo 1 >/sys/fs/cgroup/init/cgroup.procs &&\
        echo +memory +pids >/sys/fs/cgroup/cgroup.subtree_control && echo done && exec sleep 60"
    whole("run", "-d", "--privileged", "--name", "nest", "busybox", "sh", "-c", script)
    wait_for(lambda: whole.out("logs", "nest") == "done", "groups in the container")
    assert whole.out("exec", "nest", "cat", "/proc/self/cgroup") == "0::/init"
    whole("rm", "-f", "nest")


def test_pause_and_unpause(whole: Orlop) -> None:
    whole("run", "-d", "--name", "still", "busybox", "sleep", "60")
    whole("pause", "still")
    assert whole.state_of("still")["Status"] == "paused"
    whole("unpause", "still")
    assert whole.state_of("still")["Status"] == "running"
    whole("rm", "-f", "still")


def test_devices_are_what_the_flags_say(whole: Orlop) -> None:
    """/dev/vdc is the machine's swap, which can be opened all the same."""
    probe = "(: </dev/vdc) && echo reads; (: >>/dev/vdc) && echo writes; (: </dev/null) && echo null"
    device = os.stat("/dev/vdc").st_rdev
    node = f"mknod /dev/vdc b {os.major(device)} {os.minor(device)}; "
    assert whole.out("run", "--rm", "busybox", "sh", "-c", node + probe).splitlines() == ["null"]
    for access, wanted in (("r", ["reads"]), ("rw", ["reads", "writes"])):
        output = whole.out("run", "--rm", "--device", f"/dev/vdc:/dev/vdc:{access}", "busybox", "sh", "-c", probe)
        assert output.splitlines() == [*wanted, "null"]


def test_a_bridge_with_published_port_and_names(whole: Orlop) -> None:
    whole("run", "-d", "--name", "web", "-p", "127.0.0.1:8099:80", "busybox", "httpd", "-f", "-h", "/www")
    address = whole.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web")
    wait_for(
        lambda: whole("run", "--rm", "busybox", "wget", "-qO-", f"http://{address}/", code=None).stdout == "hello\n",
        "the server",
        60,
    )
    import urllib.request

    with urllib.request.urlopen("http://127.0.0.1:8099/", timeout=10) as reply:
        assert reply.read() == b"hello\n"
    whole("rm", "-f", "web")
