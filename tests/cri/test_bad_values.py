"""Single values that no well-behaved client sends, in requests that are right but for them: each is refused with the
code and in the words that say which it is, and nothing is made of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from orlop._stubs.cri import api_pb2 as api

from .conftest import Client, Daemon, container_config, pod_config, wait_for
from .test_crash import nothing_left
from .test_life import refused

pytestmark = [pytest.mark.root, pytest.mark.peers]

WRONG, NOT_SO, MISSING = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
)
Number = api.Int64Value
NAMESPACES = "linux.security_context.namespace_options"


def put(message: Any, path: str, value: Any) -> None:
    """Set a field by its path: lists grow, maps are filled."""
    *parents, name = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    if isinstance(value, dict):
        getattr(message, name).update(value)
    elif isinstance(value, list):
        del getattr(message, name)[:]
        getattr(message, name).extend(value)
    elif hasattr(value, "DESCRIPTOR"):
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)


@pytest.fixture(autouse=True)
def _nothing_left(daemon: Daemon, busybox: str) -> Iterator[None]:
    with nothing_left(daemon):
        yield
    assert daemon.log.read_text().partition("Traceback")[2] == ""


# --- pods

PODS: list[tuple[str, Any, str]] = [
    ("linux.sysctls", {"net.ipv4.ip_forward/../../../kernel/core_pattern": "|/x"}, "invalid sysctl"),
    ("linux.sysctls", {"net/ipv4/../../kernel/panic": "1"}, "invalid sysctl"),
    ("linux.sysctls", {"kernel.core_pattern": "|/x"}, "belongs to no namespace"),
    ("linux.sysctls", {"": "1"}, "belongs to no namespace"),
    ("linux.sysctls", {"net.ipv4.ip_forward": "1\n2"}, "invalid sysctl"),
    ("linux.sysctls", {"net.ipv4.nope": "1"}, "ENOENT"),
    ("linux.sysctls", {"kernel.shm_rmid_forced": "7"}, "EINVAL"),
    ("hostname", "a\0b", "hostname"),
    ("hostname", "../x", "hostname"),
    ("dns_config.servers", ["1.1.1.1\nsearch evil"], "dns '1.1.1.1\\nsearch evil'"),
    ("dns_config.searches", ["a\nnameserver 6.6.6.6"], "resolv.conf"),
    ("dns_config.options", ["a\nnameserver 6.6.6.6"], "resolv.conf"),
    ("linux.cgroup_parent", "/orlop/../../x", "cgroup parent"),
    ("linux.cgroup_parent", "/orlop/a\nb", "cgroup parent"),
    ("port_mappings", [api.PortMapping(container_port=80, host_port=70000)], "port_mappings[0].host_port"),
    ("port_mappings", [api.PortMapping(container_port=-1, host_port=80)], "port_mappings[0].container_port"),
    ("port_mappings", [api.PortMapping(container_port=80, host_port=80, host_ip="x")], "host address 'x'"),
    ("labels", {"a\0b": "c"}, "label"),
    ("labels", {"a": "x" * (2 << 20)}, "config.labels: 2097153 characters"),
    ("annotations", {"a": "x" * (2 << 20)}, "config.annotations: 2097153 characters"),
    (f"{NAMESPACES}.network", 5, "network: 5"),
    (f"{NAMESPACES}.pid", 9, "pid: 9"),
    ("linux.security_context.run_as_user", Number(value=1 << 32), "user 4294967296"),
    ("linux.security_context.run_as_user", Number(value=-1), "user -1"),
    ("linux.security_context.supplemental_groups", list(range(70000)), "70000 of them"),
    ("linux.security_context.selinux_options", api.SELinuxOption(level="s0:c1\nx"), "selinux_options.level"),
]


def test_values_of_pods(client: Client) -> None:
    for path, value, text in PODS:
        config = pod_config()
        put(config, path, value)
        said = refused(lambda config=config: client.RunPodSandbox(config=config), WRONG)  # type: ignore[misc]
        assert text in said, path
        assert len(said) < 400, path
    assert list(client.ListPodSandbox().items) == []


# --- containers


class Pod:
    """One that writes logs, and makes containers that have one value of a test's."""

    def __init__(self, client: Client, image: str, logs: Path) -> None:
        self.client, self.image = client, image
        self.config = pod_config(log_directory=str(logs))
        self.id = client.RunPodSandbox(config=self.config).pod_sandbox_id

    def create(self, path: str = "", value: Any = None) -> str:
        config = container_config(self.image, "sleep", "1000", log_path="log")
        if path:
            put(config, path, value)
        made = self.client.CreateContainer(pod_sandbox_id=self.id, config=config, sandbox_config=self.config)
        return str(made.container_id)

    def running(self, path: str = "", value: Any = None) -> str:
        container = self.create(path, value)
        self.client.StartContainer(container_id=container)
        return container


