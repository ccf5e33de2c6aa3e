"""Pods whose control groups systemd makes, with Debian's systemd as process 1; for `scripts/qemu --systemd`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from tests.cri.conftest import Client, Daemon, container_config, pod_config, serving, wait_for
from tests.harness import SLOWER, archive_image

from orlop._stubs.cri import api_pb2 as api

from .test_systemd import shown

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.environ.get("ORLOP_QEMU") != "systemd", reason="runs in scripts/qemu --systemd"),
]
MIB = 1 << 20
ROOT = Path("/sys/fs/cgroup")
SLICE = "kubepods-burstable-podabc.slice"
ABOVE = "/kubepods.slice/kubepods-burstable.slice"
Make = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with serving(cri="cgroup_driver = 'systemd'") as found:
        archive = tmp_path_factory.mktemp("image") / "busybox.tar"
        archive_image(request.getfixturevalue("lab"), "busybox", archive)
        command(found, "load", "-q", "-i", str(archive))
        yield found
    left = subprocess.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "orlop-*.scope"],
                          capture_output=True, text=True).stdout  # fmt: skip
    assert left == ""


def command(daemon: Daemon, *words: str) -> None:
    """The same store by the command line."""
    line = [sys.executable, "-m", "orlop", "--root", str(daemon.root), "--state", str(daemon.state), "-n", "k8s.io"]
    subprocess.run([*line, *words], check=True, timeout=600)


@pytest.fixture
def client(daemon: Daemon) -> Client:
    if daemon.process is None:
        daemon.start()
    return Client(daemon.socket)


@pytest.fixture
def make(daemon: Daemon, client: Client) -> Iterator[Make]:
    """A pod in SLICE with one container that runs `words`; their IDs. All go at the end."""
    pods: list[str] = []

    def begin(*words: str, parent: str = f"{ABOVE}/{SLICE}", **resources: object) -> tuple[str, str]:
        config = pod_config()
        config.linux.cgroup_parent = parent
        config.metadata.uid = f"uid{len(pods)}"
        pod = client.RunPodSandbox(config=config).pod_sandbox_id
        pods.append(pod)
        linux = api.LinuxContainerConfig(resources=api.LinuxContainerResources(**resources))
        asked = container_config("busybox", *words, linux=linux)
        made = client.CreateContainer(pod_sandbox_id=pod, config=asked, sandbox_config=config).container_id
        client.StartContainer(container_id=made)
        return pod, made

    yield begin
    now = Client(daemon.socket)
    for pod in pods:
        now.RemovePodSandbox(pod_sandbox_id=pod)


def unit(identifier: str) -> str:
    return f"orlop-{identifier}.scope"


def group(identifier: str) -> Path:
    return ROOT / f"{ABOVE}/{SLICE}/{unit(identifier)}".lstrip("/")


def test_the_driver_is_told(client: Client) -> None:
    assert client.RuntimeConfig().linux.cgroup_driver == api.SYSTEMD
    assert '"cgroup_driver":"systemd"' in client.Status(verbose=True).info["config"]


def test_a_pod_and_its_container_are_scopes_of_the_pod_s_slice(client: Client, make: Make) -> None:
    pod, made = make("sleep", "1000", memory_limit_in_bytes=64 * MIB, cpu_shares=2048, cpu_quota=50_000,
                     cpu_period=100_000, unified={"pids.max": "77"})  # fmt: skip
    for identifier in (pod, made):
        told = shown(unit(identifier), "ActiveState", "Slice", "ControlGroup", "Delegate")
        path = f"{ABOVE}/{SLICE}/{unit(identifier)}"
        assert told == {"ActiveState": "active", "Slice": SLICE, "ControlGroup": path, "Delegate": "yes"}
        assert len((group(identifier) / "cgroup.procs").read_text().split()) == 1
    told = shown(unit(made), "MemoryMax", "CPUWeight", "CPUQuotaPerSecUSec", "TasksMax")
    assert told == {"MemoryMax": str(64 * MIB), "CPUWeight": "174", "CPUQuotaPerSecUSec": "500ms", "TasksMax": "77"}
    inside = client.ExecSync(container_id=made, cmd=["cat", "/proc/self/cgroup"])
    assert inside.stdout == b"0::/\n"
    used = client.ContainerStats(container_id=made).stats
    assert used.memory.working_set_bytes.value > 0
    assert used.cpu.usage_core_nano_seconds.value > 0
    whole = client.PodSandboxStats(pod_sandbox_id=pod).stats.linux
    assert whole.process.process_count.value >= 2


def test_limits_change_for_systemd_and_the_kernel(client: Client, make: Make) -> None:
    _, made = make("sleep", "1000", memory_limit_in_bytes=64 * MIB)
    client.UpdateContainerResources(
        container_id=made, linux=api.LinuxContainerResources(memory_limit_in_bytes=40 * MIB, cpu_shares=512)
    )
    subprocess.run(["systemctl", "daemon-reload"], check=True)  # systemd writes again what it knows
    assert shown(unit(made), "MemoryMax", "CPUWeight") == {"MemoryMax": str(40 * MIB), "CPUWeight": "59"}
    assert [(group(made) / name).read_text() for name in ("memory.max", "cpu.weight")] == [f"{40 * MIB}\n", "59\n"]


def test_devices_are_those_of_a_container(client: Client, make: Make) -> None:
    _, made = make("sleep", "1000")
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    script = "mknod /tmp/k c 1 11; mknod /tmp/z c 1 5; for n in k z; do head -c 1 /tmp/$n >/dev/null && echo $n; done"
    assert client.ExecSync(container_id=made, cmd=["sh", "-c", script]).stdout == b"z\n"


def test_a_container_that_ends_leaves_no_unit(client: Client, make: Make) -> None:
    pod, made = make("sleep", "1000")
    client.StopContainer(container_id=made, timeout=0)
    status = client.ContainerStatus(container_id=made).status
    assert (status.exit_code, status.reason) == (137, "Error")
    assert shown(unit(made), "LoadState") == {"LoadState": "not-found"}
    client.StopPodSandbox(pod_sandbox_id=pod)
    assert shown(unit(pod), "LoadState") == {"LoadState": "not-found"}
    assert not group(pod).exists()


@pytest.mark.parametrize("times", range(3))
def test_lack_of_memory_is_seen_though_the_scope_is_gone(client: Client, make: Make, times: int) -> None:
    _, made = make("sh", "-c", "x=a; while true; do x=$x$x; done", memory_limit_in_bytes=16 * MIB)
    wait_for(lambda: client.ContainerStatus(container_id=made).status.state == api.CONTAINER_EXITED, "the end")
    status = client.ContainerStatus(container_id=made).status
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    assert shown(unit(made), "LoadState") == {"LoadState": "not-found"}


def test_a_container_stands_still_and_goes_on(daemon: Daemon, client: Client, make: Make) -> None:
    _, made = make("sleep", "1000")
    command(daemon, "pause", made)
    assert (group(made) / "cgroup.freeze").read_text() == "1\n"
    command(daemon, "unpause", made)
    assert (group(made) / "cgroup.freeze").read_text() == "0\n"


def test_a_daemon_that_is_killed_finds_its_scopes_again(daemon: Daemon, client: Client, make: Make) -> None:
    pod, made = make("sleep", "1000")
    _, other = make("sleep", "1000")
    daemon.end(signal.SIGKILL)
    (group(other) / "cgroup.kill").write_text("1")
    wait_for(lambda: not group(other).exists(), "the end")
    again = daemon.start()
    assert again.ContainerStatus(container_id=made).status.state == api.CONTAINER_RUNNING
    assert again.ContainerStatus(container_id=other).status.exit_code == 137
    again.UpdateContainerResources(container_id=made, linux=api.LinuxContainerResources(memory_limit_in_bytes=40 * MIB))
    assert shown(unit(made), "MemoryMax") == {"MemoryMax": str(40 * MIB)}
    again.StopPodSandbox(pod_sandbox_id=pod)
    assert shown(unit(pod), "LoadState") == {"LoadState": "not-found"}


@pytest.mark.parametrize("step", ["start.shim", "start.cgroup"])
def test_a_pod_that_was_half_made_leaves_no_unit(daemon: Daemon, client: Client, step: str) -> None:
    daemon.end()
    killed = daemon.start(ORLOP_KILL_AT=step)
    config = pod_config()
    config.linux.cgroup_parent = SLICE
    with pytest.raises(grpc.RpcError):
        killed.RunPodSandbox(config=config)
    assert daemon.process is not None
    daemon.process.wait(30 * SLOWER)
    again = daemon.start()
    for pod in again.ListPodSandbox().items:  # it was whole, but for its record
        again.RemovePodSandbox(pod_sandbox_id=pod.id)
    wait_for(lambda: not list(ROOT.glob("**/orlop-*.scope")), "the end of the scope")


def test_a_parent_of_cgroupfs_is_refused(client: Client) -> None:
    config = pod_config()
    config.linux.cgroup_parent = "/kubepods/pod1"
    with pytest.raises(grpc.RpcError) as caught:
        client.RunPodSandbox(config=config)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == (
        "config.linux.cgroup_parent: '/kubepods/pod1' is no slice; this node's cgroup driver is systemd"
    )
