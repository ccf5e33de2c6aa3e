"""What a process in a container has, and what it is denied."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.hardening.conftest import Box

from orlop.spec import capabilities

pytestmark = pytest.mark.root
FIELDS = {
    "bounding": "CapBnd",
    "effective": "CapEff",
    "inheritable": "CapInh",
    "permitted": "CapPrm",
    "ambient": "CapAmb",
}
ASKED: dict[str, list[str]] = {
    "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SETUID"],
    "effective": ["CAP_CHOWN", "CAP_KILL"],
    "inheritable": ["CAP_CHOWN", "CAP_NET_RAW"],
    "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
    "ambient": ["CAP_CHOWN"],
}


def status(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("verb", ["run", "exec"])
def test_capabilities_are_those_asked_for(box: Box, uid: int, verb: str) -> None:
    changes: dict[str, Any] = {"process__capabilities": ASKED, "process__user": {"uid": uid, "gid": uid}}
    if verb == "run":
        text = box.run("cat", "/proc/self/status", **changes).stdout
    else:
        text = box("exec", box.up(**changes), "cat", "/proc/self/status").stdout
    found = status(text)
    # capabilities(7): over execve(2) a user other than root keeps the ambient ones only
    assert int(found["CapBnd"], 16) == capabilities.mask(ASKED["bounding"])
    assert int(found["CapInh"], 16) == capabilities.mask(ASKED["inheritable"])
    assert int(found["CapAmb"], 16) == capabilities.mask(ASKED["ambient"])
    if uid:
        for name in ("CapPrm", "CapEff"):
            assert int(found[name], 16) == capabilities.mask(ASKED["ambient"])
    else:
        assert int(found["CapPrm"], 16) == capabilities.mask(ASKED["permitted"])  # no_new_privs: exec adds none
    assert found["NoNewPrivs"] == "1"


def test_without_capabilities_there_are_none(box: Box) -> None:
    found = status(box.run("cat", "/proc/self/status", process__capabilities={}).stdout)
    assert {name: int(found[name], 16) for name in FIELDS.values()} == dict.fromkeys(FIELDS.values(), 0)


@pytest.mark.parametrize("strict", [True, False])
def test_a_setuid_program_gives_nothing_with_no_new_privileges(box: Box, attack: Path, strict: bool) -> None:
    box.put(attack, "setuid", 0o4755)
    done = box.run(
        "/setuid", "ids", process__user={"uid": 1000, "gid": 1000}, process__noNewPrivileges=strict
    )  # fmt: skip
    assert done.stdout == ("1000 1000\n" if strict else "1000 0\n")


@pytest.mark.parametrize("verb", ["run", "exec"])
@pytest.mark.parametrize("strict", [True, False])
def test_seccomp_denies(box: Box, verb: str, strict: bool) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 88}],
    }
    script = "grep Seccomp: /proc/self/status; mkdir /tmp/denied 2>&1"
    changes: dict[str, Any] = {"linux__seccomp": profile, "process__noNewPrivileges": strict}
    if verb == "run":
        done = box.run("sh", "-c", script, ok=None, **changes)
    else:
        done = box("exec", box.up(**changes), "sh", "-c", script, ok=None)
    assert "Seccomp:\t2" in done.stdout
    assert not (box.rootfs / "tmp/denied").exists()


def test_the_keyring_is_its_own(box: Box) -> None:
    done = box.run("/attack", "keyring", linux__seccomp=None)
    assert done.stdout.strip() == "ENOSYS" or f"_ses.{box.id()}" in done.stdout


def test_devices_are_denied(box: Box) -> None:
    (box.rootfs / "devices").mkdir()
    os.mknod(box.rootfs / "devices/mem", 0o020666, os.makedev(1, 1))
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]
    extra = {name: [*capabilities.names(capabilities.ALL)] for name in ("bounding", "effective", "permitted")}
    done = box.run(
        "/attack", "device", "1", "1", "/devices/mem", linux__resources={"devices": rules}, process__capabilities=extra
    )  # fmt: skip
    assert done.stdout == "mknod ok open EPERM\n"  # a node may be made, as beneath other runtimes, but not opened


def test_kernel_parameters_cannot_be_written(box: Box) -> None:
    done = box.run("sh", "-c", "echo 1 >/proc/sys/kernel/panic || echo 1 >/proc/sysrq-trigger", ok=None)
    assert done.returncode
    assert "Read-only" in done.stderr


@pytest.mark.parametrize(
    "key", ["kernel.panic", "vm.swappiness", "user.max_user_namespaces", "kernel.core_pattern", "net/../kernel/panic"]
)
def test_kernel_parameters_of_the_host_are_refused(box: Box, key: str) -> None:
    assert "linux.sysctl" in box.run("true", ok=False, linux__sysctl={key: "1"}).stderr


@pytest.mark.parametrize("path", ["/proc/sys", "/proc/interrupts", "/sys", "/"])
def test_read_only_and_masked_paths_cannot_be_changed(box: Box, path: str) -> None:
    done = box.run("/attack", "remount", path, root__readonly=True)
    assert done.stdout == "remount EPERM umount EPERM\n"


def test_no_mount_of_the_host_is_seen(box: Box) -> None:
    lines = box.run("cat", "/proc/self/mountinfo").stdout.splitlines()
    points = [re.split(" ", line)[4] for line in lines]
    assert points[0] == "/"
    assert all(point == "/" or re.match(r"/(proc|dev|sys)(/|$)", point) for point in points), points
    assert not [line for line in lines if "shared:" in line]


def test_no_process_interface_or_message_of_the_host_is_seen(box: Box) -> None:
    script = "ls -d /proc/[0-9]*; ls /sys/class/net; cat /proc/sysvipc/shm | wc -l; hostname"
    found = box.run("sh", "-c", script).stdout.split()
    assert [entry for entry in found if entry.startswith("/proc")] in (["/proc/1"], ["/proc/1", "/proc/2"])
    assert "lo" in found
    assert not [name for name in os.listdir("/sys/class/net") if name != "lo" and name in found]
