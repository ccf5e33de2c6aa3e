"""Every field of config.md and config-linux.md that one run on this kernel shows to be done, or to be refused by its
JSON path. What needs more than one run has tests of its own; docs/conformance.md, "Fields", names them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.test_runtime_cli import Lab, lab  # noqa: F401

from orlop.runtime.host import security_modules

pytestmark = pytest.mark.root
GROUP = "/sys/fs/cgroup"
V1 = Path(GROUP, "memory/memory.limit_in_bytes").exists()
NAMESPACES = [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "cgroup")]
ERRNO = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}

# field: (what is changed, by path; what the container runs; what it says)
DONE: dict[str, tuple[dict[str, Any], str, str]] = {
    "root.readonly": ({"root__readonly": True}, "touch /x 2>&1", "touch: /x: Read-only file system"),
    "process.args": ({"process__args": ["sh", "-c", "echo $0-$1", "a", "b c"]}, "", "a-b c"),
    "process.cwd": ({"process__cwd": "/made/here"}, "pwd", "/made/here"),
    "process.env": ({"process__env": ["PATH=/bin", "A=b=c"]}, "echo $A", "b=c"),
    "process.user": (
        {"process__user": {"uid": 5, "gid": 6, "additionalGids": [7, 8]}},
        "id",
        "uid=5 gid=6 groups=7,8",
    ),
    "process.user.umask": ({"process__user": {"uid": 0, "gid": 0, "umask": 0o27}}, "umask", "0027"),
    "process.rlimits": (
        {"process__rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]},
        "ulimit -Sn; ulimit -Hn",
        "100\n200",
    ),
    "process.capabilities": (
        {"process__capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]}},
        "grep -E 'CapEff|CapBnd' /proc/self/status",
        "CapEff:\t0000000000000001\nCapBnd:\t0000000000000001",
    ),
    "process.noNewPrivileges": (
        {"process__noNewPrivileges": True},
        "grep NoNewPrivs /proc/self/status",
        "NoNewPrivs:\t1",
    ),
    "process.oomScoreAdj": ({"process__oomScoreAdj": 321}, "cat /proc/self/oom_score_adj", "321"),
    "process.scheduler": (
        {"process__scheduler": {"policy": "SCHED_BATCH", "nice": 7}},
        "busybox awk '{print $41, $19}' /proc/self/stat",
        "3 7",
    ),
    "process.ioPriority": (
        {"process__ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}},
        "busybox ionice -p $$",
        "idle",
    ),
    "hostname": ({"hostname": "made"}, "hostname", "made"),
    "domainname": ({"domainname": "example.test"}, "cat /proc/sys/kernel/domainname", "example.test"),
    "mounts": (
        {
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {
                    "destination": "relative",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "noatime", "size=8k"],
                },
            ]
        },
        "grep ' /relative ' /proc/mounts | cut -d' ' -f1-4",
        "tmpfs /relative tmpfs rw,nosuid,noatime,size=8k",
    ),
    "linux.namespaces": ({}, "ls /proc/self/ns | wc -l; echo $$", "10\n1"),
    "linux.timeOffsets": (
        {
            "linux__namespaces": [*NAMESPACES, {"type": "time"}],
            "linux__timeOffsets": {"monotonic": {"secs": 86400, "nanosecs": 5}, "boottime": {"secs": 7}},
        },
        "cat /proc/self/timens_offsets | tr -s ' '",
        "monotonic 86400 5\nboottime 7 0",
    ),
    "linux.devices": (
        {"linux__devices": [{"type": "c", "path": "/dev/own", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5}]},
        "stat -c '%t:%T %a %u %F' /dev/own",
        "1:3 640 5 character special file",
    ),
    "linux.sysctl": ({"linux__sysctl": {"net.ipv4.ip_forward": "1"}}, "cat /proc/sys/net/ipv4/ip_forward", "1"),
    "linux.seccomp": (
        {"linux__seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [ERRNO]}},
        "mkdir /x 2>&1",
        "mkdir: can't create directory '/x': No space left on device",
    ),
    "linux.rootfsPropagation": (
        {"linux__rootfsPropagation": "shared"},
        "grep -c ' / / .* shared:' /proc/self/mountinfo; cut -d' ' -f5,7 /proc/self/mountinfo | grep -c '^/ shared'",
        "0\n1",
    ),
    "linux.maskedPaths": ({"linux__maskedPaths": ["/proc/version"]}, "cat /proc/version; echo $?", "0"),
    "linux.readonlyPaths": (
        {"linux__readonlyPaths": ["/tmp"]},
        "touch /tmp/x 2>&1",
        "touch: /tmp/x: Read-only file system",
    ),
    "linux.personality": ({"linux__personality": {"domain": "LINUX32"}}, "busybox uname -m", "i686"),
    "linux.memoryPolicy": (
        {"linux__memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}},
        "grep -q bind:0 /proc/self/numa_maps && echo bound",
        "bound",
    ),
    "linux.cgroupsPath": (
        {"linux__cgroupsPath": "/orlop/{id}", "linux__namespaces": NAMESPACES[:-1]},
        "grep -o ':/orlop/{id}$' /proc/self/cgroup | busybox head -1",
        ":/orlop/{id}",
    ),
}
# of cgroup v1; the same by v2's names is tried in the machine with v2 alone
RESOURCES: dict[str, tuple[dict[str, Any], str, str]] = {
    "memory.limit": ({"memory": {"limit": 32 << 20}}, "memory/memory.limit_in_bytes", str(32 << 20)),
    "memory.reservation": ({"memory": {"reservation": 16 << 20}}, "memory/memory.soft_limit_in_bytes", str(16 << 20)),
    "memory.swap": (
        {"memory": {"limit": 32 << 20, "swap": 64 << 20}},
        "memory/memory.memsw.limit_in_bytes",
        str(64 << 20),
    ),
    "memory.kernelTCP": ({"memory": {"kernelTCP": 8 << 20}}, "memory/memory.kmem.tcp.limit_in_bytes", str(8 << 20)),
    "memory.swappiness": ({"memory": {"swappiness": 10}}, "memory/memory.swappiness", "10"),
    "memory.disableOOMKiller": ({"memory": {"disableOOMKiller": True}}, "memory/memory.oom_control", "1"),
    "cpu.shares": ({"cpu": {"shares": 512}}, "cpu/cpu.shares", "512"),
    "cpu.quota": ({"cpu": {"quota": 20000, "period": 100000}}, "cpu/cpu.cfs_quota_us", "20000"),
    "cpu.period": ({"cpu": {"quota": 20000, "period": 50000}}, "cpu/cpu.cfs_period_us", "50000"),
    "cpu.burst": ({"cpu": {"quota": 20000, "burst": 10000}}, "cpu/cpu.cfs_burst_us", "10000"),
    "cpu.idle": ({"cpu": {"idle": 1}}, "cpu/cpu.idle", "1"),
    "cpu.cpus": ({"cpu": {"cpus": "0", "mems": "0"}}, "cpuset/cpuset.cpus", "0"),
    "cpu.mems": ({"cpu": {"cpus": "0", "mems": "0"}}, "cpuset/cpuset.mems", "0"),
    "pids.limit": ({"pids": {"limit": 77}}, "pids/pids.max", "77"),
    "blockIO.weight": ({"blockIO": {"weight": 200}}, "blkio/blkio.bfq.weight", "200"),
}
_ACTIVE = "is not active on this host"
# field: (what is changed, what follows `orlop-runtime: ` and the field)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "process.commandLine": ({"process__commandLine": "x"}, "is for Windows; use process.args"),
    "process.rlimits[0].type": ({"process__rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}, "unknown limit"),
    "process.apparmorProfile": ({"process__apparmorProfile": "x"}, f"apparmor {_ACTIVE}"),
    "process.selinuxLabel": ({"process__selinuxLabel": "x"}, f"selinux {_ACTIVE}"),
    "linux.mountLabel": ({"linux__mountLabel": "x"}, f"selinux {_ACTIVE}"),
    "linux.intelRdt": ({"linux__intelRdt": {"closID": "x"}}, "no resctrl file system is mounted"),
    "linux.timeOffsets": ({"linux__timeOffsets": {"boottime": {"secs": 1}}}, "needs a new time namespace"),
    "linux.personality.flags[0]": (
        {"linux__personality": {"domain": "LINUX", "flags": ["X"]}},
        "unknown flag 'X'",
    ),
    "vm": ({"vm": {"kernel": {"path": "/k"}}}, "is for another platform than linux"),
    "zos": ({"zos": {}}, "is for another platform than linux"),
    "solaris": ({"solaris": {}}, "is for another platform than linux"),
    "windows": ({"windows": {"layerFolders": []}}, "is for another platform than linux"),
    "freebsd": ({"freebsd": {}}, "is for another platform than linux"),
}


def _named(value: Any, identifier: str) -> Any:
    return value.replace("{id}", identifier) if isinstance(value, str) else value


@pytest.mark.parametrize("field", DONE)
def test_field_is_done(lab: Lab, field: str) -> None:  # noqa: F811
    changes, script, output = DONE[field]
    (lab.rootfs / "bin/cut").symlink_to("busybox")
    (lab.rootfs / "bin/tr").symlink_to("busybox")
    changes = {name: _named(value, lab.id()) for name, value in changes.items()}
    if script:
        changes = {"process__args": ["sh", "-c", _named(script, lab.id())], **changes}
    done = lab.run(ok=None, **changes)
    said = done.stdout.rstrip("\n").removesuffix(",inode64")  # a kernel's own choice for tmpfs (CONFIG_TMPFS_INODE64)
    assert (said, done.stderr) == (_named(output, lab.id()), "")


@pytest.mark.skipif(not V1, reason="not cgroup v1")
@pytest.mark.parametrize("field", RESOURCES)
def test_resource_is_set(lab: Lab, field: str) -> None:  # noqa: F811
    resources, path, value = RESOURCES[field]
    controller, _, name = path.partition("/")
    if not Path(GROUP, controller).is_dir():
        pytest.skip(f"no {controller} here")
    lab.up(linux__resources=resources)
    group = Path(GROUP, controller, "orlop", lab.id())
    if not (group / name).exists():
        pytest.skip(f"this kernel has no {name}")
    assert (group / name).read_text().split()[-1 if name != "memory.oom_control" else 1] == value


@pytest.mark.parametrize("field", REFUSED)
def test_field_is_refused(lab: Lab, field: str) -> None:  # noqa: F811
    changes, text = REFUSED[field]
    refusal = f"{field}: {text}"
    if field == "process.apparmorProfile" and "apparmor" in security_modules():
        refusal = f"{field} (x): write_file: ENOENT"  # the kernel's: there is no profile of that name
    done = lab.run("true", ok=False, **changes)
    assert done.returncode == 1
    assert done.stderr.startswith(f"orlop-runtime: {refusal}")
    assert not os.path.exists(lab.root / lab.id())


def test_processors_of_a_further_process(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    """process.execCPUAffinity: for processes that join, not for the first."""
    everything = lab.run("grep", "Cpus_allowed_list", "/proc/self/status").stdout.split()[1]
    one = everything.replace("-", ",").partition(",")[0]
    lab.up("sleep", "1000", process__execCPUAffinity={"final": one})
    first = Path(f"/proc/{lab.state()['pid']}/status").read_text()
    assert first.split("Cpus_allowed_list:")[1].split()[0] == everything
    process = {"cwd": "/", "args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "user": {"uid": 0, "gid": 0}}
    process["env"] = ["PATH=/bin"]
    for affinity, seen in (({"final": one}, one), ({"initial": one}, None), ({}, everything)):
        (tmp_path / "process.json").write_text(json.dumps(process | {"execCPUAffinity": affinity}))
        said = lab("exec", "-p", str(tmp_path / "process.json"), lab.id()).stdout.split()[1]
        assert seen is None or said == seen  # after `initial` alone the kernel has the last word
