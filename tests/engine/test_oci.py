"""The whole conversion: what Docker gives a container, from a request and an image."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orlop.engine.config import ContainerConfig, DeviceRequest, Limits, MountRequest, NetworkRequest
from orlop.engine.oci.spec import ContainerFacts, HostDevice, hostname, runtime_spec, validate
from orlop.spec.capabilities import DEFAULT, NAMES
from orlop.spec.errors import InvalidArgument
from orlop.spec.image import ContainerDefaults, ImageConfig, RootFS
from orlop.spec.runtime import DeviceCgroup, Linux, RuntimeSpec, parse_runtime_spec

ID = "0123456789abcdef" * 4
IMAGE = ImageConfig(
    rootfs=RootFS(type="layers", diff_ids=()), config=ContainerDefaults(cmd=("sh",), env=("PATH=/bin",))
)
FACTS = ContainerFacts(
    id=ID,
    cgroup_path=f"/orlop/{ID}",
    kernel=(6, 1),
    processors=2,
    hosts_file="/c/hosts",
    hostname_file="/c/hostname",
    resolv_conf="/c/resolv.conf",
    init_path="/lib/orlop-init",
)


def spec(facts: ContainerFacts = FACTS, **asked: Any) -> RuntimeSpec:
    config = ContainerConfig(image="x", **asked)
    validate(config)
    return runtime_spec(config, IMAGE, facts)


def linux(facts: ContainerFacts = FACTS, **asked: Any) -> Linux:
    made = spec(facts, **asked).linux
    assert made
    return made


def options(made: RuntimeSpec, target: str) -> tuple[str, ...]:
    return next(mount.options for mount in made.mounts if mount.destination == target)


def targets(made: RuntimeSpec) -> list[str]:
    return [mount.destination for mount in made.mounts]


def test_the_default_container_is_dockers() -> None:
    made = spec()
    assert targets(made) == [
        "/proc", "/dev", "/sys", "/dev/pts", "/dev/mqueue", "/dev/shm", "/etc/resolv.conf", "/etc/hostname",
        "/etc/hosts", "/sys/fs/cgroup",
    ]  # fmt: skip
    assert "ro" in options(made, "/sys")
    assert "ro" in options(made, "/sys/fs/cgroup")
    assert options(made, "/dev/shm") == ("nosuid", "noexec", "nodev", "mode=1777", "size=67108864")
    assert made.hostname == ID[:12]
    assert made.process
    assert made.process.capabilities
    assert made.process.capabilities.bounding == DEFAULT
    assert made.process.capabilities.effective == DEFAULT
    assert made.process.capabilities.inheritable == made.process.capabilities.ambient == ()
    assert not made.process.no_new_privileges
    assert made.linux
    assert [n.type for n in made.linux.namespaces] == ["mount", "network", "uts", "pid", "ipc", "cgroup"]
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware", "/sys/devices/virtual/powercap"} <= set(
        made.linux.masked_paths
    )
    assert made.linux.readonly_paths == ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
    assert made.linux.seccomp
    assert made.linux.seccomp.default_action == "SCMP_ACT_ERRNO"
    assert made.linux.resources
    assert made.linux.resources.devices == (DeviceCgroup(allow=False, access="rwm"),)
    assert made.linux.cgroups_path == f"/orlop/{ID}"


def test_the_result_is_a_configuration_that_reads_back() -> None:
    made = spec(limits=Limits(memory=64 << 20, nano_cpus=10**9), privileged=False)
    assert parse_runtime_spec(msgspec.json.encode(made)).value == made


def test_privileged_takes_every_fence_away() -> None:
    device = HostDevice(path="/dev/kvm", type="c", major=10, minor=232, mode=0o20660, gid=108)
    made = spec(msgspec.structs.replace(FACTS, devices=(device,)), privileged=True)
    assert made.process
    assert made.process.capabilities
    assert made.process.capabilities.bounding == NAMES
    assert made.linux
    assert made.linux.seccomp is None
    assert made.linux.masked_paths == made.linux.readonly_paths == ()
    assert "ro" not in options(made, "/sys") + options(made, "/sys/fs/cgroup")
    assert made.linux.resources
    assert made.linux.resources.devices == (DeviceCgroup(allow=True, access="rwm"),)
    assert made.linux.devices[0].file_mode == 0o660


def test_privileged_keeps_a_seccomp_profile_that_is_asked_for() -> None:
    profile = '{"defaultAction": "SCMP_ACT_ALLOW"}'
    asked = linux(privileged=True, security_opt=(f"seccomp={profile}",)).seccomp
    assert asked
    assert asked.default_action == "SCMP_ACT_ALLOW"


@pytest.mark.parametrize("option", ["seccomp=unconfined", "seccomp:unconfined"])
def test_seccomp_unconfined(option: str) -> None:
    assert linux(security_opt=(option,)).seccomp is None


def test_seccomp_follows_the_capabilities() -> None:
    def names(made: Linux) -> set[str]:
        assert made.seccomp
        return {name for rule in made.seccomp.syscalls for name in rule.names if rule.action == "SCMP_ACT_ALLOW"}

    assert "mount" not in names(linux())
    assert "mount" in names(linux(cap_add=("sys_admin",)))
    assert "chroot" not in names(linux(cap_drop=("sys_chroot",)))


@pytest.mark.parametrize(
    ("option", "want"),
    [("no-new-privileges", True), ("no-new-privileges=true", True), ("no-new-privileges:false", False)],
)
def test_no_new_privileges(option: str, want: bool) -> None:
    made = spec(security_opt=(option,)).process
    assert made
    assert made.no_new_privileges is want


def test_system_paths_unconfined_shows_all_of_proc() -> None:
    made = linux(security_opt=("systempaths=unconfined",))
    assert made.masked_paths == made.readonly_paths == ()


def test_read_only_leaves_what_must_be_written_to() -> None:
    made = spec(read_only=True, mounts=(MountRequest(type="tmpfs", target="/tmp"),))
    assert made.root
    assert made.root.readonly
    for target in ("/proc", "/dev", "/dev/shm", "/dev/pts", "/dev/mqueue", "/tmp"):
        assert "ro" not in options(made, target), target
    for target in ("/etc/hosts", "/etc/resolv.conf", "/sys", "/sys/fs/cgroup"):
        assert options(made, target).count("ro") == 1, target


def test_a_device_gets_a_node_and_a_rule() -> None:
    facts = msgspec.structs.replace(
        FACTS, devices=(HostDevice(path="/dev/x", type="c", major=10, minor=229, mode=0o100666, access="rw"),)
    )
    made = linux(facts, limits=Limits(devices=(DeviceRequest(source="/dev/fuse", target="/dev/x", access="rw"),)))
    assert [(d.path, d.type, d.major, d.minor) for d in made.devices] == [("/dev/x", "c", 10, 229)]
    assert made.resources
    assert made.resources.devices[1] == DeviceCgroup(allow=True, type="c", major=10, minor=229, access="rw")


def test_a_device_rule_is_added() -> None:
    made = linux(limits=Limits(device_cgroup_rules=("c 42:* rw",)))
    assert made.resources
    assert made.resources.devices[-1] == DeviceCgroup(allow=True, type="c", major=42, minor=None, access="rw")


def test_sharing_with_the_host_leaves_the_namespace_out() -> None:
    made = spec(
        msgspec.structs.replace(FACTS, hostname="metal"),
        network=NetworkRequest(mode="host"),
        pid_mode="host",
        ipc_mode="host",
        uts_mode="host",
        cgroupns_mode="host",
    )
    assert made.linux
    assert [n.type for n in made.linux.namespaces] == ["mount"]
    assert made.linux.sysctl == {}
    assert made.hostname == ""
    assert made.process
    assert "HOSTNAME=metal" in made.process.env


def test_joining_a_container_uses_its_namespaces() -> None:
    facts = msgspec.structs.replace(
        FACTS, network_namespace="/n", pid_namespace="/p", ipc_namespace="/i", hostname="other", shm="/other/shm"
    )
    made = spec(facts, network=NetworkRequest(mode="container:o"), pid_mode="container:o", ipc_mode="container:o")
    assert made.linux
    assert {n.type: n.path for n in made.linux.namespaces if n.path} == {"network": "/n", "pid": "/p", "ipc": "/i"}
    assert made.hostname == "other"
    assert made.linux.sysctl == {}
    shm = next(mount for mount in made.mounts if mount.destination == "/dev/shm")
    assert (shm.type, shm.source) == ("bind", "/other/shm")


@pytest.mark.parametrize(
    "asked", [{"network": NetworkRequest(mode="container:o")}, {"pid_mode": "container:o"}, {"ipc_mode": "container:o"}]
)
def test_a_namespace_to_join_that_is_missing_does_not_become_a_new_one(asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="the namespace of container:o is not known"):
        spec(**asked)


def test_ipc_none_has_no_shm() -> None:
    assert "/dev/shm" not in targets(spec(ipc_mode="none"))


def test_sysctls_are_added_to_dockers_defaults() -> None:
    made = linux(sysctls={"net.core.somaxconn": "1024", "net/ipv4/ip_forward": "1", "kernel.msgmax": "1"})
    assert made.sysctl == {
        "net.ipv4.ping_group_range": "0 2147483647",
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.core.somaxconn": "1024",
        "net.ipv4.ip_forward": "1",
        "kernel.msgmax": "1",
    }


def test_the_name_is_given_shared_or_the_short_id() -> None:
    facts = msgspec.structs.replace(FACTS, hostname="metal")
    assert hostname(ContainerConfig(image="x", hostname="web"), facts) == "web"
    assert hostname(ContainerConfig(image="x"), facts) == ID[:12]
    assert hostname(ContainerConfig(image="x", network=NetworkRequest(mode="host")), facts) == "metal"


def test_thermal_throttling_is_hidden_for_each_processor() -> None:
    hidden = [path for path in linux().masked_paths if path.endswith("thermal_throttle")]
    assert hidden == [f"/sys/devices/system/cpu/cpu{number}/thermal_throttle" for number in (0, 1)]


def test_annotations_are_passed_and_labels_are_not() -> None:
    made = spec(annotations={"a": "1"}, labels={"l": "2"})
    assert made.annotations == {"a": "1"}