@pytest.fixture
def pod(client: Client, busybox: str, tmp_path: Path) -> Iterator[Pod]:
    found = Pod(client, busybox, tmp_path / "logs")
    yield found
    client.RemovePodSandbox(pod_sandbox_id=found.id)


def bind(**fields: Any) -> list[api.Mount]:
    return [api.Mount(**{"host_path": "/tmp", "container_path": "/here"} | fields)]


CONTAINERS: list[tuple[str, Any, grpc.StatusCode, str]] = [
    ("metadata.name", "../x", WRONG, "config.metadata.name"),
    ("metadata", api.ContainerMetadata(), WRONG, "config.metadata.name is missing"),
    ("image.image", "", WRONG, "config.image.image is missing"),
    ("image.image", "a\0b", WRONG, "image reference 'a\\x00b'"),
    ("image.image", "sha256:" + "0" * 64, MISSING, "no such image"),
    ("command", ["sleep\0", "1"], WRONG, "NUL"),
    ("command", [""], WRONG, "the program's name is empty"),
    ("args", ["a\0b"], WRONG, "NUL"),
    ("working_dir", "relative", WRONG, "working directory"),
    ("working_dir", "/a\0b", WRONG, "working directory"),
    ("envs", [api.KeyValue(key="", value=b"x")], WRONG, "config.envs[0]"),
    ("envs", [api.KeyValue(key="A=B", value=b"x")], WRONG, "config.envs[0]"),
    ("envs", [api.KeyValue(key="A", value=b"\xff\xfe")], WRONG, "config.envs[0] ('A'): not UTF-8"),
    ("envs", [api.KeyValue(key="A", value=b"x\0y")], WRONG, "config.envs[0] ('A'): has a NUL"),
    ("labels", {"a\0b": "c"}, WRONG, "label"),
    ("annotations", {"a": "x" * (2 << 20)}, WRONG, "config.annotations: 2097153 characters"),
    ("log_path", "../../x", WRONG, "config.log_path"),
    ("log_path", "a/../../x", WRONG, "config.log_path"),
    ("log_path", "a\0b", WRONG, "config.log_path: has a NUL"),
    ("log_path", ".", WRONG, "config.log_path '.': names no file"),
    ("log_path", "a/", WRONG, "config.log_path 'a/': names no file"),
    ("log_path", "x" * 256, WRONG, "too long for a path"),
    ("log_path", "x/" * 2048 + "x", WRONG, "too long for a path"),
    ("mounts", bind(container_path="etc"), WRONG, "config.mounts[0].container_path"),
    ("mounts", bind(container_path="/a\0b"), WRONG, "config.mounts[0].container_path"),
    ("mounts", bind(container_path="/"), WRONG, "destination can't be '/'"),
    ("mounts", bind(host_path="tmp"), WRONG, "config.mounts[0].host_path"),
    ("mounts", bind(host_path="/tmp/a\0b"), WRONG, "config.mounts[0].host_path"),
    ("mounts", bind(host_path="/etc/passwd/a"), NOT_SO, "/etc/passwd/a: not a directory"),
    ("mounts", bind(host_path="/proc/none/a"), MISSING, "/proc/none"),
    ("mounts", bind(propagation=9), WRONG, "config.mounts[0].propagation"),
    ("mounts", bind(recursive_read_only=True), WRONG, "config.mounts[0].recursive_read_only"),
    ("mounts", bind(mount_options=["bogus=1"]), WRONG, "bogus=1"),
    ("devices", [api.Device(host_path="/dev/none", container_path="/dev/x")], WRONG, "/dev/none"),
    ("devices", [api.Device(host_path="/etc/passwd", container_path="/dev/x")], WRONG, "/etc/passwd"),
    ("devices", [api.Device(host_path="/dev/null", container_path="/dev/x", permissions="rwz")], WRONG, "rwz"),
    ("devices", [api.Device(host_path="/dev/null", container_path="../x")], WRONG, "../x"),
    ("CDI_devices", [api.CDIDevice(name="a/b=../../x")], WRONG, "CDI device 'a/b=../../x'"),
    ("stop_signal", 200, WRONG, "config.stop_signal"),
    ("linux.resources.cpu_shares", -1, WRONG, "cpu shares"),
    ("linux.resources.cpu_quota", 5, WRONG, "quota"),
    ("linux.resources.memory_limit_in_bytes", -4, WRONG, "linux.resources.memory.limit"),
    ("linux.resources.oom_score_adj", 5000, WRONG, "5000"),
    ("linux.resources.cpuset_cpus", "0\n1", WRONG, "cpuset cpus"),
    ("linux.resources.cpuset_cpus", "999", WRONG, "999"),
    ("linux.security_context.run_as_user", Number(value=1 << 32), WRONG, "user 4294967296"),
    ("linux.security_context.run_as_user", Number(value=(1 << 32) - 1), WRONG, "user 4294967295"),
    ("linux.security_context.run_as_user", Number(value=-1), WRONG, "user -1"),
    ("linux.security_context.run_as_group", Number(value=1), WRONG, "run_as_group: needs run_as_user"),
    ("linux.security_context.run_as_username", "nobody\nroot", WRONG, "unable to find user"),
    ("linux.security_context.supplemental_groups", [-1], WRONG, "supplemental_groups"),
    ("linux.security_context.supplemental_groups", list(range(70000)), WRONG, "70000 of them"),
    ("linux.security_context.supplemental_groups_policy", 9, WRONG, "supplemental_groups_policy: 9"),
    ("linux.security_context.capabilities.add_capabilities", ["BOGUS"], WRONG, "CAP_BOGUS"),
    ("linux.security_context.masked_paths", ["etc"], WRONG, "maskedPaths[0]"),
    ("linux.security_context.readonly_paths", ["/a\0b"], WRONG, "readonlyPaths[0]"),
    ("linux.security_context.seccomp_profile_path", "localhost//none", MISSING, "/none"),
    ("linux.security_context.seccomp_profile_path", "localhost//dev/zero", WRONG, "'/dev/zero' is not a file"),
    ("linux.security_context.seccomp_profile_path", "bogus", WRONG, "seccomp_profile_path 'bogus'"),
    (f"{NAMESPACES}.pid", 9, WRONG, "pid: 9"),
]


