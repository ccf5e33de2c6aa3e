"""Containers whose control groups systemd makes, with Debian's systemd as process 1; for `scripts/qemu --systemd`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness import wait_for
from tests.runtime.test_runtime_cli import Lab

pytestmark = pytest.mark.root
MIB = 1 << 20
ROOT = Path("/sys/fs/cgroup")


class Managed(Lab):
    """A bundle whose containers are scopes of `orlop-test.slice`, or of whatever `cgroups_path` says."""

    def command(self, *words: str, log: str = "") -> list[str]:
        command = super().command(*words, log=log)
        return [*command[:3], "--systemd-cgroup", *command[3:]]

    def configure(self, *args: str, **changes: Any) -> None:
        super().configure(*args, **{"linux__cgroupsPath": f"orlop-test.slice:t:{self.id()}"} | changes)

    @property
    def unit(self) -> str:
        return f"t-{self.id()}.scope"

    @property
    def group(self) -> Path:
        return ROOT / "orlop.slice/orlop-test.slice" / self.unit

    def file(self, name: str) -> str:
        return (self.group / name).read_text().strip()


def shown(unit: str, *properties: str, user: str = "") -> dict[str, str]:
    """What systemd itself says of a unit."""
    words = ["systemctl", "show", "--no-pager", *(f"-p{name}" for name in properties), unit]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Managed]:
    if os.environ.get("ORLOP_QEMU") != "systemd":
        pytest.skip("runs in scripts/qemu --systemd")
    found = Managed(tmp_path)
    yield found
    for identifier in found("list", "-q").stdout.split():
        found("delete", "--force", identifier)
    units = subprocess.run(["systemctl", "list-units", "--all", "--plain", "t-*"], capture_output=True, text=True)
    assert found.prefix not in units.stdout
    assert not list(ROOT.glob(f"**/*{found.prefix}*"))


def test_the_life_of_a_container_in_a_scope(managed: Managed) -> None:
    identifier = managed.up("sleep", "1000")
    found = shown(managed.unit, "ActiveState", "Slice", "Delegate", "ControlGroup", "DefaultDependencies", "Transient")
    assert found == {
        "ActiveState": "active",
        "Slice": "orlop-test.slice",
        "Delegate": "yes",
        "ControlGroup": f"/orlop.slice/orlop-test.slice/{managed.unit}",
        "DefaultDependencies": "no",
        "Transient": "yes",
    }
    pid = managed.state()["pid"]
    assert managed.file("cgroup.procs") == str(pid)
    assert Path(f"/proc/{pid}/cgroup").read_text() == f"0::/orlop.slice/orlop-test.slice/{managed.unit}\n"
    # what the container itself sees is the root of a group namespace
    assert managed("exec", identifier, "cat", "/proc/self/cgroup").stdout == "0::/\n"
    managed("pause", identifier)
    assert managed.state()["status"] == "paused"
    managed("resume", identifier)
    assert json.loads(managed("ps", "-f", "json", identifier).stdout) == [pid]
    managed("kill", identifier, "KILL")
    wait_for(lambda: managed.state()["status"] == "stopped", "the end")
    managed("delete", identifier)
    assert shown(managed.unit, "LoadState") == {"LoadState": "not-found"}
    assert not managed.group.exists()


def test_create_then_start_and_run_in_the_foreground(managed: Managed) -> None:
    managed.configure("sh", "-c", "cat /proc/self/cgroup; exit 7")
    done = managed("run", "-b", str(managed.bundle), managed.id(), ok=None)
    assert (done.returncode, done.stdout) == (7, "0::/\n")
    managed.configure("sleep", "1000")
    managed("create", "-b", str(managed.bundle), managed.id())
    assert managed.state()["status"] == "created"
    assert managed.file("cgroup.procs") == str(managed.state()["pid"])
    managed("start", managed.id())
    assert managed.state()["status"] == "running"


def test_limits_are_systemd_s_and_the_kernel_s(managed: Managed) -> None:
    identifier = managed.up(
        linux__resources={
            "memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB},
            "cpu": {"shares": 2048, "quota": 50_500, "period": 200_000, "cpus": "0"},
            "pids": {"limit": 77},
            "unified": {"memory.high": str(48 * MIB)},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}],
        }
    )
    told = shown(
        managed.unit, "MemoryMax", "MemorySwapMax", "MemoryLow", "MemoryHigh", "CPUWeight", "CPUQuotaPerSecUSec",
        "CPUQuotaPeriodUSec", "AllowedCPUs", "TasksMax", "DevicePolicy",
    )  # fmt: skip
    assert told == {
        "MemoryMax": str(64 * MIB),
        "MemorySwapMax": str(32 * MIB),
        "MemoryLow": str(32 * MIB),
        "MemoryHigh": str(48 * MIB),
        "CPUWeight": "174",
        "CPUQuotaPerSecUSec": "260ms",
        "CPUQuotaPeriodUSec": "200ms",
        "AllowedCPUs": "0",
        "TasksMax": "77",
        "DevicePolicy": "strict",
    }
    files = ("memory.max", "memory.swap.max", "memory.low", "memory.high", "cpu.weight", "cpu.max", "pids.max")
    wanted = [64 * MIB, 32 * MIB, 32 * MIB, 48 * MIB, 174, "50500 200000", 77]
    assert [managed.file(name) for name in files] == [str(value) for value in wanted]
    assert (managed.file("cpuset.cpus"), managed.file("hugetlb.2MB.max")) == ("0", str(4 * MIB))
    managed("update", "--memory", "40M", "--memory-swap", "40M", "--pids-limit", "-1", "--cpu-share", "512", identifier)
    told = shown(managed.unit, "MemoryMax", "MemorySwapMax", "TasksMax", "CPUWeight", "MemoryLow")
    assert told == {
        "MemoryMax": str(40 * MIB), "MemorySwapMax": "0", "TasksMax": "infinity", "CPUWeight": "59",
        "MemoryLow": str(32 * MIB),
    }  # fmt: skip
    subprocess.run(["systemctl", "daemon-reload"], check=True)  # systemd writes again what it knows
    assert [managed.file(name) for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.weight")] == [
        str(40 * MIB), "0", "max", "59",
    ]  # fmt: skip
    assert managed.file("cpu.max").endswith(" 200000")
    usage = json.loads(managed("events", "--stats", identifier).stdout)["data"]
    assert usage["memory"]["usage"]["limit"] == 40 * MIB
    assert usage["pids"]["current"] == 1


def test_an_idle_container(managed: Managed) -> None:
    identifier = managed.up(linux__resources={"cpu": {"idle": 1, "shares": 1024}})
    assert managed.file("cpu.idle") == "1"
    managed("update", "--cpu-idle", "0", identifier)
    assert managed.file("cpu.idle") == "0"


def test_devices_are_what_the_rules_say(managed: Managed) -> None:
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]
    script = "for n in 3 11 1; do mknod /tmp/d$n c 1 $n; (: </tmp/d$n) 2>/dev/null && echo $n; done"
    (managed.rootfs / "bin/mknod").symlink_to("busybox")
    changes = {"linux__resources": {"devices": rules}, "process__capabilities": {
        name: ["CAP_MKNOD", "CAP_SYSLOG"] for name in ("bounding", "effective", "permitted")
    }}  # fmt: skip
    assert managed.sh(script, ok=None, **changes).split() == ["3", "11"]


def test_annotations_are_properties(managed: Managed) -> None:
    annotations = {
        "org.systemd.property.TimeoutStopSec": "uint64 7",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
    }
    managed.up(annotations=annotations)
    assert shown(managed.unit, "TimeoutStopUSec", "CollectMode") == {
        "TimeoutStopUSec": "7s", "CollectMode": "inactive-or-failed",
    }  # fmt: skip
    managed("delete", "--force", managed.id())
    refused = managed.run("true", ok=False, annotations={"org.systemd.property.Nonsense": "true"})
    assert "systemd: StartTransientUnit: " in refused.stderr
    assert "Nonsense" in refused.stderr


def test_a_container_killed_for_memory_leaves_no_failed_unit(managed: Managed) -> None:
    limits = {"memory": {"limit": 16 * MIB, "swap": 16 * MIB}}
    done = managed.run("sh", "-c", "x=a; while true; do x=$x$x; done", ok=None, linux__resources=limits)
    assert done.returncode == 137
    assert shown(managed.unit, "LoadState", "ActiveState") == {"LoadState": "not-found", "ActiveState": "inactive"}


def test_a_name_that_is_taken_is_refused_and_the_other_lives(managed: Managed) -> None:
    managed.up("sleep", "1000")
    other = managed.id("other")
    managed.configure("true")
    refused = managed("run", "-b", str(managed.bundle), other, ok=False)
    assert f"{managed.unit} already exists" in refused.stderr or "was already loaded" in refused.stderr
    assert managed.state()["status"] == "running"


def test_a_wrong_limit_leaves_nothing(managed: Managed) -> None:
    refused = managed.run("true", ok=False, linux__resources={"unified": {"memory.nonsense": "1"}})
    assert "linux.resources.unified.memory.nonsense" in refused.stderr
    assert not managed.group.exists()


def test_a_container_may_be_a_slice(managed: Managed) -> None:
    name = f"orlop-x{os.getpid()}.slice"
    identifier = managed.up("sleep", "1000", linux__cgroupsPath=f"::{name}", linux__resources={"pids": {"limit": 9}})
    assert shown(name, "ActiveState", "TasksMax") == {"ActiveState": "active", "TasksMax": "9"}
    assert (ROOT / "orlop.slice" / name / "cgroup.procs").read_text().split() == [str(managed.state()["pid"])]
    managed("delete", "--force", identifier)
    assert not (ROOT / "orlop.slice" / name).exists()


def test_a_path_that_is_no_unit_is_refused(managed: Managed) -> None:
    refused = managed.run("true", ok=False, linux__cgroupsPath="/a/b")
    assert "linux.cgroupsPath: '/a/b' is not slice:prefix:name" in refused.stderr


def test_over_the_bus_as_well(managed: Managed) -> None:
    """The daemon's socket instead of systemd's own."""
    address = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/run/dbus/system_bus_socket"}
    managed.configure("sleep", "1000")
    managed("run", "-d", "-b", str(managed.bundle), managed.id(), env=address)
    managed("update", "--pids-limit", "5", managed.id(), env=address)
    assert shown(managed.unit, "ActiveState", "TasksMax") == {"ActiveState": "active", "TasksMax": "5"}
    managed("delete", "--force", managed.id(), env=address)
    assert shown(managed.unit, "LoadState") == {"LoadState": "not-found"}


def test_systemd_in_a_container_may_hand_groups_down(managed: Managed) -> None:
    """The scope is delegated: the container makes groups below, and a further process starts beside the first."""
    script = "mkdir /sys/fs/cgroup/init && echo 1 >/sys/fs/cgroup/init/cgroup.procs &&\
        echo +memory +pids >/sys/fs/cgroup/cgroup.subtree_control && echo done >/tmp/done; exec sleep 1000"
    managed.configure("sh", "-c", script)
    config = managed.config()
    for mount in config["mounts"]:
        if mount["destination"] == "/sys/fs/cgroup":
            mount["options"] = [option for option in mount["options"] if option != "ro"]
    (managed.bundle / "config.json").write_text(json.dumps(config))
    managed("run", "-d", "-b", str(managed.bundle), managed.id())
    deadline = time.monotonic() + 20
    while not (managed.rootfs / "tmp/done").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert managed("exec", managed.id(), "cat", "/proc/self/cgroup").stdout == "0::/init\n"


@pytest.fixture
def manager_of_app() -> Iterator[dict[str, str]]:
    """A manager of the user `app`, as logind starts one; the environment of a session of hers."""
    if os.environ.get("ORLOP_QEMU") != "systemd":
        pytest.skip("runs in scripts/qemu --systemd")
    runtime = Path("/run/user/1000")
    runtime.mkdir(parents=True, exist_ok=True)
    os.chown(runtime, 1000, 1000)
    words = ["-p", "User=app", "-p", "Delegate=yes", "-p", "Slice=user-1000.slice", "-p", "Type=notify"]
    program = ["/lib/systemd/systemd", "--user"]
    environment = f"--setenv=XDG_RUNTIME_DIR={runtime}"
    subprocess.run(["systemd-run", "-q", "--unit=app-manager", *words, environment, *program], check=True)
    yield {"XDG_RUNTIME_DIR": str(runtime), "HOME": "/home/app"}
    subprocess.run(["systemctl", "stop", "app-manager"], check=True)


def test_a_user_s_container_is_in_a_scope_of_the_user_s_manager(manager_of_app: dict[str, str]) -> None:
    directory = Path(tempfile.mkdtemp(prefix="app-", dir="/tmp"))
    directory.chmod(0o755)
    lab = Managed(directory)
    lab.configure(
        "sleep", "1000",
        linux__cgroupsPath=f"orlop-test.slice:t:{lab.id()}",
        linux__resources={"pids": {"limit": 20}, "memory": {"limit": 64 * MIB}},
        linux__uidMappings=[{"containerID": 0, "hostID": 1000, "size": 1}],
        linux__gidMappings=[{"containerID": 0, "hostID": 1000, "size": 1}],
    )  # fmt: skip
    config = lab.config()
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "network"]
    config["linux"]["namespaces"].append({"type": "user"})
    config["mounts"] = [m for m in config["mounts"] if m["destination"] in ("/proc", "/dev", "/dev/shm")]
    (lab.bundle / "config.json").write_text(json.dumps(config))
    subprocess.run(["chown", "-R", "1000:1000", directory], check=True)

    def act(*words: str) -> str:
        """As the user, from a session that is not below her manager."""
        done = subprocess.run(
            lab.command(*words), user=1000, group=1000, extra_groups=[], cwd=lab.bundle, stdin=subprocess.DEVNULL,
            stdout=(directory / "out").open("w"), stderr=subprocess.STDOUT, timeout=60,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": "/opt/orlop/src"} | manager_of_app,
        )  # fmt: skip
        text = (directory / "out").read_text()
        assert done.returncode == 0, text
        return text

    act("run", "-d", lab.id())
    group = "/user.slice/user-1000.slice/app-manager.service/orlop.slice/orlop-test.slice/" + lab.unit
    pid = json.loads(act("state", lab.id()))["pid"]
    assert Path(f"/proc/{pid}/cgroup").read_text() == f"0::{group}\n"
    assert Path(f"{ROOT}{group}/memory.max").read_text() == f"{64 * MIB}\n"
    act("exec", "-d", lab.id(), "sleep", "1000")
    act("update", "--pids-limit", "9", lab.id())
    assert Path(f"{ROOT}{group}/pids.max").read_text() == "9\n"
    assert len(Path(f"{ROOT}{group}/cgroup.procs").read_text().split()) == 2
    act("pause", lab.id())
    act("resume", lab.id())
    act("delete", "--force", lab.id())
    assert not Path(f"{ROOT}{group}").exists()
    shutil.rmtree(directory)