def test_values_of_containers(client: Client, pod: Pod, tmp_path: Path) -> None:
    """Most when it is made, some only when it is started: it can be removed then."""
    for path, value, code, text in CONTAINERS:
        said = refused(lambda path=path, value=value: pod.running(path, value), code)  # type: ignore[misc]
        assert text in said, (path, said)
        assert len(said) < 400, path
        for container in client.ListContainers().containers:
            assert container.state == api.CONTAINER_EXITED, path
            client.RemoveContainer(container_id=container.id)
    assert [entry.name for entry in tmp_path.iterdir()] in ([], ["logs"])
    assert client.PodSandboxStatus(pod_sandbox_id=pod.id).status.state == api.SANDBOX_READY


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("command", ["/none"], '"/none": no such file'),
        ("command", ["/etc"], '"/etc": permission denied'),
        ("envs", [api.KeyValue(key="A", value=b"x" * 200_000)], "argument list too long"),
        ("working_dir", "/etc/passwd", "process.cwd (/etc/passwd)"),
    ],
)
def test_what_only_the_start_finds_out(client: Client, pod: Pod, path: str, value: Any, text: str) -> None:
    container = pod.create(path, value)
    assert text in refused(lambda: client.StartContainer(container_id=container), NOT_SO)
    status = client.ContainerStatus(container_id=container).status
    assert (status.state, status.reason) == (api.CONTAINER_EXITED, "StartError")
    assert status.exit_code
    assert text in status.message
    client.RemoveContainer(container_id=container)


def test_much_of_what_is_allowed(client: Client, pod: Pod, tmp_path: Path) -> None:
    """20,000 variables, 500 mounts, the longest path of a log: a mount whose source is missing is made one."""
    envs = [api.KeyValue(key=f"MANY_{number}", value=b"v") for number in range(20_000)]
    container = pod.running("envs", envs)
    answer = client.ExecSync(container_id=container, cmd=["sh", "-c", "env | grep -c MANY_"])
    assert answer.stdout == b"20000\n"
    client.RemoveContainer(container_id=container)
    source = str(tmp_path)  # beneath it nothing is mounted
    mounts = [bind(host_path=source, container_path=f"/m{number}")[0] for number in range(500)]
    container = pod.running("mounts", mounts)
    answer = client.ExecSync(container_id=container, cmd=["grep", "-c", " /m[0-9]", "/proc/mounts"])
    assert answer.stdout == b"500\n"
    client.RemoveContainer(container_id=container)
    container = pod.running("mounts", bind(host_path=str(tmp_path / "new/one"), container_path="/../../here"))
    client.ExecSync(container_id=container, cmd=["touch", "/here/file"])
    assert (tmp_path / "new/one/file").exists()
    client.RemoveContainer(container_id=container)
    container = pod.running("log_path", "a/" + "x" * 255)
    assert (tmp_path / "logs/a" / ("x" * 255)).exists()
    client.RemoveContainer(container_id=container)


UPDATES: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
    ({"cpuset_cpus": "999"}, WRONG, "999"),
    ({"cpu_quota": 5}, WRONG, "quota"),
    ({"oom_score_adj": 5000}, WRONG, "5000"),
    ({"memory_limit_in_bytes": -4}, WRONG, "linux.resources.memory.limit"),
    ({"hugepage_limits": [api.HugepageLimit(page_size="../x", limit=5)]}, WRONG, "hugepageLimits[0].pageSize"),
]


def test_calls_on_a_container_that_runs(client: Client, pod: Pod) -> None:
    container = pod.running()
    for fields, code, text in UPDATES:
        resources = api.LinuxContainerResources(**fields)
        call = lambda wanted=resources: client.UpdateContainerResources(container_id=container, linux=wanted)  # noqa: E731
        assert text in refused(call, code), fields
    for command, code, text in (
        (["/none"], NOT_SO, '"/none": no such file'),
        ([""], NOT_SO, '"": executable file not found'),
        (["a\0b"], WRONG, "NUL"),
        (["x" * 200_000], NOT_SO, "file name too long"),
    ):
        call = lambda words=command: client.ExecSync(container_id=container, cmd=words)  # noqa: E731
        assert text in refused(call, code), command[0][:9]
    below = "timeout: -1 is below zero"
    assert refused(lambda: client.ExecSync(container_id=container, cmd=["true"], timeout=-1), WRONG) == below
    assert refused(lambda: client.StopContainer(container_id=container, timeout=-1), WRONG) == below
    assert client.ExecSync(container_id=container, cmd=["echo", "still"], timeout=2**62).stdout == b"still\n"


IDENTIFIED = {
    "ContainerStatus": "container_id",
    "ContainerStats": "container_id",
    "StartContainer": "container_id",
    "StopContainer": "container_id",
    "RemoveContainer": "container_id",
    "PodSandboxStatus": "pod_sandbox_id",
    "PodSandboxStats": "pod_sandbox_id",
    "StopPodSandbox": "pod_sandbox_id",
    "RemovePodSandbox": "pod_sandbox_id",
    "PortForward": "pod_sandbox_id",
}
GONE_IS_FINE = {"StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"}


@pytest.mark.parametrize(
    "identifier", ["", "..", "%", "' OR 1=1 --", "a\0b", "a\nb", "\x1b[2J", "sha256:", "x" * 100_000]
)
def test_identifiers_of_nothing(client: Client, pod: Pod, identifier: str) -> None:
    container = pod.running()
    for name, field in IDENTIFIED.items():
        call = lambda name=name, field=field: getattr(client, name)(**{field: identifier})  # noqa: E731
        if not identifier or len(identifier) > 1000:
            assert len(refused(call, WRONG)) < 200
        elif name in GONE_IS_FINE:
            call()
        else:
            assert "no such" in refused(call, MISSING)
    assert list(client.ListContainers(filter=api.ContainerFilter(id=identifier or "%")).containers) == []
    assert client.ContainerStatus(container_id=container).status.state == api.CONTAINER_RUNNING
    wait_for(lambda: client.ContainerStats(container_id=container).stats.HasField("memory"), "its use")
